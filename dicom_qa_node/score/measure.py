"""Measure the physics of a volume: the figures that stand beside the network's score."""

from __future__ import annotations

from dicom_qa_node.records import Measurement, SeriesKind
from dicom_qa_node.score.kernel_sharpness import KernelSharpness
from dicom_qa_node.score.physics.ct import ct_measurements
from dicom_qa_node.score.physics.pet import PetExamination, pet_measurements
from dicom_qa_node.score.physics.stack import stack_measurements
from dicom_qa_node.score.volume import Volume

__all__ = ["measure"]


def measure(
    volume: Volume,
    paired_ct: Volume | None = None,
    kernel: KernelSharpness | None = None,
    examination: PetExamination | None = None,
) -> tuple[Measurement, ...]:
    """Measure everything that applies to a volume.

    The voxels are read slice by slice and never copied as a whole. What does not apply is reported without a value
    and with the reason. Formulas, units, directions and sources: docs/measurements.md.

    Parameters
    ----------
    volume
        CT in HU, or PET.
    paired_ct
        The CT of a PET volume's study and frame of reference, on its own grid; not used for CT.
    kernel
        Sharpness of a CT; measured here where it is not given.
    examination
        What `physics.pet.examine_pet` found for a PET, where it has looked already.
    """
    if volume.kind is SeriesKind.CT:
        return (*ct_measurements(volume, kernel), *stack_measurements(volume))
    return (*pet_measurements(volume, paired_ct, examination), *stack_measurements(volume))
