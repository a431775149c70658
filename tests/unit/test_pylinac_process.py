"""The process around pylinac: its limits, its protocol, and what becomes of whatever goes wrong in it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomKind
from dicom_qa_node.quality_control import pylinac_analysis, pylinac_environment, pylinac_program
from dicom_qa_node.quality_control.pylinac_analysis import analyse_by_pylinac
from dicom_qa_node.quality_control.pylinac_environment import Environment, environment_of, install

STAND_IN = """
import os, sys, time
__version__ = "3.49.9"
class CatPhan504:
    def __init__(self, folder):
        self.files = sorted(os.listdir(folder))
    def analyze(self):
        {body}
    def results_data(self, as_dict):
        return {{"ctp404": {{"hu_rois": {{"Air": {{"value": -1000.0}}}}}}, "num_images": len(self.files)}}
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that puts a module in place of pylinac; the program around it is the real one."""
    (tmp_path / "bin").mkdir()
    os.symlink(sys.executable, tmp_path / "bin" / "python")
    program = tmp_path / "program.py"
    program.write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"runpy.run_path({pylinac_program.__file__!r}, run_name='__main__')\n"
    )
    monkeypatch.setattr(pylinac_analysis.pylinac_program, "__file__", str(program))

    def put(body: str) -> Environment:
        (tmp_path / "pylinac.py").write_text(STAND_IN.format(body=body))
        return Environment(str(tmp_path), "3.49.9")

    return put


def run(environment, tmp_path, **limits):
    source = tmp_path / "image.dcm"
    source.write_bytes(b"image")
    wanted = {"timeout_s": 30.0, "memory_mb": 2000} | limits
    return analyse_by_pylinac(PhantomKind.CATPHAN504, [source], environment, **wanted)


def test_results_come_back_and_prints_do_not_disturb_them(stand_in, tmp_path):
    found = run(stand_in("print('a progress bar'); assert self.files == ['00000.dcm']"), tmp_path)
    assert [(item.name, item.value) for item in found.measurements] == [("phantom_hu_air", -1000.0)]
    assert found.version == "3.49.9"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('No slices were found that resembled the HU linearity module')", "ValueError: No slices"),
        ("raise TypeError()", "TypeError: no words"),
        ("raise KeyError('x' * 5000)", "KeyError"),
        ("sys.stdout.flush(); os._exit(3)", "exit code 3"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
    ],
)
def test_whatever_fails_is_not_analysed_with_the_words(stand_in, tmp_path, body, words):
    with pytest.raises(Permanent, match=words) as raised:
        run(stand_in(body), tmp_path)
    assert len(str(raised.value)) < 500


def test_too_much_memory_is_refused_by_the_limit(stand_in, tmp_path):
    with pytest.raises(Permanent, match="more memory than 1000 MB"):
        run(stand_in("bytearray(3 << 30)"), tmp_path, memory_mb=1000)


def test_a_process_that_does_not_end_is_killed_with_its_children(stand_in, tmp_path):
    pid_file = tmp_path / "child"
    body = f"open({str(pid_file)!r}, 'w').write(str(os.fork() or os.getpid())); time.sleep(600)"
    with pytest.raises(Permanent, match="within 3 s"):
        run(stand_in(body), tmp_path, timeout_s=3.0)
    child = int(pid_file.read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_a_worker_that_is_told_to_stop_ends_the_process(stand_in, tmp_path):
    class Stopped(Exception):
        pass

    def before_step(_name: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run(stand_in("time.sleep(600)"), tmp_path, before_step=before_step)


def test_an_answer_without_results_is_no_analysis(stand_in, tmp_path, monkeypatch):
    program = tmp_path / "odd.py"
    program.write_text("import sys; sys.stdin.read(); print('[1, 2]')")
    monkeypatch.setattr(pylinac_analysis.pylinac_program, "__file__", str(program))
    with pytest.raises(Permanent, match="without results"):
        run(stand_in("pass"), tmp_path)


def test_the_images_are_not_touched(stand_in, tmp_path):
    run(stand_in("pass"), tmp_path)
    assert (tmp_path / "image.dcm").read_bytes() == b"image"
    assert (tmp_path / "image.dcm").stat().st_nlink == 1


def test_an_environment_that_is_not_there_is_told_with_its_remedy(tmp_path):
    with pytest.raises(Misconfigured, match="phantoms install"):
        environment_of(tmp_path / "none")
    (tmp_path / "installed.json").write_text(json.dumps({"folder": str(tmp_path / "moved"), "version": "3.49.0"}))
    with pytest.raises(Misconfigured, match="install it again"):
        environment_of(tmp_path)


def test_a_folder_with_other_files_is_not_made_an_environment(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(Misconfigured, match="not an environment"):
        install(tmp_path, 60.0)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_an_index_out_of_reach_is_a_clear_error(tmp_path, monkeypatch):
    calls = []
    real = pylinac_environment.subprocess.run

    def offline(command, **settings):
        calls.append(command)
        if command[1:3] == ["-m", "venv"]:
            return real([sys.executable, "-c", f"import os; os.makedirs({command[-1]!r} + '/bin')"], **settings)
        return real([sys.executable, "-c", "import sys; print('no matching distribution'); sys.exit(1)"], **settings)

    monkeypatch.setattr(pylinac_environment.subprocess, "run", offline)
    with pytest.raises(Misconfigured, match=r"package index within reach.*no matching distribution"):
        install(tmp_path / "new", 60.0)
    assert calls[1][-4] == "pylinac>=3.49,<3.50"
    with pytest.raises(Misconfigured, match="phantoms install"):
        environment_of(tmp_path / "new")
