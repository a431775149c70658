"""Which device the networks run on, found out without importing torch.

The CPU runs on ONNX Runtime, which every installation has. A GPU takes torch, from the extra ``gpu``; it is looked for
with the driver's own library first, so that a host without one never loads torch.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from pathlib import Path

from dicom_qa_node.domain.errors import Misconfigured

__all__ = ["GPU_EXTRA", "choose_device", "device_problem", "driver_devices", "gpus", "torch_installed"]

GPU_EXTRA = "pip install 'dicom-qa-node[gpu]'"
_CUDA_LIBRARY = "libcuda.so.1"
_ROCM_DEVICE = Path("/dev/kfd")
_CUDA = re.compile(r"cuda(?::(\d+))?")


def torch_installed() -> bool:
    """Return whether the extra ``gpu`` or ``training`` is installed; imports nothing."""
    return importlib.util.find_spec("torch") is not None


def driver_devices() -> int:
    """Return how many GPUs the driver shows to this process, 0 without a driver."""
    if _ROCM_DEVICE.exists():
        return 1
    try:
        driver = ctypes.CDLL(_CUDA_LIBRARY)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def gpus() -> int:
    """Return how many GPUs torch can use; torch is imported only where it is installed and the driver shows one."""
    if not torch_installed() or not driver_devices():
        return 0
    count: int = importlib.import_module("torch").cuda.device_count()
    return count


def device_problem(wanted: str) -> str:
    """Return why ``score.device`` cannot be had, "" if nothing speaks against it; imports nothing heavy."""
    if wanted in ("auto", "cpu"):
        return ""
    cuda = _CUDA.fullmatch(wanted)
    if cuda is None:
        return f"score.device: {wanted!r} is not a device; use auto, cpu, cuda or cuda:N"
    if not torch_installed():
        return f"score.device: {wanted!r} needs torch, which is not installed: {GPU_EXTRA}"
    if not driver_devices():
        return f"score.device: {wanted!r} is not available on this machine: there is no GPU or no driver"
    return ""


def choose_device(wanted: str) -> str:
    """Return ``cpu`` or ``cuda:N`` for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    Misconfigured
        Not a device; or a GPU is asked for, and it, its driver or torch is missing.
    """
    problem = device_problem(wanted)
    if problem:
        raise Misconfigured(problem)
    if wanted == "cpu":
        return "cpu"
    count = gpus()
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    cuda = _CUDA.fullmatch(wanted)
    index = int((cuda and cuda[1]) or 0)
    if index >= count:
        raise Misconfigured(f"score.device: {wanted!r} is not available on this machine: torch sees {count} GPUs")
    return f"cuda:{index}"
