"""Assembly agrees with what the phantom generator wrote and, where ITK can, with ITK's reader."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom import CtForm, PetForm, Plane, Units, ct_series, pet_series, write
from dicom_qa_node.phantom.enhanced import enhanced_ct, enhanced_pet
from dicom_qa_node.phantom.irregular_series import with_duplicate, with_gap, without
from dicom_qa_node.score.volume_builder import build_volumes

FORMS = [CtForm(plane=plane) for plane in Plane] + [
    CtForm(tilt_deg=20.0),
    CtForm(signed=False, padding=0),
    CtForm(signed=True, padding=-2000, slope=0.5),
    CtForm(patient_position="FFP"),
]


def keys(volume):
    return {finding.key for finding in volume.findings}


def ct_images(form):
    return ct_series(5, 8, 48, spacing_mm=9.0, thickness_mm=9.0, form=form)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_and_places_are_those_written(tmp_path, form):
    images = ct_images(form)
    (volume,) = build_volumes(write(images, tmp_path))
    by_uid = {image.SOPInstanceUID: image for image in images}
    assert len(volume.sop_instance_uids) == len(images)
    for index, uid in enumerate(volume.sop_instance_uids):
        image = by_uid[uid]
        values = image.pixel_array.astype(float) * float(image.RescaleSlope) + float(image.RescaleIntercept)
        assert np.array_equal(volume.voxels[index], values.astype(np.float32))
        assert volume.origins_mm[index] == pytest.approx([float(value) for value in image.ImagePositionPatient])
    if form.padding is not None:
        assert not volume.valid[:, 0, 0].any()
        assert volume.valid[:, 24, 24].all()
    assert ("gantry_tilt" in keys(volume)) == (form.tilt_deg != 0)


@pytest.mark.parametrize("form", [CtForm(plane=plane) for plane in Plane] + [CtForm(tilt_deg=20.0)], ids=str)
def test_geometry_agrees_with_itk(tmp_path, form):
    (volume,) = build_volumes(write(ct_images(form), tmp_path))
    reader = SimpleITK.ImageSeriesReader()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
        image = reader.Execute()
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), volume.voxels)
    rows, columns = volume.voxels.shape[1:]
    steps = volume.direction * np.asarray(volume.spacing_mm)
    # ITK keeps a tilted stack upright: only its first slice lies where it is.
    for corner in np.ndindex(1 if form.tilt_deg else len(volume.voxels), 2, 2):
        index = np.array([corner[0], corner[1] * (rows - 1), corner[2] * (columns - 1)])
        mine = np.asarray(volume.origin_mm) + steps @ index
        assert mine == pytest.approx(image.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]), abs=1e-3)


def test_every_slice_of_a_tilted_stack_lies_where_itk_sees_it_alone(tmp_path):
    images = ct_images(CtForm(tilt_deg=20.0))
    paths = write(images, tmp_path)
    (volume,) = build_volumes(paths)
    alone = {image.SOPInstanceUID: SimpleITK.ReadImage(str(path)) for image, path in zip(images, paths, strict=True)}
    rows, columns = volume.voxels.shape[1:]
    steps = volume.direction * np.asarray(volume.spacing_mm)
    for index, uid in enumerate(volume.sop_instance_uids):
        for row, column in np.ndindex(2, 2):
            corner = np.array([index, row * (rows - 1), column * (columns - 1)])
            mine = np.asarray(volume.origin_mm) + steps @ corner
            seen = alone[uid].TransformIndexToPhysicalPoint([int(corner[2]), int(corner[1]), 0])
            assert mine == pytest.approx(seen, abs=1e-3)


def test_irregular_series_are_told(tmp_path):
    images = ct_images(CtForm())
    cases = {
        "slices_missing": without(images, 3, 4),
        "duplicate_slices": with_duplicate(images, 2),
        "gaps_uneven": with_gap(images, 3, 4.0),
    }
    for key, series in cases.items():
        (volume,) = build_volumes(write(series, tmp_path / key))
        assert key in keys(volume)


def test_enhanced_ct_equals_its_single_slices(tmp_path):
    images = ct_images(CtForm(slope=0.5))
    (single,), (multi,) = (
        build_volumes(write(s, tmp_path / n)) for n, s in (("a", images), ("b", [enhanced_ct(images)]))
    )
    assert np.array_equal(single.voxels, multi.voxels)
    assert np.allclose(single.origins_mm, multi.origins_mm)
    assert multi.kind is SeriesKind.CT
    assert multi.header.ConvolutionKernel == single.header.ConvolutionKernel
    assert sorted(multi.frame_numbers) == list(range(1, 9))


@pytest.mark.parametrize("units", [Units.BQML, Units.GML])
def test_enhanced_pet_equals_its_single_slices(tmp_path, units):
    images = pet_series(5, 6, 32, pixel_mm=14.0, spacing_mm=20.0, form=PetForm(units=units))
    (single,), (multi,) = (
        build_volumes(write(s, tmp_path / n)) for n, s in (("a", images), ("b", [enhanced_pet(images)]))
    )
    assert single.unit == multi.unit == "SUVbw"
    assert multi.voxels == pytest.approx(single.voxels, rel=2e-3, abs=1e-5)
