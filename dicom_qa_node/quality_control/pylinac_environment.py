"""The environment of pylinac: it needs pydicom 2 and the node pydicom 3, so each has its own.

The only part of the node that uses a package index, and only when an administrator asks for it
(``dicom-qa-node phantoms install``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["REQUIREMENTS", "Environment", "environment_of", "install"]

REQUIREMENTS = ("pylinac>=3.49,<3.50", "pylibjpeg>=2,<3", "pylibjpeg-libjpeg>=2,<3", "pylibjpeg-openjpeg>=2,<3")
"""pylinac changes what it measures between minor versions; pylibjpeg decodes compressed images for its pydicom."""

_MARK = "installed.json"
_LAST_LINES = 5


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished environment: its folder and the version of pylinac in it."""

    folder: str
    version: str

    @property
    def python(self) -> Path:
        """The interpreter."""
        return Path(self.folder) / "bin" / "python"


def environment_of(folder: Path) -> Environment:
    """Return the environment in a folder.

    Raises
    ------
    Misconfigured
        pylinac is not installed there; the text says how to install it.
    """
    try:
        found = Environment(**json.loads((folder / _MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Misconfigured(
            f"pylinac is not installed in {folder}: run dicom-qa-node phantoms install on this machine"
        ) from error
    if not found.python.is_file():
        raise Misconfigured(f"the environment of pylinac in {folder} has no Python any more: install it again")
    return found


def install(folder: Path, timeout_s: float) -> Environment:
    """Make the environment with pip from the package index that pip is set up for; about 0.6 GB.

    An unfinished or earlier environment in the folder is replaced; another folder with files in it is refused.

    Raises
    ------
    Misconfigured
        It cannot be made; the text has the last words of pip.
    """
    folder = folder.absolute()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "pyvenv.cfg").is_file():
        raise Misconfigured(f"{folder} has files in it that are not an environment: choose phantoms.environment_dir")
    (folder / _MARK).unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], timeout_s, "the environment cannot be made")
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *REQUIREMENTS]
    _run(pip, timeout_s, "pylinac cannot be installed (is the package index within reach?)")
    script = "import pylinac; print(pylinac.__version__)"
    version = _run([str(python), "-I", "-c", script], timeout_s, "pylinac cannot be imported").strip().splitlines()[-1]
    done = Environment(str(folder), version)
    mark = folder / f"{_MARK}.new"
    mark.write_text(json.dumps(asdict(done)), encoding="utf-8")
    mark.replace(folder / _MARK)
    return done


def _run(command: list[str], timeout_s: float, problem: str) -> str:
    # Variables that would lead pip or Python into the node's own environment.
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET")}
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, env=kept, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise Misconfigured(f"{problem}: not finished within {timeout_s:g} s") from error
    except OSError as error:
        raise Misconfigured(f"{problem}: {error.strerror}") from error
    if found.returncode:
        lines = [line.strip() for line in f"{found.stdout}\n{found.stderr}".splitlines() if line.strip()]
        raise Misconfigured(f"{problem}: {' | '.join(lines[-_LAST_LINES:])[:600] or f'exit code {found.returncode}'}")
    return found.stdout
