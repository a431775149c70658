"""What the header says about how a CT series was acquired."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.attributes import number
from dicom_qa_node.score.convolution_kernels import Sharpness
from dicom_qa_node.score.kernel_sharpness import KernelSharpness
from dicom_qa_node.score.physics.ct_quantities import CT

__all__ = ["protocol_measurements"]

_TAGS = (
    ("tube_voltage", "KVP", "no KVP (0018,0060)"),
    ("tube_charge", "Exposure", "no Exposure (0018,1152)"),
    ("pitch", "SpiralPitchFactor", "no Spiral Pitch Factor (0018,9311)"),
)

_VALUES = {Sharpness.SOFT: 0.0, Sharpness.MEDIUM: 0.5, Sharpness.SHARP: 1.0}


def protocol_measurements(header: Dataset, kernel: KernelSharpness) -> tuple[Measurement, ...]:
    """Read what the protocol set.

    * ``tube_voltage`` (kV, context): KVP (0018,0060), PS3.3 C.8.2.1.
    * ``tube_charge`` (mAs, context): Exposure (0018,1152) of the first slice, PS3.3 C.8.2.1.
    * ``pitch`` (1, context): Spiral Pitch Factor (0018,9311), table feed per turn over beam width, PS3.3 C.8.15.3.2.
    * ``kernel_sharpness`` (1, context): 1 for a lung, bone or edge kernel, 0.5 for one
      between these and a soft-tissue kernel, else 0: by Convolution Kernel (0018,1210), by the noise for unknown names.
    """
    return (*(_tag(header, *tag) for tag in _TAGS), _kernel(kernel))


def _tag(header: Dataset, name: str, keyword: str, reason: str) -> Measurement:
    value = number(header, keyword)
    return CT.absent(name, f"the header has {reason}") if value is None or value <= 0 else CT.value(name, value)


def _kernel(kernel: KernelSharpness) -> Measurement:
    if kernel.sharpness is Sharpness.UNKNOWN:
        why = f"the name {kernel.kernel} is not known" if kernel.kernel else "the header has no Convolution Kernel"
        return CT.absent("kernel_sharpness", f"{why}, and too little homogeneous tissue shows the noise")
    return CT.value("kernel_sharpness", _VALUES[kernel.sharpness], kernel.detail)
