"""Rules for PET series, alone or with their CT."""

from __future__ import annotations

from dicom_qa_node.dicom_io.headers import text, word
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.score.body_region import BodyRegion, region_of
from dicom_qa_node.score.rules.case import MOTION, POOR_SNR, Case, Rule, code_of
from dicom_qa_node.score.tracers import is_fdg

__all__ = ["PET_RULES"]

_BRAIN_UPTAKE_MIN = 25.0
"""EANM guideline for FDG PET of the brain (Guedj et al. 2022): 30 to 60 min."""


def liver_noise(case: Case) -> Finding | None:
    """The COV in the liver lies above the limit, which holds for FDG."""
    cov, limit = case.value("liver_cov"), case.limits.liver_cov_percent
    if cov is None or cov <= limit or not is_fdg(case.header):
        return None
    sentence = f"The PET is noisy: {cov:.0f} % in the liver, where at most {limit:.0f} % are accepted."
    evidence = f"liver COV {cov:.1f} %, limit {limit:.1f} %"
    return Finding("pet_noise_high", Severity.WARNING, sentence, evidence, POOR_SNR)


def global_noise(case: Case) -> Finding | None:
    """Without a liver, the global noise index of FDG lies above its limit."""
    index, limit = case.value("global_noise_index"), case.limits.global_noise_percent
    if case.value("liver_cov") is not None or index is None or index <= limit or not is_fdg(case.header):
        return None
    sentence = "The PET appears noisy. Without a liver in the field of view this is an estimate that lesions can bias."
    evidence = f"global noise index {index:.0f} %, limit {limit:.0f} %"
    return Finding("pet_noise_high", Severity.INFO, sentence, evidence, POOR_SNR)


def oversmoothed(case: Case) -> Finding | None:
    """The noise is correlated over a long distance."""
    width, limit = case.value("noise_correlation_width"), case.limits.pet_width_mm
    if width is None or width <= limit:
        return None
    sentence = "The PET is strongly smoothed: small lesions lose contrast."
    evidence = f"correlation width of the noise {width:.1f} mm, limit {limit:.1f} mm"
    return Finding("pet_oversmoothed", Severity.INFO, sentence, evidence, code_of("pet_oversmoothed"))


def no_suv(case: Case) -> Finding | None:
    """The values are not SUV."""
    if case.volume.unit == "SUVbw":
        return None
    sentence = f"SUV cannot be computed; the values are {case.volume.unit}. Uptake is not comparable with other scans."
    evidence = f"unit {case.volume.unit}"
    return Finding("suv_not_computable", Severity.WARNING, sentence, evidence, code_of("suv_not_computable"))


def without_ct(case: Case) -> Finding | None:
    """There is no CT beside the PET."""
    if case.paired_ct is not None:
        return None
    sentence = "The PET was scored without its CT: liver noise and registration could not be measured."
    return Finding("petct_not_paired", Severity.INFO, sentence, "no paired CT", code_of("petct_not_paired"))


def misregistered(case: Case) -> Finding | None:
    """PET and CT are further apart than the limit, at the dome or across the body."""
    limit = case.limits.misregistration_mm
    signs = [
        f"{what} {shift:.0f} mm ({case.measured[name].detail})"
        for name, what in (("misregistration_dome", "liver dome"), ("misregistration_contour", "body outline"))
        if (shift := case.value(name)) is not None and shift > limit
    ]
    if not signs:
        return None
    only_dome = len(signs) == 1 and signs[0].startswith("liver")
    where = "at the diaphragm: uptake near it may be displaced or wrong" if only_dome else "by more than a voxel or two"
    sentence = f"PET and CT are misregistered {where}. The patient breathed or moved between them."
    evidence = f"{'; '.join(signs)}; limit {limit:.0f} mm"
    return Finding("misregistered", Severity.WARNING, sentence, evidence, MOTION)


