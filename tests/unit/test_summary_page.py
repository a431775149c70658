"""The companion page: names in any script or none, never an empty box; words in four languages; quick, repeatable."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.valuerep import PersonName

from dicom_qa_node.canvas import Canvas, Glyphs
from dicom_qa_node.config import Config
from dicom_qa_node.domain.results import Finding, SeriesKind, Severity
from dicom_qa_node.report.source_headers import read_sources
from dicom_qa_node.report.sr_document import ReportRequest
from dicom_qa_node.report.summary_page.content import companion_page, shown_name
from dicom_qa_node.report.summary_page.wording import LANGUAGES, Words, _table
from dicom_qa_node.score.image_files import write_heat_map, write_images
from dicom_qa_node.score.physics.ct_quantities import CT_QUANTITIES
from dicom_qa_node.score.physics.geometry_checks import GEOMETRY_QUANTITIES
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.pipeline import ScoredSeries
from dicom_qa_node.score.slice_rendering import KeySlice, KeySlices, Layer
from tests.report_samples import T0, not_rated, verdict, write_series

SCORE = Path(str(find_spec("dicom_qa_node").origin)).parent / "score"
NAMES = {
    "Latin": "Müller^Jürgen",
    "Cyrillic": "Люкceмбypг^Роза",
    "Greek": "Διονυσιος",
    "Japanese": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Korean": "Hong^Gildong=洪^吉洞=홍^길동",
    "Chinese": "Wang^XiaoDong=王^小东",
}


MANY = [*Severity] * 9


def _page(tmp_path, result=None, config: Config | None = None, trend=(3.0, 2.0), **header: object) -> np.ndarray:
    instances = write_series(tmp_path, **header)
    made = result(instances) if result else verdict(instances)
    sources = read_sources(tmp_path, made, instances)
    page = companion_page(ReportRequest(made, 1, T0), sources, tmp_path / "pictures", trend, config or Config())
    return np.asarray(page.picture).astype(int)


def _pictures(folder: Path, count: int) -> None:
    """Write the pictures of a scored series: grey slices, and a heat map over the first."""
    grey = np.full((count, 64, 64, 3), 120, np.uint8)
    layer = Layer(np.zeros((64, 64), np.uint16), "HU", 1.0, 0.0, 0.0, -135.0, 215.0)
    slices = tuple(KeySlice(f"1.2.{n}", None, n, float(n), (1.0, 1.0), (layer,)) for n in range(count))
    key_slices = KeySlices(slices, np.full((60, 40), 90, np.uint8), 1.0, tuple(range(0, 6 * count, 6)))
    result = dataclasses.replace(verdict(write_series(folder.parent)), kind=SeriesKind.CT)
    write_images(ScoredSeries(result, grey, key_slices), folder, Config().score.grades)
    write_heat_map(np.full((64, 64), 255, np.uint8), folder, 1)


@pytest.mark.parametrize("script", NAMES)
def test_a_name_without_glyphs_falls_back_to_its_alphabetic_group(script):
    latin_only = Glyphs(others=[])
    name = PersonName(NAMES[script])
    shown = shown_name(name, latin_only)
    assert shown == str(name.alphabetic).replace("^", " ")
    assert latin_only.can_draw(shown)


def test_a_name_that_no_font_can_draw_leaves_no_box():
    latin_only = Glyphs(others=[])
    assert shown_name(PersonName("山田^太郎"), latin_only) == ""
    assert shown_name(PersonName("山田^Tarou"), latin_only) == "Tarou"


def test_a_name_stands_in_both_scripts_where_a_font_has_them(monkeypatch):
    monkeypatch.setattr(Glyphs, "can_draw", lambda *_: True)
    assert shown_name(PersonName(NAMES["Japanese"]), Glyphs()) == "山田 太郎 (Yamada Tarou)"


@pytest.mark.parametrize("text", ["山田", "a\u0000b", "\ufffe", "홍길동 \U0001f600"])
def test_what_no_font_has_is_never_drawn(text):
    """A box would leave ink: the drawn text is that of its drawable characters alone."""
    latin_only = Glyphs(others=[])
    drawn, kept = (Canvas(400, 60, latin_only, (0, 0, 0)) for _ in range(2))
    drawn.text((5, 5), text, 30)
    kept.text((5, 5), latin_only.drawable(text), 30)
    assert np.array_equal(np.asarray(drawn.image), np.asarray(kept.image))
    assert not any(0x2FFF < ord(char) < 0x10000 for char in latin_only.drawable(text))


def test_a_configured_font_comes_first(tmp_path):
    own = tmp_path / "own.ttf"
    shutil.copy(SCORE.parent / "canvas" / "fonts" / "DejaVuSans-Bold.ttf", own)
    assert Glyphs(own, []).runs("Abc") == [("Abc", own)]


def test_a_line_is_cut_to_its_room():
    canvas = Canvas(400, 60, Glyphs(others=[]), (0, 0, 0))
    short = canvas.shortened("Wolfeschlegelsteinhausenbergerdorff", 20, 150)
    assert short.endswith("…")
    assert canvas.width(short, 20) <= 150
    lines = canvas.wrapped("one two three four five six seven eight", 20, 100, 3)
    assert len(lines) == 3
    assert max(canvas.width(line, 20) for line in lines) <= 100


def test_the_same_report_gives_the_same_page(tmp_path):
    assert np.array_equal(_page(tmp_path / "a"), _page(tmp_path / "b"))


def test_a_page_takes_less_than_a_second_of_processor_time(tmp_path):
    _pictures(tmp_path / "pictures", 7)
    _page(tmp_path)
    start = time.process_time()
    _page(tmp_path)
    assert time.process_time() - start < 1.0


def test_slices_and_heat_maps_are_on_the_page(tmp_path):
    bare = _page(tmp_path)
    _pictures(tmp_path / "pictures", 7)
    shown = _page(tmp_path)
    first, second = shown[562:772, 60:300], shown[562:772, 345:590]
    assert bare[562:772, 60:300].max(axis=2).mean() < first.max(axis=2).mean()
    assert (first[..., 0] - first[..., 2]).mean() > 60
    assert abs(second[..., 0] - second[..., 2]).max(initial=0, where=second.max(axis=2) == 120) == 0


@pytest.mark.parametrize(
    "result",
    [
        not_rated,
        lambda items: verdict(items, measurements=(), findings=(), stack_name=""),
        lambda items: verdict(items, slices=verdict(items).slices * 5),
        lambda items: verdict(items, findings=tuple(Finding("streaks", grave, "Long words. " * 40) for grave in MANY)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("language", LANGUAGES)
def test_any_verdict_has_a_page_with_nothing_over_its_edge(tmp_path, result, language):
    config = Config.model_validate({"report": {"language": language, "institution_name": "W" * 64}})
    page = _page(tmp_path, result, config, [0.0, 4.0] * 100, PatientName="X" * 31 + "^" + "Y" * 31)
    assert (page[80:, :20] == 255).all()
    assert (page[80:, -20:] == 255).all()
    assert page.std() > 10


def test_every_word_has_every_language():
    for section, rows in _table().items():
        for key, row in rows.items():
            assert len(row) == len(LANGUAGES), (section, key)
            assert all(str(word).strip() for word in row), (section, key)
            braces = {tuple(sorted(re.findall(r"\{\d\}", str(word)))) for word in row}
            assert len(braces) == 1, (section, key)


def test_every_finding_and_measurement_has_its_words():
    sources = "\n".join(path.read_text() for path in SCORE.rglob("*.py"))
    keys = set(re.findall(r'Finding\(\s*"([a-z_]+)"', sources))
    assert len(keys) > 20
    assert keys - set(_table()["finding"]) == set()
    assert {item.name for register in (CT_QUANTITIES, PET_QUANTITIES, GEOMETRY_QUANTITIES) for item in register} - set(
        _table()["measurement"]
    ) == set()


@pytest.mark.parametrize(
    ("language", "value", "text"),
    [("en", 0.15672, "0.157"), ("de", 1234.5, "1234"), ("fr", 9.75, "9,75"), ("es", 0.0, "0"), ("de", -1024.0, "-1024"),
     ("en", 310.0, "310"), ("en", 3.6000, "3.6")],
)  # fmt: skip
def test_numbers_are_written_as_the_language_does(language, value, text):
    assert Words(language).number(value) == text


def test_no_receiver_loads_what_draws():
    code = "import sys, dicom_qa_node.receive.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # pydicom itself loads Pillow.
    assert {"fpdf", "fontTools", "dicom_qa_node.report"} & set(done.stdout.split()) == set()


def test_the_page_never_changes_its_picture_files(tmp_path):
    _pictures(tmp_path / "pictures", 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    _page(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "pictures").iterdir()} == before


def test_a_damaged_picture_leaves_its_tile_empty(tmp_path):
    _pictures(tmp_path / "pictures", 7)
    (tmp_path / "pictures" / "display_1.png").write_bytes(b"no picture")
    with Image.open(tmp_path / "pictures" / "display_2.png") as second:
        assert second.size == (64, 64)
    assert _page(tmp_path).std() > 10
