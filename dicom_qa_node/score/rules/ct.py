"""Rules for CT series."""

from __future__ import annotations

import math

from dicom_qa_node.dicom_io.headers import number
from dicom_qa_node.domain.results import Finding, Severity
from dicom_qa_node.score.body_region import ADULT_YEARS, BodyRegion, ctdi_phantom_cm, patient_years, region_of
from dicom_qa_node.score.rules.case import (
    ARTIFACT,
    BEAM_HARDENING,
    MOTION,
    NO_IMAGE,
    POOR_FOV,
    POOR_SNR,
    Case,
    Rule,
    code_of,
)

__all__ = ["CT_RULES"]

_LIMIT_THICKNESS_MM = 5.0
_TARGETED = 0.8


def no_body(case: Case) -> Finding | None:
    """No slice shows a body."""
    cut = case.measured.get("fov_truncation")
    if cut is None or cut.not_applicable != "no body in the field":
        return None
    sentence = "The images show no body: air only, or values that are not HU."
    return Finding("no_body", Severity.ERROR, sentence, cut.not_applicable, NO_IMAGE)


def noise_high(case: Case) -> Finding | None:
    """The global noise level lies above its reference level, or where none holds above the limit for this thickness."""
    noise, sharpness = case.value("global_noise_level"), case.value("kernel_sharpness") or 0.0
    if noise is not None and case.level("global_noise_level") is not None:
        return _above_level(case, "global_noise_level", noise, "HU")
    if noise is None or sharpness == 1.0:
        return None
    thickness = max(_thickness(case), 0.3)
    # photons per slice grow with its thickness
    limit = case.limits.noise_hu * math.sqrt(_LIMIT_THICKNESS_MM / thickness) * (1.0 + sharpness)
    if noise <= limit:
        return None
    sentence = f"The images are noisy: {noise:.0f} HU, where at most {limit:.0f} HU are expected. Check dose and size."
    evidence = f"global noise level {noise:.1f} HU, limit {limit:.1f} HU at {thickness:g} mm slices"
    return Finding("noise_high", Severity.WARNING, sentence, evidence, POOR_SNR)


_ABOVE = {
    "global_noise_level": ("noise_high", "The images are noisy", "Check dose, centring and reconstruction."),
    "ctdi_vol": ("dose_high", "The dose is high", "Check the protocol, the exposure control and centring."),
    "ssde": ("dose_high", "The dose is high for the size", "Check the protocol, the exposure control and centring."),
}
_NAMES = {"global_noise_level": "global noise level", "ctdi_vol": "CTDIvol", "ssde": "SSDE"}


def _above_level(case: Case, name: str, value: float, unit: str) -> Finding | None:
    """Return the finding of a value beyond the tolerance of its reference level and beyond the stated limit."""
    level, size = case.level(name), case.value("water_equivalent_diameter")
    if level is None or size is None or not level.outside(value, size):
        return None
    key, what, helps = _ABOVE[name]
    usual = level.at(size) or 0.0
    sentence = (
        f"{what}: {value:.3g} {unit}, where {usual:.3g} {unit} are usual for this protocol and patient size. {helps}"
    )
    evidence = (
        f"{_NAMES[name]} {value:.3g} {unit}, {level.words(size, unit)}, tolerance {level.tolerance_percent:g} %, "
        f"stated limit {level.limit:.3g} {unit}"
    )
    return Finding(key, Severity.WARNING, sentence, evidence, POOR_SNR if key == "noise_high" else code_of(key))


def _thickness(case: Case) -> float:
    stated = case.value("slice_thickness") or number(case.header, "SliceThickness")
    return stated or case.volume.spacing_mm[0]


def sharp_kernel(case: Case) -> Finding | None:
    """The kernel is sharp, so that the noise limit does not hold."""
    kernel = case.measured.get("kernel_sharpness")
    # A reference level is of series with this kernel: then the noise is rated.
    if kernel is None or kernel.value != 1.0 or case.level("global_noise_level") is not None:
        return None
    sentence = f"The sharp kernel {kernel.detail} raises the noise; the noise level is not rated."
    return Finding(
        "sharp_kernel", Severity.INFO, sentence, f"Convolution Kernel {kernel.detail}", code_of("sharp_kernel")
    )


def resolution_low(case: Case) -> Finding | None:
    """The skin edge is less sharp than the limit."""
    f50 = case.value("skin_edge_f50")
    if f50 is None or f50 >= case.limits.skin_edge_f50:
        return None
    sentence = "The images are blurred: very smooth kernel, strong noise reduction, large pixels or motion."
    evidence = f"f50 of the skin edge {f50:.2f} / mm, limit {case.limits.skin_edge_f50:.2f} / mm"
    return Finding("resolution_low", Severity.INFO, sentence, evidence, code_of("resolution_low"))


def streaks(case: Case) -> Finding | None:
    """Power gathers in single directions."""
    index = case.value("streak_index")
    if index is None or index <= case.limits.streak_index:
        return None
    sentence = "Streaks cross the soft tissue: too few views, metal, or a dense object beside the patient."
    evidence = f"streak index {index:.2f}, limit {case.limits.streak_index:.2f}"
    return Finding("streaks", Severity.WARNING, sentence, evidence, ARTIFACT)


