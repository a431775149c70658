"""What a report says: a verdict as content items of TID 1500 (PS3.16), one measurement group per statement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from highdicom.sr import (
    AlgorithmIdentification,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    LanguageOfContentItemAndDescendants,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)

from dicom_qa_node import __version__
from dicom_qa_node.domain import results
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.results import (
    DimensionScore,
    Finding,
    Grade,
    QualityDimension,
    RatedPart,
    ScoredSlice,
    SeriesKind,
    SeriesResult,
    SourceImage,
)
from dicom_qa_node.domain.uids import derived_uid
from dicom_qa_node.report import sr_codes
from dicom_qa_node.report.image_library import image_library
from dicom_qa_node.report.procedure_codes import body_region, procedure
from dicom_qa_node.report.source_headers import Sources
from dicom_qa_node.report.sr_codes import coded_concept
from dicom_qa_node.report.valid_values import plain_text
from dicom_qa_node.report.verdict_text import conclusion, measurement_text

__all__ = ["Observer", "measurement_report"]

_CONTAINS = RelationshipTypeValues.CONTAINS
_RATING_PER_POINT = 25.0
_DECIMALS = 6

_SCORED_AS = {SeriesKind.CT: "CT", SeriesKind.PT: "PET", SeriesKind.PETCT: "PET fused with CT"}

Group = MeasurementsAndQualitativeEvaluations


@dataclass(frozen=True, slots=True)
class Observer:
    """The device that made the observations: this node with its present weights."""

    device_uid: str
    name: str
    manufacturer: str
    model_name: str
    serial_number: str


def measurement_report(result: SeriesResult, sources: Sources, observer: Observer) -> MeasurementReport:
    """Return the content tree of a report.

    The verdict in words stands before everything else. Groups follow in this order: the series, each part of the
    verdict (CT, PET, display), each finding, the physical measurements, each salient slice. The sentence that explains
    the verdict is the first comment of the first group. The image library stands before the groups, as its row of
    TID 1500 does; PS3.16 section 6 asks for the order of the rows where it is significant.
    """
    report = MeasurementReport(
        observation_context=_observation_context(observer),
        procedure_reported=coded_concept(procedure(sources.main, result.kind)),
        imaging_measurements=list(_groups(result, sources, observer.manufacturer)),
        title=coded_concept(sr_codes.IMAGING_MEASUREMENT_REPORT),
        language_of_content_item_and_descendants=LanguageOfContentItemAndDescendants(coded_concept(sr_codes.ENGLISH)),
    )
    items = report[0].ContentSequence
    items.insert(len(items) - 1, _text(sr_codes.CONCLUSION, conclusion(result)))
    items.insert(len(items) - 1, image_library(list(sources.headers.values())))
    # Separate items are shown with their names; a continuous text of numbers means nothing to a reader (PS3.3 C.18.8).
    for container in (report[0], items[-1], *items[-1].ContentSequence):
        container.ContinuityOfContent = "SEPARATE"
    return report


def _observation_context(observer: Observer) -> ObservationContext:
    attributes = DeviceObserverIdentifyingAttributes(
        uid=observer.device_uid,
        name=observer.name,
        manufacturer_name=observer.manufacturer,
        model_name=observer.model_name,
        serial_number=observer.serial_number,
    )
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=coded_concept(sr_codes.DEVICE), observer_identifying_attributes=attributes
        )
    )


def _groups(result: SeriesResult, sources: Sources, manufacturer: str) -> Iterator[Group]:
    yield _series_group(result, sources, manufacturer)
    for part in result.rated_parts:
        yield _part_group(result, part, sources, manufacturer)
    for number, finding in enumerate(result.findings, 1):
        yield _finding_group(result, finding, number, sources)
    if result.measurements:
        yield _physics_group(result, sources, manufacturer)
    if result.score is not None:
        for item in result.slices:
            yield _slice_group(result, item, manufacturer)


def _series_group(result: SeriesResult, sources: Sources, manufacturer: str) -> Group:
    evaluations = []
    if result.grade is not None:
        evaluations.append(_evaluation(sr_codes.QUALITY_ASSESSMENT, sr_codes.GRADES[result.grade]))
    if result.qc_phantom is not None:
        evaluations.append(_evaluation(sr_codes.QUALITY_FINDING, sr_codes.QC_PHANTOM))
        evaluations.append(_evaluation(sr_codes.QC_OUTCOME, sr_codes.QC_OUTCOMES[result.qc_phantom.outcome]))
    elif result.score is None:
        evaluations.append(_evaluation(sr_codes.QUALITY_FINDING, sr_codes.NOT_RATED))
    images = _frames(result.slices) or _images_of(list(sources.headers)[:1], sources)
    group = Group(
        tracking_identifier=_tracking(_title(result), result, "series"),
        finding_type=coded_concept(sr_codes.IMAGE_QUALITY),
        algorithm_id=_network(result, manufacturer, _parameters(result)),
        finding_sites=_sites(sources),
        measurements=list(_ratings(result.score, result.interval)),
        qualitative_evaluations=evaluations,
        source_images=images,
    )
    _after_finding(group, _text(sr_codes.CONCLUSION, conclusion(result)))
    _comment(group, filter(None, (result.why, _grade_set(result.grade_text, result.grade_low))))
    return group


def _sites(sources: Sources) -> list[FindingSite]:
    region = body_region(sources.main)
    return [] if region is None else [FindingSite(coded_concept(region))]


def _after_finding(group: Group, item: TextContentItem) -> None:
    """Put an item behind Finding (121071), before algorithm and numbers."""
    items = group[0].ContentSequence
    place = next(number for number, found in enumerate(items) if found.name.value == sr_codes.FINDING.value)
    items.insert(place + 1, item)


def _title(result: SeriesResult) -> str:
    return "Image quality of the series" if result.qc_phantom is None else "QC phantom, without a verdict"


def _part_group(result: SeriesResult, part: RatedPart, sources: Sources, manufacturer: str) -> Group:
    """Return the group of one part of the verdict, with the images of its own series and its own algorithm."""
    evaluations = []
    if part.grade is not None:
        evaluations.append(_evaluation(sr_codes.QUALITY_ASSESSMENT, sr_codes.GRADES[part.grade]))
    if part.score is None:
        evaluations.append(_evaluation(sr_codes.QUALITY_FINDING, sr_codes.NOT_RATED))
    else:
        decides = part.kind is result.decided_by
        evaluations.append(_evaluation(sr_codes.VERDICT_ROLE, sr_codes.DECIDES if decides else sr_codes.RATED_ONLY))
    if part.limiting is QualityDimension.PLAUSIBILITY:
        evaluations += [_evaluation(sr_codes.QUALITY_FINDING, code) for code in _implausible(result.findings)]
    images = [item for item in part.images if item.sop_instance_uid in sources.headers]
    label = f"{sr_codes.PARTS[part.kind]} part of the verdict"
    group = Group(
        tracking_identifier=_tracking(label, result, "part", part.kind.value),
        finding_type=coded_concept(sr_codes.IMAGE_QUALITY),
        algorithm_id=_algorithm(part, manufacturer),
        measurements=[*_ratings(part.score, part.interval), *_part_numbers(part)],
        qualitative_evaluations=evaluations,
        source_images=_frames(images) or _images_of(list(sources.headers)[:1], sources),
    )
    _comment(group, filter(None, (part.reason, part.counted_reason, *map(_dimension_remark, part.dimensions))))
    _comment(group, filter(None, (_grade_set(part.grade_text, part.grade_low),)))
    return group


def _implausible(findings: Iterable[Finding]) -> list[Code]:
    return [item.code for item in findings if item.key == "pet_implausible" and item.code is not None]


def _part_numbers(part: RatedPart) -> Iterator[Measurement]:
    if part.counted is not None:
        yield _number(sr_codes.COUNTED_SCORE, part.counted, sr_codes.NO_UNITS)
    for item in part.dimensions:
        if item.score is not None:
            yield _number(sr_codes.DIMENSIONS[item.dimension], item.score, sr_codes.NO_UNITS)


def _dimension_remark(item: DimensionScore) -> str:
    words = item.evidence if item.score is not None else f"not rated, {item.reason}"
    return f"{item.dimension.value.capitalize()}: {words}" if words else ""


def _grade_set(text: str, low: Grade | None) -> str:
    return f"Grade {text}: the interval straddles a limit; coded as the better term." if low is not None else ""


def _algorithm(part: RatedPart, manufacturer: str) -> AlgorithmIdentification | None:
    model = part.algorithm
    if model is None:
        return None
    parameters = [f"weights sha256 {model.sha256}"] if model.sha256 else ["closed formulas, no network"]
    parameters += [f"interval: {part.interval_origin}"] if part.interval_origin else []
    parameters += [f"series {part.series_instance_uid}"] if part.series_instance_uid else []
    return AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=manufacturer,
        parameters=parameters,
        family=coded_concept(sr_codes.ARTIFICIAL_INTELLIGENCE) if model.sha256 else None,
    )


def _ratings(score: float | None, interval: tuple[float, float] | None) -> Iterator[Measurement]:
    # TID 310 and 312 would put bounds below the value as properties; PixelMed's validator, the one of IHE, takes
    # every number below a number for a derivation parameter (TID 300 row 9) and calls that an error.
    if score is not None:
        yield _number(sr_codes.IMAGE_SET_QUALITY_RATING, score, sr_codes.NO_UNITS)
        if interval is not None:
            yield _number(sr_codes.INTERVAL_LOW, interval[0], sr_codes.NO_UNITS)
            yield _number(sr_codes.INTERVAL_HIGH, interval[1], sr_codes.NO_UNITS)


def _slice_group(result: SeriesResult, item: ScoredSlice, manufacturer: str) -> Group:
    frame = "" if item.frame_number is None else f" frame {item.frame_number}"
    label = f"Slice {item.index + 1} at {item.position_mm:.1f} mm{frame}"
    group = Group(
        tracking_identifier=_tracking(label, result, "slice", item.sop_instance_uid, str(item.frame_number or "")),
        finding_type=coded_concept(sr_codes.IMAGE_QUALITY),
        algorithm_id=_network(result, manufacturer, ["Image Quality Rating = 25 x quality score of the slice"]),
        measurements=[
            _number(sr_codes.IMAGE_QUALITY_RATING, item.score * _RATING_PER_POINT, sr_codes.NO_UNITS),
            _number(sr_codes.SLICE_SCORE, item.score, sr_codes.NO_UNITS),
            _number(sr_codes.SLICE_WEIGHT, item.weight, sr_codes.NO_UNITS),
        ],
        source_images=_frames([item]),
    )
    _comment(group, [item.reason] if item.reason else [])
    return group


def _physics_group(result: SeriesResult, sources: Sources, manufacturer: str) -> Group:
    measured = [(item, item.value) for item in result.measurements if item.value is not None]
    phantom = result.qc_phantom
    of_what = (
        "Physical measurements of the series" if phantom is None else f"Measurements of the {phantom.title} phantom"
    )
    model = result.model
    name, version = ("dicom-qa-node physics", __version__) if phantom is None else (model.name, model.version)
    group = Group(
        tracking_identifier=_tracking(of_what, result, "physics"),
        finding_type=coded_concept(sr_codes.IMAGE_QUALITY),
        algorithm_id=AlgorithmIdentification(name, version, manufacturer=manufacturer),
        finding_sites=_sites(sources),
        measurements=[_physical(item, value) for item, value in measured if math.isfinite(value)],
    )
    bounds = "usual range" if phantom is None else "tolerance"
    _comment(group, filter(None, (measurement_text(item, bounds) for item in result.measurements)))
    return group


def _physical(item: results.Measurement, value: float) -> Measurement:
    code = item.code or sr_codes.derived_private_code(item.name, item.meaning)
    return _number(code, value, sr_codes.unit_code(item.unit))


def _finding_group(result: SeriesResult, finding: Finding, number: int, sources: Sources) -> Group:
    code = finding.code or sr_codes.derived_private_code(finding.key, finding.key.replace("_", " ").capitalize())
    group = Group(
        tracking_identifier=_tracking(f"Finding {number}: {finding.key}", result, "finding", finding.key, str(number)),
        finding_type=coded_concept(sr_codes.IMAGE_QUALITY),
        qualitative_evaluations=[
            _evaluation(sr_codes.QUALITY_FINDING, code),
            _evaluation(sr_codes.SEVERITY, sr_codes.SEVERITIES[finding.severity]),
        ],
        source_images=_images_of(finding.sop_instance_uids, sources),
    )
    _comment(group, [text for text in (finding.sentence, finding.evidence) if text])
    return group


def _network(result: SeriesResult, manufacturer: str, parameters: Sequence[str]) -> AlgorithmIdentification:
    """Return what scored the series: the algorithm of the part that decided, else the network."""
    lead = result.deciding_part
    model = result.model if lead is None or lead.algorithm is None else lead.algorithm
    return AlgorithmIdentification(
        name=model.name,
        version=model.version,
        manufacturer=manufacturer,
        parameters=list(parameters),
        family=coded_concept(sr_codes.ARTIFICIAL_INTELLIGENCE) if model.sha256 else None,
    )


def _parameters(result: SeriesResult) -> list[str]:
    if result.qc_phantom is not None:
        return [f"evidence: {result.qc_phantom.evidence.value}", f"images used {result.instances_used}"]
    parameters = [
        f"weights sha256 {result.model.sha256}",
        "Image Set Quality Rating: score from 0 (worst) to 4 (best)",
        f"scored as {_SCORED_AS[result.kind]}",
        f"images used {result.instances_used}",
    ]
    if result.stack_name:
        # Which of several stacks of the series the score is of: an acquisition, a phase, a kernel; no body part.
        parameters.append(f"stack {plain_text(result.stack_name)}")
    if result.decided_by is not None:
        parameters.append(f"decided by the {sr_codes.PARTS[result.decided_by]} part")
    if result.pair_series_uid:
        parameters.append(f"paired series {result.pair_series_uid}")
    return parameters


def _number(name: Code, value: float, unit: Code) -> Measurement:
    return Measurement(coded_concept(name), round(float(value), _DECIMALS), coded_concept(unit))


def _evaluation(name: Code, value: Code) -> QualitativeEvaluation:
    return QualitativeEvaluation(coded_concept(name), coded_concept(value))


def _tracking(label: str, result: SeriesResult, *parts: str) -> TrackingIdentifier:
    # The same thing keeps its UID over the versions of a report, so that readers can follow it (TID 4108).
    uid = derived_uid("tracking", result.series_instance_uid, result.model.name, *parts)
    return TrackingIdentifier(uid=uid, identifier=label)


def _comment(group: Group, texts: Iterable[str]) -> None:
    items = group[0].ContentSequence
    for text in texts:
        # Before the images, which a reader need not scroll past.
        place = next((number for number, item in enumerate(items) if item.ValueType == "IMAGE"), len(items))
        items.insert(place, _text(sr_codes.COMMENT, text))


def _text(name: Code, text: str) -> TextContentItem:
    # A sentence may quote a header, and no control character of that may stand in a report.
    return TextContentItem(coded_concept(name), plain_text(text, paragraphs=True), relationship_type=_CONTAINS)


def _images_of(uids: Iterable[str], sources: Sources) -> list[SourceImageForMeasurementGroup]:
    return [SourceImageForMeasurementGroup(sources.headers[uid].SOPClassUID, uid) for uid in dict.fromkeys(uids)]


def _frames(images: Sequence[ScoredSlice | SourceImage]) -> list[SourceImageForMeasurementGroup]:
    frames: dict[tuple[str, str], list[int]] = {}
    for item in images:
        numbers = frames.setdefault((item.sop_class_uid, item.sop_instance_uid), [])
        if item.frame_number is not None:
            numbers.append(item.frame_number)
    return [
        SourceImageForMeasurementGroup(sop_class, uid, sorted(set(numbers)) or None)
        for (sop_class, uid), numbers in frames.items()
    ]
