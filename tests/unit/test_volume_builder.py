"""Every irregularity that scanners send is assembled right, or refused with a reason that names it."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.volume_builder import build_volume, build_volumes, scan_headers
from tests.tiny_series import ENHANCED_CT, LEGACY_CT, PATIENT, SECONDARY_CAPTURE, ct, multiframe, pixels_of, write


@pytest.fixture
def one(tmp_path):
    """Assemble slices that must give one volume."""

    def assembled(slices, **options):
        (volume,) = build_volumes(write(tmp_path, slices, **options))
        return volume

    return assembled


def keys(volume):
    return {finding.key for finding in volume.findings}


def finding(findings, key):
    (found,) = (item for item in findings if item.key == key)
    return found


def hu(index):
    return pixels_of(index) - 1024.0


def test_a_regular_series_gives_its_values_in_order(one):
    volume = one([ct(i) for i in (3, 0, 4, 2, 1)])
    assert volume.kind is SeriesKind.CT
    assert volume.unit == "HU"
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, [hu(i) for i in range(5)])
    assert volume.spacing_mm == pytest.approx((2.5, 0.8, 0.9))
    assert volume.origin_mm == (-10.0, -8.0, 0.0)
    assert np.array_equal(volume.direction, [[0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert volume.positions_mm == pytest.approx([0, 2.5, 5, 7.5, 10])
    assert volume.valid is None
    assert volume.stack_name == ""
    assert keys(volume) == set()


def test_missing_slices_are_counted(one):
    volume = one([ct(i) for i in (0, 1, 2, 4, 5, 8)])
    assert "3 slices missing" in finding(volume.findings, "slices_missing").sentence
    assert volume.spacing_mm[0] == pytest.approx(2.5)
    assert volume.positions_mm[-1] == pytest.approx(20)


def test_a_file_that_came_twice_counts_once(tmp_path):
    paths = write(tmp_path, [ct(i) for i in range(3)])
    (volume,) = build_volumes([*paths, paths[1]])
    assert len(volume.voxels) == 3


def test_a_duplicate_slice_is_left_out_and_named(one):
    extra = ct(2, SOPInstanceUID="1.2.3.99", InstanceNumber=50)
    volume = one([*(ct(i) for i in range(5)), extra])
    assert len(volume.voxels) == 5
    assert finding(volume.findings, "duplicate_slices").sop_instance_uids == ("1.2.3.99",)


def test_a_whole_series_sent_twice_is_judged_once(one):
    copies = [ct(i, SOPInstanceUID=f"1.2.3.{i}", InstanceNumber=100 + i) for i in range(5)]
    volume = one([*(ct(i) for i in range(5)), *copies])
    assert len(volume.voxels) == 5
    assert finding(volume.findings, "duplicate_slices").sentence.startswith("5 duplicate slices")


def test_an_extra_slice_between_the_others_is_left_out(one):
    extra = ct(20, ImagePositionPatient=[-10.0, -8.0, 6.1])
    volume = one([*(ct(i) for i in range(12)), extra])
    assert len(volume.voxels) == 12
    assert finding(volume.findings, "extra_slices").sop_instance_uids == (extra.SOPInstanceUID,)


def test_uneven_gaps_are_said(one):
    places = (0.0, 2.5, 5.9, 8.1, 12.0, 13.5)
    volume = one([ct(i, ImagePositionPatient=[0.0, 0.0, z]) for i, z in enumerate(places)])
    assert volume.positions_mm == pytest.approx(places)
    assert "gaps_uneven" in keys(volume)


@pytest.mark.parametrize(("thickness", "key"), [(5.0, None), (1.0, "slices_apart"), (2.5, None)])
def test_thickness_is_compared_with_the_spacing(one, thickness, key):
    volume = one([ct(i, SliceThickness=thickness) for i in range(4)])
    assert keys(volume) == ({key} if key else set())


@pytest.mark.parametrize(
    ("elements", "name"),
    [
        ({"AcquisitionNumber": 2}, "acquisition"),
        ({"EchoNumbers": 2}, "echo"),
        ({"TemporalPositionIdentifier": 2}, "time point"),
        ({"NominalPercentageOfCardiacPhase": 40.0}, "cardiac phase"),
        ({"ConvolutionKernel": "B70f"}, "kernel"),
        ({"KVP": 80}, "tube voltage"),
    ],
)
def test_stacks_at_the_same_positions_are_told_apart(tmp_path, elements, name):
    alike = {"EchoNumbers": 1, "TemporalPositionIdentifier": 1, "NominalPercentageOfCardiacPhase": 75.0}
    first = [ct(i, **alike) for i in range(4)]
    second = [
        ct(i, SOPInstanceUID=f"1.2.9.{i}", InstanceNumber=100 + i, pixels=pixels_of(i) + 500, **(alike | elements))
        for i in range(4)
    ]
    a, b = build_volumes(write(tmp_path, [*first, *second]))
    assert np.array_equal(a.voxels, [hu(i) for i in range(4)])
    assert np.array_equal(b.voxels, [hu(i) + 500 for i in range(4)])
    assert a.stack_name.startswith(name)
    assert b.stack_name.startswith(name)
    assert a.stack_name != b.stack_name


def test_two_attributes_together_tell_four_stacks_apart(tmp_path):
    slices = [
        ct(i, AcquisitionNumber=a, ConvolutionKernel=k, SOPInstanceUID=f"1.2.{a}.{len(k)}.{i}", pixels=pixels_of(9 * a))
        for a in (1, 2)
        for k in ("B30f", "B70fx")
        for i in range(4)
    ]
    volumes = build_volumes(write(tmp_path, slices))
    assert sorted(volume.stack_name for volume in volumes) == [
        f"acquisition {a}, kernel {k}" for a in (1, 2) for k in ("B30f", "B70fx")
    ]


def test_repetitions_without_any_attribute_are_told_apart_by_number(tmp_path):
    second = [ct(i, SOPInstanceUID=f"1.2.9.{i}", InstanceNumber=100 + i, pixels=pixels_of(i) + 7) for i in range(4)]
    a, b = build_volumes(write(tmp_path, [*(ct(i) for i in range(4)), *second]))
    assert (a.stack_name, b.stack_name) == ("repetition 1", "repetition 2")
    assert np.array_equal(b.voxels, [hu(i) + 7 for i in range(4)])


def test_interleaved_acquisitions_are_told_apart(tmp_path):
    second = [
        ct(i, SOPInstanceUID=f"1.2.9.{i}", AcquisitionNumber=2, ImagePositionPatient=[-10.0, -8.0, 2.5 * i + 0.9])
        for i in range(5)
    ]
    volumes = build_volumes(write(tmp_path, [*(ct(i) for i in range(5)), *second]))
    assert [volume.stack_name for volume in volumes] == ["acquisition 1", "acquisition 2"]
    assert all("gaps_uneven" not in keys(volume) for volume in volumes)


def test_step_and_shoot_with_a_number_for_each_slice_stays_one_stack(one):
    assert len(one([ct(i, AcquisitionNumber=i + 1) for i in range(8)]).voxels) == 8


def test_other_planes_in_the_series_become_their_own_stacks(tmp_path):
    coronal = [
        ct(20 + i, ImageOrientationPatient=[1, 0, 0, 0, 0, -1], ImagePositionPatient=[0.0, 3.0 * i, 0.0])
        for i in range(3)
    ]
    volumes = build_volumes(write(tmp_path, [*(ct(i) for i in range(5)), *coronal]))
    assert [len(volume.voxels) for volume in volumes] == [5, 3]
    assert volumes[1].stack_name.startswith("coronal")
    assert "not_axial" in keys(volumes[1])


def test_localizers_dose_screens_and_captures_are_left_out_and_counted(tmp_path):
    others = [
        ct(50, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ct(51, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ct(52, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"], ImagePositionPatient=None),
        ct(53, SOPClassUID=SECONDARY_CAPTURE),
        ct(54, ImageType=["DERIVED", "SECONDARY"], ImagePositionPatient=None, ImageOrientationPatient=None),
    ]
    found = scan_headers(write(tmp_path, [*(ct(i) for i in range(5)), *others]))
    assert [len(part.slices) for part in found.stacks] == [5]
    said = finding(found.findings, "objects_left_out")
    assert "5 objects" in said.sentence
    assert "2 localizers" in said.sentence
    assert set(said.sop_instance_uids) == {item.SOPInstanceUID for item in others}


def tilted(count, degrees):
    angle = np.radians(degrees)
    row_down = [0.0, float(np.cos(angle)), float(-np.sin(angle))]
    return [ct(i, ImageOrientationPatient=[1.0, 0.0, 0.0, *row_down], GantryDetectorTilt=degrees) for i in range(count)]


def test_a_tilted_gantry_keeps_its_shear(one):
    volume = one(tilted(6, 15.0))
    assert "15.0 degrees" in finding(volume.findings, "gantry_tilt").sentence
    assert np.diff(volume.positions_mm) == pytest.approx(2.5 * np.cos(np.radians(15)))
    assert volume.spacing_mm[0] == pytest.approx(2.5)
    assert volume.direction[:, 0] == pytest.approx([0, 0, 1])
    for index in (0, 5):
        corner = volume.origin_mm + volume.direction @ (np.array([index, 0, 0]) * volume.spacing_mm)
        assert corner == pytest.approx([-10, -8, 2.5 * index])


@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0)]
)
def test_reformatted_and_turned_series_are_stacked_along_their_normal(one, orientation):
    normal = np.cross(orientation[:3], orientation[3:])
    slices = [
        ct(i, ImageOrientationPatient=list(map(float, orientation)), ImagePositionPatient=(2.5 * i * normal).tolist())
        for i in (2, 0, 3, 1)
    ]
    volume = one(slices)
    assert np.array_equal(volume.voxels, [hu(i) for i in range(4)])
    assert np.diff(volume.positions_mm) == pytest.approx(2.5)
    assert ("not_axial" in keys(volume)) == (abs(normal[2]) < 0.5)


def test_the_rescale_of_every_slice_is_its_own(one):
    volume = one([ct(i, RescaleSlope=0.5 * (i + 1), RescaleIntercept=-100 * i) for i in range(4)])
    assert volume.voxels == pytest.approx(np.stack([pixels_of(i) * 0.5 * (i + 1) - 100 * i for i in range(4)]))


def test_a_missing_rescale_is_said(one):
    volume = one([ct(i, RescaleSlope=None, RescaleIntercept=None) for i in range(4)])
    assert "rescale_missing" in keys(volume)
    assert volume.voxels[0, 0, 0] == 1000


def test_other_quantities_than_hounsfield_units_are_named(one):
    volume = one([ct(i, RescaleType="Z_EFF") for i in range(4)])
    assert volume.unit == "Z_EFF"
    assert "unit_unexpected" in keys(volume)


def test_padding_and_values_outside_the_scan_circle_are_marked(one):
    pixels = [pixels_of(i) for i in range(4)]
    pixels[1][0, :3] = 63
    pixels[2][5, 5] = -3000
    volume = one(
        [
            ct(i, pixels=pixels[i], PixelRepresentation=1, PixelPaddingValue=60, PixelPaddingRangeLimit=65)
            for i in range(4)
        ]
    )
    marked = np.argwhere(~volume.valid[:])
    assert marked.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2], [2, 5, 5]]
    assert volume.voxels[2, 5, 5] == -4024


@pytest.mark.parametrize(
    ("allocated", "stored", "signed"), [(16, 16, 0), (16, 16, 1), (16, 12, 0), (16, 12, 1), (8, 8, 0), (32, 20, 1)]
)
def test_every_way_of_storing_integers(one, allocated, stored, signed):
    top = 2 ** (stored - signed) - 1
    values = np.linspace(-top if signed else 0, top, 320).astype(np.int64).reshape(16, 20)
    elements = {"BitsAllocated": allocated, "BitsStored": stored, "HighBit": stored - 1, "PixelRepresentation": signed}
    volume = one([ct(i, **elements, RescaleIntercept=0, pixels=values) for i in range(3)])
    assert np.array_equal(volume.voxels[1], values)


def test_an_overlay_in_unused_bits_does_not_reach_the_values(one):
    pixels = pixels_of(0) | 0xF000
    volume = one([ct(i, BitsStored=12, HighBit=11, pixels=pixels) for i in range(3)])
    assert np.array_equal(volume.voxels[0], hu(0))


@pytest.mark.parametrize("pack_above", [10**9, 0])
@pytest.mark.parametrize(
    ("padding", "stored", "signed", "overlay"),
    [(-32768, -32768, 1, None), (63536, 63536, 0, None), (-2000, 63536, 0, None), (0x7000, 0xF000, 0, 15)],
)
def test_padding_is_recognised_before_bits_are_masked(tmp_path, padding, stored, signed, overlay, pack_above):
    made = []
    for index in range(3):
        pixels = pixels_of(index)
        pixels[0, :5] = stored
        vr = {"PixelRepresentation": signed, "BitsStored": 12, "HighBit": 11}
        made.append(ct(index, pixels=pixels, **vr))
        made[-1].add_new(0x00280120, "SS" if padding < 0 else "US", padding)
        if overlay:
            made[-1].add_new(0x60000102, "US", overlay)
    (stack,) = scan_headers(write(tmp_path, made)).stacks
    with DecoderPool() as pool:
        volume = build_volume(stack, pool, pack_above=pack_above)
    assert np.argwhere(~volume.valid[:]).tolist() == [[k, 0, j] for k in range(3) for j in range(5)]
    assert volume.voxels[:, 0, :5].max() <= -1000
    assert np.array_equal(volume.voxels[1][1:], hu(1)[1:])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_uncompressed_syntaxes(one, syntax):
    assert np.array_equal(one([ct(i) for i in range(3)], syntax=syntax).voxels, [hu(i) for i in range(3)])


def test_big_endian(tmp_path):
    slices = [ct(i) for i in range(3)]
    for ds in slices:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    (volume,) = build_volumes(write(tmp_path, slices, syntax=ExplicitVRBigEndian))
    assert np.array_equal(volume.voxels, [hu(i) for i in range(3)])


def test_compressed_slices_are_decoded_beside_plain_ones(tmp_path):
    paths = write(tmp_path, [ct(i) for i in range(4)])
    for path in paths[:2]:
        ds = dcmread(path)
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    (volume,) = build_volumes(paths)
    assert np.array_equal(volume.voxels, [hu(i) for i in range(4)])


@pytest.mark.parametrize("sop_class", [ENHANCED_CT, LEGACY_CT])
def test_multiframe_objects_are_taken_apart(one, sop_class):
    slices = [ct(i, RescaleIntercept=-1000 - i) for i in (2, 0, 1, 3)]
    volume = one([multiframe(slices, sop_class)])
    assert np.array_equal(volume.voxels, [pixels_of(i) - 1000.0 - i for i in range(4)])
    assert volume.frame_numbers == (2, 3, 1, 4)
    assert len(set(volume.sop_instance_uids)) == 1
    assert volume.header.SliceThickness == 2.5
    assert volume.header.ImagePositionPatient == [-10, -8, 0]


def test_compressed_multiframe(tmp_path):
    (path,) = write(tmp_path, [multiframe([ct(i) for i in range(4)])])
    ds = dcmread(path)
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.save_as(path)
    (volume,) = build_volumes([path])
    assert np.array_equal(volume.voxels, [hu(i) for i in range(4)])


def test_acquisitions_inside_one_multiframe_object(tmp_path):
    slices = [ct(i, AcquisitionNumber=a, pixels=pixels_of(10 * a + i)) for a in (1, 2) for i in range(4)]
    volumes = build_volumes(write(tmp_path, [multiframe(slices)]))
    assert [volume.stack_name for volume in volumes] == ["acquisition 1", "acquisition 2"]
    assert volumes[1].frame_numbers == (5, 6, 7, 8)


def test_a_multiframe_object_that_ends_early_gives_the_frames_it_has(tmp_path):
    (path,) = write(tmp_path, [multiframe([ct(i) for i in range(4)])])
    path.write_bytes(path.read_bytes()[:-700])
    (volume,) = build_volumes([path])
    assert len(volume.voxels) == 2
    assert "2 slices of 4" in finding(volume.findings, "slices_undecodable").sentence


def test_one_slice(one):
    volume = one([ct(0)])
    assert keys(volume) == {"single_slice"}
    assert volume.spacing_mm[0] == 2.5


def test_a_slice_that_cannot_be_decoded_is_named_and_left_out(tmp_path):
    paths = write(tmp_path, [ct(i) for i in range(5)])
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    (volume,) = build_volumes(paths)
    assert np.array_equal(volume.voxels, [hu(i) for i in (0, 1, 3, 4)])
    said = finding(volume.findings, "slices_undecodable")
    assert said.sop_instance_uids == (ct(2).SOPInstanceUID,)
    assert "slices_missing" in keys(volume)


def test_a_compressed_slice_that_cannot_be_decoded_is_named_and_left_out(tmp_path):
    paths = write(tmp_path, [ct(i) for i in range(4)])
    ds = dcmread(paths[1])
    ds.compress(RLELossless, generate_instance_uid=False)
    ds.PixelData = ds.PixelData[:40] + bytes(len(ds.PixelData) - 40)
    ds.save_as(paths[1])
    (volume,) = build_volumes(paths)
    assert len(volume.voxels) == 3
    assert finding(volume.findings, "slices_undecodable").sop_instance_uids == (ct(1).SOPInstanceUID,)


def test_nothing_decodable_is_refused_with_a_slice_and_a_reason(tmp_path):
    paths = write(tmp_path, [ct(i) for i in range(3)])
    for path in paths:
        path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(Permanent, match=r"none of 3 slices can be decoded.*end 400 bytes too early") as error:
        build_volumes(paths)
    assert ct(0).SOPInstanceUID in str(error.value)
    assert PATIENT not in str(error.value)


def test_nothing_but_other_objects_is_refused(tmp_path):
    paths = write(tmp_path, [ct(0, SOPClassUID=SECONDARY_CAPTURE)])
    (tmp_path / "notes.txt").write_text("no DICOM")
    with pytest.raises(Permanent, match="no slices that can be scored") as error:
        build_volumes([*paths, tmp_path / "notes.txt"])
    assert "notes.txt" in str(error.value)


def test_files_of_several_series_are_refused(tmp_path):
    with pytest.raises(Permanent, match="2 series"):
        scan_headers(write(tmp_path, [ct(0), ct(1, SeriesInstanceUID="1.2.3")]))


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("ImagePositionPatient", None, r"Image Position \(Patient\) \(0020,0032\)"),
        ("ImageOrientationPatient", [1.0, 0.0, 0.0, 1.0, 0.0, 0.0], r"\(0020,0037\) holds no two perpendicular"),
        ("PixelSpacing", [0.0, 0.0], r"Pixel Spacing \(0028,0030\)"),
        ("BitsAllocated", 12, r"Bits Allocated \(0028,0100\) is 12"),
    ],
)
def test_a_broken_header_is_named_with_its_attribute(tmp_path, keyword, value, said):
    broken = ct(9)
    if value is None:
        delattr(broken, keyword)
    else:
        setattr(broken, keyword, value)
    found = scan_headers(write(tmp_path, [*(ct(i) for i in range(3)), broken]))
    told = finding(found.findings, "headers_broken")
    assert told.sop_instance_uids == (broken.SOPInstanceUID,)
    with pytest.raises(Permanent, match=said):
        scan_headers(write(tmp_path / "alone", [broken]))


def test_values_that_break_their_representation_and_unknown_characters(tmp_path):
    paths = write(tmp_path, [ct(i, SpecificCharacterSet="ISO_IR 192", SliceThickness=97.5) for i in range(3)])
    for path in paths:
        data = path.read_bytes().replace(b"ISO_IR 192", b"ISO_XX 999").replace(b"97.5", b"2,5x")
        path.write_bytes(data.replace(b"Tiny^Tim", b"T\xff\xfey^T\xe9m"))
    (volume,) = build_volumes(paths)
    assert np.array_equal(volume.voxels, [hu(i) for i in range(3)])


def test_a_large_series_stays_in_sixteen_bits(tmp_path):
    pixels = [pixels_of(i) for i in range(6)]
    pixels[3][2, 7] = -3000
    slices = [ct(i, pixels=pixels[i], PixelRepresentation=1, RescaleSlope=1 + i) for i in range(6)]
    paths = write(tmp_path, slices)
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    with DecoderPool() as decoders:
        part = scan_headers(paths).stacks[0]
        small, large = (build_volume(part, decoders, pack_above=limit) for limit in (10**9, 10))
    assert not isinstance(large.voxels, np.ndarray)
    assert large.voxels.shape == small.voxels.shape == (5, 16, 20)
    for key in (
        1,
        -1,
        slice(None),
        slice(1, 4),
        (slice(None, None, 2), slice(None, None, 4), 3),
        (3, 5),
        np.array([0, 3]),
    ):
        assert np.array_equal(large.voxels[key], small.voxels[key])
        assert large.voxels[key].dtype == np.float32
        assert np.array_equal(large.valid[key], small.valid[key])
    assert not large.valid[3, 2, 7]


def test_a_series_too_large_for_memory_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr("dicom_qa_node.score.stack_pixels.MAX_VOXELS", 16 * 20 * 5)
    (volume,) = build_volumes(write(tmp_path, [ct(i) for i in range(12)]))
    assert len(volume.voxels) == 4
    assert "4 of 12" in finding(volume.findings, "series_thinned").sentence


def test_no_finding_quotes_the_patient(tmp_path):
    paths = write(tmp_path, [*(ct(i) for i in range(4)), ct(8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])])
    found = scan_headers(paths)
    with DecoderPool() as decoders:
        told = [*found.findings, *build_volume(found.stacks[0], decoders).findings]
    assert told
    assert not any(PATIENT in f"{item.sentence}{item.evidence}" for item in told)


def test_an_empty_data_set_is_refused(tmp_path):
    empty = Dataset()
    empty.SOPClassUID, empty.SOPInstanceUID, empty.SeriesInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2"
    with pytest.raises(Permanent):
        scan_headers(write(tmp_path, [empty]))


def compressed(tmp_path, count=3):
    paths = write(tmp_path, [ct(i) for i in range(count)])
    for path in paths:
        ds = dcmread(path)
        ds.compress(RLELossless, generate_instance_uid=False)
        ds.save_as(path)
    return paths


def test_a_frame_that_blocks_its_decoder_is_left_out(tmp_path):
    part = scan_headers(compressed(tmp_path)).stacks[0]
    with DecoderPool(count=1, timeout_s=0.0) as blocked, pytest.raises(Permanent, match="more than 0 s"):
        build_volume(part, blocked)


def test_a_decoder_that_dies_costs_one_frame(tmp_path):
    part = scan_headers(compressed(tmp_path)).stacks[0]
    with DecoderPool(count=1) as decoders:
        assert len(build_volume(part, decoders).voxels) == 3
        decoders._idle[0]._process.kill()
        volume = build_volume(part, decoders)
    assert len(volume.voxels) == 2
    assert "make the decoder crash" in finding(volume.findings, "slices_undecodable").sentence


def test_a_number_for_each_slice_does_not_explain_a_duplicate(one):
    slices = [ct(i, AcquisitionNumber=i + 1) for i in range(8)]
    volume = one([*slices, ct(3, AcquisitionNumber=9, SOPInstanceUID="1.2.3.99", InstanceNumber=99)])
    assert len(volume.voxels) == 8
    assert finding(volume.findings, "duplicate_slices").sop_instance_uids == ("1.2.3.99",)
