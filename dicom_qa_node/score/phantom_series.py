"""The lane of QC phantoms: a series that shows one is analysed, not judged; called first by the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydicom import Dataset

from dicom_qa_node import __version__
from dicom_qa_node.config.phantoms import Phantom, Phantoms, phantom_for
from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.codes import Code
from dicom_qa_node.domain.errors import Misconfigured, Permanent
from dicom_qa_node.domain.qc_phantoms import (
    PhantomEvidence,
    PhantomKind,
    QcOutcome,
    QcPhantom,
    SubjectDecision,
)
from dicom_qa_node.domain.results import Finding, Measurement, ModelRef, SeriesKind, SeriesResult, Severity
from dicom_qa_node.quality_control import recognition
from dicom_qa_node.quality_control.ct_cylinder import measure_water
from dicom_qa_node.quality_control.outline import CT_THRESHOLD_HU, outline_of, pet_threshold
from dicom_qa_node.quality_control.pet_cylinder import measure_uniform_pet
from dicom_qa_node.quality_control.pet_image_quality import measure_nema_iq
from dicom_qa_node.quality_control.pylinac_analysis import analyse_by_pylinac
from dicom_qa_node.quality_control.pylinac_environment import environment_of
from dicom_qa_node.quality_control.tolerances import ToleranceSet, judge, measured_outcome, outcome_of
from dicom_qa_node.score.acquisition_facts import acquisition_of
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.rules.case import code_of
from dicom_qa_node.score.stack_pixels import read_header
from dicom_qa_node.score.stacks import Stack
from dicom_qa_node.score.volume import Volume
from dicom_qa_node.score.volume_builder import HeaderScan, build_volume

__all__ = ["PhantomLane", "Subject", "analyse_phantom", "subject_of"]

PHANTOM_ANALYSIS = "phantom analysis"
_OWN = ModelRef(PHANTOM_ANALYSIS, __version__, "")
_Step = Callable[[str], None]


def _default_tolerances(kind: PhantomKind, _scanner: str) -> ToleranceSet:
    return ToleranceSet.of(kind)


@dataclass(frozen=True, slots=True)
class PhantomLane:
    """What decides about a series of a phantom besides its images.

    ``calling_ae`` sent the series, "" where it came from a folder; ``decision`` is the latest one of a person.
    ``tolerances`` returns those of a kind of phantom on a scanner.
    """

    settings: Phantoms = field(default_factory=Phantoms)
    calling_ae: str = ""
    decision: SubjectDecision | None = None
    tolerances: Callable[[PhantomKind, str], ToleranceSet] = _default_tolerances


@dataclass(frozen=True, slots=True)
class Subject:
    """What a series shows: ``phantom`` is None for a patient; ``findings`` are what the series page says about it."""

    phantom: QcPhantom | None
    header: Dataset
    findings: tuple[Finding, ...] = ()


def subject_of(found: HeaderScan, lane: PhantomLane, decoders: DecoderPool) -> Subject:
    """Decide whether a series shows a QC phantom.

    Words in names alone do not divert a series: its pixels must show the cylinder, too.
    """
    stack = _largest(found)
    header = read_header(stack.slices[0])
    with at.tolerant():
        stated = recognition.stated_phantom(header, lane.settings.recognise, lane.calling_ae, lane.decision)
        if stated is not None:
            return Subject(stated, header)
        named = recognition.named_like_phantom(header)
        if lane.decision is not None:
            return Subject(None, header, (_decided(lane.decision),))
        if named is None:
            return Subject(None, header)
        if _shows_cylinder(stack, decoders):
            words = f'"{named.word}" in {named.attribute}, and the images show a straight cylinder'
            found_phantom = QcPhantom(PhantomEvidence.APPEARANCE, words)
            return Subject(found_phantom, header)
    return Subject(None, header, (_only_named(named),) if named.strong else ())


def analyse_phantom(
    found: HeaderScan,
    subject: Subject,
    paths: Sequence[Path],
    lane: PhantomLane,
    decoders: DecoderPool,
    before_step: _Step,
) -> SeriesResult:
    """Analyse a series that shows a phantom, as the phantom that is configured for its scanner and protocol.

    Whatever prevents the analysis stands in the result in words; nothing is judged then.
    """
    assert subject.phantom is not None
    before_step("phantom")
    scanner = _scanner(subject.header)
    protocol = at.text(subject.header, "ProtocolName")
    configured = phantom_for(lane.settings.analyse, scanner=scanner, protocol=protocol, modality=found.modality)
    if configured is None:
        place = f"scanner {scanner or 'without a name'} and protocol {protocol or 'without a name'}"
        remark = f"no phantom is configured for {place} (phantoms.analyse)"
        return _result(found, subject.header, replace(subject.phantom, remark=remark), (), _OWN, lane, paths)
    known = replace(subject.phantom, phantom=configured.name, kind=configured.kind)
    try:
        measured, algorithm = _measured(found, subject, configured, lane.settings, decoders, before_step)
    except (Permanent, Misconfigured) as error:
        return _result(found, subject.header, replace(known, remark=str(error)), (), _OWN, lane, paths)
    judged = judge(measured, lane.tolerances(configured.what, scanner))
    return _result(found, subject.header, replace(known, outcome=outcome_of(judged)), judged, algorithm, lane, paths)


def _measured(
    found: HeaderScan,
    subject: Subject,
    phantom: Phantom,
    settings: Phantoms,
    decoders: DecoderPool,
    before_step: _Step,
) -> tuple[tuple[Measurement, ...], ModelRef]:
    stack = _largest(found)
    if phantom.what.by_pylinac:
        analysed = analyse_by_pylinac(
            phantom.what,
            _single_frames(stack),
            environment_of(settings.environment_dir),
            timeout_s=settings.timeout_s,
            memory_mb=settings.memory_mb,
            nominal_thickness_mm=at.number(subject.header, "SliceThickness"),
            before_step=before_step,
        )
        return analysed.measurements, ModelRef("pylinac", analysed.version, "")
    volume = build_volume(stack, decoders)
    return _by_node(volume, phantom), _OWN


def _by_node(volume: Volume, phantom: Phantom) -> tuple[Measurement, ...]:
    places, pixel_mm = volume.positions_mm, volume.spacing_mm[1:]
    try:
        if phantom.what is PhantomKind.WATER:
            if volume.unit != "HU":
                raise Permanent(f"the values are in {volume.unit}, not in HU")
            return measure_water(volume.voxels, places, pixel_mm)
        if phantom.what is PhantomKind.NEMA_IQ_PET:
            return measure_nema_iq(volume.voxels, places, pixel_mm, phantom.sphere_to_background)
        return measure_uniform_pet(volume.voxels, places, pixel_mm, volume.unit)
    except (ArithmeticError, ValueError, IndexError) as error:
        raise Permanent(f"the analysis failed ({type(error).__name__}): another phantom, or part of it") from error


def _single_frames(stack: Stack) -> list[Path]:
    """Return the files of a stack for pylinac, which reads one slice per file."""
    if any(item.frame is not None for item in stack.slices):
        raise Permanent("pylinac reads single-frame images only, and these are multi-frame")
    return [item.pixels.path for item in stack.slices]


def _result(
    found: HeaderScan,
    header: Dataset,
    phantom: QcPhantom,
    measured: tuple[Measurement, ...],
    algorithm: ModelRef,
    lane: PhantomLane,
    paths: Sequence[Path],
) -> SeriesResult:
    return SeriesResult(
        series_instance_uid=found.series_instance_uid,
        modality=found.modality,
        kind=SeriesKind.CT if found.modality == "CT" else SeriesKind.PT,
        score=None,
        interval=None,
        grade=None,
        slices=(),
        measurements=measured,
        findings=(*found.findings, *_findings(phantom, measured)),
        model=algorithm,
        instances_used=sum(len(stack.slices) for stack in found.stacks) if measured else len(paths),
        why=_sentence(phantom),
        acquisition=acquisition_of(header, found.stacks[0].slices[0].kind.kind),
        dose=found.dose,
        qc_phantom=phantom,
        subject_decision=lane.decision,
    )


def _sentence(phantom: QcPhantom) -> str:
    first = f"QC phantom, not scored: {phantom.reason}."
    if not phantom.kind:
        return f"{first} Not analysed: {phantom.remark}."
    if phantom.outcome is QcOutcome.NOT_ANALYSED:
        return f"{first} {phantom.title}, not analysed: {phantom.remark}."
    words = {
        QcOutcome.PASSED: "every judged quantity is within its tolerance",
        QcOutcome.OUTSIDE: "outside a tolerance",
        QcOutcome.NOT_JUDGED: "no quantity has a tolerance",
    }
    return f"{first} {phantom.title}: {words[phantom.outcome]}."


def _findings(phantom: QcPhantom, measured: Sequence[Measurement]) -> list[Finding]:
    sentence = f"QC phantom: {phantom.reason}. It has no score and no grade."
    found = [_finding("qc_phantom", Severity.INFO, sentence)]
    if phantom.kind and phantom.outcome is QcOutcome.NOT_ANALYSED:
        sentence = f"The {phantom.title} phantom {phantom.phantom} was not analysed: {phantom.remark}."
        found.append(_finding("phantom_not_analysed", Severity.WARNING, sentence))
    if phantom.outcome is QcOutcome.OUTSIDE:
        outside = [item for item in measured if measured_outcome(item) is QcOutcome.OUTSIDE]
        names = ", ".join(f"{item.meaning} {item.value:.4g}" for item in outside if item.value is not None)
        sentence = f"Of the {phantom.title} phantom {len(outside)} quantities are outside their tolerance."
        found.append(_finding("phantom_outside", Severity.WARNING, sentence, names))
    return found


def _only_named(named: recognition.NamedLike) -> Finding:
    sentence = (
        f'Named like a phantom ("{named.word}" in {named.attribute}), looks like a patient: scored as a patient. '
        "If it is a phantom, mark it as one on the page of the series."
    )
    return _finding("named_like_phantom", Severity.INFO, sentence)


def _decided(decision: SubjectDecision) -> Finding:
    return _finding("subject_decided", Severity.INFO, f"{decision.sentence}.")


def _finding(key: str, severity: Severity, sentence: str, evidence: str = "") -> Finding:
    code: Code = code_of(key)
    return Finding(key, severity, sentence, evidence, code)


def _shows_cylinder(stack: Stack, decoders: DecoderPool) -> bool:
    try:
        volume = build_volume(stack, decoders)
    except Permanent:
        return False
    threshold = CT_THRESHOLD_HU if volume.kind is SeriesKind.CT else pet_threshold(volume.voxels)
    return outline_of(volume.voxels, volume.positions_mm, volume.spacing_mm[1:], threshold).is_cylinder


def _largest(found: HeaderScan) -> Stack:
    return max(found.stacks, key=lambda stack: len(stack.slices))


def _scanner(header: Dataset) -> str:
    keywords = ("StationName", "DeviceSerialNumber", "ManufacturerModelName")
    return next((text for keyword in keywords if (text := at.text(header, keyword))), "")
