"""Lossy images are told with their ratio: stated or by size, of any slice, and where the header hides it."""

from __future__ import annotations

import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLSNearLossless

from dicom_qa_node.domain.results import Severity
from dicom_qa_node.score.rules.evaluation import evaluate_rules
from dicom_qa_node.score.volume_builder import build_volumes, scan_headers
from tests.tiny_series import ct, write


def lossy_of(paths):
    return [header.lossy for header in scan_headers(paths).stacks[0].slices]


def finding(volume):
    return next((item for item in evaluate_rules(volume, ()) if item.key == "lossy_compression"), None)


def as_compressed(path, syntax, size):
    """Let a file say that its pixels are compressed, to ``size`` bytes; they are not decoded."""
    ds = dcmread(path)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([bytes(size)])
    ds.save_as(path)


@pytest.mark.parametrize("syntax", [JPEG2000, JPEGLSNearLossless])
def test_hidden_loss_is_seen_with_the_ratio_of_the_sizes(tmp_path, syntax):
    paths = write(tmp_path, [ct(0)])
    assert lossy_of(paths) == [None]
    as_compressed(paths[0], syntax, 64)
    (lossy,) = lossy_of(paths)
    assert (lossy.declared, lossy.measured) == (False, True)
    assert lossy.ratio == pytest.approx(640 / 104, rel=0.02)


def test_lossless_syntaxes_are_not_lossy(tmp_path):
    paths = write(tmp_path, [ct(0)])
    as_compressed(paths[0], JPEG2000Lossless, 64)
    assert lossy_of(paths) == [None]


@pytest.mark.parametrize(("stated", "ratio"), [(None, None), ("7.5", 7.5), (["2", "12"], 12.0), ("0", None)])
def test_loss_of_the_past_is_seen_with_the_last_stated_ratio(tmp_path, stated, ratio):
    (lossy,) = lossy_of(write(tmp_path, [ct(0, LossyImageCompression="01", LossyImageCompressionRatio=stated)]))
    assert (lossy.declared, lossy.ratio, lossy.measured) == (True, ratio, False)


@pytest.mark.parametrize("index", [0, 3])
def test_one_lossy_slice_anywhere_is_told(tmp_path, index):
    slices = [ct(i) for i in range(5)]
    slices[index].LossyImageCompression, slices[index].LossyImageCompressionRatio = "01", "9"
    (volume,) = build_volumes(write(tmp_path, slices))
    found = finding(volume)
    assert "9:1" in found.sentence
    assert found.severity is Severity.WARNING


def test_a_series_without_loss_has_no_finding(tmp_path):
    (volume,) = build_volumes(write(tmp_path, [ct(i, LossyImageCompression="00") for i in range(3)]))
    assert finding(volume) is None
