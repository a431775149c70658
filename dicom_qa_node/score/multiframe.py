"""Takes multi-frame CT and PET apart: the functional groups of a frame as if it were a single slice.

See PS3.3 C.7.6.16. Serves the Enhanced and the Legacy Converted Enhanced objects of both modalities.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.modalities import modality_class_for, modality_class_of
from dicom_qa_node.domain.results import SeriesKind
from dicom_qa_node.score.pet_units import PetUnit, pet_unit
from dicom_qa_node.score.slice_headers import LeftOut, SliceHeader, describe, slice_header

__all__ = ["flattened", "frame_headers"]

_MAX_FRAMES = 20_000
_MAX_WHOLE = 1e9
# Names in the functional groups of what the traits and the SUV look for under its single-frame name.
_SINGLE_FRAME_NAMES = {
    "FrameType": "ImageType",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameAcquisitionDuration": "ActualFrameDuration",
}
# The same in whole numbers: IS on single slices, FD in the functional groups (PS3.3 C.8.15.3.8).
_IN_WHOLE_NUMBERS = {
    "ExposureInmAs": "Exposure",
    "XRayTubeCurrentInmA": "XRayTubeCurrent",
    "ExposureTimeInms": "ExposureTime",
}
# Which of several mappings is taken: SUV by weight needs nothing else, activity the dose, the other SUVs the height.
_PREFERRED = ("BW", "", "LBM", "LBMJAMES128", "LBMJANMA", "BSA")


def frame_headers(ds: Dataset, path: Path, offset: int | None) -> Iterator[SliceHeader | LeftOut]:
    """Yield each frame's slice, or why it is none.

    Parameters
    ----------
    ds
        Header of a multi-frame object.
    path, offset
        See `headers.open_header`.
    """
    uid = describe(ds, path)
    frames = at.integer(ds, "NumberOfFrames")
    groups = at.items(ds, "PerFrameFunctionalGroupsSequence")
    if frames is None or not 1 <= frames <= _MAX_FRAMES:
        yield LeftOut(uid, "object with a broken header", "Number of Frames (0028,0008) cannot be used", broken=True)
        return
    if len(groups) != frames:
        reason = f"it has {frames} frames but {len(groups)} items of Per-Frame Functional Groups (5200,9230)"
        yield LeftOut(uid, "object with a broken header", reason, broken=True)
        return
    if at.word(ds, "VolumetricProperties") in ("DISTORTED", "SAMPLED"):
        yield LeftOut(uid, "resampled or distorted frames", "Volumetric Properties (0008,9206) is not VOLUME")
        return
    shared = _merged(ds, at.one_item(ds, "SharedFunctionalGroupsSequence"))
    for frame, group in enumerate(groups):
        yield slice_header(_in_real_units(_merged(shared, group)), path, offset, frame, frames)


def flattened(ds: Dataset, frame: int) -> Dataset:
    """Return one frame's attributes in one flat data set, without the functional group sequences."""
    shared = _merged(ds, at.one_item(ds, "SharedFunctionalGroupsSequence"))
    groups = at.items(ds, "PerFrameFunctionalGroupsSequence")
    return _in_real_units(_merged(shared, groups[frame]) if frame < len(groups) else shared)


def _merged(ds: Dataset, groups: Dataset) -> Dataset:
    """Return ``ds`` with the attributes of a functional group item laid over it."""
    flat = Dataset()
    flat.update({tag: ds.get_item(tag) for tag in ds.keys() if tag >> 16 != 0x5200})  # noqa: SIM118
    flat.file_meta = ds.file_meta
    for keyword in groups.dir():
        if keyword == "RealWorldValueMappingSequence":
            flat.RealWorldValueMappingSequence = at.items(groups, keyword)
        else:
            for macro in at.items(groups, keyword)[:1]:
                _lay_over(flat, macro)
    return flat


def _lay_over(flat: Dataset, macro: Dataset) -> None:
    flat.update({tag: macro.get_item(tag) for tag in macro.keys()})  # noqa: SIM118
    for name, single in _SINGLE_FRAME_NAMES.items():
        value = at.raw(macro, name)
        if value is not None:
            setattr(flat, single, value)
    for name, single in _IN_WHOLE_NUMBERS.items():
        number = at.number(macro, name)
        if number is not None and abs(number) < _MAX_WHOLE:
            setattr(flat, single, round(number))


def _in_real_units(flat: Dataset) -> Dataset:
    """Let the real world values of PET stand where single-frame PET has its rescale (PS3.3 C.7.6.16.2.11)."""
    found: list[tuple[int, PetUnit, float, float]] = []
    unknown = ""
    for mapping in at.items(flat, "RealWorldValueMappingSequence"):
        code = at.word(at.one_item(mapping, "MeasurementUnitsCodeSequence"), "CodeValue")
        unit = pet_unit(code)
        slope, intercept = (at.number(mapping, f"RealWorldValue{name}") for name in ("Slope", "Intercept"))
        if unit is not None and unit.suv_type in _PREFERRED and slope is not None and intercept is not None:
            found.append((_PREFERRED.index(unit.suv_type), unit, slope, intercept))
        unknown = unknown or code
    if found:
        _, unit, slope, intercept = min(found, key=lambda item: item[0])
        flat.Units, flat.RescaleSlope, flat.RescaleIntercept = unit.units, slope * unit.factor, intercept * unit.factor
        if unit.suv_type:
            flat.SUVType = unit.suv_type
    elif (
        unknown
        and "Units" not in flat
        and modality_class_for(at.word(flat, "SOPClassUID")) is modality_class_of(SeriesKind.PT)
    ):
        # So that the reason why there is no SUV names it.
        flat.Units = unknown
    return flat
