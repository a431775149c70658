"""Analyses CatPhan and ACR phantoms by pylinac in a process of its own, with limits of time and memory.

pylinac gives plausible numbers for the wrong phantom, so the configured class is tried and no other.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.qc_phantoms import PhantomKind
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.quality_control import pylinac_program
from dicom_qa_node.quality_control.phantom_quantities import ct_number, measurement
from dicom_qa_node.quality_control.pylinac_environment import Environment

__all__ = ["PylinacResult", "analyse_by_pylinac", "measurements_of"]

_LOOK_S = 0.25
_MOST_ANSWER = 4 << 20
_CLASSES = {
    PhantomKind.CATPHAN503: "CatPhan503",
    PhantomKind.CATPHAN504: "CatPhan504",
    PhantomKind.CATPHAN600: "CatPhan600",
    PhantomKind.CATPHAN604: "CatPhan604",
    PhantomKind.CATPHAN700: "CatPhan700",
    PhantomKind.ACR_CT: "ACRCT",
}
_ACR_NAMES = {"Poly": "polyethylene"}


@dataclass(frozen=True, slots=True)
class PylinacResult:
    """What pylinac measured, and its version."""

    measurements: tuple[Measurement, ...]
    version: str


def analyse_by_pylinac(
    kind: PhantomKind,
    files: Sequence[Path],
    environment: Environment,
    *,
    timeout_s: float,
    memory_mb: int,
    nominal_thickness_mm: float | None = None,
    before_step: Callable[[str], None] = lambda _: None,
) -> PylinacResult:
    """Analyse the files of one series.

    Parameters
    ----------
    files
        Single-frame Part 10 files; they are linked into a folder of their own and never changed.
    timeout_s, memory_mb
        The process is killed after this time; its address space is limited.
    nominal_thickness_mm
        Slice Thickness (0018,0050), for the error of the measured one.
    before_step
        Called while the process runs; what it raises ends the process and the analysis.

    Raises
    ------
    Permanent
        The phantom could not be analysed; the text has pylinac's words.
    """
    with tempfile.TemporaryDirectory(prefix="dicom-qa-phantom-") as folder:
        _link(files, Path(folder) / "series")
        request = {"class": _CLASSES[kind], "folder": str(Path(folder) / "series"), "memory_mb": memory_mb}
        answer = _answer_of(request, environment, Path(folder), timeout_s, before_step)
    if "error" in answer:
        raise Permanent(f"pylinac {answer.get('version') or environment.version}: {answer['error']}")
    found = tuple(measurements_of(kind, answer["results"], nominal_thickness_mm))
    return PylinacResult(found, str(answer.get("version", environment.version)))


def _link(files: Sequence[Path], folder: Path) -> None:
    folder.mkdir()
    for number, path in enumerate(files):
        target = folder / f"{number:05d}.dcm"
        try:
            os.link(path, target)
        except OSError:
            # another file system, or one without hard links
            shutil.copyfile(path, target)


def _answer_of(
    request: Mapping[str, Any],
    environment: Environment,
    folder: Path,
    timeout_s: float,
    before_step: Callable[[str], None],
) -> dict[str, Any]:
    settings = {
        "PATH": os.defpath, "HOME": str(folder), "TMPDIR": str(folder), "MPLBACKEND": "Agg", "LANG": "C.UTF-8",
        "MPLCONFIGDIR": str(folder), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
    out, errors = folder / "answer", folder / "errors"
    with out.open("wb") as answer, errors.open("wb") as said:
        process = subprocess.Popen(
            [str(environment.python), "-I", pylinac_program.__file__],
            stdin=subprocess.PIPE, stdout=answer, stderr=said, env=settings, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
            late = _wait(process, timeout_s, before_step)
        except BrokenPipeError:
            late = False
            process.wait()
        finally:
            _kill(process)
    if late:
        raise Permanent(f"pylinac did not finish within {timeout_s:g} s")
    return _read(out, errors, process.returncode)


def _wait(process: subprocess.Popen[bytes], timeout_s: float, before_step: Callable[[str], None]) -> bool:
    """Wait for a process; return whether it is late."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            process.wait(_LOOK_S)
        except subprocess.TimeoutExpired:
            before_step("pylinac")
            if time.monotonic() >= end:
                return True
        else:
            return False


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(out: Path, errors: Path, code: int) -> dict[str, Any]:
    try:
        if out.stat().st_size > _MOST_ANSWER:
            raise Permanent("pylinac gave an answer that is too large")
        answer = json.loads(out.read_text(encoding="utf-8"))
    except ValueError as error:
        lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        words = lines[-1][:300] if lines else "no words"
        ended = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise Permanent(f"pylinac ended with {ended}: {words}") from error
    if not isinstance(answer, dict) or ("results" not in answer and "error" not in answer):
        raise Permanent("pylinac gave an answer without results")
    return answer