def suv_implausible(case: Case) -> Finding | None:
    """Liver or body have an uptake that they can hardly have.

    Activity is conserved: that limit holds for every tracer and region. The others are those of FDG; a head, with the
    uptake of its brain, has its own.
    """
    limits = case.limits
    share, body, liver = (case.value(name) for name in ("activity_in_field", "body_suv_mean", "liver_suv_mean"))
    if share is not None and share > limits.activity_in_field_percent:
        evidence = f"{share:.0f} % of the activity in the field, limit {limits.activity_in_field_percent:g} %"
        return _wrong_by_far(evidence)
    if (body is None and liver is None) or not is_fdg(case.header):
        return None
    high = limits.head_suv_high if _region(case) is BodyRegion.HEAD else limits.body_suv_high
    if body is not None and not limits.body_suv_low <= body <= high:
        return _wrong_by_far(f"mean of the body {body:.2f}, limits {limits.body_suv_low:g} to {high:g}")
    if liver is None or limits.liver_suv_low <= liver <= limits.liver_suv_high:
        return None
    sentence = "The liver's SUV is unusual: check activity, times and weight; injection beside the vein also lowers it."
    evidence = f"mean of the liver {liver:.2f}, limits {limits.liver_suv_low:g} to {limits.liver_suv_high:g}"
    return Finding("suv_implausible", Severity.WARNING, sentence, evidence, code_of("suv_implausible"))


def _wrong_by_far(evidence: str) -> Finding:
    sentence = "Implausible SUVs: check the injected activity, its time and the patient's weight in the scanner."
    return Finding("suv_implausible", Severity.ERROR, sentence, evidence, code_of("suv_implausible"))


def _region(case: Case) -> BodyRegion:
    """Region by the PET, else by its CT."""
    return region_of(case.volume) or (BodyRegion.UNKNOWN if case.paired_ct is None else region_of(case.paired_ct))


def uptake_time_off(case: Case) -> Finding | None:
    """FDG was scanned too early or too late; a brain may be scanned earlier, a dynamic scan begins at the injection."""
    minutes, limits = case.value("uptake_time"), case.limits
    dynamic = word(case.header, "SeriesType").upper() == "DYNAMIC"
    if minutes is None or dynamic or not is_fdg(case.header):
        return None
    low = limits.uptake_low_min
    if minutes < low and _region(case) is BodyRegion.HEAD:
        low = min(low, _BRAIN_UPTAKE_MIN)
    if low <= minutes <= limits.uptake_high_min:
        return None
    order = "early" if minutes < low else "late"
    sentence = (
        f"The scan began {order}, {minutes:.0f} min after the injection: "
        "SUVs are not comparable with a 60-minute uptake."
    )
    evidence = f"{minutes:.0f} min, limits {low:.0f} to {limits.uptake_high_min:.0f} min"
    return Finding("uptake_time_off", Severity.WARNING, sentence, evidence, code_of("uptake_time_off"))


def activity_low(case: Case) -> Finding | None:
    """Little FDG was given for this weight."""
    activity, limit = case.value("activity_per_weight"), case.limits.activity_mbq_kg
    if activity is None or not is_fdg(case.header) or activity >= limit:
        return None
    sentence = f"Low activity for this patient: {activity:.1f} MBq/kg. Expect noise unless the scan took longer."
    evidence = f"{activity:.2f} MBq/kg, limit {limit:.2f} MBq/kg"
    return Finding("activity_low", Severity.INFO, sentence, evidence, code_of("activity_low"))


def not_attenuation_corrected(case: Case) -> Finding | None:
    """Corrected Image (0028,0051) is there and does not name attenuation (PS3.3 C.8.9.1)."""
    corrections = text(case.header, "CorrectedImage").upper()
    if not corrections or "ATTN" in corrections:
        return None
    sentence = "No attenuation correction: SUVs are invalid, and the lungs appear falsely bright."
    key = "not_attenuation_corrected"
    return Finding(key, Severity.WARNING, sentence, f"Corrected Image (0028,0051) {corrections}", code_of(key))


PET_RULES: tuple[Rule, ...] = (
    liver_noise,
    global_noise,
    oversmoothed,
    no_suv,
    without_ct,
    misregistered,
    suv_implausible,
    uptake_time_off,
    activity_low,
    not_attenuation_corrected,
)
