"""When and how the images of a series were made: what its charts are grouped by, beside scanner and protocol."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["EARLIEST", "Acquisition", "Reconstruction", "Sharpness", "acquired_at"]

EARLIEST = dt.date(1980, 1, 1)
"""Dates before this are of clocks that were never set, or of anonymisers."""


class Sharpness(StrEnum):
    """How far a kernel passes high spatial frequencies.

    SOFT kernels are read in a soft-tissue window. MEDIUM ones too, with about half as much noise again (Siemens B50, GE
    DETAIL). SHARP ones are made for lung, bone and the inner ear: limits for noise in soft tissue do not hold.
    """

    SOFT = "soft"
    MEDIUM = "medium"
    SHARP = "sharp"
    UNKNOWN = "unknown"


class Reconstruction(StrEnum):
    """The class of a reconstruction: noise of different classes cannot be compared."""

    FBP = "FBP"
    ITERATIVE = "iterative"
    DEEP_LEARNING = "deep learning"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Facts of the acquisition as the header states them.

    Attributes
    ----------
    at
        Date and time at the scanner, without a zone; None where the header has no date.
    utc_offset_min
        Timezone Offset From UTC (0008,0201) in minutes; None where the header has none.
    kernel
        Convolution Kernel (0018,1210) as it is written; "" for PET.
    slice_thickness_mm
        Slice Thickness (0018,0050).
    """

    at: dt.datetime | None = None
    utc_offset_min: int | None = None
    kernel: str = ""
    reconstruction: Reconstruction = Reconstruction.UNKNOWN
    slice_thickness_mm: float | None = None

    def moment(self, zone: dt.tzinfo) -> dt.datetime | None:
        """Return the time of the acquisition in UTC; ``zone`` is that of the scanner where the header names none."""
        if self.at is None:
            return None
        offset = self.utc_offset_min
        known = zone if offset is None else dt.timezone(dt.timedelta(minutes=offset))
        return self.at.replace(tzinfo=known).astimezone(dt.UTC)


def acquired_at(
    acquisition: Acquisition | None, study: dt.datetime | None, scored_at: dt.datetime, zone: dt.tzinfo
) -> dt.datetime:
    """Return when a series was acquired, in UTC.

    That of the acquisition, else of the study, else ``scored_at``. Times before 1980 and more than a day after the
    scoring are of wrong clocks and are passed over; within that day the scoring is the latest that can be.

    Parameters
    ----------
    study
        Study Date and Time at the scanner, without a zone.
    zone
        The time zone of scanners whose headers name no offset from UTC.
    """
    facts = acquisition or Acquisition()
    candidates = (facts.moment(zone), Acquisition(at=study, utc_offset_min=facts.utc_offset_min).moment(zone))
    for found in candidates:
        if found is not None and found.date() >= EARLIEST and found <= scored_at + dt.timedelta(days=1):
            return min(found, scored_at)
    return scored_at
