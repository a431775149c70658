"""A series goes from files to one verdict: stacks, PET on its CT, domain, interval, grade, pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_qa_node.config import Grades
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding, Grade, SeriesKind, Severity
from dicom_qa_node.phantom import CtForm, DecayCorrection, PetForm, Plane, Units, ct_series, pet_series, petct_study
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.irregular_series import another_acquisition, localizer
from dicom_qa_node.score.fusion import pair
from dicom_qa_node.score.grade_sets import grade_of
from dicom_qa_node.score.image_files import SHEET, contact_sheet, write_images
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.resampling import on_slice
from dicom_qa_node.score.slice_rendering import render_display_images
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer
from tests.tiny_series import ct, pet, write

pytestmark = pytest.mark.usefixtures("no_measurements")


@pytest.fixture
def no_measurements(monkeypatch):
    """The measurements have their own tests, and take their time."""
    monkeypatch.setattr("dicom_qa_node.score.pipeline.measure", lambda *_: ())


@pytest.fixture(scope="module")
def ct_images():
    return ct_series(3, 14, 96, spacing_mm=10.0, centre_mm=0.0)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Paths of the CT and the PET of one study."""
    folder = tmp_path_factory.mktemp("petct")
    sizes = {"ct_slices": 20, "ct_rows": 128, "ct_spacing_mm": 6.0, "pet_rows": 64, "pet_pixel_mm": 8.0}
    images = petct_study(3, pet_spacing_mm=8.0, **sizes)
    return tuple(write_phantom(series, folder / name) for name, series in zip(("ct", "pet"), images, strict=True))


def keys(findings):
    return {finding.key for finding in findings}


def test_a_ct_series_gets_one_verdict(tmp_path, ct_images):
    scorer = TinyScorer()
    paths = write_phantom([*ct_images, localizer(ct_images)], tmp_path)
    found = score_series(paths, scorer=scorer)
    result = found.result
    assert (result.modality, result.kind) == ("CT", SeriesKind.CT)
    assert result.series_instance_uid == ct_images[0].SeriesInstanceUID
    assert len(result.slices) == 7 == len(found.pictures)
    assert result.score == pytest.approx(sum(item.score * item.weight for item in result.slices))
    assert sum(item.weight for item in result.slices) == pytest.approx(1)
    assert result.interval == pytest.approx((result.score - 0.5, result.score + 0.5))
    assert result.instances_used == 14
    assert result.model.sha256 == "a" * 64
    assert {"objects_left_out"} <= keys(result.findings)
    assert {"headers", "decode", "slices", "pictures", "network", "measure", "total"} <= set(result.timings_ms)
    by_uid = {image.SOPInstanceUID: image for image in ct_images}
    for item in result.slices:
        assert float(by_uid[item.sop_instance_uid].ImagePositionPatient[2]) == pytest.approx(item.position_mm, abs=1e-3)
    ((kind, seen),) = scorer.seen
    assert kind == "ct"
    assert np.array_equal(seen, found.pictures)


def test_the_same_files_in_any_order_give_the_same_verdict(tmp_path, ct_images):
    paths = write_phantom(ct_images, tmp_path)
    one, other = (score_series(order, scorer=TinyScorer()).result for order in (paths, paths[::-1]))
    assert replace(one, timings_ms={}) == replace(other, timings_ms={})


@pytest.mark.parametrize(
    "form",
    [CtForm(plane=plane) for plane in (Plane.PRONE, Plane.RIGHT_DOWN, Plane.LEFT_DOWN)]
    + [CtForm(patient_position="FFS")],
    ids=lambda form: f"{form.plane}-{form.patient_position}",
)
def test_however_the_patient_lies_the_pictures_are_upright(tmp_path, ct_images, form):
    turned = ct_series(3, 14, 96, spacing_mm=10.0, centre_mm=0.0, form=form)
    (plain,), (other,) = (
        build_volumes(write_phantom(images, tmp_path / name)) for name, images in (("a", ct_images), ("b", turned))
    )
    assert np.array_equal(render_display_images(plain, [3, 9]), render_display_images(other, [3, 9]))


