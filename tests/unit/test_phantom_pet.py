"""The generated PET/CT: SUV in every form of units and decay correction, counts, misregistration."""

from __future__ import annotations

import datetime as dt

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset

from dicom_qa_node import phantom
from dicom_qa_node.phantom import DecayCorrection, PetForm, Units, volumes
from dicom_qa_node.phantom.pet import BED_MM

Array = npt.NDArray[np.float64]
SMALL = {"slices": 6, "rows": 64, "pixel_mm": 8.0, "centre_mm": -60.0}


def when(image: Dataset, what: str) -> dt.datetime:
    text = image[f"{what}Date"].value + image[f"{what}Time"].value
    return dt.datetime.strptime(text[:14], "%Y%m%d%H%M%S")  # noqa: DTZ007


def suv(image: Dataset) -> Array:
    """SUV by body weight from the attributes alone, after the QIBA profile's recipe."""
    values = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
    if image.Units == "GML":
        return values
    if image.Units == "CNTS":
        return values * float(image[0x7053, 0x1000].value)
    isotope = image.RadiopharmaceuticalInformationSequence[0]
    dose, half_life = float(isotope.RadionuclideTotalDose), float(isotope.RadionuclideHalfLife)
    injected = dt.datetime.strptime(isotope.RadiopharmaceuticalStartDateTime[:14], "%Y%m%d%H%M%S")  # noqa: DTZ007
    match image.DecayCorrection:
        case "START":
            waited = (when(image, "Series") - injected).total_seconds()
        case "ADMIN":
            waited = 0.0
        case _:
            waited = (when(image, "Acquisition") - injected).total_seconds()
    return values * float(image.PatientWeight) * 1000.0 / (dose * 0.5 ** (waited / half_life))


@pytest.mark.parametrize("units", list(Units))
@pytest.mark.parametrize("decay", list(DecayCorrection))
@pytest.mark.parametrize("signed", [True, False])
def test_every_form_gives_the_same_suv(units: Units, decay: DecayCorrection, signed: bool) -> None:
    form = PetForm(units=units, decay=decay, signed=signed)
    truth = volumes.pet_volume(2, volumes.heights(6, 40.0, -60.0), 64, 8.0).voxels
    images = phantom.pet_series(2, **{**SMALL, "spacing_mm": 40.0}, form=form)
    found = np.stack([suv(image) for image in images])
    # 40 mm steps reach over two bed positions: their decay differs where none was made good
    assert images[-1].AcquisitionTime != images[0].AcquisitionTime
    np.testing.assert_allclose(found, truth, atol=2e-3, rtol=1e-3)


def test_philips_activity_factor_agrees_with_its_suv_factor() -> None:
    image = phantom.pet_series(2, **SMALL, form=PetForm(units=Units.CNTS))[0]
    assert image[0x7053, 0x0010].value == "Philips PET Private Group"
    counts = float(image.RescaleSlope) * image.pixel_array.max()
    isotope = image.RadiopharmaceuticalInformationSequence[0]
    bqml = counts * float(image[0x7053, 0x1009].value)
    start = when(image, "Series")
    injected = dt.datetime.strptime(isotope.RadiopharmaceuticalStartDateTime[:14], "%Y%m%d%H%M%S")  # noqa: DTZ007
    left = float(isotope.RadionuclideTotalDose) * 0.5 ** (
        (start - injected).total_seconds() / float(isotope.RadionuclideHalfLife)
    )
    assert bqml * float(image.PatientWeight) * 1000 / left == pytest.approx(suv(image).max(), rel=1e-4)


def test_slopes_differ_from_slice_to_slice_unless_asked() -> None:
    slopes = {float(image.RescaleSlope) for image in phantom.pet_series(2, **SMALL)}
    assert len(slopes) > 1
    one = {float(i.RescaleSlope) for i in phantom.pet_series(2, **SMALL, form=PetForm(slope_per_slice=False))}
    assert len(one) == 1


def test_missing_suv_attributes_are_missing() -> None:
    image = phantom.pet_series(2, **SMALL, form=PetForm(suv_attributes=False))[0]
    assert "PatientWeight" not in image
    assert "RadionuclideTotalDose" not in image.RadiopharmaceuticalInformationSequence[0]


def test_liver_cov_goes_with_root_of_the_counts() -> None:
    level = [-64.0, -60.0, -56.0]
    clean = volumes.pet_volume(4, level, 96, 4.0, 1e6).voxels
    # the smooth interior of the liver
    liver = (np.abs(clean - 2.2) < 0.12) & (np.arange(96)[None, None, :] < 44)
    cov = []
    for fraction in (1.0, 0.1):
        noisy = volumes.pet_volume(4, level, 96, 4.0, fraction).voxels
        cov.append((noisy[liver] / clean[liver]).std())
    assert liver.sum() > 500
    assert cov[0] == pytest.approx(0.08, rel=0.1)
    assert cov[1] / cov[0] == pytest.approx(np.sqrt(10), rel=0.1)


def test_study_shares_patient_frame_and_extent() -> None:
    ct, pet = phantom.petct_study(2, ct_slices=8, ct_rows=64, pet_rows=48, pet_pixel_mm=10.0)
    assert {image.FrameOfReferenceUID for image in ct} == {image.FrameOfReferenceUID for image in pet}
    assert ct[0].StudyInstanceUID == pet[0].StudyInstanceUID
    assert ct[0].SeriesInstanceUID != pet[0].SeriesInstanceUID
    assert all(image.NumberOfSlices == len(pet) for image in pet)
    middle = [np.mean([float(i.ImagePositionPatient[2]) for i in series]) for series in (ct, pet)]
    assert middle[0] == pytest.approx(middle[1], abs=0.01)
    assert len(pet) * 4.0 == pytest.approx(len(ct) * 5.0, abs=4)


def test_shift_moves_the_pet_against_the_ct() -> None:
    levels = volumes.heights(12, 4.0, -10.0)
    still = volumes.pet_volume(2, levels, 64, 6.0, 1e6).voxels
    moved = volumes.pet_volume(2, levels, 64, 6.0, 1e6, shift_mm=(8.0, 6.0, -12.0)).voxels
    np.testing.assert_allclose(moved[4:-2, 3:-3, 3:-5], still[2:-4, 2:-4, 5:-3], atol=0.05)


def test_beds_are_acquired_one_after_the_other() -> None:
    images = phantom.pet_series(2, **{**SMALL, "spacing_mm": 50.0})
    times = [when(image, "Acquisition") for image in images]
    beds = [int(index * 50 // BED_MM) for index in range(6)]
    assert times == sorted(times)
    assert len(set(times)) == len(set(beds))
