"""The thresholds of the findings, each with its source: `config` offers them, `score.rules.evaluation` uses them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULTS", "FindingRules", "ProtocolThresholds", "Thresholds"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Thresholds(_Strict):
    """Values beyond which a measurement becomes a finding."""

    noise_hu: float = Field(
        20,
        gt=0,
        description="global noise level at 5 mm slices; grows with 1/sqrt(thickness). Routine abdomen: 10 to 12",
    )
    skin_edge_f50: float = Field(
        0.17, gt=0, description="lowest f50 of the skin edge in 1/mm. Soft kernels: 0.30 (Sanders 2016)"
    )
    streak_index: float = Field(
        0.32, gt=0, description="streak index. Complete scans: below 0.28; a sixth of the views: 0.4 to 0.9"
    )
    photon_starvation_index: float = Field(
        6, gt=0, description="photon starvation index. Trunks: 1 to 3.5; starved shoulders: above 7 (generated)"
    )
    metal_percent: float = Field(
        0.05, gt=0, description="metal in or on the body in percent of the tissue (own choice: 1 ml in 2 l)"
    )
    truncation_percent: float = Field(
        10, ge=0, le=100, description="body outline cut by the field, worst slice, in percent (AAPM Report 220)"
    )
    motion_edge_index: float = Field(1.8, ge=1, description="motion edge index. Still patients: 1.0 to 1.5 (real)")
    contour_jump_mm: float = Field(2.5, gt=0, description="step of the outline between slices. Still: below 1 (real)")
    air_hu_error: float = Field(50, gt=0, description="deviation of air from -1000 HU (ACR: 30, without clothing)")
    fat_hu_error: float = Field(35, gt=0, description="deviation of fat from -100 HU (ICRU 44: -120 to -80)")
    ctdi_body_mgy: float = Field(30, gt=0, description="CTDIvol of the trunk, 32 cm phantom (ACR pass/fail, abdomen)")
    ctdi_head_mgy: float = Field(80, gt=0, description="CTDIvol of the head, 16 cm phantom (ACR pass/fail)")
    lossy_ratio: float = Field(5, ge=1, description="lossy compression ratio of CT (Royal College of Radiologists: 5)")
    completeness_percent: float = Field(
        100, ge=0, le=100, description="lowest share of the announced slices in percent (own choice: all)"
    )
    liver_cov_percent: float = Field(15, gt=0, description="COV in the liver (EANM/EARL: 15)")
    global_noise_percent: float = Field(
        35, gt=0, description="global noise index, where there is no liver. Limbs: 20 to 40 (real)"
    )
    pet_width_mm: float = Field(
        9, gt=0, description="correlation width of PET noise in mm (own choice: above the usual 5 to 7)"
    )
    liver_suv_low: float = Field(1.3, ge=0, description="lowest plausible mean SUV of the liver (EANM FDG 2.0)")
    liver_suv_high: float = Field(3.0, gt=0, description="highest plausible mean SUV of the liver (EANM FDG 2.0)")
    body_suv_low: float = Field(0.1, ge=0, description="lowest plausible mean SUV of the body; 1 for a whole body")
    body_suv_high: float = Field(3.0, gt=0, description="highest plausible mean SUV of the body; 1 for a whole body")
    head_suv_high: float = Field(
        10, gt=0, description="highest plausible mean SUV of a head. Normal FDG of the brain: 3 to 6 over the head"
    )
    activity_in_field_percent: float = Field(
        130, gt=0, description="highest share of the administered activity in the field; above 100 it is not conserved"
    )
    misregistration_mm: float = Field(
        10, gt=0, description="shift between PET and CT: two to three voxels, about a breath"
    )
    uptake_low_min: float = Field(50, ge=0, description="shortest time from FDG injection to scan (EANM: 60, from 55)")
    uptake_high_min: float = Field(90, gt=0, description="longest time from FDG injection to scan (EANM: 60, to 75)")
    activity_mbq_kg: float = Field(2.0, ge=0, description="lowest FDG activity per weight (PMC4546067: 2.6 is good)")


DEFAULTS = Thresholds()


class ProtocolThresholds(_Strict):
    """Limits of one protocol."""

    name: str = Field(min_length=1, description="name of the rule")
    protocol: str = Field("*", description="pattern of Protocol Name or Series Description; * and ? stand for anything")
    body_part: str = Field("*", description="pattern of Body Part Examined")
    station: str = Field("*", description="pattern of Station Name")
    limits: Thresholds = Field(
        default_factory=Thresholds, description="limits of this protocol; those left out stay general"
    )

    def over(self, general: Thresholds) -> Thresholds:
        """Return the general limits with those that stand in this rule put in."""
        return general.model_copy(update={name: getattr(self.limits, name) for name in self.limits.model_fields_set})


class FindingRules(_Strict):
    """When a measurement becomes a finding."""

    limits: Thresholds = Field(default_factory=Thresholds, description="limits of every series")
    protocols: list[ProtocolThresholds] = Field(
        default_factory=list, description="limits of single protocols; the first that matches counts"
    )

    def for_series(self, *, protocol: str, description: str = "", body_part: str = "", station: str = "") -> Thresholds:
        """Return the limits of one series; patterns match without regard to case."""
        for rule in self.protocols:
            named = _matches(rule.protocol, protocol) or _matches(rule.protocol, description)
            if named and _matches(rule.body_part, body_part) and _matches(rule.station, station):
                return rule.over(self.limits)
        return self.limits


def _matches(pattern: str, text: str) -> bool:
    return fnmatchcase(text.upper(), pattern.upper())
