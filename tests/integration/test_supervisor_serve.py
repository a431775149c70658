"""``serve`` as an operator starts it: in an empty folder, stopped with Ctrl-C, refused a second time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
import yaml

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, free_port):
    """Return an empty folder and a web port; only ports differ from the defaults."""
    ports = {"receive": {"host": "127.0.0.1", "port": free_port()}, "web": {"port": free_port()}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ports))
    return tmp_path, ports["web"]["port"]


def _serve(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as sink:
        command = [sys.executable, "-m", "dicom_qa_node", "serve"]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=sink, stderr=sink)


def _ask(port: int, page: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}", timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


def test_serve_from_nothing_to_ctrl_c(folder, poll):
    place, port = folder
    log = place / "log"
    node = _serve(place, log)
    try:
        poll(lambda: "event=ready" in log.read_text() or node.poll() is not None, 120, "ready")
        assert node.poll() is None, log.read_text()
        assert _ask(port, "/readyz")[0] == 200
        status, body = _ask(port, "/healthz")
        assert status == 200
        assert {check["name"]: check["level"] for check in json.loads(body)["checks"]}["model"] == "ok"
        second = _serve(place, place / "second")
        assert second.wait(60) == 3
        assert f"process {node.pid}" in (place / "second").read_text()
        children = psutil.Process(node.pid).children(recursive=True)
        began = time.monotonic()
        node.send_signal(signal.SIGINT)
        assert node.wait(60) == 0
        assert time.monotonic() - began < 10
        assert not [child for child in children if child.is_running()]
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()
    assert "Traceback" not in log.read_text()
    assert sorted(path.name for path in place.iterdir()) == ["config.yaml", "log", "second", "var"]


def test_an_occupied_port_is_said_in_one_line(folder, poll, background):
    place, _ = folder
    port = yaml.safe_load((place / "config.yaml").read_text())["web"]["port"]
    background([sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)], cwd=place)
    poll(lambda: _ask(port, "/")[0], 20, "the other program")
    node = _serve(place, place / "log")
    try:
        assert node.wait(120) == 3
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()
    assert f"error: web cannot listen on 127.0.0.1:{port}: Address already in use" in (place / "log").read_text()


@pytest.mark.parametrize(
    ("score", "complaint"),
    [
        ({"models_dir": "models"}, "weights of model ms_iqa_small are missing"),
        ({"model": "tfkt_small"}, "model tfkt_small is shipped without weights"),
    ],
    ids=["file missing", "none shipped"],
)
def test_a_node_without_its_model_receives_and_says_so(folder, poll, score, complaint):
    place, port = folder
    settings = yaml.safe_load((place / "config.yaml").read_text())
    (place / "config.yaml").write_text(yaml.safe_dump(settings | {"score": score}))
    log = place / "log"
    node = _serve(place, log)
    try:
        poll(lambda: "event=no_model" in log.read_text() or node.poll() is not None, 120, "the scorer's complaint")
        poll(lambda: _ask(port, "/readyz")[0] == 200, 60, "readiness to receive")
        checks = {check["name"]: check for check in json.loads(_ask(port, "/healthz")[1])["checks"]}
        assert checks["model"]["level"] == "degraded"
        assert complaint in log.read_text()
        assert checks["role score"]["level"] == "ok"
        node.send_signal(signal.SIGTERM)
        assert node.wait(60) == 0
    finally:
        if node.poll() is None:
            node.kill()
            node.wait()
