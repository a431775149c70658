"""Every modality class holds what the node must know of it; a new entry is held to the same."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from pydicom.uid import UID

from dicom_qa_node.domain.modalities import modality_class_for, modality_class_of, modality_classes, storage_classes
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.domain.uids import is_uid


def test_every_kind_of_series_has_one_modality_class():
    assert sorted(kind.kind for kind in modality_classes()) == sorted(SeriesKind)


@pytest.mark.parametrize("kind", modality_classes(), ids=lambda kind: kind.kind.value)
def test_its_facts_are_complete(kind):
    assert re.fullmatch(r"[A-Z]{2}", kind.modality)
    assert kind.unit
    assert kind.image_classes
    assert kind.frame_classes
    assert not kind.image_classes & kind.frame_classes
    assert all(is_uid(uid) and UID(uid).name.endswith("Storage") for uid in kind.storage_classes)
    assert all(word == word.upper() and what == what.lower() for word, what in kind.left_out.items())
    assert modality_class_of(kind.kind) is kind
    assert 0 <= kind.min_overlap < 1


@pytest.mark.parametrize(
    "kind", [kind for kind in modality_classes() if kind.pairs_with], ids=lambda kind: kind.kind.value
)
def test_what_it_pairs_with_is_a_kind_itself(kind):
    assert kind.pairs_with in {other.modality for other in modality_classes() if not other.pairs_with}
    assert kind.min_overlap > 0


def test_a_class_belongs_to_one_unpaired_kind():
    for uid in storage_classes():
        assert modality_class_for(uid) is not None
        assert len([kind for kind in modality_classes() if uid in kind.storage_classes and not kind.pairs_with]) == 1
    assert modality_class_for("1.2.840.10008.5.1.4.1.1.7") is None


def test_nothing_heavy_is_loaded():
    heavy = "{'torch', 'SimpleITK', 'numpy'}"
    script = (
        f"import sys, dicom_qa_node.domain.modalities as m; m.modality_classes(); print(*{heavy} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
