"""Real phantoms and patients: the shape tells them apart, and the NEMA phantom gives what another program finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicom_qa_node.config import Phantoms
from dicom_qa_node.domain.qc_phantoms import PhantomEvidence, QcOutcome, SubjectDecision
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.quality_control.outline import CT_THRESHOLD_HU, outline_of, pet_threshold
from dicom_qa_node.quality_control.pet_image_quality import find_spheres, measure_nema_iq
from dicom_qa_node.score.phantom_series import PhantomLane
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.volume_builder import build_volumes
from tests.stub_model import TinyScorer

pytestmark = pytest.mark.realdata
SERIES = ("dicom/ct", "dicom/petct")


def catphan(shared_data: Path, name: str) -> list[Path]:
    return sorted((shared_data / "dicom/ct_phantoms").glob(f"CATPHAN_CATPHAN_1.7mGy_{name}_*.dcm"))


@pytest.mark.parametrize("name", ["FBP", "IR"])
def test_a_catphan_is_diverted_by_name_and_shape(shared_data, name):
    result = score_series(catphan(shared_data, name), scorer=TinyScorer()).result
    assert result.qc_phantom.evidence is PhantomEvidence.APPEARANCE
    assert (result.score, result.grade, result.measurements) == (None, None, ())


def test_no_patient_has_the_shape_of_a_phantom(shared_data):
    folders = [path for name in SERIES for path in (shared_data / name).rglob("*") if path.is_dir()]
    looked_at = 0
    for folder in folders:
        files = [path for path in folder.iterdir() if path.suffix == ".dcm"] or [
            path for path in folder.iterdir() if path.is_file() and path.suffix == ""
        ]
        if not files:
            continue
        volume = max(build_volumes(files), key=lambda item: len(item.positions_mm))
        threshold = CT_THRESHOLD_HU if volume.kind is SeriesKind.CT else pet_threshold(volume.voxels)
        found = outline_of(volume.voxels, volume.positions_mm, volume.spacing_mm[1:], threshold)
        assert not found.is_cylinder, folder.name
        looked_at += 1
    assert looked_at >= 12


def nema(shared_data: Path):
    files = [path for path in (shared_data / "dicom/pet/nema_iq_phantom").iterdir() if path.suffix != ".md"]
    return files, max(build_volumes(files), key=lambda item: len(item.positions_mm))


def test_the_spheres_of_the_nema_phantom_are_found(shared_data):
    _, volume = nema(shared_data)
    spheres = find_spheres(volume.voxels, volume.positions_mm, volume.spacing_mm[1:])
    assert [diameter for diameter, _ in spheres.centres_mm] == [37, 28, 22, 17, 13, 10]
    found = {
        item.name: item.value
        for item in measure_nema_iq(volume.voxels, volume.positions_mm, volume.spacing_mm[1:], None)
    }
    # pynemaiqpet 0.5.4 finds a background COV of 0.35 and a contrast of 9.96 of the fitted spheres
    assert found["phantom_background_cov"] == pytest.approx(35.0, abs=2.0)
    ratios = [found[f"phantom_ratio_{size}mm"] for size in (37, 28, 22, 17, 13, 10)]
    assert ratios == sorted(ratios, reverse=True)
    assert 8.0 < ratios[0] < 10.0
    variability = [found[f"phantom_variability_{size}mm"] for size in (37, 28, 22, 17, 13, 10)]
    assert variability == sorted(variability)
    assert np.isfinite(variability).all()


def test_a_marked_nema_phantom_is_analysed_and_not_scored(shared_data):
    import datetime as dt

    files, _ = nema(shared_data)
    settings = Phantoms.model_validate(
        {"analyse": [{"name": "nema", "kind": "nema_iq_pet", "sphere_to_background": 10.0}]}
    )
    decision = SubjectDecision(True, "ada", dt.datetime(2026, 11, 3, tzinfo=dt.UTC), "IEC body phantom")
    options = Options(phantoms=PhantomLane(settings, decision=decision))
    result = score_series(files, scorer=TinyScorer(), options=options).result
    assert result.score is None
    assert result.qc_phantom.outcome in (QcOutcome.OUTSIDE, QcOutcome.PASSED)
    assert {"truncated", "pet_implausible", "suv_implausible"}.isdisjoint(item.key for item in result.findings)