def test_coronal_slices_are_shown_head_up(tmp_path):
    (volume,) = build_volumes(
        write_phantom(ct_series(3, 24, 64, spacing_mm=12.0, form=CtForm(plane=Plane.CORONAL)), tmp_path)
    )
    assert "not_axial" in keys(volume.findings)
    picture = render_display_images(volume, [32])[0]
    # The lungs are dark; they must lie above the abdomen.
    half = picture.shape[0] // 2
    middle = picture[:, 16:48]
    assert middle[:half].mean() < middle[half:].mean()


def test_pet_is_judged_on_its_ct(study):
    ct_paths, pet_paths = study
    scorer = TinyScorer()
    result = score_series(pet_paths, pair_paths=ct_paths, scorer=scorer).result
    assert (result.modality, result.kind) == ("PT", SeriesKind.PETCT)
    (ct_volume,), (pet_volume,) = build_volumes(ct_paths), build_volumes(pet_paths)
    assert result.pair_series_uid == ct_volume.header.SeriesInstanceUID
    assert {item.sop_instance_uid for item in result.slices} <= set(pet_volume.sop_instance_uids)
    seen = dict(scorer.seen)
    assert set(seen) == {"petct", "ct"}
    assert len(seen["ct"]) == 4
    seen = seen["petct"]
    assert seen.shape[1:] == (128, 128, 3)
    red, green, blue = (int(seen[..., channel].astype(int).sum()) for channel in range(3))
    assert red > green > blue


def test_pet_without_a_ct_is_judged_alone(study):
    result = score_series(study[1], scorer=TinyScorer()).result
    assert result.kind is SeriesKind.PT
    assert result.pair_series_uid is None


def test_a_ct_of_another_frame_of_reference_is_not_used(tmp_path, ct_images, study):
    result = score_series(study[1], pair_paths=write_phantom(ct_images, tmp_path), scorer=TinyScorer()).result
    assert result.kind is SeriesKind.PT
    (finding,) = (item for item in result.findings if item.key == "petct_not_paired")
    assert "(0020,0052)" in finding.sentence


def test_a_ct_that_cannot_be_read_costs_the_pairing_only(tmp_path, study):
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    result = score_series(study[1], pair_paths=[tmp_path / "x.dcm"], scorer=TinyScorer()).result
    assert result.kind is SeriesKind.PT
    assert "petct_not_paired" in keys(result.findings)


def test_partial_overlap_is_said_and_respected(study):
    ct_paths, pet_paths = study
    (whole,) = build_volumes(ct_paths)
    kept = [
        path for path, place in zip(ct_paths, whole.positions_mm, strict=True) if place < np.median(whole.positions_mm)
    ]
    result = score_series(pet_paths, pair_paths=kept, scorer=TinyScorer()).result
    assert result.kind is SeriesKind.PETCT
    (finding,) = (item for item in result.findings if item.key == "petct_partial_overlap")
    (pet_volume,) = build_volumes(pet_paths)
    low = max(whole.positions_mm[0] - 3.0, pet_volume.positions_mm[0] - 4.0)
    shared = whole.positions_mm[len(kept) - 1] + 3.0 - low
    assert float(finding.evidence.split(" mm")[0]) == pytest.approx(shared, abs=1.0)
    assert all(item.position_mm < np.median(whole.positions_mm) + 6 for item in result.slices)


def test_a_smaller_field_of_view_of_the_ct_is_said(study):
    (ct_volume,), (pet_volume,) = build_volumes(study[0]), build_volumes(study[1])
    assert pair(pet_volume, [ct_volume]).findings == ()
    small = replace(ct_volume, voxels=ct_volume.voxels[:, :80, :80])
    (finding,) = pair(pet_volume, [small]).findings
    assert finding.key == "petct_field_of_view"
    assert f"{80 * ct_volume.spacing_mm[1]:.0f} mm" in finding.sentence
    assert f"{64 * pet_volume.spacing_mm[1]:.0f} mm" in finding.sentence


def plane_values(volume, weights, constant):
    """Return a volume whose voxels are a linear function of the patient coordinates."""
    slices, rows, columns = volume.voxels.shape
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1)
    in_plane = (grid * volume.spacing_mm[1:]) @ volume.direction[:, 1:].T
    points = volume.origins_mm[:, None, None, :] + in_plane[None]
    assert points.shape == (slices, rows, columns, 3)
    return replace(volume, voxels=(points @ weights + constant).astype(np.float32)), points


