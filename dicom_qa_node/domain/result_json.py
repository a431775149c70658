"""The JSON form of a verdict: the same keys from the offline command, the log and the series page."""

from __future__ import annotations

from typing import Any

from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.qc_phantoms import QcPhantom, SubjectDecision
from dicom_qa_node.domain.results import DimensionScore, Finding, Measurement, RatedPart, ScoredSlice, SeriesResult

__all__ = ["failure_values", "result_values"]


def result_values(result: SeriesResult) -> dict[str, Any]:
    """Return a result as JSON values; ``score``, ``interval`` and ``grade`` are null outside the model's domain."""
    return {
        "series_instance_uid": result.series_instance_uid,
        "modality": result.modality,
        "kind": result.kind.value,
        "part": result.stack_name,
        "pair_series_uid": result.pair_series_uid,
        "score": result.score,
        "interval": None if result.interval is None else list(result.interval),
        "grade": None if result.grade is None else result.grade.value,
        "grade_low": None if result.grade_low is None else result.grade_low.value,
        "decided_by": None if result.decided_by is None else result.decided_by.value,
        "why": result.why,
        "rated_parts": [_rated_part(item) for item in result.rated_parts],
        "slices": [_slice(item) for item in result.slices],
        "measurements": [_measurement(item) for item in result.measurements],
        "findings": [_finding(item) for item in result.findings],
        "model": {"name": result.model.name, "version": result.model.version, "sha256": result.model.sha256},
        "instances_used": result.instances_used,
        "timings_ms": dict(result.timings_ms),
        "qc_phantom": None if result.qc_phantom is None else _qc_phantom(result.qc_phantom),
        "subject_decision": None if result.subject_decision is None else _decision(result.subject_decision),
    }


def failure_values(series_instance_uid: str, modality: str, reason: str) -> dict[str, Any]:
    """Return the entry of a series that could not be scored."""
    return {"series_instance_uid": series_instance_uid, "modality": modality, "error": reason}


def _qc_phantom(found: QcPhantom) -> dict[str, Any]:
    return {
        "evidence": found.evidence.value,
        "reason": found.reason,
        "phantom": found.phantom,
        "kind": found.kind,
        "outcome": found.outcome.value,
        "remark": found.remark,
    }


def _decision(found: SubjectDecision) -> dict[str, Any]:
    return {
        "phantom": found.phantom, "author": found.author, "at": found.at.isoformat(), "reason": found.reason
    }  # fmt: skip


def _rated_part(item: RatedPart) -> dict[str, Any]:
    return {
        "kind": item.kind.value,
        "score": item.score,
        "interval": None if item.interval is None else list(item.interval),
        "interval_origin": item.interval_origin,
        "grade": None if item.grade is None else item.grade.value,
        "grade_low": None if item.grade_low is None else item.grade_low.value,
        "decisive": item.decisive,
        "reason": item.reason,
        "limiting": None if item.limiting is None else item.limiting.value,
        "dimensions": [_dimension(found) for found in item.dimensions],
        "counted": item.counted,
        "counted_reason": item.counted_reason,
        "algorithm": None
        if item.algorithm is None
        else {"name": item.algorithm.name, "version": item.algorithm.version, "sha256": item.algorithm.sha256},
        "series_instance_uid": item.series_instance_uid,
        "images": [
            {"sop_instance_uid": image.sop_instance_uid, "frame_number": image.frame_number} for image in item.images
        ],
    }


def _dimension(item: DimensionScore) -> dict[str, Any]:
    return {"dimension": item.dimension.value, "score": item.score, "evidence": item.evidence, "reason": item.reason}


def _slice(item: ScoredSlice) -> dict[str, Any]:
    return {
        "sop_instance_uid": item.sop_instance_uid,
        "frame_number": item.frame_number,
        "index": item.index,
        "position_mm": item.position_mm,
        "score": item.score,
        "weight": item.weight,
        "reason": item.reason,
    }


def _measurement(item: Measurement) -> dict[str, Any]:
    return {
        "name": item.name,
        "meaning": item.meaning,
        "value": item.value,
        "unit": item.unit,
        "direction": item.direction,
        "low": item.low,
        "high": item.high,
        "not_applicable": item.not_applicable,
        "detail": item.detail,
        "code": _code(item.code),
    }


def _finding(item: Finding) -> dict[str, Any]:
    return {
        "key": item.key,
        "severity": item.severity.value,
        "sentence": item.sentence,
        "evidence": item.evidence,
        "sop_instance_uids": list(item.sop_instance_uids),
        "code": _code(item.code),
    }


def _code(code: Code | None) -> dict[str, str] | None:
    return None if code is None else {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
