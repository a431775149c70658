"""When a PET was injected, when its scan began, and to which time its values are decay corrected.

See PS3.3 C.8.9.1 and C.8.9.4. SUV and uptake time take all three from here. What a header leaves open is not guessed:
the text says what is missing.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.dicom_io.date_times import parse_datetime
from dicom_qa_node.score.tracers import NUCLIDES, administered, named_nuclides

__all__ = ["PetTimes", "acquired_at", "half_life_of", "mean_count_time_s", "pet_times"]

_DAY = dt.timedelta(days=1)
_MINUTE = dt.timedelta(minutes=1)
_GE_SCAN = (0x0009, "GEMS_PETD_01", 0x0D)
_F18_S = 6586.2

_LATE_INJECTION = dt.timedelta(minutes=15)
"""A list-mode scan starts at most this long before the injection."""

_NEEDS_DATE_S = 16_200.0
"""From this half-life on (4.5 h) the day before would be as possible an injection as the day of the scan."""

_SAME = 0.05
"""Half-lives of one nuclide differ by less than this between tables."""


@dataclass(frozen=True, slots=True)
class PetTimes:
    """Times of one PET stack in the scanner's local time; None where unknown.

    ``injected`` is the start of the injection, ``scan_start`` the beginning of the first acquisition that the images
    show, ``reference`` the time to which DecayCorrection START refers. ``missing`` says why ``injected`` is not known.
    """

    injected: dt.datetime | None
    scan_start: dt.datetime | None
    reference: dt.datetime | None
    missing: str = ""

    @property
    def uptake_min(self) -> float | None:
        """Minutes from injection to scan; 0 where a dynamic scan began first."""
        if self.injected is None or self.scan_start is None:
            return None
        return max((self.scan_start - self.injected).total_seconds() / 60.0, 0.0)


def pet_times(
    header: Dataset, acquired: Sequence[dt.datetime | None], frame_times_ms: Sequence[float] = ()
) -> PetTimes:
    """Return the times of a PET stack.

    Parameters
    ----------
    header
        Attributes of the first slice.
    acquired
        Acquisition Date and Time of every slice (`acquired_at`).
    frame_times_ms
        Frame Reference Time (0054,1300) of the slices that have it; by default that of ``header``.
    """
    half_life, _ = half_life_of(header)
    nuclides = named_nuclides(header)
    decay_s = half_life or (nuclides[0].half_life_s if nuclides else _F18_S)
    reference, by_ge = _reference(header, acquired, decay_s)
    if reference is None:
        return PetTimes(None, None, None, "Series Time (0008,0031) and Acquisition Time (0008,0032) are missing")
    start = _scan_start(header, acquired, frame_times_ms, reference, by_ge, decay_s)
    found = _injected(header, reference, start, decay_s)
    missing = found if isinstance(found, str) else ""
    return PetTimes(None if isinstance(found, str) else found, start, reference, missing)


def acquired_at(ds: Dataset) -> dt.datetime | None:
    """Return when a slice was acquired; a time without its date has that of the series, or the next."""
    found = at.moment(ds, "AcquisitionDate", "AcquisitionTime") or at.moment(ds, "AcquisitionDateTime")
    if found is not None or "AcquisitionDate" in ds:
        return found
    found = at.moment(ds, "SeriesDate", "AcquisitionTime")
    series = at.moment(ds, "SeriesDate", "SeriesTime")
    return found + _DAY if found and series and series - found > _DAY / 2 else found


def half_life_of(header: Dataset) -> tuple[float | None, str]:
    """Return Radionuclide Half Life (0018,1075) in seconds, and what is to be said about it.

    Some scanners write minutes or hours: recognised by the nuclide that the header names, and for minutes also by
    those in use. None, with the reason, where it is missing or that of another nuclide.
    """
    tag = "Radionuclide Half Life (0018,1075)"
    value = at.number(administered(header), "RadionuclideHalfLife")
    if value is None or value <= 0:
        return None, f"{tag} is {'missing' if value is None else f'{value:g}'}"
    named = named_nuclides(header)
    for nuclide in named:
        for unit, seconds in (("", 1.0), ("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0)):
            if abs(value * seconds / nuclide.half_life_s - 1.0) < _SAME:
                return value * seconds, f"{tag} is {value:g}, that of {nuclide.symbol} in {unit}" if unit else ""
    if named:
        names = " or ".join(nuclide.symbol for nuclide in named)
        return None, f"{tag} is {value:g} s, which is not that of {names}"
    if any(abs(value / nuclide.half_life_s - 1.0) < _SAME for nuclide in NUCLIDES):
        return value, ""
    for nuclide in NUCLIDES:
        if abs(value * 60.0 / nuclide.half_life_s - 1.0) < _SAME:
            return value * 60.0, f"{tag} is {value:g}, that of {nuclide.symbol} in minutes"
    return (value, "") if value >= 60.0 else (None, f"{tag} is {value:g} s, shorter than that of any PET nuclide")


def mean_count_time_s(duration_s: float, half_life_s: float) -> float:
    """Return when in a frame the count rate has its mean, in s from its start (PS3.3 C.7.6.16.2.2.5 and QIBA).

    ``ln(x / (1 - exp(-x))) / x`` times the duration, with ``x = ln 2 / half-life * duration``: before its middle.

    >>> round(mean_count_time_s(3600.0, 3600.0), 1)
    1696.4
    """
    decay = math.log(2) / half_life_s * duration_s
    return duration_s * math.log(decay / (1 - math.exp(-decay))) / decay if decay > 1e-9 else duration_s / 2


def _reference(
    header: Dataset, acquired: Sequence[dt.datetime | None], half_life: float
) -> tuple[dt.datetime | None, bool]:
    """Return the time to which DecayCorrection START refers, and whether GE's private time gave it.

    Series Date and Time, unless the series was written later than its images were taken (post-processing); then GE's
    private scan time, or the acquisition of a slice taken back by Frame Reference Time (QIBA).
    """
    corrected_to = at.moment(header, "DecayCorrectionDateTime")
    if corrected_to is not None:
        return corrected_to, False
    known = [time for time in acquired if time is not None]
    series = at.moment(header, "SeriesDate", "SeriesTime")
    if not known or (series is not None and series <= min(known)):
        return series, False
    ge_scan = _ge_scan_time(header)
    if ge_scan is not None:
        return ge_scan, True
    elapsed_ms, duration_s = at.number(header, "FrameReferenceTime"), _duration_s(header)
    if elapsed_ms is None or elapsed_ms <= 0 or not duration_s:
        return min(known), False
    back_s = elapsed_ms / 1000 - mean_count_time_s(duration_s, half_life)
    return (acquired[0] or min(known)) - dt.timedelta(seconds=back_s), False


def _scan_start(
    header: Dataset,
    acquired: Sequence[dt.datetime | None],
    frame_times_ms: Sequence[float],
    reference: dt.datetime,
    by_ge: bool,
    half_life: float,
) -> dt.datetime:
    """Return the beginning of the earliest acquisition.

    Acquisition Time of some scanners is that of the whole list-mode scan, or of the processing: Frame Reference Time
    then says how long after the reference the frame began.
    """
    own_ms = at.number(header, "FrameReferenceTime")
    elapsed_ms = min(frame_times_ms, default=own_ms)
    duration_s = _duration_s(header)
    by_frame = reference
    if elapsed_ms and elapsed_ms > 0 and duration_s:
        by_frame += dt.timedelta(seconds=max(elapsed_ms / 1000 - mean_count_time_s(duration_s, half_life), 0.0))
    known = [time for time in acquired if time is not None]
    if by_ge or not known:
        return by_frame
    return by_frame if by_frame > min(known) + 2 * _MINUTE else min(known)


def _injected(header: Dataset, reference: dt.datetime, start: dt.datetime, half_life: float) -> dt.datetime | str:
    """Return the time of injection, or why it is not known."""
    drug = administered(header)
    clock = at.time_of_day(drug, "RadiopharmaceuticalStartTime")
    full = _start_datetime(header, drug, clock)
    late = _latest(header, reference, start) - reference
    longest = dt.timedelta(seconds=10 * half_life)
    if full is not None and -late <= reference - full <= longest:
        return full
    # De-identification often shifts one date and not the other; the time of day stays.
    time = clock or (None if full is None else full.time())
    if time is None:
        return "Radiopharmaceutical Start Time (0018,1072) is missing"
    if half_life > _NEEDS_DATE_S:
        given = "is missing" if full is None else "does not fit the scan"
        return (
            f"the date in Radiopharmaceutical Start DateTime (0018,1078) {given}, and with a half-life of "
            f"{half_life / 3600:.0f} h the injection can have been on several days"
        )
    days = [dt.datetime.combine(reference.date() + n * _DAY, time) for n in (-1, 0, 1)]
    # Past midnight is possible; a clock that is a few minutes off must not become a day of decay.
    before = [day for day in days if dt.timedelta(0) <= reference - day <= dt.timedelta(seconds=6 * half_life)]
    after = [day for day in days if dt.timedelta(0) < day - reference <= late]
    if after or before:
        return (after or before)[-1]
    minutes = (min(days, key=lambda day: abs(day - reference)) - reference).total_seconds() / 60
    return f"Radiopharmaceutical Start Time (0018,1072) lies after the scan ({minutes:.0f} min after its start)"


def _latest(header: Dataset, reference: dt.datetime, start: dt.datetime) -> dt.datetime:
    """Return the latest time of an injection: seconds after the reference, or minutes where images began later.

    The list mode of a dynamic scan starts before the injection, and so does that of a late static image of it.
    """
    dynamic = at.word(header, "SeriesType").upper() == "DYNAMIC" or (at.integer(header, "NumberOfTimeSlices") or 1) > 1
    allowed = _LATE_INJECTION if dynamic else max(_MINUTE, min(start - reference, _LATE_INJECTION))
    return reference + allowed


def _start_datetime(header: Dataset, drug: Dataset, clock: dt.time | None) -> dt.datetime | None:
    """Return Radiopharmaceutical Start DateTime (0018,1078) in local time; a date alone goes with the Start Time.

    Its offset from UTC, and one that is missing from a value in UTC, show against the zone of the header and against
    the Start Time, which is local.
    """
    day, time, offset = parse_datetime(at.word(drug, "RadiopharmaceuticalStartDateTime")) or (None, None, None)
    time = time or clock
    if day is None or time is None:
        return None
    written = dt.datetime.combine(day, time)
    zone = at.zone(header)
    if clock is not None and (zone is None) is not (offset is None):
        ahead = _ahead(clock, written - (offset or dt.timedelta(0)))
        if zone is None or ahead == zone:
            return written - (offset or dt.timedelta(0)) + (ahead if ahead is not None else offset or dt.timedelta(0))
        return written
    return written if zone is None or offset is None else written - offset + zone


def _ahead(clock: dt.time, utc: dt.datetime) -> dt.timedelta | None:
    """Return how far local time is ahead of UTC, None where the difference is not one of a time zone."""
    local = dt.datetime.combine(utc.date(), clock)
    for days in (0, 1, -1):
        ahead = local + days * _DAY - utc
        quarters = ahead / dt.timedelta(minutes=15)
        if abs(quarters - round(quarters)) < 0.01 and -12 * 4 <= quarters <= 14 * 4:
            return round(quarters) * dt.timedelta(minutes=15)
    return None


def _duration_s(header: Dataset) -> float | None:
    duration_ms = at.number(header, "ActualFrameDuration")
    return duration_ms / 1000 if duration_ms is not None and duration_ms > 0 else None


def _ge_scan_time(header: Dataset) -> dt.datetime | None:
    group, creator, element = _GE_SCAN
    try:
        return at.moment(header, header.private_block(group, creator).get_tag(element))
    except KeyError:
        return None
