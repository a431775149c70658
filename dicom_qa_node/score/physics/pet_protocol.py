"""What the header says about tracer, timing and counts of a PET series."""

from __future__ import annotations

from pydicom import Dataset

from dicom_qa_node.dicom_io.headers import number
from dicom_qa_node.domain.results import Measurement
from dicom_qa_node.score.pet_times import acquired_at, pet_times
from dicom_qa_node.score.physics.pet_quantities import PET_QUANTITIES
from dicom_qa_node.score.tracers import administered, is_fdg
from dicom_qa_node.score.volume import Volume

__all__ = ["pet_protocol_measurements"]

_MBQ = (40.0, 1000.0)
_LEAST_BQ = 1e6
_FRAME_S = (0.5, 24 * 3600.0)
_FEWEST_COUNTS = 1e4
_FEWEST_PER_S = 100.0


def pet_protocol_measurements(volume: Volume) -> tuple[Measurement, ...]:
    """Read uptake time, activity and counts; a value that cannot be is withheld, with what it is.

    * ``uptake_time`` (min, target: 60, 55 to 75 accepted; EANM FDG guideline 2.0): start of the earliest acquisition -
      start of the injection (`pet_times.pet_times`: the times that the SUV is computed with).
    * ``administered_activity`` (MBq, context): Radionuclide Total Dose (0018,1074), PS3.3 C.8.9.2.
    * ``activity_per_weight`` (MBq/kg, target: 2 to 7): that dose / Patient's Weight (0010,1030).
    * ``frame_duration`` (s, context): Actual Frame Duration (0018,1242), PS3.3 C.8.9.4.
    * ``prompt_counts`` (counts, higher is better): Primary (Prompts) Counts Accumulated (0054,1310), PS3.3 C.8.9.4.
    * ``randoms_fraction`` (%, lower is better): Secondary Counts Accumulated (0054,1311) / prompt counts.
    * ``scatter_fraction`` (%, lower is better): Scatter Fraction Factor (0054,1323).
    """
    header = volume.header
    return (_uptake_time(volume), *_activity(header, administered(header)), *_counts(header))


def _uptake_time(volume: Volume) -> Measurement:
    name = "uptake_time"
    times = volume.pet_times or pet_times(volume.header, [acquired_at(volume.header)])
    if times.scan_start is None:
        return PET_QUANTITIES.absent(name, "the header has no time of the series or the acquisition")
    minutes = times.uptake_min
    return (
        PET_QUANTITIES.absent(name, times.missing)
        if minutes is None
        else PET_QUANTITIES.value(name, minutes, usual=is_fdg(volume.header))
    )


def _activity(header: Dataset, tracer: Dataset) -> tuple[Measurement, ...]:
    dose = number(tracer, "RadionuclideTotalDose")
    names, tag = ("administered_activity", "activity_per_weight"), "Radionuclide Total Dose (0018,1074)"
    if dose is None or dose <= 0:
        return PET_QUANTITIES.absent_all(names, f"the header has no {tag}")
    # some scanners write MBq where PS3.3 C.8.9.2 asks for Bq; below that it may be mCi as well
    in_mbq = _MBQ[0] <= dose <= _MBQ[1]
    if dose < _LEAST_BQ and not in_mbq:
        return PET_QUANTITIES.absent_all(names, f"{tag} is {dose:g}, which is not in Bq")
    mbq, detail = (dose, "the tag seems to hold MBq") if in_mbq else (dose / 1e6, "")
    activity = PET_QUANTITIES.value("administered_activity", mbq, detail)
    weight = number(header, "PatientWeight")
    if weight is None or weight <= 0:
        return activity, PET_QUANTITIES.absent("activity_per_weight", "the header has no Patient's Weight (0010,1030)")
    if not 0.3 <= weight <= 650:
        return activity, PET_QUANTITIES.absent("activity_per_weight", f"Patient's Weight (0010,1030) is {weight:g}")
    return activity, PET_QUANTITIES.value("activity_per_weight", mbq / weight, detail, usual=is_fdg(header))


def _counts(header: Dataset) -> tuple[Measurement, ...]:
    duration = number(header, "ActualFrameDuration")
    scatter = number(header, "ScatterFractionFactor")
    return (
        _frame_duration(duration),
        *_coincidences(header, duration),
        PET_QUANTITIES.value("scatter_fraction", 100.0 * scatter)
        if scatter is not None and 0 < scatter < 1
        else PET_QUANTITIES.absent(
            "scatter_fraction", "the header has no Scatter Fraction Factor (0054,1323) between 0 and 1"
        ),
    )


def _frame_duration(duration_ms: float | None) -> Measurement:
    name, tag = "frame_duration", "Actual Frame Duration (0018,1242)"
    if duration_ms is None or duration_ms <= 0:
        return PET_QUANTITIES.absent(name, f"the header has no {tag}")
    seconds = duration_ms / 1000.0
    if not _FRAME_S[0] <= seconds <= _FRAME_S[1]:
        return PET_QUANTITIES.absent(name, f"{tag} is {duration_ms:g} ms, which is not that of a frame")
    return PET_QUANTITIES.value(name, seconds)


def _coincidences(header: Dataset, duration_ms: float | None) -> tuple[Measurement, ...]:
    """Prompt counts and randoms; too few for an image, or more randoms than prompts, are not shown as measured."""
    prompts = number(header, "PrimaryPromptsCountsAccumulated")
    randoms = number(header, "SecondaryCountsAccumulated")
    tag = "Primary (Prompts) Counts Accumulated (0054,1310)"
    names = ("prompt_counts", "randoms_fraction")
    if prompts is None or prompts <= 0:
        no_pair = "the header has no counts (0054,1310) and (0054,1311)"
        return PET_QUANTITIES.absent(names[0], f"the header has no {tag}"), PET_QUANTITIES.absent(names[1], no_pair)
    seconds = (duration_ms or 0.0) / 1000.0
    if prompts < max(_FEWEST_COUNTS, _FEWEST_PER_S * seconds):
        during = f" in {seconds:g} s" if seconds > 0 else ""
        return PET_QUANTITIES.absent_all(names, f"{tag} is {prompts:g}{during}, too few for an image")
    counted = PET_QUANTITIES.value(names[0], prompts)
    if randoms is None or randoms < 0:
        return counted, PET_QUANTITIES.absent(names[1], "the header has no Secondary Counts Accumulated (0054,1311)")
    if randoms >= prompts:
        return counted, PET_QUANTITIES.absent(
            names[1], f"{randoms:g} randoms (0054,1311) of {prompts:g} prompts cannot be"
        )
    return counted, PET_QUANTITIES.value(names[1], 100.0 * randoms / prompts)