def photon_starvation(case: Case) -> Finding | None:
    """Noise runs from side to side."""
    index = case.value("photon_starvation_index")
    if index is None or index <= case.limits.photon_starvation_index:
        return None
    sentence = "Horizontal streak noise suggests photon starvation: wide body, arms beside it, or low dose."
    evidence = f"photon starvation index {index:.1f}, limit {case.limits.photon_starvation_index:.1f}"
    return Finding("photon_starvation", Severity.WARNING, sentence, evidence, ARTIFACT)


def metal(case: Case) -> Finding | None:
    """There is metal in or on the body."""
    share = case.value("metal_fraction")
    if share is None or share <= case.limits.metal_percent:
        return None
    sentence = "Metal artefact: dark bands and streaks near the metal do not represent anatomy."
    evidence = f"{share:.2f} % of the tissue above 2500 HU, limit {case.limits.metal_percent:g} %"
    return Finding("metal", Severity.INFO, sentence, evidence, BEAM_HARDENING)


def truncated(case: Case) -> Finding | None:
    """The field cuts the body; a deliberately small field explains it."""
    share = case.value("fov_truncation")
    if share is None or share <= case.limits.truncation_percent:
        return None
    evidence = f"{share:.0f} % of the outline in the worst slice, limit {case.limits.truncation_percent:.0f} %"
    shown = min(n * mm for n, mm in zip(case.volume.voxels.shape[1:], case.volume.spacing_mm[1:], strict=True))
    scanned = number(case.header, "DataCollectionDiameter")
    if scanned and shown < _TARGETED * scanned:
        sentence = f"The images show a part of the body: {shown:.0f} mm of the {scanned:.0f} mm that were scanned."
        return Finding("truncated", Severity.INFO, sentence, evidence, POOR_FOV)
    sentence = "The body is larger than the field of view: the rest is missing, CT numbers at the edge are too high."
    return Finding("truncated", Severity.WARNING, sentence, evidence, POOR_FOV)


def motion(case: Case) -> Finding | None:
    """The skin is blurred on one side, or its outline jumps between slices."""
    jump = case.value("contour_jump")
    # the edge enhancement of a sharp kernel is not the same all round, and its noise widens single edges
    edge = None if case.value("kernel_sharpness") == 1.0 else case.value("motion_edge_index")
    limits = case.limits
    signs = []
    if edge is not None and edge > limits.motion_edge_index:
        signs.append(f"motion edge index {edge:.1f}, limit {limits.motion_edge_index:.1f}")
    if jump is not None and jump > limits.contour_jump_mm:
        signs.append(f"step of the outline {jump:.1f} mm, limit {limits.contour_jump_mm:.1f} mm")
    if not signs:
        return None
    sentence = "Motion or breathing during the scan is likely."
    return Finding("motion", Severity.WARNING, sentence, "; ".join(signs), MOTION)


def hu_scale_off(case: Case) -> Finding | None:
    """Air or fat have CT numbers that they cannot have."""
    signs = []
    for name, what, expected, most in (
        ("hu_air", "air", -1000.0, case.limits.air_hu_error),
        ("hu_fat", "fat", -100.0, case.limits.fat_hu_error),
    ):
        value = case.value(name)
        if value is not None and abs(value - expected) > most:
            signs.append(f"{what} {value:.0f} HU instead of {expected:.0f} HU")
    if not signs:
        return None
    sentence = "CT numbers are inaccurate: the scanner may need calibration, or the values were changed afterwards."
    return Finding("hu_scale_off", Severity.WARNING, sentence, "; ".join(signs), code_of("hu_scale_off"))


def dose_high(case: Case) -> Finding | None:
    """CTDIvol or SSDE lies above its reference level, or where none holds CTDIvol above the limit for head or trunk."""
    with_level = [
        (name, value)
        for name in ("ctdi_vol", "ssde")
        if case.level(name) is not None and (value := case.value(name)) is not None
    ]
    if with_level:
        found = (_above_level(case, name, value, "mGy") for name, value in with_level)
        return next((finding for finding in found if finding is not None), None)
    ctdi = case.value("ctdi_vol")
    head = _dosed_as_head(case)
    limit = case.limits.ctdi_head_mgy if head else case.limits.ctdi_body_mgy
    if ctdi is None or ctdi <= limit:
        return None
    sentence = f"The dose is high: CTDIvol {ctdi:.0f} mGy, where at most {limit:.0f} mGy are expected."
    evidence = f"CTDIvol {ctdi:.1f} mGy, limit {limit:.1f} mGy for the {'head' if head else 'trunk'}"
    return Finding("dose_high", Severity.WARNING, sentence, evidence, code_of("dose_high"))


def _dosed_as_head(case: Case) -> bool:
    """A head, or the neck of an adult, whose CTDIvol refers to the 16 cm phantom."""
    region, years = region_of(case.volume), patient_years(case.header)
    if region is BodyRegion.NECK and ctdi_phantom_cm(case.header) == 16:
        return years is None or years >= ADULT_YEARS
    return region is BodyRegion.HEAD


CT_RULES: tuple[Rule, ...] = (
    no_body,
    noise_high,
    sharp_kernel,
    resolution_low,
    streaks,
    photon_starvation,
    metal,
    truncated,
    motion,
    hu_scale_off,
    dose_high,
)
