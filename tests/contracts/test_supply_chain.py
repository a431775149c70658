"""What the node is made of: the lock, the bill of materials, and what the audit says about known weaknesses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIN = re.compile(r"([a-z0-9-]+)==([A-Za-z0-9.+!]+)((?: --hash=sha256:[0-9a-f]{64})+)")


#: Each lock with the extras of the node that are part of it.
LOCKS = {"requirements.lock": ("postgresql",), "requirements-gpu.lock": ("postgresql", "gpu")}


def locked(lock: str = "requirements-gpu.lock") -> dict[str, Version]:
    """Return the pins; every line must be one with checksums, and so none names an index."""
    lines = re.sub(r" *\\\n +", " ", (ROOT / lock).read_text()).splitlines()
    found = [PIN.fullmatch(line) for line in lines if not line.startswith("#")]
    assert None not in found
    return {pin[1]: Version(pin[2]) for pin in found if pin is not None}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_a_fitting_version_of_every_dependency(lock):
    pins = locked(lock)
    optional = [line for extra in LOCKS[lock] for line in PROJECT["optional-dependencies"][extra]]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *optional]):
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} is not locked; run: make lock"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{name} {pins[name]}; run: make lock"


def test_a_cpu_host_installs_no_gpu_packages_and_both_locks_agree():
    small, large = locked("requirements.lock"), locked("requirements-gpu.lock")
    assert small.items() <= large.items()
    heavy = ("cuda", "nvidia", "torch", "timm", "triton", "matplotlib", "huggingface", "onnxscript")
    assert [name for name in small if name.startswith(heavy)] == []
    assert {"torch", "torchvision", "timm"} <= large.keys()
    assert "setuptools" in small, "the container builds the node with what is locked"


def test_bill_of_materials_has_every_locked_package_with_version_and_licence(tmp_path):
    target = tmp_path / "sbom.json"
    # `make sbom` validates against the schema, too; that takes longer than all the rest here.
    command = [sys.executable, ROOT / ".ci" / "sbom", "--no-validate", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    bill = json.loads(target.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == PROJECT["name"]
    listed = {canonicalize_name(part["name"]): part for part in bill["components"]}
    assert set(locked()) - set(listed) == set(), "locked, but not in the environment; run: make lock"
    for name in locked():
        part = listed[name]
        # What is installed may be newer than the lock: the bill says what is there.
        assert part["version"] == version(name)
        assert part["purl"].startswith(f"pkg:pypi/{name}@")
        assert all(said.get("expression") or any(said["license"].values()) for said in part["licenses"]), name
        assert part["licenses"], name


WEAKNESS = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": [], "description": "…"}
SOUND = {"name": "numpy", "version": "2.0", "vulns": []}
WEAK = {"name": "pillow", "version": "1.0", "vulns": [WEAKNESS]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found: torch (2.0)"}
NETWORK_ERROR = "Traceback …\nrequests.exceptions.ConnectionError: no route"


def audited(folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the audit with this folder as its path; return its exit code and what it said."""
    command = [sys.executable, str(ROOT / ".ci" / "audit"), *arguments]
    done = subprocess.run(command, env={"PATH": str(folder)}, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def answering(folder: Path, packages: list[dict[str, object]] | None, code: int, error: str = "") -> None:
    """Make a pip-audit that answers this; its report is about the lock or there is none."""
    report = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[-1].endswith('/requirements-gpu.lock')\n"
        f"assert '--disable-pip' in sys.argv\nsys.stdout.write({report!r})\nsys.stderr.write({error!r})\n"
        f"sys.exit({code})\n"
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("packages", "code", "expected", "strict", "words"),
    [
        ([SOUND], 0, 0, 0, ["no known weakness in 1 packages"]),
        ([SOUND, WEAK], 1, 1, 1, ["known weakness: pillow 1.0: PYSEC-1, mended in 1.1"]),
        ([SOUND, UNKNOWN], 0, 0, 1, ["could not be asked for torch", "no known weakness in 1 packages"]),
        ([WEAK, UNKNOWN], 1, 1, 1, ["could not be asked for torch", "known weakness: pillow"]),
        ([UNKNOWN], 0, 0, 1, ["advisories could not be asked: none of 1 packages was looked up: Dependency not"]),
        ([], 0, 0, 1, ["advisories could not be asked: none of 0 packages"]),
        (None, 1, 0, 1, ["advisories could not be asked: requests.exceptions.ConnectionError: no route"]),
    ],
    ids=["sound", "weak", "one unknown", "weak and unknown", "all unknown", "nothing read", "no network"],
)
def test_audit_fails_for_weaknesses_and_says_what_could_not_be_asked(tmp_path, packages, code, expected, strict, words):
    answering(tmp_path, packages, code, NETWORK_ERROR if packages is None else "")
    for arguments, wanted in (((), expected), (("--strict",), strict)):
        found, said = audited(tmp_path, *arguments)
        assert found == wanted, said
        assert [part for part in words if part not in said] == []


def test_audit_that_is_not_installed_is_said_and_breaks_nothing_but_a_strict_one(tmp_path):
    said = "advisories could not be asked: pip-audit is not installed\n"
    assert audited(tmp_path) == (0, said)
    assert audited(tmp_path, "--strict") == (1, said)


def test_audit_that_asks_wrongly_is_a_failure(tmp_path):
    answering(tmp_path, None, 2, "error: unrecognized arguments: --format")
    found, said = audited(tmp_path)
    assert found == 1
    assert "unrecognized arguments" in said
