"""All measurements of a CT series, in the order in which they are reported."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.kernel_sharpness import KernelSharpness, sharpness_of_volume
from dicom_qa_node.score.physics.ct_artefacts import artefact_measurements
from dicom_qa_node.score.physics.ct_motion import contour_jump
from dicom_qa_node.score.physics.ct_noise import local_noise, noise_measurements
from dicom_qa_node.score.physics.ct_protocol import protocol_measurements
from dicom_qa_node.score.physics.ct_quantities import CT
from dicom_qa_node.score.physics.ct_resolution import edge_measurements, skin_edge
from dicom_qa_node.score.physics.ct_scale import scale_measurements
from dicom_qa_node.score.physics.ct_size_dose import dose_measurements
from dicom_qa_node.score.physics.ct_slices import CtView, view_ct
from dicom_qa_node.score.physics.ct_spectrum import spectrum_measurements
from dicom_qa_node.score.threads import allowed
from dicom_qa_node.score.volume import Volume

__all__ = ["ct_measurements"]


def ct_measurements(volume: Volume, kernel: KernelSharpness | None = None) -> tuple[Measurement, ...]:
    """Measure a CT volume on up to 16 slices; where the values are no HU only the header speaks."""
    kernel = kernel or sharpness_of_volume(volume)
    if volume.unit != "HU":
        return _without_hu(volume, kernel)
    with ThreadPoolExecutor(allowed()) as pool:
        motion = pool.submit(contour_jump, volume)
        view = view_ct(volume, apply=pool.map, sharpness=kernel.sharpness)
        return (*_from_slices(view, kernel, pool), motion.result())


def _from_slices(view: CtView, kernel: KernelSharpness, pool: ThreadPoolExecutor) -> tuple[Measurement, ...]:
    edges = pool.map(skin_edge, view.slices)
    locals_ = tuple(pool.map(lambda part: local_noise(part, view.contrast), view.slices))
    artefacts = pool.submit(artefact_measurements, view, locals_)
    return (
        *noise_measurements(view, locals_),
        *edge_measurements(view, tuple(edges)),
        *spectrum_measurements(view, locals_),
        *artefacts.result(),
        *scale_measurements(view, locals_),
        *dose_measurements(view),
        *protocol_measurements(view.volume.header, kernel),
    )


def _without_hu(volume: Volume, kernel: KernelSharpness) -> tuple[Measurement, ...]:
    said = protocol_measurements(volume.header, kernel)
    named = {measurement.name for measurement in said}
    silent = [quantity.name for quantity in CT if quantity.name not in named]
    return (*CT.absent_all(silent, f"the pixel values are not HU but {volume.unit}"), *said)
