"""The scale from stored PET values to SUV, by the vendor-neutral rules of QIBA's FDG-PET profile.

SUV = activity concentration x weight / dose, with the dose decayed to the time to which the images are corrected
(PS3.3 C.8.9.1, Decay Correction (0054,1102)). What cannot be computed is said with the tag that is missing; nothing
is guessed.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import Dataset

from dicom_qa_node.records import Finding, Severity
from dicom_qa_node.score import attributes as at

__all__ = ["PetScale", "body_surface_m2", "lean_body_mass_kg", "pet_scale"]

_DAY = dt.timedelta(days=1)
_PHILIPS = "Philips PET Private Group"
_GE_SCAN = (0x0009, "GEMS_PETD_01", 0x0D)
_LEAST_FACTOR, _LARGEST_FACTOR = 1e-12, 1e6


@dataclass(frozen=True, slots=True)
class PetScale:
    """How to bring rescaled PET values to ``unit``.

    ``factors`` has one entry per slice, or one for all. ``ratios`` turn a SUVbw into "SUVlbm" and "SUVbsa".
    """

    unit: str
    factors: tuple[float, ...]
    ratios: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def factor(self, index: int) -> float:
        """Return the factor of one slice."""
        return self.factors[index if len(self.factors) > 1 else 0]


class _Missing(Exception):
    """What SUV needs is absent, zero or contradictory; the text names the tag."""


def pet_scale(header: Dataset, acquired: Sequence[dt.datetime | None]) -> PetScale:
    """Return the scale of a PET series.

    Parameters
    ----------
    header
        Attributes of the first slice.
    acquired
        Acquisition Date and Time of every slice; the earliest is the start of a series (QIBA), and without
        decay correction each slice has its own.
    """
    units = at.word(header, "Units")
    try:
        factors = _factors(header, units, acquired)
        if not all(_LEAST_FACTOR < factor < _LARGEST_FACTOR for factor in factors):
            raise _Missing(f"weight, dose and times give the impossible factor {factors[0]:g}")
        return PetScale("SUVbw", factors, _ratios(header))
    except _Missing as reason:
        unit = "BQML" if units == "BQML" else "relative"
        sentence = f"SUV cannot be computed: {reason}. The series was judged in relative units."
        finding = Finding("suv_not_computable", Severity.WARNING, sentence, evidence=str(reason))
        return PetScale(unit, (1.0,), findings=(finding,))


def lean_body_mass_kg(weight_kg: float, height_m: float, sex: str) -> float:
    """Return lean body mass after James (PS3.16 CID 85: LBMJAMES128), sex "M" or "F"."""
    square = (weight_kg / (100 * height_m)) ** 2
    return 1.10 * weight_kg - 128 * square if sex == "M" else 1.07 * weight_kg - 148 * square


def body_surface_m2(weight_kg: float, height_m: float) -> float:
    """Return body surface area after Du Bois (1916)."""
    return float(0.007184 * weight_kg**0.425 * (100 * height_m) ** 0.725)


def _factors(header: Dataset, units: str, acquired: Sequence[dt.datetime | None]) -> tuple[float, ...]:
    if units == "GML":
        return (_from_other_suv(header),)
    if units == "CM2ML":
        return (1.0 / (_need_ratio(header, "SUVbsa")),)
    if units == "BQML":
        return _from_activity(header, acquired)
    if units == "CNTS":
        return _from_counts(header, acquired)
    if not units:
        raise _Missing("Units (0054,1001) are missing")
    raise _Missing(f"Units (0054,1001) are {units}, not BQML, CNTS, GML or CM2ML")


def _from_other_suv(header: Dataset) -> float:
    """SUV Type (0054,1006) says whose SUV is stored; absent means body weight (PS3.3 C.8.9.1.1.3)."""
    stored = at.word(header, "SUVType") or "BW"
    if stored == "BW":
        return 1.0
    if stored in ("LBM", "LBMJAMES128"):
        return 1.0 / _need_ratio(header, "SUVlbm")
    if stored == "BSA":
        return 1.0 / _need_ratio(header, "SUVbsa")
    raise _Missing(f"SUV Type (0054,1006) is {stored}")


def _need_ratio(header: Dataset, name: str) -> float:
    found = _ratios(header).get(name)
    if found is None:
        raise _Missing("Patient's Weight (0010,1030), Size (0010,1020) or Sex (0010,0040) is missing")
    return found


def _ratios(header: Dataset) -> dict[str, float]:
    """Return lean mass / weight, and surface (cm2) / weight (g): what the other SUVs put in the place of weight."""
    weight, height = at.number(header, "PatientWeight") or 0.0, at.number(header, "PatientSize") or 0.0
    sex = at.word(header, "PatientSex")
    if not (1 <= weight <= 500 and 0.3 <= height <= 2.6):
        return {}
    found = {"SUVbsa": body_surface_m2(weight, height) * 10.0 / weight}
    lean = lean_body_mass_kg(weight, height, sex)
    if sex in ("M", "F") and lean > 0:
        found["SUVlbm"] = lean / weight
    return found


def _from_counts(header: Dataset, acquired: Sequence[dt.datetime | None]) -> tuple[float, ...]:
    """Philips stores counts with a private factor to SUV, or else to Bq/ml."""
    to_suv, to_activity = (_private_number(header, 0x7053, _PHILIPS, element) for element in (0x00, 0x09))
    if to_suv:
        return (to_suv,)
    if to_activity:
        return tuple(to_activity * factor for factor in _from_activity(header, acquired))
    raise _Missing("Units (0054,1001) are CNTS and neither private scale (7053,1000) nor (7053,1009) is there")


def _private_number(header: Dataset, group: int, creator: str, element: int) -> float | None:
    try:
        block = header.private_block(group, creator)
    except KeyError:
        # Some archives drop the private creator; the values then stand at the usual place.
        return at.number(header, (group, 0x1000 + element))
    return at.number(header, block.get_tag(element))


def _from_activity(header: Dataset, acquired: Sequence[dt.datetime | None]) -> tuple[float, ...]:
    weight = at.number(header, "PatientWeight")
    if not weight or weight < 0:
        raise _Missing(f"Patient's Weight (0010,1030) is {_shown(weight)}")
    drug = at.one_item(header, "RadiopharmaceuticalInformationSequence")
    dose = at.number(drug, "RadionuclideTotalDose")
    if not dose or dose < 0:
        raise _Missing(f"Radionuclide Total Dose (0018,1074) is {_shown(dose)}")
    if dose < 1e4:
        raise _Missing(f"Radionuclide Total Dose (0018,1074) is {dose:g}: no dose in Bq, perhaps in MBq")
    return tuple(weight * 1000.0 / (dose * left) for left in _dose_left(header, drug, acquired))


def _dose_left(header: Dataset, drug: Dataset, acquired: Sequence[dt.datetime | None]) -> tuple[float, ...]:
    """Return the share of the dose that is left at the time to which the images are decay corrected."""
    correction = at.word(header, "DecayCorrection")
    if not correction and at.word(header, "DecayCorrected") in ("YES", "NO"):
        correction = "START" if at.word(header, "DecayCorrected") == "YES" else "NONE"
    if correction == "ADMIN":
        return (1.0,)
    if correction not in ("START", "NONE"):
        raise _Missing(f"Decay Correction (0054,1102) is {correction or 'missing'}")
    half_life = at.number(drug, "RadionuclideHalfLife")
    if not half_life or half_life < 0:
        raise _Missing(f"Radionuclide Half Life (0018,1075) is {_shown(half_life)}")
    if correction == "START":
        times = [_reference_time(header, acquired, half_life)]
    else:
        times = _own_times(header, acquired, half_life)
    injected = [_injected(header, drug, time, half_life) for time in times]
    return tuple(2.0 ** (-(a - b).total_seconds() / half_life) for a, b in zip(times, injected, strict=True))


def _reference_time(header: Dataset, acquired: Sequence[dt.datetime | None], half_life: float) -> dt.datetime:
    """Return the time to which DecayCorrection START refers: that of the first acquisition of the series.

    Series Date and Time, unless the series was written later than its images were taken (post-processing); then GE's
    private scan time, or the acquisition of a slice taken back by Frame Reference Time (QIBA).
    """
    corrected_to = at.moment(header, "DecayCorrectionDateTime")
    if corrected_to is not None:
        return corrected_to
    known = [time for time in acquired if time is not None]
    series = at.moment(header, "SeriesDate", "SeriesTime")
    if not known and series is None:
        raise _Missing("Series Time (0008,0031) and Acquisition Time (0008,0032) are missing")
    if series is not None and (not known or series <= min(known)):
        return series
    ge_scan = _ge_scan_time(header)
    if ge_scan is not None:
        return ge_scan
    first = acquired[0] or min(known)
    elapsed_ms = at.number(header, "FrameReferenceTime")
    duration_ms = at.number(header, "ActualFrameDuration")
    if elapsed_ms is None or elapsed_ms <= 0 or not duration_ms:
        return min(known)
    back_s = elapsed_ms / 1000 - _mean_count_time_s(duration_ms / 1000, half_life)
    return first - dt.timedelta(seconds=back_s)


def _mean_count_time_s(duration_s: float, half_life: float) -> float:
    """Return when in a frame the count rate has its mean (PS3.3 C.7.6.16.2.2.5 and QIBA)."""
    decay = math.log(2) / half_life * duration_s
    return duration_s * math.log(decay / (1 - math.exp(-decay))) / decay


def _own_times(header: Dataset, acquired: Sequence[dt.datetime | None], half_life: float) -> list[dt.datetime]:
    """Return when each uncorrected frame had its mean count rate: that is the activity it shows."""
    if any(time is None for time in acquired):
        raise _Missing("Acquisition Time (0008,0032) is missing and the images are not decay corrected")
    duration_ms = at.number(header, "ActualFrameDuration") or 0.0
    mean = dt.timedelta(seconds=_mean_count_time_s(duration_ms / 1000, half_life) if duration_ms > 0 else 0.0)
    return [time + mean for time in acquired if time is not None]


def _ge_scan_time(header: Dataset) -> dt.datetime | None:
    group, creator, element = _GE_SCAN
    try:
        return at.moment(header, header.private_block(group, creator).get_tag(element))
    except KeyError:
        return None


def _injected(header: Dataset, drug: Dataset, scan: dt.datetime, half_life: float) -> dt.datetime:
    """Return the time of injection: the full date and time if it makes sense, else the time of the scan's day."""
    full = at.moment(drug, "RadiopharmaceuticalStartDateTime")
    if full is not None and dt.timedelta(0) <= scan - full <= dt.timedelta(seconds=10 * half_life):
        return full
    # De-identification often shifts one date and not the other; the time of day stays.
    time = at.time_of_day(drug, "RadiopharmaceuticalStartTime") or (None if full is None else full.time())
    if time is None:
        raise _Missing("Radiopharmaceutical Start Time (0018,1072) is missing")
    same_day = dt.datetime.combine(scan.date(), time)
    injected = same_day if same_day <= scan else same_day - _DAY
    # Past midnight is possible; a clock that is a few minutes off must not become a day of decay.
    if scan - injected > dt.timedelta(seconds=6 * half_life):
        raise _Missing("Radiopharmaceutical Start Time (0018,1072) lies after the scan")
    return injected


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"