@pytest.mark.parametrize(
    "fixed",
    [
        pytest.param([ct(i) for i in range(4)], id="axial"),
        pytest.param([ct(i, ImageOrientationPatient=[0.96, 0.28, 0, -0.28, 0.96, 0]) for i in range(4)], id="turned"),
        pytest.param(
            [ct(i, ImageOrientationPatient=[1.0, 0, 0, 0, float(np.cos(0.3)), float(-np.sin(0.3))]) for i in range(4)],
            id="tilted",
        ),
    ],
)
@pytest.mark.parametrize("gone", [(), (3, 4), (2, 5, 6)])
def test_resampling_goes_through_physical_space(tmp_path, fixed, gone):
    moving = [
        pet(i, ImagePositionPatient=[-14.0, -13.0, -7.0 + 3.0 * i], PixelSpacing=[2.0, 2.5])
        for i in range(9) if i not in gone
    ]  # fmt: skip
    (target,), (source,) = (build_volumes(write(tmp_path / name, s)) for name, s in (("f", fixed), ("m", moving)))
    weights = np.array([0.5, -1.25, 2.0])
    source, _ = plane_values(source, weights, 100.0)
    _, points = plane_values(target, weights, 100.0)
    for index in range(4):
        sampled = on_slice(source, target, index)
        covered = np.isfinite(sampled)
        assert covered.mean() > 0.9
        assert sampled[covered] == pytest.approx((points[index] @ weights + 100.0)[covered], abs=1e-3)


def test_outside_the_pet_there_is_nothing(tmp_path):
    (target,) = build_volumes(
        write(tmp_path / "a", [ct(i, ImagePositionPatient=[500.0, 0.0, 2.5 * i]) for i in range(3)])
    )
    (source,) = build_volumes(write(tmp_path / "b", [pet(i) for i in range(5)]))
    assert np.isnan(on_slice(source, target, 1)).all()


@pytest.mark.parametrize("units", Units)
@pytest.mark.parametrize("decay", DecayCorrection)
def test_suv_of_a_generated_patient_is_the_same_in_every_form(tmp_path, units, decay):
    forms = {"plain": PetForm(), "other": PetForm(units=units, decay=decay)}
    (plain,), (other,) = (
        build_volumes(write_phantom(pet_series(3, 5, 32, pixel_mm=14.0, spacing_mm=20.0, form=form), tmp_path / name))
        for name, form in forms.items()
    )
    assert plain.unit == other.unit == "SUVbw"
    bright = plain.voxels > 0.5
    assert bright.any()
    # Uncorrected frames are taken to show the activity at their mean count rate, a minute after they begin; the
    # generated ones show that at their beginning.
    late = 2 ** (60 / 6586.2) if (units, decay) == (Units.BQML, DecayCorrection.NONE) else 1.0
    assert (other.voxels[bright] / plain.voxels[bright]) == pytest.approx(late, abs=1e-3)


def test_pet_without_suv_attributes_is_judged_in_relative_units(tmp_path):
    images = pet_series(3, 9, 64, pixel_mm=8.0, spacing_mm=10.0, form=PetForm(suv_attributes=False))
    plain = pet_series(3, 9, 64, pixel_mm=8.0, spacing_mm=10.0)
    found, suv = (
        score_series(write_phantom(s, tmp_path / n), scorer=TinyScorer()) for n, s in (("a", images), ("b", plain))
    )
    assert "suv_not_computable" in keys(found.result.findings)
    assert found.result.score == pytest.approx(suv.result.score, abs=0.3)


def test_the_worst_of_several_stacks_leads_and_the_others_are_named(tmp_path, ct_images):
    images = [*ct_images, *another_acquisition(ct_images, number=2, offset_hu=-60.0)]
    result = score_series(write_phantom(images, tmp_path), scorer=TinyScorer()).result
    assert result.stack_name == "acquisition 2"
    assert result.instances_used == 28
    assert {"several_stacks", "other_stack"} <= keys(result.findings)
    (other,) = (item for item in result.findings if item.key == "other_stack")
    assert "acquisition 1" in other.sentence
    assert float(other.sentence.split("scored ")[1].split(",")[0]) > result.score


def cut(path):
    path.write_bytes(path.read_bytes()[:-400])


