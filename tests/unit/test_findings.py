"""Each rule fires beyond its limit and not within it; the words, codes and limits are those that are documented."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from dicom_qa_node.config.thresholds import DEFAULTS, FindingRules, ProtocolThresholds, Thresholds
from dicom_qa_node.domain.codes import PRIVATE_SCHEME
from dicom_qa_node.domain.results import Finding, Measurement, SeriesKind, Severity
from dicom_qa_node.phantom.ct_acquisition import NAMED
from dicom_qa_node.phantom.volumes import ct_volume, heights
from dicom_qa_node.score.physics.measurements import measure
from dicom_qa_node.score.rules.case import PRIVATE_CODES
from dicom_qa_node.score.rules.evaluation import evaluate_rules, rules_for, thresholds_of
from dicom_qa_node.score.slice_headers import Lossy
from tests.unit.synthetic_volumes import ct, scanned, volume

PAGE = Path(__file__).parents[2] / "docs" / "measurements.md"
CT_VOXELS = np.zeros((5, 8, 8), np.float32)


def given(**found):
    return tuple(Measurement(name, name, value, "1", detail="detail") for name, value in found.items())


def ct_case(unit="HU", **elements):
    return volume(CT_VOXELS, (3.0, 50.0, 50.0), unit=unit, **elements)


def pet_case(unit="SUVbw", **elements):
    return volume(CT_VOXELS, (3.0, 4.0, 4.0), SeriesKind.PT, unit, **elements)


def judged(made, limits=DEFAULTS, paired_ct=None, **found):
    return {finding.key: finding for finding in evaluate_rules(made, given(**found), paired_ct, limits)}


CT_LIMITS = [
    ("noise_high", "global_noise_level", 26.0, 25.0, Severity.WARNING),  # 20 HU at 5 mm is 25.8 HU at 3 mm
    ("sharp_kernel", "kernel_sharpness", 1.0, 0.0, Severity.INFO),
    ("resolution_low", "skin_edge_f50", 0.16, 0.18, Severity.INFO),
    ("streaks", "streak_index", 0.33, 0.31, Severity.WARNING),
    ("photon_starvation", "photon_starvation_index", 6.1, 5.9, Severity.WARNING),
    ("metal", "metal_fraction", 0.06, 0.04, Severity.INFO),
    ("truncated", "fov_truncation", 11.0, 9.0, Severity.WARNING),
    ("motion", "motion_edge_index", 1.9, 1.7, Severity.WARNING),
    ("motion", "contour_jump", 2.6, 2.4, Severity.WARNING),
    ("hu_scale_off", "hu_air", -940.0, -960.0, Severity.WARNING),
    ("hu_scale_off", "hu_fat", -60.0, -70.0, Severity.WARNING),
    ("dose_high", "ctdi_vol", 31.0, 29.0, Severity.WARNING),
]
PET_LIMITS = [
    ("pet_noise_high", "liver_cov", 15.1, 14.9, Severity.WARNING),
    ("pet_noise_high", "global_noise_index", 36.0, 34.0, Severity.INFO),
    ("pet_oversmoothed", "noise_correlation_width", 9.1, 8.9, Severity.INFO),
    ("misregistered", "misregistration_dome", 10.1, 9.9, Severity.WARNING),
    ("misregistered", "misregistration_contour", 10.1, 9.9, Severity.WARNING),
    ("suv_implausible", "body_suv_mean", 3.1, 2.9, Severity.ERROR),
    ("suv_implausible", "body_suv_mean", 0.09, 0.11, Severity.ERROR),
    ("suv_implausible", "liver_suv_mean", 3.1, 2.9, Severity.WARNING),
    ("suv_implausible", "liver_suv_mean", 1.2, 1.4, Severity.WARNING),
    ("uptake_time_off", "uptake_time", 91.0, 89.0, Severity.WARNING),
    ("uptake_time_off", "uptake_time", 49.0, 51.0, Severity.WARNING),
    ("activity_low", "activity_per_weight", 1.9, 2.1, Severity.INFO),
]


@pytest.mark.parametrize(("key", "name", "beyond", "within", "severity"), CT_LIMITS)
def test_ct_rule_fires_beyond_its_limit_only(key, name, beyond, within, severity):
    found = judged(ct_case(), **{name: beyond})
    assert found[key].severity is severity
    assert found.keys() == {key}
    assert judged(ct_case(), **{name: within}) == {}
    assert judged(ct_case(), **{name: None}) == {}


@pytest.mark.parametrize(("key", "name", "beyond", "within", "severity"), PET_LIMITS)
def test_pet_rule_fires_beyond_its_limit_only(key, name, beyond, within, severity):
    found = judged(pet_case(), paired_ct=ct_case(), **{name: beyond})
    assert found[key].severity is severity
    assert found.keys() == {key}
    assert judged(pet_case(), paired_ct=ct_case(), **{name: within}) == {}


def test_noise_limit_follows_the_slice_thickness():
    assert judged(ct_case(SliceThickness=1.0), global_noise_level=40.0) == {}
    assert "noise_high" in judged(ct_case(SliceThickness=5.0), global_noise_level=21.0)


def test_noise_of_a_sharp_kernel_is_not_judged():
    found = judged(ct_case(), global_noise_level=90.0, kernel_sharpness=1.0)
    assert found.keys() == {"sharp_kernel"}


def test_dose_of_the_head_has_its_own_limit():
    head = ct_case(BodyPartExamined="HEAD")
    assert judged(head, ctdi_vol=75.0) == {}
    assert "dose_high" in judged(head, ctdi_vol=81.0)


def test_small_field_chosen_on_purpose_is_no_warning():
    assert judged(ct_case(DataCollectionDiameter=600.0), fov_truncation=60.0)["truncated"].severity is Severity.INFO
    assert judged(ct_case(DataCollectionDiameter=400.0), fov_truncation=60.0)["truncated"].severity is Severity.WARNING


def test_no_body_is_an_error():
    air = volume(np.full((3, 32, 32), -1000.0, np.float32))
    found = {finding.key: finding for finding in evaluate_rules(air, measure(air))}
    assert found["no_body"].severity is Severity.ERROR
    assert found["no_body"].code.value == "111213"


def test_still_quiet_patient_has_no_finding():
    made = ct(noise_hu=12, blur_mm=0.6, slices=10)
    assert evaluate_rules(made, measure(made)) == ()


def test_pet_without_ct_is_told():
    assert judged(pet_case())["petct_not_paired"].severity is Severity.INFO
    assert judged(pet_case(), paired_ct=ct_case()) == {}


def test_values_that_are_no_suv_are_told():
    assert "BQML" in judged(pet_case("BQML"), paired_ct=ct_case())["suv_not_computable"].sentence


def test_liver_decides_about_noise_where_there_is_one():
    assert judged(pet_case(), paired_ct=ct_case(), liver_cov=10.0, global_noise_index=80.0) == {}


def test_limits_of_fdg_do_not_hold_for_other_tracers():
    def tracer(**elements):
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        return pet_case(RadiopharmaceuticalInformationSequence=Sequence([item]))

    code = Dataset()
    code.CodeValue, code.CodeMeaning = "C-B1031", "Fluorodeoxyglucose F^18^"
    late = {"uptake_time": 120.0, "paired_ct": ct_case()}
    assert judged(tracer(Radiopharmaceutical="Ga-68 PSMA"), **late) == {}
    assert "uptake_time_off" in judged(tracer(Radiopharmaceutical="FDG"), **late)
    assert "uptake_time_off" in judged(tracer(RadiopharmaceuticalCodeSequence=Sequence([code])), **late)


@pytest.mark.parametrize(("corrections", "fires"), [(["DECY", "RADL"], True), (["DECY", "ATTN"], False), (None, False)])
def test_missing_attenuation_correction(corrections, fires):
    found = judged(pet_case(CorrectedImage=corrections), paired_ct=ct_case())
    assert ("not_attenuation_corrected" in found) is fires


@pytest.mark.parametrize(
    ("lossy", "severity", "shown"),
    [
        (Lossy(True, 3.5), Severity.INFO, "(3.5:1)"),
        (Lossy(True, 12.0), Severity.WARNING, "(12:1)"),
        (Lossy(True, None), Severity.WARNING, "unknown"),
        (Lossy(False, 3.47, measured=True), Severity.WARNING, "hides (about 3.5:1 by their size)"),
    ],
)
def test_lossy_compression_is_told_with_its_ratio(lossy, severity, shown):
    found = judged(replace(ct_case(), lossy=lossy))["lossy_compression"]
    assert found.severity is severity
    assert shown in found.sentence
    assert judged(ct_case()) == {}


def test_fewer_slices_than_announced():
    found = judged(ct_case(NumberOfSlices=8), completeness=62.5)["incomplete"]
    assert "5 of 8" in found.sentence
    assert judged(ct_case(NumberOfSlices=5), completeness=100.0) == {}


def test_missing_slices():
    found = judged(ct_case(), missing_slices=2.0, largest_gap=9.0)["slices_missing"]
    assert found.code.value == "130576"
    assert judged(ct_case(), missing_slices=0.0, largest_gap=3.0) == {}


def test_what_is_said_elsewhere_is_not_said_twice():
    already = Finding("slices_missing", Severity.WARNING, "2 slices missing.")
    made = replace(ct_case(), findings=(already,))
    measured = given(missing_slices=2.0, largest_gap=9.0, streak_index=0.9)
    assert [finding.key for finding in evaluate_rules(made, measured)] == ["streaks"]
    assert evaluate_rules(made, measured, reported_keys=("streaks",)) == ()


def everything():
    """Each finding that there is, made to fire."""
    found = {}
    for key, name, beyond, *_ in CT_LIMITS:
        found |= {key: judged(ct_case(), **{name: beyond})[key]}
    for key, name, beyond, *_ in PET_LIMITS:
        found |= {key: judged(pet_case(), paired_ct=ct_case(), **{name: beyond})[key]}
    air = volume(np.full((3, 32, 32), -1000.0, np.float32))
    found |= {finding.key: finding for finding in evaluate_rules(air, measure(air)) if finding.key == "no_body"}
    found |= judged(pet_case("BQML", CorrectedImage=["DECY"]))
    lossy = replace(ct_case(NumberOfSlices=8), lossy=Lossy(True, None))
    return found | judged(lossy, completeness=60.0, missing_slices=1.0, largest_gap=6.0)


#: Made by the rating of the PET and by the lane of the phantoms, not by a rule (`score.pet_part`,
#: `score.phantom_series`; tested in test_pet_part and test_qc_phantoms).
FROM_ELSEWHERE = (
    "pet_implausible", "pet_not_checked", "pet_not_rated", "qc_phantom", "phantom_outside", "phantom_not_analysed",
    "named_like_phantom", "subject_decided",
)  # fmt: skip


def test_each_rule_is_documented_with_its_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:error|warning|info).*\| \((.+)\) \|$", PAGE.read_text(), re.MULTILINE))
    found = everything()
    of_others = {key: f"{PRIVATE_CODES[key].value}, {PRIVATE_SCHEME}" for key in FROM_ELSEWHERE}
    assert rows == of_others | {key: f"{finding.code.value}, {finding.code.scheme}" for key, finding in found.items()}
    assert len(found) <= len({*rules_for(SeriesKind.CT), *rules_for(SeriesKind.PT)})


def test_sentences_are_plain_and_evidence_holds_figures():
    for finding in everything().values():
        assert re.match(r"[A-Z0-9]", finding.sentence)
        assert finding.sentence.endswith(".")
        assert finding.evidence


def test_standard_codes_mean_what_the_standard_says():
    for finding in everything().values():
        if finding.code.scheme == PRIVATE_SCHEME:
            continue
        known = [codes.cid6135, codes.cid6315]
        concepts = [getattr(group, name) for group in known for name in group.dir()]
        assert (finding.code.value, finding.code.meaning) in {(c.value, c.meaning) for c in concepts}


def test_private_codes_are_used_once():
    values = [code.value for code in PRIVATE_CODES.values()]
    assert len(set(values)) == len(values)


def test_limits_can_be_set_for_one_protocol():
    rules = FindingRules.model_validate(
        {
            "limits": {"noise_hu": 18.0, "liver_cov_percent": 12.0},
            "protocols": [{"name": "lung screening", "protocol": "*lung*screen*", "limits": {"noise_hu": 45.0}}],
        }
    )
    screening = ct_case(ProtocolName="Thorax LUNG low dose Screening")
    routine = ct_case(ProtocolName="Thorax routine")
    assert thresholds_of(screening, rules).noise_hu == 45.0
    assert thresholds_of(screening, rules).liver_cov_percent == 12.0
    assert thresholds_of(routine, rules).noise_hu == 18.0
    assert judged(screening, thresholds_of(screening, rules), global_noise_level=50.0) == {}
    assert "noise_high" in judged(routine, thresholds_of(routine, rules), global_noise_level=50.0)


def test_first_matching_protocol_counts_and_all_its_patterns_must_match():
    first = ProtocolThresholds(name="a", body_part="CHEST", station="CT1", limits=Thresholds(noise_hu=30))
    second = ProtocolThresholds(name="b", body_part="chest", limits=Thresholds(noise_hu=40))
    rules = FindingRules(protocols=[first, second])
    assert thresholds_of(ct_case(BodyPartExamined="CHEST", StationName="CT1"), rules).noise_hu == 30
    assert thresholds_of(ct_case(BodyPartExamined="CHEST", StationName="CT2"), rules).noise_hu == 40
    assert thresholds_of(ct_case(BodyPartExamined="HEAD"), rules) == DEFAULTS


def test_impossible_limits_are_refused():
    with pytest.raises(ValidationError, match="noise_hu"):
        Thresholds(noise_hu=-1)
    with pytest.raises(ValidationError, match="noise_hux"):
        Thresholds.model_validate({"noise_hux": 3})


@pytest.mark.parametrize(
    ("quality", "expected"),
    [("routine", set()), ("tenth_dose", {"noise_high"}), ("sparse_views", {"noise_high", "streaks"})],
)
def test_generated_scans_get_the_findings_that_they_were_made_for(quality, expected):
    generated = ct_volume(1, heights(4, 5.0, -60.0), 256, 420.0, NAMED[quality])
    made = scanned(generated, SeriesKind.CT, "HU", SliceThickness=5.0)
    found = {finding.key for finding in evaluate_rules(made, measure(made))}
    assert found - {"resolution_low"} == expected  # pixels of 1.6 mm are coarse
