"""Runs a function of the package in a process of its own and says what that process used."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Measured", "measured"]

_ROOT = Path(__file__).resolve().parents[1]
_SCRIPT = """
import importlib, json, resource, sys, time
module, name, *arguments = sys.argv[1:]
call = getattr(importlib.import_module(module), name)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
try:
    outcome = repr(call(*arguments))
except Exception as error:
    outcome = f"{type(error).__name__}: {error}"
cpu_s = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"outcome": outcome, "cpu_s": cpu_s, "peak_mb": peak / 1024, "grown_mb": (peak - before) / 1024}))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """``outcome`` is the returned value or the exception as text; memory counts from the imports on."""

    outcome: str
    cpu_s: float
    peak_mb: float
    grown_mb: float


def measured(module: str, name: str, *arguments: Any, timeout_s: float = 300) -> Measured:
    """Call ``module.name`` with the arguments as text."""
    command = [sys.executable, "-c", _SCRIPT, module, name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
