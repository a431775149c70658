"""The scale from stored PET values to SUV, by the vendor-neutral rules of QIBA's FDG-PET profile.

SUV = activity concentration x weight / dose, with the dose decayed to the time to which the images are corrected
(PS3.3 C.8.9.1, Decay Correction (0054,1102)). What cannot be computed is said with the tag that is missing; nothing
is guessed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom import Dataset

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.score.pet_times import PetTimes, half_life_of, mean_count_time_s, pet_times
from dicom_qa_node.score.pet_units import PetUnit, pet_unit
from dicom_qa_node.score.tracers import administered

__all__ = [
    "PetScale",
    "body_surface_m2",
    "lean_body_mass_janmahasatian_kg",
    "lean_body_mass_kg",
    "pet_scale",
    "suv_factor",
]

_PHILIPS = "Philips PET Private Group"
_LEAST_FACTOR, _LARGEST_FACTOR = 1e-12, 1e6
_WEIGHT_KG = (0.3, 650.0)
_DOSE_BQ = (1e6, 1e11)


@dataclass(frozen=True, slots=True)
class PetScale:
    """How to bring rescaled PET values to ``unit``.

    ``factors`` has one entry per slice, or one for all. ``ratios`` turn a SUVbw into "SUVlbm" and "SUVbsa". ``times``
    are those that the factors were computed with; None where they need none and none are known.
    """

    unit: str
    factors: tuple[float, ...]
    ratios: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    times: PetTimes | None = None

    def factor(self, index: int) -> float:
        """Return the factor of one slice."""
        return self.factors[index if len(self.factors) > 1 else 0]


class _Missing(Exception):
    """What SUV needs is absent, zero or contradictory; the text names the tag."""


def pet_scale(
    header: Dataset, acquired: Sequence[dt.datetime | None], frame_times_ms: Sequence[float] = ()
) -> PetScale:
    """Return the scale of a PET series.

    Parameters
    ----------
    header
        Attributes of the first slice.
    acquired
        Acquisition Date and Time of every slice; the earliest is the start of a series (QIBA), and without
        decay correction each slice has its own.
    frame_times_ms
        Frame Reference Time (0054,1300) of every slice that has it.
    """
    times = pet_times(header, acquired, frame_times_ms)
    unit = pet_unit(at.word(header, "Units"))
    try:
        factors = _factors(header, unit, acquired, times)
        if not all(_LEAST_FACTOR < factor < _LARGEST_FACTOR for factor in factors):
            raise _Missing(f"weight, dose and times give the impossible factor {factors[0]:g}")
        return PetScale("SUVbw", factors, _ratios(header), tuple(_converted(header, unit)), times)
    except _Missing as reason:
        activity = unit is not None and unit.units == "BQML"
        sentence = f"SUV cannot be computed: {reason}. The series was scored in relative units."
        finding = Finding("suv_not_computable", Severity.WARNING, sentence, evidence=str(reason))
        factor = unit.factor if unit is not None and activity else 1.0
        return PetScale("BQML" if activity else "relative", (factor,), findings=(finding,), times=times)


def suv_factor(weight_kg: float, dose_bq: float, half_life_s: float, elapsed_s: float) -> float:
    """Return what an activity concentration in Bq/ml is multiplied with to give SUV by body weight in g/ml.

    ``SUVbw = c * weight / (dose * 2 ** (-elapsed / half-life))`` (QIBA FDG-PET/CT profile).

    Parameters
    ----------
    weight_kg
        Weight of the patient in kg.
    dose_bq
        Activity at injection in Bq.
    half_life_s
        Half-life of the radionuclide in s.
    elapsed_s
        From injection to the time to which ``c`` is decay corrected, in s; 0 where that is the injection.

    Examples
    --------
    370 MBq of fluorine-18 in 70 kg; 5 kBq/ml an hour after the injection:

    >>> round(5000 * suv_factor(70, 370e6, 6586.2, 3600), 3)
    1.382
    """
    return float(weight_kg * 1000.0 / (dose_bq * 2.0 ** (-elapsed_s / half_life_s)))


def lean_body_mass_kg(weight_kg: float, height_m: float, sex: str) -> float:
    """Return lean body mass after James (PS3.16 CID 85: LBMJAMES128), sex "M" or "F"."""
    square = (weight_kg / (100 * height_m)) ** 2
    return 1.10 * weight_kg - 128 * square if sex == "M" else 1.07 * weight_kg - 148 * square


def lean_body_mass_janmahasatian_kg(weight_kg: float, height_m: float, sex: str) -> float:
    """Return lean body mass after Janmahasatian et al. 2005 (PS3.16 CID 85: LBMJANMA), sex "M" or "F".

    >>> round(lean_body_mass_janmahasatian_kg(80, 1.80, "M"), 1)
    61.7
    """
    mass_index = weight_kg / height_m**2
    a, b = (6680.0, 216.0) if sex == "M" else (8780.0, 244.0)
    return 9270.0 * weight_kg / (a + b * mass_index)


def body_surface_m2(weight_kg: float, height_m: float) -> float:
    """Return body surface area after Du Bois (1916)."""
    return float(0.007184 * weight_kg**0.425 * (100 * height_m) ** 0.725)


def _factors(
    header: Dataset, unit: PetUnit | None, acquired: Sequence[dt.datetime | None], times: PetTimes
) -> tuple[float, ...]:
    if unit is None:
        units = at.word(header, "Units")
        if not units:
            raise _Missing("Units (0054,1001) are missing")
        raise _Missing(f"Units (0054,1001) are {units}, not BQML, CNTS, GML or CM2ML")
    if unit.units == "GML":
        return (_from_other_suv(unit.suv_type or at.word(header, "SUVType") or "BW", header),)
    if unit.units == "CM2ML":
        return (1.0 / (_need_ratio(header, "SUVbsa")),)
    if unit.units == "BQML":
        return tuple(unit.factor * factor for factor in _from_activity(header, acquired, times))
    return _from_counts(header, acquired, times)


def _from_other_suv(stored: str, header: Dataset) -> float:
    """SUV Type (0054,1006) says whose SUV is stored; absent means body weight (PS3.3 C.8.9.1.1.3)."""
    if stored == "BW":
        return 1.0
    if stored in ("LBM", "LBMJAMES128"):
        return 1.0 / _need_ratio(header, "SUVlbm")
    if stored == "LBMJANMA":
        return 1.0 / _need_ratio(header, "SUVlbm(Janma)")
    if stored == "BSA":
        return 1.0 / _need_ratio(header, "SUVbsa")
    raise _Missing(f"SUV Type (0054,1006) is {stored}")


def _need_ratio(header: Dataset, name: str) -> float:
    found = (_ratios(header) | _janma(header)).get(name)
    if found is None:
        raise _Missing("Patient's Weight (0010,1030), Size (0010,1020) or Sex (0010,0040) is missing")
    return found


def _ratios(header: Dataset) -> dict[str, float]:
    """Return lean mass / weight, and surface (cm2) / weight (g): what the other SUVs put in the place of weight."""
    weight, height, sex = _build(header)
    if weight is None:
        return {}
    found = {"SUVbsa": body_surface_m2(weight, height) * 10.0 / weight}
    lean = lean_body_mass_kg(weight, height, sex)
    if sex in ("M", "F") and lean > 0:
        found["SUVlbm"] = lean / weight
    return found


def _janma(header: Dataset) -> dict[str, float]:
    weight, height, sex = _build(header)
    if weight is None or sex not in ("M", "F"):
        return {}
    return {"SUVlbm(Janma)": lean_body_mass_janmahasatian_kg(weight, height, sex) / weight}


def _build(header: Dataset) -> tuple[float | None, float, str]:
    """Weight in kg (None where weight or height cannot be), height in m and sex of the patient."""
    weight, height = at.number(header, "PatientWeight") or 0.0, at.number(header, "PatientSize") or 0.0
    possible = 1 <= weight <= 500 and 0.3 <= height <= 2.6
    return (weight if possible else None), height, at.word(header, "PatientSex").upper()


def _from_counts(header: Dataset, acquired: Sequence[dt.datetime | None], times: PetTimes) -> tuple[float, ...]:
    """Philips stores counts with a private factor to SUV, or else to Bq/ml."""
    to_suv, to_activity = (_private_number(header, 0x7053, _PHILIPS, element) for element in (0x00, 0x09))
    if to_suv:
        return (to_suv,)
    if to_activity:
        return tuple(to_activity * factor for factor in _from_activity(header, acquired, times))
    raise _Missing("Units (0054,1001) are CNTS and neither private scale (7053,1000) nor (7053,1009) is there")


def _private_number(header: Dataset, group: int, creator: str, element: int) -> float | None:
    try:
        block = header.private_block(group, creator)
    except KeyError:
        # Some archives drop the private creator; the values then stand at the usual place.
        return at.number(header, (group, 0x1000 + element))
    return at.number(header, block.get_tag(element))


def _from_activity(header: Dataset, acquired: Sequence[dt.datetime | None], times: PetTimes) -> tuple[float, ...]:
    weight = at.number(header, "PatientWeight")
    if weight is None or not _WEIGHT_KG[0] <= weight <= _WEIGHT_KG[1]:
        raise _Missing(f"Patient's Weight (0010,1030) is {_shown(weight)}")
    drug = administered(header)
    dose = _dose_bq(header, drug)
    correction = _correction(header)
    if correction == "ADMIN":
        return (suv_factor(weight, dose, 1.0, 0.0),)
    half_life, problem = half_life_of(header)
    if half_life is None:
        raise _Missing(problem)
    moments = [times.reference] if correction == "START" else [*_own_times(header, acquired, half_life)]
    if times.injected is None:
        raise _Missing(times.missing)
    injected = times.injected
    elapsed = [(moment - injected).total_seconds() for moment in moments if moment is not None]
    return tuple(suv_factor(weight, dose, half_life, seconds) for seconds in elapsed)


def _dose_bq(header: Dataset, drug: Dataset) -> float:
    tag = "Radionuclide Total Dose (0018,1074)"
    dose = at.number(drug, "RadionuclideTotalDose")
    if not dose or dose < 0:
        raise _Missing(f"{tag} is {_shown(dose)}")
    if not _DOSE_BQ[0] <= dose <= _DOSE_BQ[1]:
        raise _Missing(f"{tag} is {dose:g}: no dose in Bq{', perhaps in MBq' if dose < _DOSE_BQ[0] else ''}")
    items = at.items(header, "RadiopharmaceuticalInformationSequence")
    others = {at.number(item, "RadionuclideTotalDose") or dose for item in items} - {dose}
    if others and "RadiopharmaceuticalAgentNumber" not in header:
        raise _Missing(f"Radiopharmaceutical Information Sequence (0054,0016) describes {1 + len(others)} doses")
    return dose


def _correction(header: Dataset) -> str:
    correction = at.word(header, "DecayCorrection").upper()
    if not correction and at.word(header, "DecayCorrected") in ("YES", "NO"):
        correction = "START" if at.word(header, "DecayCorrected") == "YES" else "NONE"
    if correction not in ("ADMIN", "START", "NONE"):
        raise _Missing(f"Decay Correction (0054,1102) is {correction or 'missing'}")
    return correction


def _own_times(header: Dataset, acquired: Sequence[dt.datetime | None], half_life: float) -> list[dt.datetime]:
    """Return when each uncorrected frame had its mean count rate: that is the activity it shows."""
    if any(time is None for time in acquired):
        raise _Missing("Acquisition Time (0008,0032) is missing and the images are not decay corrected")
    duration_ms = at.number(header, "ActualFrameDuration") or 0.0
    mean = dt.timedelta(seconds=mean_count_time_s(duration_ms / 1000, half_life) if duration_ms > 0 else 0.0)
    return [time + mean for time in acquired if time is not None]


def _converted(header: Dataset, unit: PetUnit | None) -> list[Finding]:
    """Say which values of the header were not in the unit of the standard."""
    text = half_life_of(header)[1] if unit is not None and unit.units == "BQML" else ""
    sentence = f"{text}; it was converted."
    return [Finding("header_unit_converted", Severity.INFO, sentence, evidence=text)] if text else []


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"
