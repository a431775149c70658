"""What the images of a series state about their irradiation, gathered image by image while the headers are read."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.dose import DoseHeader
from dicom_qa_node.domain.uids import is_uid
from dicom_qa_node.score.body_region import ctdi_phantom_cm

__all__ = ["DoseHeaders"]

_MOST_UIDS = 20
_CTDI_MGY = (0.01, 1000.0)


class DoseHeaders:
    """The irradiation events, CTDIvol and phantoms that the images of one series name."""

    def __init__(self) -> None:
        self._uids: set[str] = set()
        self._ctdi: set[float] = set()
        self._phantoms: set[int] = set()

    def add(self, ds: Dataset) -> None:
        """Take in one header, be it of a single-frame or a multi-frame object."""
        for part in _parts(ds):
            if len(self._uids) < _MOST_UIDS:
                self._uids.update(uid for uid in at.words(part, "IrradiationEventUID") if is_uid(uid))
            ctdi = at.number(part, "CTDIvol")
            if ctdi is not None and _CTDI_MGY[0] <= ctdi <= _CTDI_MGY[1]:
                self._note(ctdi)
            phantom = ctdi_phantom_cm(part)
            if phantom is not None:
                self._phantoms.add(phantom)

    def extend(self, other: DoseHeaders) -> None:
        """Take in what was gathered elsewhere."""
        self._uids |= other._uids
        self._phantoms |= other._phantoms
        for value in other._ctdi:
            self._note(value)

    def summary(self, acquired: Iterable[dt.datetime | None]) -> DoseHeader:
        """Return what was gathered; ``acquired`` are the acquisition times of the slices."""
        times = sorted(time for time in acquired if time is not None)
        return DoseHeader(
            event_uids=tuple(sorted(self._uids)),
            ctdi_vol_range=(min(self._ctdi), max(self._ctdi)) if self._ctdi else None,
            phantom_cm=next(iter(self._phantoms)) if len(self._phantoms) == 1 else None,
            acquired_from=times[0].isoformat() if times else "",
            acquired_until=times[-1].isoformat() if times else "",
        )

    def _note(self, ctdi: float) -> None:
        self._ctdi = {min(self._ctdi | {ctdi}), max(self._ctdi | {ctdi})}


def _parts(ds: Dataset) -> Iterator[Dataset]:
    """Yield the header, and of a multi-frame object the macros that name events and exposure (PS3.3 C.8.15.3)."""
    yield ds
    shared = at.one_item(ds, "SharedFunctionalGroupsSequence")
    for macro in ("IrradiationEventIdentificationSequence", "CTExposureSequence"):
        common = at.items(shared, macro)
        groups = [] if common else at.items(ds, "PerFrameFunctionalGroupsSequence")
        yield from common
        for group in groups:
            yield from at.items(group, macro)
