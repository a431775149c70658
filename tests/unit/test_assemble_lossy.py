"""Lossy images are named where their header hides it."""

from __future__ import annotations

from pydicom import dcmread
from pydicom.uid import JPEG2000

from dicom_qa_node.score.headers import _lossy
from tests.tiny_series import ct, write


def test_lossy_syntax_is_said_only_where_the_header_hides_it(tmp_path):
    paths = write(tmp_path, [ct(0), ct(1, LossyImageCompression="01")])
    hidden, declared = (dcmread(path) for path in paths)
    for ds in (hidden, declared):
        assert not _lossy(ds)
        ds.file_meta.TransferSyntaxUID = JPEG2000
    assert _lossy(hidden)
    assert not _lossy(declared)
