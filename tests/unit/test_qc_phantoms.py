"""The lane of QC phantoms: what is diverted and what is not, what the node measures, and that nothing is scored."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_qa_node.config import Phantoms
from dicom_qa_node.config.phantoms import phantom_for
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomEvidence, PhantomKind, QcOutcome, SubjectDecision
from dicom_qa_node.domain.results import result_from_json, result_to_json
from dicom_qa_node.phantom import ct_series, identity_of
from dicom_qa_node.phantom import write as write_phantom
from dicom_qa_node.phantom.qc_ct import CtPhantomForm, qc_identity, water_series
from dicom_qa_node.phantom.qc_pet import PetPhantomForm, nema_iq_activity, nema_iq_series, uniform_pet_series
from dicom_qa_node.quality_control.ct_cylinder import measure_water
from dicom_qa_node.quality_control.outline import outline_of
from dicom_qa_node.quality_control.pet_cylinder import measure_uniform_pet
from dicom_qa_node.quality_control.pet_image_quality import find_spheres, measure_nema_iq
from dicom_qa_node.quality_control.recognition import named_like_phantom
from dicom_qa_node.score.phantom_series import PhantomLane
from dicom_qa_node.score.pipeline import Options, score_series
from tests.stub_model import TinyScorer

T0 = dt.datetime(2026, 11, 3, 7, 30, tzinfo=dt.UTC)
SMALL = CtPhantomForm(rows=128, spacing_mm=5.0, thickness_mm=5.0, noise_hu=6.0)
WATER = Phantoms.model_validate({"analyse": [{"name": "water", "kind": "water"}]})


def water(**identity: str) -> list[Dataset]:
    return water_series(SMALL, slices=16, identity=qc_identity(1, **identity))


def patient(name: str = "Doe^Jane", **more: str) -> list[Dataset]:
    return ct_series(4, 14, 128, spacing_mm=12.0, identity=replace(identity_of(4), patient_name=name, **more))


def judged(tmp_path, images, lane=None, scorer=None):
    paths = write_phantom(images, tmp_path / "series")
    options = Options(phantoms=lane or PhantomLane())
    return score_series(paths, scorer=scorer or TinyScorer(), options=options).result


def keys(result):
    return [finding.key for finding in result.findings]


def test_a_phantom_by_name_and_shape_has_no_score_and_says_why(tmp_path):
    scorer = TinyScorer()
    result = judged(tmp_path, water(name="QA^Daily"), scorer=scorer)
    assert scorer.seen == []
    assert (result.score, result.grade, result.interval, result.slices) == (None, None, None, ())
    assert result.qc_phantom.evidence is PhantomEvidence.APPEARANCE
    assert result.qc_phantom.outcome is QcOutcome.NOT_ANALYSED
    assert '"qa" in PatientName' in result.qc_phantom.reason
    assert "no phantom is configured" in result.why
    assert keys(result)[-1] == "qc_phantom"
    assert result_from_json(result_to_json(result)) == result


@pytest.mark.parametrize("name", ["Phantom^Alice", "QA^Wang", "Catphan^Smith"])
def test_a_patient_with_the_name_of_a_phantom_stays_a_patient(tmp_path, name):
    result = judged(tmp_path, patient(name))
    assert result.qc_phantom is None
    assert result.score is not None
    (finding,) = (item for item in result.findings if item.key == "named_like_phantom")
    assert "looks like a patient" in finding.sentence
    assert name.split("^")[1] not in finding.sentence


def test_a_patient_with_a_usual_name_is_not_remarked_on(tmp_path):
    result = judged(tmp_path, patient("Waters^Nema-Lee^Acrux"))
    assert result.qc_phantom is None


def test_a_phantom_with_the_name_of_a_patient_is_not_diverted_by_its_shape(tmp_path):
    images = water(name="Doe^John", patient_id="1234", protocol="Abdomen")
    for ds in images:
        ds.SeriesDescription, ds.StudyDescription, ds.BodyPartExamined = "Body 5.0", "Abdomen", "ABDOMEN"
    assert judged(tmp_path, images).qc_phantom is None


def test_quality_control_subject_diverts_without_a_name(tmp_path):
    images = patient()
    for ds in images:
        ds.QualityControlSubject = "YES"
    result = judged(tmp_path, images)
    assert result.qc_phantom.evidence is PhantomEvidence.SUBJECT
    assert result.score is None


def test_quality_control_subject_no_changes_nothing(tmp_path):
    images = patient()
    for ds in images:
        ds.QualityControlSubject = "NO"
    assert judged(tmp_path, images).score is not None


@pytest.mark.parametrize(
    "rule",
    [
        {"calling_aes": ["QC*"]},
        {"stations": ["GEN0?"], "protocols": ["Chest*"]},
        {"patient_ids": ["PH0000*"]},
    ],
)
def test_a_configured_rule_diverts(tmp_path, rule):
    settings = Phantoms.model_validate({"recognise": [rule]})
    result = judged(tmp_path, patient(), PhantomLane(settings, calling_ae="QCSCU"))
    assert result.qc_phantom.evidence is PhantomEvidence.RULE


def test_a_rule_needs_every_list_to_match(tmp_path):
    settings = Phantoms.model_validate({"recognise": [{"stations": ["GEN01"], "protocols": ["QA*"]}]})
    assert judged(tmp_path, patient(), PhantomLane(settings)).qc_phantom is None


def test_a_person_overrules_the_evidence_both_ways(tmp_path):
    images = water()
    as_patient = SubjectDecision(False, "ada", T0, "a cylinder in a patient's study")
    result = judged(tmp_path, images, PhantomLane(WATER, decision=as_patient))
    assert result.qc_phantom is None
    assert result.subject_decision == as_patient
    assert "subject_decided" in keys(result)
    as_phantom = SubjectDecision(True, "ada", T0, "anthropomorphic phantom")
    result = judged(tmp_path / "other", patient(), PhantomLane(decision=as_phantom))
    assert result.qc_phantom.evidence is PhantomEvidence.PERSON
    assert "anthropomorphic" in result.why


def test_the_node_analyses_a_configured_water_phantom(tmp_path):
    result = judged(tmp_path, water(), PhantomLane(WATER))
    measured = {item.name: item for item in result.measurements}
    assert measured["phantom_hu_centre"].value == pytest.approx(0.0, abs=1.0)
    assert measured["phantom_noise"].value == pytest.approx(6.0, rel=0.1)
    assert abs(measured["phantom_edge_centre"].value) < 3.0
    assert "ACR CT quality control" in measured["phantom_hu_centre"].detail
    assert "no tolerance is set" in measured["phantom_edge_centre"].detail
    assert result.qc_phantom.outcome is QcOutcome.PASSED
    assert result.acquisition.at is not None


def test_a_water_phantom_outside_its_tolerance_is_found(tmp_path):
    images = water_series(replace(SMALL, offset_hu=9.0), slices=16)
    result = judged(tmp_path, images, PhantomLane(WATER))
    assert result.qc_phantom.outcome is QcOutcome.OUTSIDE
    (finding,) = (item for item in result.findings if item.key == "phantom_outside")
    assert "CT number of the centre" in finding.evidence


def test_what_cannot_be_analysed_has_no_verdict_and_the_words(tmp_path):
    lane = PhantomLane(WATER, decision=SubjectDecision(True, "ada", T0, "test"))
    result = judged(tmp_path, patient(), lane)
    assert result.qc_phantom.outcome is QcOutcome.NOT_ANALYSED
    assert result.measurements == ()
    assert "cylinder" in result.qc_phantom.remark
    assert "phantom_not_analysed" in keys(result)


def test_pylinac_that_is_not_installed_is_said(tmp_path):
    settings = Phantoms.model_validate(
        {"analyse": [{"name": "cat", "kind": "catphan504"}], "environment_dir": str(tmp_path / "none")}
    )
    result = judged(tmp_path, water(), PhantomLane(settings))
    assert result.qc_phantom.outcome is QcOutcome.NOT_ANALYSED
    assert "phantoms install" in result.qc_phantom.remark


def test_the_phantom_is_chosen_by_scanner_protocol_and_modality():
    settings = Phantoms.model_validate(
        {
            "analyse": [
                {"name": "pet", "kind": "uniform_pet", "scanner": "CT1"},
                {"name": "head", "kind": "catphan504", "scanner": "CT1", "protocol": "QA head*"},
                {"name": "any", "kind": "water", "scanner": "ct*"},
            ]
        }
    )
    found = [
        phantom_for(settings.analyse, scanner=scanner, protocol=protocol, modality=modality)
        for scanner, protocol, modality in (("CT1", "qa HEAD daily", "CT"), ("CT1", "Body", "CT"), ("CT1", "x", "PT"))
    ]
    assert [item.name for item in found] == ["head", "any", "pet"]
    assert phantom_for(settings.analyse, scanner="MR", protocol="", modality="CT") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("QA^DAILY", "qa"), ("DailyQA", "qa"), ("catphan504", "catphan"), ("NEMA_IQ", "nema"), ("Phantom 3", "phantom"),
        ("Wasserphantom", "phantom"), ("ACR^CT", "acr"), ("Fantôme", "fantome"),
        ("Aqaba^Nemanja", ""), ("Waters^Ann", ""),
    ],
)  # fmt: skip
def test_words_of_phantoms_are_found_as_words(text, word):
    ds = Dataset()
    ds.PatientName = text
    found = named_like_phantom(ds)
    assert ("" if found is None else found.word) == word


def test_a_cylinder_on_a_table_is_a_cylinder_and_an_ellipse_is_none():
    size, places = 160, np.arange(20) * 5.0
    y, x = np.mgrid[:size, :size] * 2.0 - 160.0
    disc = np.where(np.hypot(x, y) < 100, 0.0, -1000.0)
    disc[(y > 99) & (y < 115) & (np.abs(x) < 120)] = -80.0
    ellipse = np.where(np.hypot(x / 1.25, y) < 90, 0.0, -1000.0)
    cone = np.stack([np.where(np.hypot(x, y) < 80 + k, 0.0, -1000.0) for k in range(20)])
    stack = lambda image: np.repeat(image[None].astype(np.float32), 20, axis=0)  # noqa: E731
    assert outline_of(stack(disc), places, (2.0, 2.0)).is_cylinder
    assert not outline_of(stack(ellipse), places, (2.0, 2.0)).is_cylinder
    assert not outline_of(cone.astype(np.float32), places, (2.0, 2.0)).is_cylinder
    assert not outline_of(stack(disc), places / 10, (2.0, 2.0)).is_cylinder, "one centimetre is not a phantom's length"


def stacked(images):
    voxels = np.stack([ds.pixel_array.astype(np.float32) * float(ds.RescaleSlope) for ds in images])
    return voxels, np.array([float(ds.ImagePositionPatient[2]) for ds in images])


def test_cupping_is_measured_with_its_sign():
    images = water_series(replace(SMALL, cupping_hu=12.0, noise_hu=1.0), slices=12)
    voxels, places = stacked(images)
    found = {item.name: item.value for item in measure_water(voxels, places, (250 / 128,) * 2)}
    # the discs lie at 74 of 100 mm from the middle, where the bowl has risen by 12 x 0.74^2
    assert found["phantom_edge_centre"] == pytest.approx(12 * 0.74**2, abs=1.5)


def test_oil_is_not_water():
    voxels, places = stacked(water_series(replace(SMALL, offset_hu=-130.0), slices=12))
    with pytest.raises(Permanent, match="not filled with water"):
        measure_water(voxels, places, (250 / 128,) * 2)


def blurred_contrast(form: PetPhantomForm, diameter: float, angle: float) -> float:
    """Return Q_H of a sphere by definition: the noise-free activity on a fine grid over its disc."""
    fine = replace(form, pixel_mm=1.0, rows=280, spacing_mm=1.0, slices=61, cov=0.0)
    plane = nema_iq_activity(fine)[30]
    axis = np.arange(280) - 139.5
    turn = np.deg2rad(angle + form.turn_deg)
    apart = np.hypot(
        axis[:, None] + 57.2 * np.sin(turn) - form.shift_mm[1], axis[None, :] - 57.2 * np.cos(turn) - form.shift_mm[0]
    )
    return float(100 * (plane[apart <= diameter / 2].mean() - 1.0) / (form.ratio - 1.0))


def test_nema_contrast_and_variability_have_their_known_values():
    form = PetPhantomForm(turn_deg=25.0, shift_mm=(6.0, -4.0), cov=0.03)
    voxels, places = stacked(nema_iq_series(form))
    spheres = find_spheres(voxels, places, (2.5, 2.5))
    assert spheres.level_mm == pytest.approx(0.0, abs=1.5)
    found = {item.name: item.value for item in measure_nema_iq(voxels, places, (2.5, 2.5), 4.0)}
    for diameter, angle in ((37.0, 0.0), (28.0, 60.0), (22.0, 120.0), (17.0, 180.0)):
        truth = blurred_contrast(form, diameter, angle)
        assert found[f"phantom_contrast_{diameter:.0f}mm"] == pytest.approx(truth, abs=4.0)
    assert found["phantom_background_cov"] == pytest.approx(3.0, rel=0.15)
    # independent pixels: the SD of a disc's mean falls with the root of its area
    pixels = np.pi * 18.5**2 / 2.5**2
    assert found["phantom_variability_37mm"] == pytest.approx(3.0 / np.sqrt(pixels), rel=0.35)
    assert found["phantom_lung_error"] == pytest.approx(0.0, abs=1.0)
    assert 0.85 < found["phantom_recovery_mean_37mm"] < 1.0


def test_nema_contrast_is_withheld_without_the_activity_of_the_filling():
    voxels, places = stacked(nema_iq_series(PetPhantomForm()))
    found = {item.name: item for item in measure_nema_iq(voxels, places, (2.5, 2.5), None)}
    assert found["phantom_ratio_37mm"].value == pytest.approx(3.7, abs=0.3)
    assert found["phantom_contrast_37mm"].value is None
    assert "not configured" in found["phantom_recovery_max_37mm"].not_applicable


def test_a_uniform_cylinder_is_not_the_nema_phantom():
    voxels, places = stacked(uniform_pet_series())
    with pytest.raises(Permanent):
        measure_nema_iq(voxels, places, (2.5, 2.5), 4.0)


def test_a_uniform_pet_cylinder_has_its_known_values():
    voxels, places = stacked(uniform_pet_series(PetPhantomForm(cov=0.05, background=1.0), gradient=0.1))
    # the values of the file are Bq/ml; the level does not matter for the others
    voxels *= 1.0 / float(np.median(voxels[voxels > 0.5 * voxels.max()]))
    found = {item.name: item.value for item in measure_uniform_pet(voxels, places, (2.5, 2.5), "SUVbw")}
    assert found["phantom_suv_mean"] == pytest.approx(1.0, abs=0.02)
    assert found["phantom_cov"] == pytest.approx(5.0, rel=0.1)
    # the inner 80 % of 170 mm rise by 8 %
    assert found["phantom_axial_deviation"] == pytest.approx(4.0, abs=1.2)


def test_a_pet_phantom_goes_through_the_lane(tmp_path):
    settings = Phantoms.model_validate({"analyse": [{"name": "ge68", "kind": "uniform_pet"}]})
    images = uniform_pet_series(PetPhantomForm(rows=96, pixel_mm=4.0, spacing_mm=5.0, slices=40))
    result = judged(tmp_path, images, PhantomLane(settings))
    assert result.qc_phantom.evidence is PhantomEvidence.APPEARANCE
    assert result.qc_phantom.kind == PhantomKind.UNIFORM_PET
    measured = {item.name: item.value for item in result.measurements}
    assert measured["phantom_suv_mean"] == pytest.approx(1.0, abs=0.03)
    assert result.qc_phantom.outcome is QcOutcome.PASSED
