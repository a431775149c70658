"""What the header says about tracer, timing and counts of a PET series."""

from __future__ import annotations

import datetime as dt

from pydicom import Dataset

from dicom_qa_node.records import Measurement
from dicom_qa_node.score.attributes import moment, number
from dicom_qa_node.score.physics.pet_quantities import PET

__all__ = ["pet_protocol_measurements"]

_DAY = dt.timedelta(days=1)
_LONGEST = dt.timedelta(hours=12)


def pet_protocol_measurements(header: Dataset) -> tuple[Measurement, ...]:
    """Read uptake time, activity and counts.

    * ``uptake_time`` (min, target: 60, 55 to 75 accepted; EANM FDG guideline 2.0): start of the scan -
      Radiopharmaceutical Start Time (0018,1072).
    * ``administered_activity`` (MBq, context): Radionuclide Total Dose (0018,1074), PS3.3 C.8.9.2.
    * ``activity_per_weight`` (MBq/kg, target: 2 to 7): that dose / Patient's Weight (0010,1030).
    * ``frame_duration`` (s, context): Actual Frame Duration (0018,1242), PS3.3 C.8.9.4.
    * ``prompt_counts`` (counts, higher is better): Primary (Prompts) Counts Accumulated (0054,1310), PS3.3 C.8.9.4.
    * ``randoms_fraction`` (%, lower is better): Secondary Counts Accumulated (0054,1311) / prompt counts.
    * ``scatter_fraction`` (%, lower is better): Scatter Fraction Factor (0054,1323).
    """
    tracer = _tracer(header)
    return (_uptake_time(header, tracer), *_activity(header, tracer), *_counts(header))


def _tracer(header: Dataset) -> Dataset:
    """First item of the Radiopharmaceutical Information Sequence (0054,0016), empty where there is none."""
    items = header.get("RadiopharmaceuticalInformationSequence") or []
    return items[0] if len(items) else Dataset()


def _uptake_time(header: Dataset, tracer: Dataset) -> Measurement:
    name = "uptake_time"
    starts = [moment(header, *pair) for pair in (("SeriesDate", "SeriesTime"), ("AcquisitionDate", "AcquisitionTime"))]
    known = [start for start in (*starts, moment(header, "AcquisitionDateTime")) if start is not None]
    if not known:
        return PET.absent(name, "the header has no time of the series or the acquisition")
    scan = min(known)
    # de-identified images may keep the time and shift the date: the time alone then still holds
    injected = [
        start for start in (moment(tracer, "RadiopharmaceuticalStartDateTime"), _same_day(tracer, scan)) if start
    ]
    if not injected:
        return PET.absent(name, "the header has no Radiopharmaceutical Start Time (0018,1072)")
    elapsed = [scan - start for start in injected]
    plausible = [span for span in elapsed if dt.timedelta() <= span <= _LONGEST]
    if not plausible:
        minutes = elapsed[0].total_seconds() / 60.0
        order = f"{minutes:.0f} min before" if minutes >= 0 else f"{-minutes:.0f} min after"
        return PET.absent(name, f"the start time of the tracer lies {order} the scan")
    return PET.value(name, plausible[0].total_seconds() / 60.0)


def _same_day(tracer: Dataset, scan: dt.datetime) -> dt.datetime | None:
    """Start time without a date: the day of the scan, or the day before where it would lie after the scan."""
    whole = Dataset()
    whole.StudyDate = scan.strftime("%Y%m%d")
    whole.StudyTime = tracer.get("RadiopharmaceuticalStartTime")
    start = moment(whole, "StudyDate", "StudyTime")
    return start - _DAY if start is not None and start > scan else start


def _activity(header: Dataset, tracer: Dataset) -> tuple[Measurement, ...]:
    dose = number(tracer, "RadionuclideTotalDose")
    if dose is None or dose <= 0:
        reason = "the header has no Radionuclide Total Dose (0018,1074)"
        return PET.absent_all(("administered_activity", "activity_per_weight"), reason)
    # some scanners write MBq where PS3.3 C.8.9.2 asks for Bq
    mbq, said = (dose, "the tag seems to hold MBq") if dose < 1e5 else (dose / 1e6, "")
    activity = PET.value("administered_activity", mbq, said)
    weight = number(header, "PatientWeight")
    if weight is None or weight <= 0:
        return activity, PET.absent("activity_per_weight", "the header has no Patient's Weight (0010,1030)")
    return activity, PET.value("activity_per_weight", mbq / weight, said)


def _counts(header: Dataset) -> tuple[Measurement, ...]:
    duration = number(header, "ActualFrameDuration")
    prompts = number(header, "PrimaryPromptsCountsAccumulated")
    randoms = number(header, "SecondaryCountsAccumulated")
    scatter = number(header, "ScatterFractionFactor")
    no_prompts = "the header has no Primary (Prompts) Counts Accumulated (0054,1310)"
    has_prompts = prompts is not None and prompts > 0
    return (
        PET.value("frame_duration", duration / 1000.0)
        if duration is not None and duration > 0
        else PET.absent("frame_duration", "the header has no Actual Frame Duration (0018,1242)"),
        PET.value("prompt_counts", prompts) if prompts and has_prompts else PET.absent("prompt_counts", no_prompts),
        PET.value("randoms_fraction", 100.0 * randoms / prompts)
        if prompts and has_prompts and randoms is not None
        else PET.absent("randoms_fraction", "the header has no counts (0054,1310) and (0054,1311)"),
        PET.value("scatter_fraction", 100.0 * scatter)
        if scatter is not None and 0 < scatter < 1
        else PET.absent("scatter_fraction", "the header has no Scatter Fraction Factor (0054,1323)"),
    )
