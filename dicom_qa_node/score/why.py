"""One sentence for a verdict: what pulled the score down, how it compares, and what usually helps.

The comparison with the scanner's own earlier scores is added where the log is at hand, by `records.with_usual`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dicom_qa_node.domain.reference_levels import ReferenceLevel
from dicom_qa_node.domain.results import QualityDimension, RatedPart, RatedPartKind

__all__ = ["reason_for", "with_reference_level"]

_GOOD = 3.0
_NAMES = {RatedPartKind.CT: "CT", RatedPartKind.PET: "PET", RatedPartKind.DISPLAY: "display"}
_HELPS: Mapping[tuple[RatedPartKind, QualityDimension], str] = {
    (RatedPartKind.PET, QualityDimension.NOISE): "more counts usually help: longer bed positions, more activity or a "
    "longer wait for fewer randoms; a smoother reconstruction only hides it",
    (RatedPartKind.PET, QualityDimension.RESOLUTION): "a narrower post-filter or more iterations usually help",
    (RatedPartKind.CT, QualityDimension.NOISE): "more mAs, a softer kernel, thicker slices or iterative reconstruction "
    "usually help",
    (RatedPartKind.CT, QualityDimension.CONTRAST): "lower kV, contrast timing or thicker slices usually help",
    (RatedPartKind.CT, QualityDimension.STRUCTURE): "a sharper kernel, thinner slices or less noise reduction usually "
    "help",
    (RatedPartKind.CT, QualityDimension.RESOLUTION): "a sharper kernel or thinner slices usually help",
    (RatedPartKind.CT, QualityDimension.ARTEFACT): "arms out of the scan, breath hold and metal artefact reduction "
    "usually help",
}
_CT_HELPS = "mAs, kernel and slice thickness are the first things to look at"
_DISPLAY_HELPS = "send the original images without lossy compression"


def reason_for(parts: Sequence[RatedPart], decided_by: RatedPartKind | None, withheld: str = "") -> str:
    """Return the sentence; ``decided_by`` is None where there is no score, with the reason in ``withheld``."""
    lead = next((part for part in parts if part.kind is decided_by), None)
    if lead is None or decided_by is None:
        reason = withheld or "; ".join(f"{_NAMES[part.kind]}: {part.reason}" for part in parts if part.reason)
        return f"No score: {reason or 'nothing could be rated'}."
    score = lead.score if lead.counted is None else lead.counted
    assert score is not None
    name = _NAMES[lead.kind]
    if score >= _GOOD:
        return f"{_first(name)} decides with {score:.1f}{_by(lead, 'lowest in')}; nothing pulled the score down much."
    helps = _helps(lead)
    return f"Limited by the {_what(lead, name)} ({score:.1f}{_evidence(lead)}); {helps}."


def with_reference_level(why: str, levels: Mapping[str, ReferenceLevel], values: Mapping[str, float | None]) -> str:
    """Return the sentence with a second one: how the noise compares with its reference level, where one holds.

    Parameters
    ----------
    levels
        By quantity.
    values
        Measured values by name.
    """
    level, noise = levels.get("global_noise_level"), values.get("global_noise_level")
    size = values.get("water_equivalent_diameter")
    usual = None if level is None else level.at(size)
    if level is None or noise is None or usual is None:
        return why
    about = f"reference level of this protocol and patient size, {usual:.3g} HU"
    off = 100.0 * (noise / usual - 1.0)
    if level.outside(noise, size):
        return f"{why} The noise, {noise:.3g} HU, is {off:.0f} % above the {about}."
    return f"{why} The noise, {noise:.3g} HU, agrees with the {about} ({off:+.0f} %)."


def _first(name: str) -> str:
    return "The display" if name == "display" else f"The {name}"


def _by(lead: RatedPart, word: str) -> str:
    return "" if lead.limiting is None else f", {word} {lead.limiting.value}{_evidence(lead, ' (', ')')}"


def _what(lead: RatedPart, name: str) -> str:
    return name if lead.limiting is None else f"{lead.limiting.value} of the {name}"


def _evidence(lead: RatedPart, before: str = ", ", after: str = "") -> str:
    found = next((item.evidence for item in lead.dimensions if item.dimension is lead.limiting), "")
    return f"{before}{found}{after}" if found else ""


def _helps(lead: RatedPart) -> str:
    if lead.kind is RatedPartKind.DISPLAY:
        return _DISPLAY_HELPS
    if lead.limiting is None:
        return _CT_HELPS
    return _HELPS.get((lead.kind, lead.limiting), _CT_HELPS)
