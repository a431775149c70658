"""All measurements of a PET series, in the order in which they are reported."""

from __future__ import annotations

import numpy as np

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.physics.coarse import PatientGrid, body_of, patient_grid
from dicom_qa_node.score.physics.pet_liver import find_liver, liver_measurements
from dicom_qa_node.score.physics.pet_noise import pet_noise_measurements
from dicom_qa_node.score.physics.pet_protocol import pet_protocol_measurements
from dicom_qa_node.score.physics.pet_quantities import PET
from dicom_qa_node.score.physics.registration import registration_measurements
from dicom_qa_node.score.volume import Volume

__all__ = ["pet_measurements"]

_WITH_GRID = (
    "liver_cov", "liver_snr", "liver_suv_mean", "misregistration_dome", "misregistration_contour", "ct_coverage",
)  # fmt: skip


def pet_measurements(volume: Volume, paired_ct: Volume | None) -> tuple[Measurement, ...]:
    """Measure a PET volume; with its CT also liver and registration."""
    ct = paired_ct if paired_ct is not None and paired_ct.unit == "HU" else None
    grid = patient_grid(volume, ct)
    if grid is None:
        anatomy = PET.absent_all(_WITH_GRID, "the slices are not axial or there is only one")
    else:
        anatomy = (*liver_measurements(volume, find_liver(grid)), *registration_measurements(grid))
    return (
        *pet_noise_measurements(volume),
        *anatomy,
        *_plausibility(volume, grid),
        *pet_protocol_measurements(volume.header),
    )


def _plausibility(volume: Volume, grid: PatientGrid | None) -> tuple[Measurement, ...]:
    """Measure whether the SUV can be right.

    ``body_suv_mean`` (SUVbw, target): mean over the body; 1 if all activity stays in a whole body.
    ``suv_max`` (SUVbw, context): largest voxel; also as SUVlbm (g/ml) and SUVbsa (cm2/ml) in its detail.
    """
    if volume.unit != "SUVbw":
        return PET.absent_all(("body_suv_mean", "suv_max"), f"no SUV: the values are {volume.unit}")
    largest = max(float(volume.voxels[index].max()) for index in range(len(volume.voxels)))
    if grid is None:
        body = PET.absent("body_suv_mean", "the slices are not axial or there is only one")
    else:
        inside = body_of(grid) & grid.covered
        body = (
            PET.value("body_suv_mean", float(np.mean(grid.uptake[inside])))
            if inside.any()
            else PET.absent("body_suv_mean", "no body in the field")
        )
    return body, PET.value("suv_max", largest, _other_suvs(volume, largest))


def _other_suvs(volume: Volume, suv_bw: float) -> str:
    """Return the same uptake by lean body mass and by body surface, where weight, size and sex allow it."""
    units = {"SUVlbm": "g/ml", "SUVbsa": "cm2/ml"}
    return ", ".join(f"{name} {suv_bw * ratio:.2f} {units[name]}" for name, ratio in sorted(volume.suv_ratios.items()))