def test_a_stack_that_cannot_be_decoded_is_named_and_the_others_are_judged(tmp_path, ct_images):
    coronal = ct(90, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate"):
        setattr(coronal, keyword, ct_images[0].get(keyword))
    broken = write(tmp_path / "coronal", [coronal])
    cut(broken[0])
    result = score_series([*write_phantom(ct_images, tmp_path), *broken], scorer=TinyScorer()).result
    assert result.instances_used == 14
    assert result.score is not None
    (finding,) = (item for item in result.findings if item.key == "slices_undecodable")
    assert finding.sop_instance_uids == (coronal.SOPInstanceUID,)
    assert "coronal" in finding.sentence
    with pytest.raises(Permanent, match=coronal.SOPInstanceUID):
        score_series(broken, scorer=TinyScorer())


def test_a_broken_slice_of_a_stack_that_does_not_lead_is_named(tmp_path, ct_images):
    worse = another_acquisition(ct_images, number=2, offset_hu=-60.0)
    paths = write_phantom(ct_images, tmp_path / "a")
    victim = next(path for path in paths if dcmread(path).SOPInstanceUID == ct_images[6].SOPInstanceUID)
    cut(victim)
    result = score_series([*paths, *write_phantom(worse, tmp_path / "b")], scorer=TinyScorer()).result
    assert result.stack_name == "acquisition 2"
    (finding,) = (item for item in result.findings if item.key == "slices_undecodable")
    assert finding.sop_instance_uids == (ct_images[6].SOPInstanceUID,)
    assert "acquisition 1" in finding.sentence


def test_a_small_stack_never_leads(tmp_path, ct_images):
    few = another_acquisition(ct_images, number=2, offset_hu=-500.0)[:3]
    result = score_series(write_phantom([*ct_images, *few], tmp_path), scorer=TinyScorer()).result
    assert result.stack_name == "acquisition 1"


def test_of_very_many_stacks_some_are_judged(tmp_path):
    frames = [
        pet(i, FrameReferenceTime=1000 * t, SOPInstanceUID=f"1.2.{t}.{i}", InstanceNumber=10 * t + i)
        for t in range(12) for i in range(3)
    ]  # fmt: skip
    scorer = TinyScorer()
    result = score_series(write(tmp_path, frames), scorer=scorer).result
    assert "stacks_sampled" in keys(result.findings)
    assert len([item for item in result.findings if item.key == "other_stack"]) == 7


@pytest.mark.parametrize(
    ("kinds", "elements", "reason"),
    [
        (("petct",), {}, "not made for ct"),
        (("ct",), {"RescaleType": "Z_EFF"}, "Z_EFF"),
        (("ct",), {"PatientAge": "007Y"}, "a child of 7 years"),
        (("ct",), {"BodyPartExamined": "KNEE"}, "knee"),
    ],
)
def test_outside_its_domain_the_network_is_not_asked(tmp_path, ct_images, kinds, elements, reason):
    images = ct_series(3, 3, 64, spacing_mm=10.0)
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    scorer = TinyScorer(kinds)
    result = score_series(write_phantom(images, tmp_path), scorer=scorer).result
    assert (result.score, result.interval, result.grade, result.slices) == (None, None, None, ())
    (finding,) = (item for item in result.findings if item.key == "outside_domain")
    assert reason in finding.sentence
    assert not scorer.seen


def test_pictures_unlike_the_training_get_no_score_and_say_so(tmp_path, ct_images):
    scorer = TinyScorer(ood_distance=1.4)
    result = score_series(write_phantom(ct_images, tmp_path), scorer=scorer).result
    assert (result.score, result.interval, result.grade, result.slices) == (None, None, None, ())
    (finding,) = (item for item in result.findings if item.key == "outside_domain")
    assert "unlike the pictures that the model was trained on (up to 1.4 times the limit)" in finding.sentence
    assert finding.severity is Severity.WARNING


def test_a_few_strange_slices_are_named_and_the_score_stays(tmp_path, ct_images):
    class Partly(TinyScorer):
        def score(self, images, kind):
            said = super().score(images, kind)
            said.ood_distance = np.where(np.arange(len(images)) == 0, 1.2, 0.5)
            return said

    result = score_series(write_phantom(ct_images, tmp_path), scorer=Partly()).result
    assert result.score is not None
    (finding,) = (item for item in result.findings if item.key == "partly_outside_domain")
    assert len(finding.sop_instance_uids) == 1
    assert finding.severity is Severity.INFO


def test_air_alone_is_outside_the_domain(tmp_path):
    rng = np.random.default_rng(4)
    air = [ct(i, pixels=rng.integers(14, 34, (64, 64))) for i in range(4)]
    result = score_series(write(tmp_path, air), scorer=TinyScorer()).result
    assert result.score is None
    assert "no slice shows a body" in next(f.sentence for f in result.findings if f.key == "outside_domain")


def test_what_a_step_check_raises_ends_the_work(tmp_path, ct_images):
    class Enough(Exception):
        pass

    def check(step):
        if step == "network":
            raise Enough

    scorer = TinyScorer()
    with pytest.raises(Enough):
        score_series(write_phantom(ct_images, tmp_path), scorer=scorer, before_step=check)
    assert not scorer.seen


def test_the_positional_rule_and_the_number_of_slices_are_options(tmp_path, ct_images):
    paths = write_phantom(ct_images, tmp_path)
    three = score_series(paths, scorer=TinyScorer(), options=Options(slices=3)).result
    position = score_series(paths, scorer=TinyScorer(), options=Options(slice_rule="positional")).result
    assert len(three.slices) == 3
    assert [item.index for item in position.slices] == [0, 3, 5, 7, 9, 11, 13]


def test_a_series_that_cannot_be_judged_says_why(tmp_path):
    with pytest.raises(Permanent, match="no slices that can be scored"):
        score_series(write(tmp_path, [ct(0, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")]), scorer=TinyScorer())


@pytest.mark.parametrize(
    ("score", "grade"),
    [
        (4, Grade.DIAGNOSTIC),
        (2.5, Grade.DIAGNOSTIC),
        (2.49, Grade.LIMITED),
        (1.5, Grade.LIMITED),
        (0, Grade.NON_DIAGNOSTIC),
    ],
)
def test_grades_follow_the_configured_thresholds(score, grade):
    assert grade_of(score, Grades()) is grade
    assert grade_of(score, Grades(diagnostic=0.0, limited=0.0)) is Grade.DIAGNOSTIC


def test_pictures_are_written_whole(tmp_path, ct_images):
    found = score_series(write_phantom(ct_images, tmp_path / "in"), scorer=TinyScorer())
    written = write_images(found, tmp_path / "out" / "v1", Grades())
    assert sorted(path.name for path in (tmp_path / "out" / "v1").iterdir()) == sorted(path.name for path in written)
    assert written[0].name == SHEET
    with Image.open(written[3]) as third, Image.open(written[0]) as sheet:
        assert np.array_equal(np.asarray(third.convert("RGB")), found.pictures[2])
        assert sheet.width == 1680


@pytest.mark.parametrize("slices", [0, 1, 7, 12])
def test_a_sheet_is_drawn_for_any_verdict(tmp_path, ct_images, slices):
    found = score_series(write_phantom(ct_images, tmp_path), scorer=TinyScorer())
    result, pictures = found.result, found.pictures
    findings = tuple(
        Finding(f"f{i}", severity, "A sentence of some length that must be broken into lines. " * 3)
        for i, severity in enumerate([*Severity] * 3)
    )
    if slices == 0:
        result, pictures = replace(result, score=None, interval=None, grade=None, slices=()), pictures[:0]
    else:
        result = replace(result, slices=(result.slices * 2)[:slices])
        pictures = np.concatenate([pictures] * 2)[:slices]
    sheet = contact_sheet(replace(result, findings=findings), pictures, Grades())
    assert np.asarray(sheet).std() > 5


def test_pairing_prefers_the_ct_that_covers_most(study):
    (ct_volume,), (pet_volume,) = build_volumes(study[0]), build_volumes(study[1])
    part = replace(
        ct_volume,
        voxels=ct_volume.voxels[:8],
        positions_mm=ct_volume.positions_mm[:8],
        origins_mm=ct_volume.origins_mm[:8],
    )
    assert pair(pet_volume, [part, ct_volume]).ct is ct_volume
    assert pair(pet_volume, []).ct is None
