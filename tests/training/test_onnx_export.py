"""An ONNX file takes the place of the one before only when it computes what torch computes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.models import onnx_export
from dicom_qa_node.models.card import ModelCard
from dicom_qa_node.models.onnx_engine import OnnxNetwork
from dicom_qa_node.models.registry import card_of


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card with files of its own; its export is the file that is shipped."""
    shipped = card_of("md_iqa_ct")
    folder = shutil.copytree(shipped.folder, tmp_path / "weights")
    content = (shipped.folder / "md_iqa_ct.onnx").read_bytes()
    monkeypatch.setattr(onnx_export, "onnx_bytes", lambda *_: content)
    return replace(shipped, folder=folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_export_that_computes_the_same_is_kept_and_named(card: ModelCard) -> None:
    (card.folder / "md_iqa_ct.onnx").write_bytes(b"older")
    described = onnx_export.ship(card)
    assert card.measured is not None
    assert described == card.measured.onnx
    assert contents(card.folder) == contents(card_of("md_iqa_ct").folder)


def test_an_export_that_differs_leaves_file_and_card_as_they_were(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    (card.folder / "md_iqa_ct.onnx").write_bytes(b"older")
    before = contents(card.folder)
    right = OnnxNetwork.run
    monkeypatch.setattr(OnnxNetwork, "run", lambda self, values: [found + 1 for found in right(self, values)])
    with pytest.raises(Permanent, match="differ by 1 in ratings of md_iqa_ct; nothing was kept"):
        onnx_export.ship(card)
    assert contents(card.folder) == before
