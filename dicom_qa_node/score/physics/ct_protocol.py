"""What the header says about how a CT series was acquired."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.physics.ct_quantities import CT
from dicom_qa_node.score.physics.header import number, text

__all__ = ["protocol_measurements"]

_TAGS = (
    ("tube_voltage", "KVP", "no KVP (0018,0060)"),
    ("tube_charge", "Exposure", "no Exposure (0018,1152)"),
    ("pitch", "SpiralPitchFactor", "no Spiral Pitch Factor (0018,9311)"),
)


def protocol_measurements(header: Dataset, sharp_kernel: bool) -> tuple[Measurement, ...]:
    """Read what the protocol set.

    * ``tube_voltage`` (kV, context): KVP (0018,0060), PS3.3 C.8.2.1.
    * ``tube_charge`` (mAs, context): Exposure (0018,1152) of the first slice, PS3.3 C.8.2.1.
    * ``pitch`` (1, context): Spiral Pitch Factor (0018,9311), table feed per turn over beam width, PS3.3 C.8.15.3.2.
    * ``kernel_sharpness`` (1, context): 1 where Convolution Kernel (0018,1210) names a lung, bone or edge kernel.
    """
    return (*(_tag(header, *tag) for tag in _TAGS), _kernel(header, sharp_kernel))


def _tag(header: Dataset, name: str, keyword: str, reason: str) -> Measurement:
    value = number(header, keyword)
    return CT.absent(name, f"the header has {reason}") if value is None or value <= 0 else CT.value(name, value)


def _kernel(header: Dataset, sharp: bool) -> Measurement:
    kernel = text(header, "ConvolutionKernel")
    if not kernel:
        return CT.absent("kernel_sharpness", "the header has no Convolution Kernel (0018,1210)")
    return CT.value("kernel_sharpness", float(sharp), kernel)
