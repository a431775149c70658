"""A CPU host scores with what the base dependencies install: without torch, timm, torchvision and matplotlib."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GPU_ONLY = ("torch", "torchvision", "timm", "matplotlib", "onnx", "onnxscript")

#: Finders look a hidden package up and find nothing, as where it is not installed; what asked for it is noted.
HIDING = f"""
import json, sys
from importlib.machinery import PathFinder
HIDDEN, asked = {GPU_ONLY!r}, set()
class Finder:
    find_distributions = PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            asked.add(name)
            return None
        return PathFinder.find_spec(name, path, target)
sys.meta_path = [finder for finder in sys.meta_path if finder is not PathFinder and not hasattr(finder, "MAPPING")]
sys.meta_path.append(Finder)
sys.path.insert(0, {str(ROOT)!r})
"""


def on_a_cpu_host(script: str, folder: Path) -> Any:
    """Run a script where the packages are hidden, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", HIDING + script], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Start a scorer as the worker does, and score a CT and a PET/CT; return what came of it."""
    folder = tmp_path_factory.mktemp("host")
    script = """
import importlib
from pathlib import Path
from dicom_qa_node.config import Config
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.phantom import ct_series, pet_series, write
from dicom_qa_node.score import worker
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.heat_maps import heat_map
from dicom_qa_node.score.pipeline import Options, score_series

config = Config()
scorer = worker._open_installed(config, "score-1")
ct = write(ct_series(3, 9, 256, spacing_mm=12.0), Path("ct"))
pet = write(pet_series(3, 9), Path("pt"))
options = Options.of(config.score, config.findings)
found = {}
with DecoderPool() as decoders:
    for name, paths, paired in (("ct", ct, []), ("pet", pet, []), ("petct", pet, ct)):
        verdict = score_series(paths, pair_paths=paired, scorer=scorer, options=options, decoders=decoders)
        found[name] = verdict.result.score
        if name == "ct":
            picture = verdict.pictures[0]
heat = heat_map(picture, SeriesKind.CT, scorer)
strange = scorer.score(picture[None], "ct").ood_distance
print(json.dumps({
    "scores": found, "heat": list(heat.shape), "strange": float(strange[0]),
    "loaded": sorted(set(HIDDEN) & set(sys.modules)), "asked": sorted(asked),
}))
"""
    return on_a_cpu_host(script, folder)


def test_series_of_every_class_are_scored(scored: Any) -> None:
    assert {name: 0 < score <= 4 for name, score in scored["scores"].items()} == dict.fromkeys(
        ("ct", "pet", "petct"), True
    )


def test_heat_maps_and_the_domain_come_from_the_same_engine(scored: Any) -> None:
    assert len(scored["heat"]) == 2
    assert 0 < scored["strange"] < 1


def test_nothing_of_a_gpu_host_is_imported(scored: Any) -> None:
    assert scored["loaded"] == []
    # `auto` asks whether torch is installed; nobody asks for anything else.
    assert set(scored["asked"]) <= {"torch"}


def test_the_python_api_scores_and_lists_models(tmp_path: Path) -> None:
    script = """
from pathlib import Path
import dicom_qa_node.api as qa
from dicom_qa_node.phantom import ct_series, write
write(ct_series(3, 7, 128, spacing_mm=12.0), Path("ct"))
print(json.dumps([qa.score_series("ct").result.score, len(qa.list_models())]))
"""
    score, models = on_a_cpu_host(script, tmp_path)
    assert 0 <= score <= 4
    assert models >= 7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("choose_device('cuda')", r"score\.device: 'cuda' needs torch.*pip install 'dicom-qa-node\[gpu\]'"),
        (
            "open_display_network(bare, 'cpu', None, 1)",
            "ms_iqa_small has no ONNX file.*dicom-qa-node models export-onnx ms_iqa_small",
        ),
    ],
    ids=["a GPU", "weights without an ONNX file"],
)
def test_what_needs_torch_says_so_and_what_to_do(tmp_path: Path, call: str, words: str) -> None:
    script = f"""
from dataclasses import replace
from dicom_qa_node.domain.errors import Misconfigured
from dicom_qa_node.models.devices import choose_device
from dicom_qa_node.models.engines import open_display_network
from dicom_qa_node.models.registry import card_of
card = card_of("ms_iqa_small")
bare = replace(card, measured=replace(card.measured, onnx=None))
try:
    {call}
except Misconfigured as error:
    print(json.dumps(str(error)))
"""
    assert re.search(words, on_a_cpu_host(script, tmp_path))


def test_config_check_finds_a_device_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("score:\n  device: cuda\n")
    script = """
from dicom_qa_node.cli.app import run
sys.argv = ["dicom-qa-node", "--config", "config.yaml", "config", "check"]
print(json.dumps(run()))
"""
    command = [sys.executable, "-c", HIDING + script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "score.device" in done.stdout + done.stderr
    assert "dicom-qa-node[gpu]" in done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) != 0


def test_base_dependencies_hold_nothing_of_a_gpu_host() -> None:
    names = {re.split(r"[^\w.-]", line)[0].lower() for line in PROJECT["dependencies"]}
    assert "onnxruntime" in names
    assert names & set(GPU_ONLY) == set()
    assert {"torch", "torchvision", "timm"} == {
        re.split(r"[^\w.-]", line)[0] for line in PROJECT["optional-dependencies"]["gpu"]
    }