def measurements_of(
    kind: PhantomKind, results: Mapping[str, Any], nominal_thickness_mm: float | None
) -> Iterator[Measurement]:
    """Yield the values of ``results_data(as_dict=True)`` as measurements; what is missing there is left out."""
    found = _acr(results) if kind is PhantomKind.ACR_CT else _catphan(results, nominal_thickness_mm)
    yield from (item for item in found if item.value is not None and math.isfinite(item.value))


def _catphan(results: Mapping[str, Any], nominal_thickness_mm: float | None) -> Iterator[Measurement]:
    linearity = _part(results, "ctp404", "ctp682")
    for name, roi in _part(linearity, "hu_rois").items():
        yield measurement(ct_number(name), _number(roi, "value"))
    thickness = _number(linearity, "measured_slice_thickness_mm")
    yield measurement("phantom_slice_thickness", thickness)
    if nominal_thickness_mm is not None:
        yield measurement("phantom_thickness_error", thickness - nominal_thickness_mm)
    yield measurement("phantom_line_distance", _number(linearity, "avg_line_distance_mm"))
    uniform = _part(results, "ctp486")
    rois = _part(uniform, "rois")
    values = {name: _number(roi, "value") for name, roi in rois.items()}
    yield from _uniformity(values)
    yield measurement("phantom_noise", _number(_part(rois, "Center"), "stdev"))
    yield measurement("phantom_uniformity_index", _number(uniform, "uniformity_index"))
    yield measurement("phantom_nonuniformity", _number(uniform, "integral_non_uniformity"))
    yield from _modulation(_part(_part(results, "ctp528"), "mtf_lp_mm"))
    yield measurement("phantom_low_contrast_discs", _number(_part(results, "ctp515"), "num_rois_seen"))


def _acr(results: Mapping[str, Any]) -> Iterator[Measurement]:
    for name, value in _part(_part(results, "ct_module"), "rois").items():
        yield measurement(ct_number(_ACR_NAMES.get(name, name)), _float(value))
    uniform = _part(results, "uniformity_module")
    yield from _uniformity({name: _float(value) for name, value in _part(uniform, "rois").items()})
    yield measurement("phantom_noise", _number(uniform, "center_roi_stdev"))
    yield measurement("phantom_bb_distance", _number(uniform, "bb_distance_mm"))
    yield measurement("phantom_cnr", _number(_part(results, "low_contrast_module"), "cnr"))
    yield from _modulation(_part(_part(results, "spatial_resolution_module"), "lpmm_to_rmtf"))


def _uniformity(values: Mapping[str, float]) -> Iterator[Measurement]:
    centre = values.get("Center", math.nan)
    yield measurement("phantom_hu_centre", centre)
    apart = [value - centre for name, value in values.items() if name != "Center" and math.isfinite(value - centre)]
    if apart:
        yield measurement("phantom_edge_centre", max(apart, key=abs))


def _modulation(found: Mapping[Any, Any]) -> Iterator[Measurement]:
    """Yield the frequencies of 50 and 10 % MTF.

    The CatPhan's table gives the frequency by percent, the ACR's the MTF (0-1) by frequency.
    """
    numbers = {_float(key): _float(value) for key, value in found.items()}
    if all(key >= 5 for key in numbers):
        for percent in (50, 10):
            yield measurement(f"phantom_mtf{percent}", numbers.get(float(percent), math.nan))
        return
    pairs = sorted(numbers.items())
    for percent in (50, 10):
        yield measurement(f"phantom_mtf{percent}", _crossing(pairs, percent / 100))


def _crossing(pairs: Sequence[tuple[float, float]], level: float) -> float:
    for (low, above), (high, below) in itertools.pairwise(pairs):
        if above >= level > below:
            return low + (above - level) / (above - below) * (high - low)
    return math.nan


def _part(found: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        part = found.get(name)
        if isinstance(part, dict):
            return part
    return {}


def _number(found: Mapping[str, Any], name: str) -> float:
    return _float(found.get(name))


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
