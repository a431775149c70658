"""Reading a series to be scored costs a bounded amount of memory and time, whatever its files inflate or decode to."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from dicom_qa_node.dicom_io import headers
from dicom_qa_node.dicom_io.file_reader import ReadingLimit
from dicom_qa_node.dicom_io.pydicom_patches import dcmread as bounded_dcmread
from dicom_qa_node.score import decoder_pool as decoding
from dicom_qa_node.score import stack_pixels
from dicom_qa_node.score.decoder_pool import BrokenPixels, Codestream, DecoderPool, DecodingTime
from dicom_qa_node.score.slice_headers import PixelFormat, UnreadableHeader, open_header
from dicom_qa_node.score.volume_builder import build_volumes
from tests.measured_process import measured
from tests.tiny_series import ENHANCED_CT, ct, multiframe, pixels_of, write

MIB = 1 << 20
MOST_MB, MOST_CPU_S = 96, 10.0


def assembled(folder: str) -> tuple[tuple[int, ...], float, float]:
    """Assemble a folder; called in a process of its own."""
    (volume,) = build_volumes(sorted(Path(folder).iterdir()))
    return volume.voxels.shape, float(volume.voxels.min()), float(volume.voxels.max())


def header_of(path: str) -> int:
    """Read a header; called in a process of its own."""
    return len(open_header(Path(path))[0])


def flushed(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_FULL_FLUSH)


def deflated_file(path: Path, ds: Dataset, tail: int, before_pixels: bytes = b"") -> None:
    """Write a deflated file whose pixel data go on for ``tail`` MiB of zeros after their proper end."""
    plain = path.with_suffix(".plain")
    ds.save_as(plain)
    data = plain.read_bytes()
    plain.unlink()
    start = 144 + int.from_bytes(data[140:144], "little")
    meta = data[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # The syntax is two bytes longer: its own length, and that of the group.
    at = meta.index(b"1.2.840.10008.1.2.1.99")
    meta = meta[: at - 2] + struct.pack("<H", 22) + meta[at:]
    meta = meta[:140] + struct.pack("<L", len(meta) - 144) + meta[144:]
    body = data[start:]
    length = len(ds.PixelData)
    pixels = body.index(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, length))
    new_head = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, length + tail * MIB)
    body = body[:pixels] + before_pixels + new_head + body[pixels + 12 :]
    zeros = flushed(bytes(MIB)) * tail
    path.write_bytes(meta + flushed(body) + zeros + zlib.compressobj(9, zlib.DEFLATED, -15).flush())


@pytest.fixture
def slices(tmp_path: Path) -> list[Dataset]:
    return [dcmread(path) for path in write(tmp_path / "plain", [ct(index) for index in range(3)])]


def test_pixels_beyond_those_of_the_header_are_not_inflated(slices, tmp_path):
    folder = tmp_path / "series"
    folder.mkdir()
    for index, ds in enumerate(slices):
        deflated_file(folder / f"{index}.dcm", ds, tail=1024)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 4 * MIB
    found = measured(__name__, "assembled", folder)
    expected = np.array([pixels_of(index) - 1024.0 for index in range(3)])
    assert found.outcome == repr((expected.shape, float(expected.min()), float(expected.max())))
    assert found.grown_mb < MOST_MB, found
    assert found.cpu_s < MOST_CPU_S, found


def test_deflated_frames_of_one_object_are_read_in_one_pass(tmp_path):
    (path,) = write(tmp_path, [multiframe([ct(index) for index in range(4)], ENHANCED_CT)],
                    syntax=DeflatedExplicitVRLittleEndian)  # fmt: skip
    (volume,) = build_volumes([path])
    assert np.array_equal(volume.voxels, [pixels_of(index) - 1024.0 for index in range(4)])


def test_a_deflated_object_that_is_cut_off_gives_the_frames_it_has(tmp_path):
    frames = [ct(index, pixels=np.random.default_rng(index).integers(0, 4000, (16, 20))) for index in range(4)]
    (path,) = write(tmp_path, [multiframe(frames, ENHANCED_CT)], syntax=DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-700])
    (volume,) = build_volumes([path])
    assert 0 < len(volume.voxels) < 4


@pytest.mark.parametrize("tail", [0, 300])
def test_a_deflated_header_is_read_alone(slices, tmp_path, tail):
    path = tmp_path / "one.dcm"
    deflated_file(path, slices[0], tail=tail)
    found = measured(__name__, "header_of", path)
    assert found.outcome == repr(len(open_header(Path(slices[0].filename))[0]))
    assert found.grown_mb < 16, found
    whole = bounded_dcmread(path) if tail == 0 else None
    assert whole is None or whole.PixelData == slices[0].PixelData


@pytest.mark.parametrize(
    "tags", [["SOPInstanceUID", "SeriesInstanceUID", "Rows"], [0x00080018, 0x0020000E, (0x28, 0x10)]]
)
def test_chosen_elements_of_a_deflated_header_are_those_of_a_plain_one(slices, tmp_path, tags):
    path = tmp_path / "one.dcm"
    deflated_file(path, slices[0], tail=10)
    found = bounded_dcmread(path, stop_before_pixels=True, specific_tags=tags)
    plain = bounded_dcmread(slices[0].filename, stop_before_pixels=True, specific_tags=tags)
    assert found == plain
    assert {"SOPInstanceUID", "SeriesInstanceUID", "Rows"} <= set(found.dir())


def test_a_deflated_header_without_end_is_refused(slices, tmp_path):
    path = tmp_path / "one.dcm"
    filler = struct.pack("<HH2sH", 0x0029, 0x1001, b"LT", 65528) + b" " * 65528
    deflated_file(path, slices[0], tail=0, before_pixels=filler * 1500)
    found = measured(__name__, "header_of", path)
    assert found.outcome.startswith("UnreadableHeader"), found
    assert found.grown_mb < 260, found
    assert found.cpu_s < MOST_CPU_S, found


def test_a_header_of_millions_of_elements_is_refused(slices, tmp_path, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.dicom_io.file_reader.MOST_READS", 2000)
    path = Path(slices[0].filename)
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2sH", 0x0008, 0x0060, b"CS", 2))
    path.write_bytes(data[:at] + struct.pack("<HH2sH", 0x0008, 0x0050, b"SH", 0) * 3000 + data[at:])
    with pytest.raises(UnreadableHeader, match="too many elements"):
        open_header(path)
    with pytest.raises(ReadingLimit):
        bounded_dcmread(path)


@pytest.mark.parametrize(("count", "read"), [(20_000, 20_000), (1_000_001, 0)])
def test_a_long_sequence_is_counted_before_its_items_are_made(slices, count, read):
    path = Path(slices[0].filename)
    data = path.read_bytes()
    at = data.index(struct.pack("<HH2s", 0x0020, 0x000D, b"UI"))
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * count
    path.write_bytes(data[:at] + struct.pack("<HH2sHL", 0x0018, 0x9346, b"SQ", 0, len(items)) + items + data[at:])
    assert len(headers.items(open_header(path)[0], 0x00189346)) == read


def rle_bomb(side: int, factor: int) -> bytes:
    """Return an RLE frame of one segment per byte, each ``factor`` times as long as the frame (PS3.5 G)."""
    segment = b"\x81\x00" * (side * side * factor // 128)
    offsets = [64 + number * len(segment) for number in range(2)]
    return struct.pack("<16L", 2, *offsets, *([0] * 13)) + segment * 2


def test_an_rle_frame_that_decodes_to_more_than_its_size_costs_no_more_than_its_size(tmp_path):
    paths = write(tmp_path, [ct(index) for index in range(3)])
    ds = dcmread(paths[1])
    ds.PixelData = encapsulate([rle_bomb(512, 400)])
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = RLELossless
    ds.save_as(paths[1])
    with DecoderPool(1) as pool:
        (volume,) = build_volumes(paths, pool)
        assert len(volume.voxels) == 2
        assert [finding.key for finding in volume.findings].count("slices_undecodable") == 1


def test_a_decoding_child_gets_memory_for_the_size_of_its_frame(tmp_path):
    path = write(tmp_path, [ct(0)])[0]
    pixels = PixelFormat(path, 0, RLELossless, 512, 512, 16, 16, 15, False, 1)
    outcome = measured("tests.unit.test_scoring_budgets", "limited_to_frame", timeout_s=60)
    limit_mb, held_mb = map(float, outcome.outcome.strip("()").split(","))
    assert limit_mb - held_mb < 128 + 24 * pixels.rows * pixels.columns / MIB + 16


def limited_to_frame() -> tuple[float, float]:
    """Set the limit for a frame of 512x512; called in a process of its own. Return it and what is held, in MiB."""
    import resource

    pixels = PixelFormat(Path(), 0, RLELossless, 512, 512, 16, 16, 15, False, 1)
    decoding._limit_memory(pixels)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return resource.getrlimit(resource.RLIMIT_AS)[0] / MIB, held / MIB


class _SlowDecoders:
    def __init__(self) -> None:
        self.asked = 0

    def decode(self, stream: Codestream) -> np.ndarray:
        self.asked += 1
        raise BrokenPixels("its compressed pixel data take the decoder more than 20 s")


def test_frames_that_block_their_decoder_do_not_hold_a_scorer_for_hours(monkeypatch, tmp_path):
    pixels = PixelFormat(tmp_path, 0, RLELossless, 512, 512, 16, 16, 15, False, 1)
    now = [0.0]
    monkeypatch.setattr(decoding.time, "monotonic", lambda: now.__setitem__(0, now[0] + 10) or now[0])
    slow, time = _SlowDecoders(), DecodingTime([pixels] * 100)
    for _ in range(100):
        with pytest.raises(BrokenPixels):
            time.decode(slow, Codestream(b"", pixels))
    # 30 s and 0.75 s for each of 100 frames, ten seconds each.
    assert slow.asked == 11


def test_a_series_that_does_not_fit_sixteen_bits_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(stack_pixels, "PACK_ABOVE_VOXELS", 2 * 16 * 20)
    wide = {"BitsAllocated": 32, "BitsStored": 20, "HighBit": 19}
    (volume,) = build_volumes(write(tmp_path, [ct(index, **wide) for index in range(4)]))
    assert len(volume.voxels) == 2
