"""Rules for any series: is it complete, was it changed?"""

from __future__ import annotations

from dicom_qa_node.records import Finding, Severity
from dicom_qa_node.score.headers import Lossy
from dicom_qa_node.score.physics.stack import announced_slices
from dicom_qa_node.score.rules.case import INCOMPLETE, Case, Rule, code_of

__all__ = ["STACK_RULES"]


def incomplete(case: Case) -> Finding | None:
    """Fewer slices came than the header announces."""
    share = case.value("completeness")
    announced = announced_slices(case.volume)
    if share is None or announced is None or share >= case.limits.completeness_percent:
        return None
    count = len(case.volume.positions_mm)
    sentence = (
        f"Only {count} of {announced} announced slices are here: send the rest or check why the scan ended early."
    )
    evidence = f"{share:.0f} % of the announced slices, limit {case.limits.completeness_percent:.0f} %"
    return Finding("incomplete", Severity.WARNING, sentence, evidence, INCOMPLETE)


def slices_missing(case: Case) -> Finding | None:
    """Slices are missing between the first and the last."""
    missing = case.value("missing_slices")
    if not missing:
        return None
    largest = case.measured["largest_gap"]
    count = "1 slice is" if missing == 1 else f"{missing:.0f} slices are"
    sentence = f"{count} missing between the first and the last."
    evidence = f"largest distance {largest.value or 0.0:.1f} mm {largest.detail}"
    return Finding("slices_missing", Severity.WARNING, sentence, evidence, INCOMPLETE)


def lossy_compression(case: Case) -> Finding | None:
    """The pixels were once compressed with loss (PS3.3 C.7.6.1.1.5), or came in a lossy transfer syntax unsaid."""
    lossy = case.volume.lossy
    if lossy is None:
        return None
    shown = _ratio(lossy)
    mild = lossy.declared and lossy.ratio is not None and lossy.ratio <= case.limits.lossy_ratio
    if lossy.declared:
        how, said = "were compressed with loss", "01"
    else:
        how, said = "came in a lossy transfer syntax that their header hides", "not 01"
    sentence = f"The images {how} ({shown}): noise and fine detail are not those of the scan."
    evidence = f"Lossy Image Compression (0028,2110) {said}, ratio {shown}, limit {case.limits.lossy_ratio:g}:1"
    severity = Severity.INFO if mild else Severity.WARNING
    return Finding("lossy_compression", severity, sentence, evidence, code_of("lossy_compression"))


def _ratio(lossy: Lossy) -> str:
    if lossy.ratio is None:
        return "an unknown ratio"
    return f"about {lossy.ratio:.1f}:1 by their size" if lossy.measured else f"{lossy.ratio:g}:1"


STACK_RULES: tuple[Rule, ...] = (incomplete, slices_missing, lossy_compression)
