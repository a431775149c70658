"""Assembly agrees voxel by voxel with SimpleITK's own reader on real series, in every transfer syntax."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import SimpleITK
from pydicom import dcmread
from pydicom.uid import JPEGLossless

from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.volume_builder import build_volumes

pytestmark = pytest.mark.realdata

CT_SERIES = ("C3L-00189_lungbase35", "C3N-00247_chest60", "C4KC-KiTS-00072_abd18", "ACRIN-FLT-Breast_013_petct_CT49")
PATIENTS = ("STS_003", "STS_007", "STS_029", "STS_035", "STS_046")
LOSSLESS = ("J2KR", "JLSL", "JPLL", "RLE")


def read_by_itk(folder):
    reader = SimpleITK.ImageSeriesReader()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        reader.SetOutputPixelType(SimpleITK.sitkFloat64)
        return reader.Execute()


def assert_same_geometry(volume, image):
    assert volume.origin_mm == pytest.approx(image.GetOrigin(), abs=1e-6)
    assert volume.spacing_mm == pytest.approx(image.GetSpacing()[::-1], rel=1e-6)
    assert volume.direction[:, ::-1] == pytest.approx(np.array(image.GetDirection()).reshape(3, 3), abs=1e-6)


@pytest.mark.parametrize("name", CT_SERIES)
def test_ct_equals_itk_voxel_by_voxel(shared_data, name):
    folder = shared_data / "dicom" / "ct" / name
    (volume,) = build_volumes(list(folder.glob("*.dcm")))
    image = read_by_itk(folder)
    assert np.array_equal(volume.voxels, SimpleITK.GetArrayFromImage(image))
    assert_same_geometry(volume, image)


@pytest.mark.parametrize("name", PATIENTS)
def test_pet_with_a_slope_for_each_slice_equals_itk(shared_data, name):
    folder = shared_data / "dicom" / "petct" / name / "PET"
    (volume,) = build_volumes(list(folder.glob("*.dcm")))
    image = read_by_itk(folder)
    expected = SimpleITK.GetArrayFromImage(image)
    assert volume.kind is SeriesKind.PT
    assert volume.unit == "SUVbw"
    assert np.abs(volume.voxels - expected).max() <= 1e-6 * expected.max()
    assert_same_geometry(volume, image)


@pytest.mark.parametrize("image", ["CT1", "CT2"])
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_lossless_syntaxes_equal_the_uncompressed_image(shared_data, image, syntax):
    folder = shared_data / "dicom" / "transfer_syntaxes"
    (plain,), (compressed,) = (build_volumes([folder / f"{image}_{name}.dcm"]) for name in ("UNC", syntax))
    assert np.array_equal(plain.voxels, compressed.voxels)
    assert "lossy_compression" not in {finding.key for finding in evaluate_rules(compressed, ())}


def test_jpeg_lossless_of_any_predictor_is_the_same_process(shared_data, tmp_path):
    folder = shared_data / "dicom" / "transfer_syntaxes"
    ds = dcmread(folder / "CT1_JPLL.dcm")
    ds.file_meta.TransferSyntaxUID = JPEGLossless
    ds.save_as(tmp_path / "other.dcm")
    (plain,), (other,) = (build_volumes([path]) for path in (folder / "CT1_UNC.dcm", tmp_path / "other.dcm"))
    assert np.array_equal(plain.voxels, other.voxels)


@pytest.mark.parametrize("image", ["CT1", "CT2"])
@pytest.mark.parametrize(("syntax", "most_hu"), [("JLSN", 10), ("J2KI", 200)])
def test_lossy_syntaxes_come_close_and_are_flagged(shared_data, image, syntax, most_hu):
    folder = shared_data / "dicom" / "transfer_syntaxes"
    (plain,), (compressed,) = (build_volumes([folder / f"{image}_{name}.dcm"]) for name in ("UNC", syntax))
    difference = np.abs(plain.voxels - compressed.voxels)[plain.valid]
    assert difference.mean() < 30
    assert np.percentile(difference, 90) <= most_hu
    (finding,) = (item for item in evaluate_rules(compressed, ()) if item.key == "lossy_compression")
    assert "lossy_compression" not in {item.key for item in evaluate_rules(plain, ())}
    stated = dcmread(folder / f"{image}_{syntax}.dcm", stop_before_pixels=True).LossyImageCompressionRatio
    assert f"{stated}:1" in finding.sentence


def test_pet_without_suv_tags_says_which_is_missing(shared_data):
    (volume,) = build_volumes(list((shared_data / "dicom" / "pet" / "nema_iq_phantom").glob("*.dcm")))
    assert volume.unit == "relative"
    (finding,) = (item for item in volume.findings if item.key == "suv_not_computable")
    assert "(0054,1001)" in finding.sentence


def test_ge_padding_is_outside(shared_data):
    (volume,) = build_volumes(list((shared_data / "dicom" / "ct" / "C3L-00189_lungbase35").glob("*.dcm")))
    assert volume.valid is not None
    assert not volume.valid[0, 0, 0]
    assert volume.valid[:, 256, 256].all()
