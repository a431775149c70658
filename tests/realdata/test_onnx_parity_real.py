"""Real series get the same score from ONNX Runtime as from torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_qa_node.config import Score
from dicom_qa_node.models import engines
from dicom_qa_node.score.ct_inference import CombinedScorer, open_scorer
from dicom_qa_node.score.pipeline import score_series

pytestmark = pytest.mark.realdata

SERIES = ("ct/C4KC-KiTS-00072_abd18", "ct/C3N-00247_chest60", "petct/STS_003/CT", "petct/STS_007/CT")
PER_SLICE, PER_SERIES = 3e-3, 2e-4


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def opened() -> CombinedScorer:
    settings = Score()
    scorer = open_scorer(settings.model, settings.ct_model, "cpu")
    assert isinstance(scorer, CombinedScorer)
    return scorer


@pytest.fixture(scope="module")
def both() -> tuple[CombinedScorer, CombinedScorer]:
    fast = opened()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_onnx_file", lambda *_: None)
        slow = opened()
    return fast, slow


def alike(both: tuple[CombinedScorer, CombinedScorer], paths: list[Path], pair: list[Path]) -> str:
    ours, theirs = (score_series(paths, pair_paths=pair, scorer=scorer).result for scorer in both)
    assert (ours.score is None) == (theirs.score is None)
    assert ours.kind is theirs.kind
    if ours.score is not None and theirs.score is not None:
        assert abs(ours.score - theirs.score) <= PER_SERIES
    for here, there in zip(ours.slices, theirs.slices, strict=True):
        assert abs(here.score - there.score) <= PER_SLICE
    for part, other in zip(ours.rated_parts, theirs.rated_parts, strict=True):
        assert (part.score is None) == (other.score is None)
        if part.score is not None and other.score is not None:
            assert abs(part.score - other.score) <= PER_SERIES
    return ours.kind.value


@pytest.mark.parametrize("name", SERIES)
def test_a_ct_scores_alike(shared_data, both, name):
    assert alike(both, files(shared_data / "dicom" / name), []) == "ct"


@pytest.mark.parametrize("patient", ["STS_003", "STS_007"])
def test_a_pet_with_its_ct_scores_alike(shared_data, both, patient):
    folder = shared_data / "dicom" / "petct" / patient
    assert alike(both, files(folder / "PET"), files(folder / "CT")) == "petct"
