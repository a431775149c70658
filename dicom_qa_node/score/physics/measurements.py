"""All measurements of a series, in the order in which they are reported."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dicom_qa_node.dicom_io.headers import number
from dicom_qa_node.domain.results import Measurement, SeriesKind
from dicom_qa_node.score.body_region import BodyRegion, region_of
from dicom_qa_node.score.kernel_sharpness import KernelSharpness, sharpness_of_volume
from dicom_qa_node.score.physics.ct_artefacts import artefact_measurements, contour_jump
from dicom_qa_node.score.physics.ct_dose_and_protocol import dose_measurements, protocol_measurements
from dicom_qa_node.score.physics.ct_noise import local_noise, noise_measurements, roi_pixels
from dicom_qa_node.score.physics.ct_noise_power_spectrum import noise_power_of, spectrum_measurements
from dicom_qa_node.score.physics.ct_number_accuracy import scale_measurements
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.ct_resolution import edge_measurements, skin_edge
from dicom_qa_node.score.physics.ct_sampling import CtSample, sample_ct
from dicom_qa_node.score.physics.geometry_checks import geometry_measurements
from dicom_qa_node.score.physics.patient_grid import PatientGrid, body_of, patient_grid
from dicom_qa_node.score.physics.pet_anchors import recovery
from dicom_qa_node.score.physics.pet_body import body_on_pet
from dicom_qa_node.score.physics.pet_body_noise import BodyNoise, body_noise
from dicom_qa_node.score.physics.pet_liver import find_liver, liver_measurements
from dicom_qa_node.score.physics.pet_noise import pet_noise_measurements
from dicom_qa_node.score.physics.pet_plausibility import (
    Implausible,
    implausibilities,
    one_value,
    sample_of,
    unmeasurable,
)
from dicom_qa_node.score.physics.pet_protocol import pet_protocol_measurements
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.physics.petct_registration import registration_measurements
from dicom_qa_node.score.threads import max_threads
from dicom_qa_node.score.tracers import is_fdg
from dicom_qa_node.score.volume import Volume

__all__ = ["PetExamination", "ct_measurements", "examine_pet", "measure", "pet_measurements"]


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
    if volume.unusable:
        return (*_by_header(volume, kernel), *geometry_measurements(volume))
    if volume.kind is SeriesKind.CT:
        return (*ct_measurements(volume, kernel), *geometry_measurements(volume))
    return (*pet_measurements(volume, paired_ct, examination), *geometry_measurements(volume))


def _by_header(volume: Volume, kernel: KernelSharpness | None) -> tuple[Measurement, ...]:
    """Read what the header says of a volume whose voxels cannot be used; the rest is withheld with the reason."""
    if volume.kind is SeriesKind.CT:
        register, said = CT_QUANTITIES, protocol_measurements(volume.header, kernel or sharpness_of_volume(volume))
    else:
        register, said = PET_QUANTITIES, pet_protocol_measurements(volume)
    found = {measurement.name for measurement in said}
    withheld = [quantity.name for quantity in register if quantity.name not in found]
    return (*register.absent_all(withheld, volume.unusable), *said)


def ct_measurements(volume: Volume, kernel: KernelSharpness | None = None) -> tuple[Measurement, ...]:
    """Measure a CT volume on up to 16 slices; where the values are not HU only header values are reported."""
    kernel = kernel or sharpness_of_volume(volume)
    if volume.unit != "HU":
        return _without_hu(volume, kernel)
    with ThreadPoolExecutor(max_threads()) as pool:
        motion = pool.submit(contour_jump, volume)
        view = sample_ct(volume, apply=pool.map, sharpness=kernel.sharpness)
        return (*_from_slices(view, kernel, pool), motion.result())


def _from_slices(view: CtSample, kernel: KernelSharpness, pool: ThreadPoolExecutor) -> tuple[Measurement, ...]:
    edges = pool.map(skin_edge, view.slices)
    locals_ = tuple(pool.map(lambda part: local_noise(part, view.contrast), view.slices))
    artefacts = pool.submit(artefact_measurements, view, locals_)
    spectrum = noise_power_of(view, locals_)
    size = roi_pixels(view.slices[0]) if view.slices else 0
    return (
        *noise_measurements(view, locals_, None if isinstance(spectrum, str) else spectrum.shown_by(size).of_median),
        *edge_measurements(view, tuple(edges)),
        *spectrum_measurements(spectrum),
        *artefacts.result(),
        *scale_measurements(view, locals_),
        *dose_measurements(view),
        *protocol_measurements(view.volume.header, kernel),
    )


def _without_hu(volume: Volume, kernel: KernelSharpness) -> tuple[Measurement, ...]:
    from_header = protocol_measurements(volume.header, kernel)
    named = {measurement.name for measurement in from_header}
    missing = [quantity.name for quantity in CT_QUANTITIES if quantity.name not in named]
    return (*CT_QUANTITIES.absent_all(missing, f"the pixel values are not HU but {volume.unit}"), *from_header)


_WITH_GRID = (
    "liver_cov", "liver_snr", "liver_suv_mean", "misregistration_dome", "misregistration_contour", "ct_coverage",
)  # fmt: skip
_OF_BODY = ("body_noise", "body_noise_width", "recovery_10mm")
_NOT_AXIAL = "the slices are not axial or there is only one"


@dataclass(frozen=True, slots=True)
class PetExamination:
    """What was found out about a PET once, for the measurements and for its rating.

    ``grid`` is None where the slices are not axial. ``broken`` are the rules of plausibility that it breaks, and
    ``unchecked`` gives the reason where they cannot be applied. ``noise`` is a text where it cannot be measured.
    ``liver_cov`` is a share, None where no liver was found.
    """

    grid: PatientGrid | None
    broken: tuple[Implausible, ...]
    unchecked: str
    noise: BodyNoise | str
    liver: tuple[Measurement, ...]

    @property
    def liver_cov(self) -> float | None:
        """Coefficient of variation in the liver as a share."""
        found = next((item.value for item in self.liver if item.name == "liver_cov"), None)
        return None if found is None else found / 100.0


def examine_pet(volume: Volume, paired_ct: Volume | None) -> PetExamination:
    """Look for the body, the liver, the noise and the rules that the PET breaks."""
    ct = paired_ct if paired_ct is not None and paired_ct.unit == "HU" else None
    grid = patient_grid(volume, ct)
    body = body_on_pet(volume, grid)
    sample = sample_of(volume, body)
    unchecked = unmeasurable(sample)
    broken = implausibilities(sample) if not unchecked else one_value(volume)
    liver = liver_measurements(volume, _NOT_AXIAL if grid is None else find_liver(grid))
    return PetExamination(
        grid=grid,
        broken=broken,
        unchecked=unchecked,
        noise=unchecked or body_noise(volume, body),
        liver=liver,
    )


def pet_measurements(
    volume: Volume, paired_ct: Volume | None, examination: PetExamination | None = None
) -> tuple[Measurement, ...]:
    """Measure a PET volume; with its CT also liver and registration."""
    found = examination or examine_pet(volume, paired_ct)
    if found.grid is None:
        registration = PET_QUANTITIES.absent_all(_WITH_GRID[3:], _NOT_AXIAL)
    else:
        registration = registration_measurements(found.grid)
    return (
        *pet_noise_measurements(volume),
        *_of_body(found.noise),
        *found.liver,
        *registration,
        *_plausibility(volume, found.grid),
        *pet_protocol_measurements(volume),
    )


def _of_body(noise: BodyNoise | str) -> tuple[Measurement, ...]:
    """Return what the noise of the body shows.

    * ``body_noise`` (%, lower is better): see `pet_body_noise.body_noise`.
    * ``body_noise_width`` (mm, lower is better): FWHM of its correlation, see `pet_body_noise.noise_width`.
    * ``recovery_10mm`` (%, higher is better): what that width leaves of the contrast of a sphere of 10 mm.
    """
    if isinstance(noise, str):
        return PET_QUANTITIES.absent_all(_OF_BODY, noise)
    cov = PET_QUANTITIES.value("body_noise", 100 * noise.cov, f"{len(noise.by_slice)} slices")
    if noise.width_mm is None:
        return cov, *PET_QUANTITIES.absent_all(_OF_BODY[1:], "the differences are smoother than noise of any width")
    share = 100 * recovery(noise.width_mm)
    return cov, PET_QUANTITIES.value("body_noise_width", noise.width_mm), PET_QUANTITIES.value("recovery_10mm", share)


def _plausibility(volume: Volume, grid: PatientGrid | None) -> tuple[Measurement, ...]:
    """Measure whether the SUV can be right.

    ``body_suv_mean`` (SUVbw, target): mean over the body; 1 if all activity stays in a whole body.
    ``activity_in_field`` (%, context): sum of SUV x voxel volume over the body / Patient's Weight (0010,1030), which is
    the share of the administered activity. Activity is conserved: above 100 % cannot be, for any tracer and region.
    ``suv_max`` (SUVbw, context): largest voxel; also as SUVlbm (g/ml) and SUVbsa (cm2/ml) in its detail.
    """
    names = ("body_suv_mean", "activity_in_field", "suv_max")
    if volume.unit != "SUVbw":
        return PET_QUANTITIES.absent_all(names, f"no SUV: the values are {volume.unit}")
    largest = max(float(volume.voxels[index].max()) for index in range(len(volume.voxels)))
    return (*_body_uptake(volume, grid), PET_QUANTITIES.value("suv_max", largest, _other_suvs(volume, largest)))


def _body_uptake(volume: Volume, grid: PatientGrid | None) -> tuple[Measurement, ...]:
    names = ("body_suv_mean", "activity_in_field")
    if grid is None:
        return PET_QUANTITIES.absent_all(names, "the slices are not axial or there is only one")
    uptake = grid.uptake[body_of(grid) & grid.covered]
    if uptake.size == 0:
        return PET_QUANTITIES.absent_all(names, "no body in the field")
    usual = is_fdg(volume.header) and region_of(volume) is not BodyRegion.HEAD
    mean = PET_QUANTITIES.value(names[0], float(np.mean(uptake)), usual=usual)
    weight_kg = number(volume.header, "PatientWeight")
    if weight_kg is None or not 0.3 <= weight_kg <= 650:
        return mean, PET_QUANTITIES.absent(names[1], "the header has no usable Patient's Weight (0010,1030)")
    litres = float(np.prod(grid.spacing_mm)) * 1e-6
    share = float(np.sum(uptake, dtype=np.float64)) * litres / weight_kg
    return mean, PET_QUANTITIES.value(names[1], 100.0 * share, f"{litres * uptake.size:.1f} l of body in the field")


def _other_suvs(volume: Volume, suv_bw: float) -> str:
    """Return the same uptake by lean body mass and by body surface, where weight, size and sex allow it."""
    units = {"SUVlbm": "g/ml", "SUVbsa": "cm2/ml"}
    return ", ".join(f"{name} {suv_bw * ratio:.2f} {units[name]}" for name, ratio in sorted(volume.suv_ratios.items()))
