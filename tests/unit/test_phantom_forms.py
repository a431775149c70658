"""Irregular series, multi-frame objects and transfer syntaxes made of generated series."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGBaseline8Bit, JPEGLosslessSV1

from dicom_qa_node import phantom
from dicom_qa_node.phantom import encoding, enhanced, irregular_series
from dicom_qa_node.phantom.encoding import encode_frame
from dicom_qa_node.phantom.enhanced import legacy_converted


@pytest.fixture(scope="module")
def ct() -> list[Dataset]:
    return phantom.ct_series(3, 5, 64)


@pytest.fixture(scope="module")
def pet() -> list[Dataset]:
    return phantom.pet_series(3, 5, 48, pixel_mm=9.0)


def reread(ds: Dataset) -> Dataset:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def levels(images: list[Dataset]) -> list[float]:
    return [float(image.ImagePositionPatient[2]) for image in images]


def test_missing_slices_leave_a_hole(ct: list[Dataset]) -> None:
    assert [i.InstanceNumber for i in irregular_series.without(ct, 1, -1)] == [1, 3, 4]


def test_duplicates(ct: list[Dataset]) -> None:
    *_, twin = irregular_series.with_duplicate(ct, 2)
    assert twin.SOPInstanceUID != ct[2].SOPInstanceUID
    assert twin.file_meta.MediaStorageSOPInstanceUID == twin.SOPInstanceUID
    assert twin.ImagePositionPatient == ct[2].ImagePositionPatient
    *_, same = irregular_series.with_duplicate(ct, 2, same_instance=True)
    assert same == ct[2]


def test_other_bytes_under_the_same_uid(ct: list[Dataset]) -> None:
    other = irregular_series.with_other_bytes(ct[0])
    assert other.SOPInstanceUID == ct[0].SOPInstanceUID
    assert np.sum(other.pixel_array != ct[0].pixel_array) == 1


def test_gap_moves_the_rest_along_the_normal(ct: list[Dataset]) -> None:
    np.testing.assert_allclose(np.diff(levels(irregular_series.with_gap(ct, 2, 4.5))), [3, 3, 7.5, 3])


def test_second_acquisition_lies_on_the_first(ct: list[Dataset]) -> None:
    again = irregular_series.another_acquisition(ct)
    assert levels(again) == levels(ct)
    assert not {i.SOPInstanceUID for i in again} & {i.SOPInstanceUID for i in ct}
    assert {i.AcquisitionNumber for i in again} == {2}
    assert {i.SeriesInstanceUID for i in again} == {ct[0].SeriesInstanceUID}


def test_localizer_is_a_coronal_scout(ct: list[Dataset]) -> None:
    scout = irregular_series.localizer(ct)
    assert scout.ImageType[2] == "LOCALIZER"
    assert [float(v) for v in scout.ImageOrientationPatient] == [1, 0, 0, 0, 0, -1]
    assert scout.pixel_array.shape == (15, 64)


@pytest.mark.parametrize("make", [legacy_converted, enhanced.enhanced_ct])
def test_multiframe_ct_holds_the_series(ct: list[Dataset], make: object) -> None:
    ds = reread(make(ct))  # type: ignore[operator]
    assert ds.NumberOfFrames == 5
    np.testing.assert_array_equal(ds.pixel_array, np.stack([i.pixel_array for i in ct]))
    frames = ds.PerFrameFunctionalGroupsSequence
    assert [float(f.PlanePositionSequence[0].ImagePositionPatient[2]) for f in frames] == levels(ct)


@pytest.mark.parametrize("make", [legacy_converted, enhanced.enhanced_pet])
def test_multiframe_pet_keeps_slopes(pet: list[Dataset], make: object) -> None:
    ds = reread(make(pet))  # type: ignore[operator]
    slopes = [float(f.PixelValueTransformationSequence[0].RescaleSlope) for f in ds.PerFrameFunctionalGroupsSequence]
    assert slopes == [float(i.RescaleSlope) for i in pet]


@pytest.mark.parametrize("uid", encoding.PLAIN_SYNTAXES + encoding.COMPRESSED_SYNTAXES)
def test_every_transfer_syntax_reads_back(ct: list[Dataset], uid: str) -> None:
    ds = reread(encoding.encoded(ct[2], uid))
    assert ds.file_meta.TransferSyntaxUID == uid
    assert ds.SOPInstanceUID == ct[2].SOPInstanceUID
    error = np.abs(ds.pixel_array.astype(int) - ct[2].pixel_array.astype(int)).max()
    assert error <= {encoding.JPEGLSNearLossless: 2, encoding.JPEG2000: 120}.get(uid, 0)
    assert (ds.get("LossyImageCompression") == "01") == (uid in encoding.LOSSY)


def test_compressed_multiframe(ct: list[Dataset]) -> None:
    ds = reread(encoding.encoded(legacy_converted(ct), JPEGLosslessSV1))
    np.testing.assert_array_equal(ds.pixel_array, np.stack([i.pixel_array for i in ct]))


def test_no_encoder_is_said(ct: list[Dataset]) -> None:
    with pytest.raises(ValueError, match="JPEG Baseline"):
        encoding.encoded(ct[0], JPEGBaseline8Bit)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_lossless_jpeg_of_extreme_pixels(ct: list[Dataset], dtype: type) -> None:
    rng = np.random.default_rng(1)
    info = np.iinfo(dtype)
    frame = rng.integers(info.min, info.max, (33, 47), dtype=dtype, endpoint=True)
    frame[0, :4] = [info.min, info.max, info.min, 0]
    frame[5, 10:12] = [0, info.min if info.min else 32768]
    ds = encoding.encoded(ct[0], JPEGLosslessSV1)
    ds.Rows, ds.Columns = frame.shape
    ds.PixelRepresentation = int(dtype is np.int16)
    ds.PixelData = pydicom.encaps.encapsulate([encode_frame(frame)])
    np.testing.assert_array_equal(reread(ds).pixel_array, frame)
