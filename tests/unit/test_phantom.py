"""The generated series: deterministic, geometrically right, in the wanted quality."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.dataset import Dataset

from dicom_qa_node import phantom
from dicom_qa_node.phantom import volumes
from dicom_qa_node.phantom.anatomy import render_slice
from dicom_qa_node.phantom.ct_acquisition import CtQuality, quality_named
from dicom_qa_node.phantom.patient import draw_patient
from dicom_qa_node.phantom.voxel_canvas import LIVER, Channel

ROWS = 256
FOV_MM = 400.0

Array = npt.NDArray[np.float32]


def modality_values(image: Dataset) -> Array:
    return image.pixel_array * np.float32(image.RescaleSlope) + np.float32(image.RescaleIntercept)


def liver_mask(seed: int, rows: int = ROWS) -> npt.NDArray[np.bool_]:
    axis = volumes.pixel_axis(rows, FOV_MM / rows)
    clean = render_slice(draw_patient(seed), volumes.LIVER_HEIGHT_MM, axis, axis, Channel.VENOUS_CT)
    return np.abs(clean - LIVER.venous_hu) < 8


def liver_slice(quality: CtQuality, seed: int = 3) -> Array:
    return volumes.ct_volume(seed, [volumes.LIVER_HEIGHT_MM], ROWS, FOV_MM, quality).voxels[0]


@pytest.fixture(scope="module")
def series() -> list[Dataset]:
    return phantom.ct_series(5, 6, 128)


def test_a_seed_gives_the_same_bytes(series: list[Dataset], tmp_path: Path) -> None:
    again = phantom.ct_series(5, 6, 128)
    first = [path.read_bytes() for path in phantom.write(series, tmp_path / "a")]
    second = [path.read_bytes() for path in phantom.write(again, tmp_path / "b")]
    assert first == second


def test_seeds_are_other_patients(series: list[Dataset]) -> None:
    other = phantom.ct_series(6, 2, 128)
    assert other[0].PatientID != series[0].PatientID
    assert other[0].StudyInstanceUID != series[0].StudyInstanceUID
    assert np.any(other[0].pixel_array != series[0].pixel_array)


def test_qualities_are_series_of_one_patient() -> None:
    made = [phantom.ct_series(5, 2, 128, name)[0] for name in ("routine", "tenth_dose", "sparse_views")]
    assert len({image.PatientID for image in made}) == 1
    assert len({image.SeriesInstanceUID for image in made}) == 3
    assert made[0].XRayTubeCurrent > 5 * made[1].XRayTubeCurrent


def test_positions_follow_the_stack(series: list[Dataset]) -> None:
    levels = [float(image.ImagePositionPatient[2]) for image in series]
    np.testing.assert_allclose(np.diff(levels), 3.0)
    assert len({image.SOPInstanceUID for image in series}) == len(series)
    assert [image.InstanceNumber for image in series] == [1, 2, 3, 4, 5, 6]
    assert all(image.ImagesInAcquisition == 6 for image in series)


def test_patient_lies_the_right_way_round() -> None:
    image = modality_values(phantom.ct_series(5, 1, 128, centre_mm=volumes.LIVER_HEIGHT_MM)[0])
    half = image.shape[1] // 2
    soft = (image > 85) & (image < 130)
    # the liver is on the patient's right, the left of the picture; the spine at the back, the bottom
    assert soft[:, :half].sum() > 1.5 * soft[:, half:].sum()
    bone = np.argwhere(image[:, half - 20 : half + 20] > 210)
    assert bone[:, 0].mean() > half


@pytest.mark.parametrize("seed", [3, 8])
def test_routine_noise_in_the_liver_is_its_target(seed: int) -> None:
    mask = liver_mask(seed)
    # two exposures of one slice differ by their noise alone
    first, second = (liver_slice(CtQuality(dose_fraction=d), seed) for d in (1.0, 1.00001))
    noise = (first - second)[mask].std() / np.sqrt(2)
    assert noise == pytest.approx(12.0, rel=0.12)


def test_tenth_of_the_dose_has_root_ten_of_the_noise() -> None:
    mask = liver_mask(3)
    pairs = []
    for dose in (1.0, 0.1):
        first, second = (liver_slice(CtQuality(dose_fraction=dose * f)) for f in (1.0, 1.0001))
        pairs.append((first - second)[mask].std())
    assert pairs[1] / pairs[0] == pytest.approx(np.sqrt(10), rel=0.12)


def test_sparse_views_leave_streaks_that_more_photons_do_not_cure() -> None:
    mask = liver_mask(3)
    bright = CtQuality(dose_fraction=10.0)
    full, sparse = liver_slice(bright), liver_slice(CtQuality(dose_fraction=10.0, views=60))
    noise_alone = 12.0 / np.sqrt(10) * np.sqrt(720 / 60)
    assert (sparse - full)[mask].std() > 3 * noise_alone


def test_unknown_quality_names_the_choices() -> None:
    with pytest.raises(ValueError, match="routine, tenth_dose, sparse_views"):
        quality_named("splendid")


def test_exposure_control_spares_the_chest() -> None:
    volume = volumes.ct_volume(3, [-60.0, 80.0], 128, FOV_MM, phantom.CtQuality())
    assert volume.exposure[1] < volume.exposure[0]


@pytest.mark.parametrize("height", [-400, -340, -250, -150, -60, 0, 40, 110, 180, 220, 290, 380, 450])
@pytest.mark.parametrize("channel", list(Channel))
def test_anatomy_renders_from_thigh_to_vertex(height: float, channel: Channel) -> None:
    axis = volumes.pixel_axis(96, 5.0)
    image = render_slice(draw_patient(2), height, axis, axis, channel)
    assert np.isfinite(image).all()
    body = image > (0.05 if channel is Channel.FDG else -300)
    assert 0.005 < body.mean() < 0.7
    if channel is not Channel.FDG:
        assert image.min() >= -1050
        assert image.max() < 1500


def test_anatomy_changes_smoothly_along_the_body() -> None:
    axis = volumes.pixel_axis(128, 3.0)
    stack = [render_slice(draw_patient(4), h, axis, axis, Channel.NATIVE_CT) for h in (-60, -59.5, -40)]
    near, far = (float(np.mean(np.abs(stack[0] - other) > 100)) for other in stack[1:])
    assert near < 0.01
    assert far > 3 * near


def test_scanner_and_identity_can_be_set() -> None:
    scanner = phantom.Scanner("ACME", "Ring 9", "CT7", "S-1")
    who = phantom.identity_of(1)
    image = phantom.ct_series(9, 1, 128, scanner=scanner, identity=who, series_uid="1.2.3", series_number=7)[0]
    assert (image.Manufacturer, image.ManufacturerModelName, image.StationName) == ("ACME", "Ring 9", "CT7")
    assert image.StudyInstanceUID == who.study_uid
    assert image.SeriesInstanceUID == "1.2.3"


@pytest.mark.parametrize(
    ("form", "intercept"),
    [
        (phantom.CtForm(), 0.0),
        (phantom.CtForm(signed=False), -1024.0),
        (phantom.CtForm(slope=0.5), 0.0),
    ],
)
def test_stored_forms_give_the_same_hu(series: list[Dataset], form: phantom.CtForm, intercept: float) -> None:
    image = phantom.ct_series(5, 6, 128, form=form)[2]
    assert image.RescaleIntercept == intercept
    np.testing.assert_array_equal(modality_values(image), modality_values(series[2]))


def test_padding_stands_outside_the_scan_circle() -> None:
    image = phantom.ct_series(5, 1, 128, form=phantom.CtForm(padding=-2000))[0]
    assert image.PixelPaddingValue == -2000
    assert image.pixel_array[0, 0] == -2000
    assert image.pixel_array[64, 64] > -1100
    corners = np.mean(image.pixel_array == -2000)
    assert corners == pytest.approx(1 - np.pi / 4, abs=0.02)


@pytest.mark.parametrize("plane", list(phantom.Plane))
def test_every_plane_shows_the_same_voxels(series: list[Dataset], plane: phantom.Plane) -> None:
    turned = phantom.ct_series(5, 6, 128, form=phantom.CtForm(plane=plane))
    first = np.asarray(series[0].ImagePositionPatient, float)
    spacing = np.array([float(series[0].PixelSpacing[1]), float(series[0].PixelSpacing[0]), 3.0])
    stack = np.stack([image.pixel_array for image in series])
    seen = 0
    for image, row, column, value in _samples(turned):
        left, back, up = np.rint((_position(image, row, column) - first) / spacing).astype(int)
        assert stack[up, back, left] == value
        seen += 1
    assert seen > 100


def _samples(images: list[Dataset], every: int = 17) -> Iterator[tuple[Dataset, int, int, int]]:
    for image in images[:: 1 if every == 1 else max(len(images) // 6, 1)]:
        pixels = image.pixel_array
        row_step, column_step = (min(every, max(size // 3, 1)) for size in pixels.shape)
        for row, column in np.ndindex(-(-pixels.shape[0] // row_step), -(-pixels.shape[1] // column_step)):
            at = row * row_step, column * column_step
            yield image, *at, int(pixels[at])


def _position(image: Dataset, row: int, column: int) -> npt.NDArray[np.float64]:
    """Patient position of a pixel by PS3.3 C.7.6.2.1.1."""
    cosines = np.asarray(image.ImageOrientationPatient, float)
    step_row, step_column = (float(value) for value in image.PixelSpacing)
    place = np.asarray(image.ImagePositionPatient, float)
    return np.asarray(place + cosines[:3] * step_column * column + cosines[3:] * step_row * row)


def test_tilted_gantry_shears_the_stack() -> None:
    images = phantom.ct_series(5, 5, 128, form=phantom.CtForm(tilt_deg=15))
    cosines = np.asarray(images[0].ImageOrientationPatient, float)
    normal = np.cross(cosines[:3], cosines[3:])
    step = np.subtract(images[1].ImagePositionPatient, images[0].ImagePositionPatient).astype(float)
    assert np.degrees(np.arccos(normal[2])) == pytest.approx(15, abs=0.01)
    np.testing.assert_allclose(step, (0, 0, 3), atol=1e-6)
    assert float(images[0].GantryDetectorTilt) == 15


def test_written_files_read_back(series: list[Dataset], tmp_path: Path) -> None:
    paths = phantom.write(series, tmp_path)
    assert len(paths) == 6
    read = pydicom.dcmread(paths[3])
    assert read.file_meta.MediaStorageSOPInstanceUID == series[3].SOPInstanceUID
    np.testing.assert_array_equal(read.pixel_array, series[3].pixel_array)


@pytest.mark.parametrize(
    ("plane", "down", "to_the_right"),
    [
        (phantom.Plane.AXIAL, (0, 1, 0), (1, 0, 0)),
        (phantom.Plane.PRONE, (0, -1, 0), (-1, 0, 0)),
        (phantom.Plane.RIGHT_DOWN, (-1, 0, 0), (0, 1, 0)),
        (phantom.Plane.LEFT_DOWN, (1, 0, 0), (0, -1, 0)),
        (phantom.Plane.CORONAL, (0, 0, -1), (1, 0, 0)),
        (phantom.Plane.SAGITTAL, (0, 0, -1), (0, 1, 0)),
    ],
)
def test_planes_face_the_way_their_names_say(
    plane: phantom.Plane, down: tuple[int, ...], to_the_right: tuple[int, ...]
) -> None:
    image = phantom.ct_series(5, 1, 128, form=phantom.CtForm(plane=plane))[0]
    cosines = tuple(float(value) for value in image.ImageOrientationPatient)
    assert cosines == (*to_the_right, *down)
    if plane not in (phantom.Plane.CORONAL, phantom.Plane.SAGITTAL):
        assert np.cross(to_the_right, down)[2] == 1
