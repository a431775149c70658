"""One series from files to verdict; the one code path of the worker and of ``dicom-qa-node score``.

A series of several stacks (phases, echoes, kernels) gives one result: every stack is judged, the worst of the large
ones leads, the others are named with their scores in the findings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from dicom_qa_node.charts.strata import stratum_of
from dicom_qa_node.config import Grades, Score
from dicom_qa_node.config.thresholds import FindingRules
from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.acquisition_parameters import Acquisition
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.reference_levels import ReferenceLevel, ReferenceLevels
from dicom_qa_node.domain.results import Finding, Measurement, SeriesKind, SeriesResult, Severity, grade_label
from dicom_qa_node.score.acquisition_facts import acquisition_of
from dicom_qa_node.score.blank_slices import too_many_blank
from dicom_qa_node.score.body_region import BodyRegion, region_of
from dicom_qa_node.score.ct_selection import rank_ct_stacks
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.display_images import SOFT_TISSUE
from dicom_qa_node.score.fusion import Pairing, pair
from dicom_qa_node.score.grading import ScoringModel, SeriesScore, grade_series, model_ref, no_score, outside_domain
from dicom_qa_node.score.kernel_sharpness import KernelSharpness, sharpness_of_volume
from dicom_qa_node.score.phantom_series import PhantomLane, analyse_phantom, subject_of
from dicom_qa_node.score.physics.measurements import PetExamination, examine_pet, measure
from dicom_qa_node.score.rating import ct_verdict, pet_verdict
from dicom_qa_node.score.reading_windows import unread_window, windows_of
from dicom_qa_node.score.rules import evaluation
from dicom_qa_node.score.rules.case import with_code
from dicom_qa_node.score.series_identity import same_patient
from dicom_qa_node.score.slice_rendering import DisplayImages, KeySlices, key_slices_of, render_display_images
from dicom_qa_node.score.slice_selection import choose_slices
from dicom_qa_node.score.stacks import Stack
from dicom_qa_node.score.threads import max_threads
from dicom_qa_node.score.volume import Volume
from dicom_qa_node.score.volume_builder import HeaderScan, ImagesAhead, build_volume, scan_headers, survey_each
from dicom_qa_node.score.why import with_reference_level

__all__ = ["Options", "ScoredSeries", "score_series"]


MOST_STACKS = 8
"""Stacks of one series that are judged; a dynamic PET of forty time frames is judged by eight of them."""

_LEADS_FROM = 0.5
_MOST_CT_TRIES = 3
_MOST_UIDS = 20
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of scoring; see `config.Score` and `limits.FindingRules`."""

    slices: int = 7
    slice_rule: Literal["salient", "positional"] = "salient"
    grades: Grades = field(default_factory=Grades)
    rules: FindingRules = field(default_factory=FindingRules)
    phantoms: PhantomLane = field(default_factory=PhantomLane)
    levels: ReferenceLevels = field(default_factory=ReferenceLevels)

    @classmethod
    def of(
        cls,
        settings: Score,
        rules: FindingRules,
        phantoms: PhantomLane | None = None,
        levels: ReferenceLevels | None = None,
    ) -> Options:
        """Take the settings from the configuration; ``levels`` are those that people froze for the scanner."""
        return cls(
            settings.slices,
            settings.slice_rule,
            settings.grades,
            rules,
            phantoms or PhantomLane(),
            levels or ReferenceLevels(),
        )


@dataclass(frozen=True, slots=True)
class ScoredSeries:
    """The result of a series with the pictures of its slices, uint8 RGB, shape (slices, rows, columns, 3).

    ``key_slices`` holds the same slices in their unit; None where no slice was chosen.
    """

    result: SeriesResult
    pictures: DisplayImages
    key_slices: KeySlices | None = None


@dataclass(frozen=True, slots=True)
class _Paired:
    """The CT stacks that a PET may be fused with, and what reading them said."""

    candidates: Sequence[Volume]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _StackResult:
    """What was found about one stack, its voxels forgotten.

    ``irregular`` are the warnings of its assembly; ``blank`` of its slices show nothing, those left out included.
    """

    stack_name: str
    kind: SeriesKind
    size: int
    verdict: SeriesScore
    pictures: DisplayImages
    measurements: tuple[Measurement, ...]
    findings: tuple[Finding, ...]
    irregular: tuple[Finding, ...]
    instances: frozenset[str]
    key_slices: KeySlices | None
    blank: int = 0
    acquisition: Acquisition | None = None
    head: bool = False


def score_series(
    paths: Sequence[Path],
    *,
    pair_paths: Sequence[Path] = (),
    scorer: ScoringModel,
    options: Options | None = None,
    decoders: DecoderPool | None = None,
    ahead: ImagesAhead | None = None,
    before_step: Callable[[str], None] = lambda _: None,
) -> ScoredSeries:
    """Judge one series.

    Parameters
    ----------
    paths
        Part 10 files of the series.
    pair_paths
        For PET: the files of every CT series of its study and frame of reference, of which `ct_selection` takes the
        best; without them the PET is judged alone.
    scorer
        The opened network.
    decoders
        Reused between series by a worker; None opens and closes its own.
    ahead
        What was read of the files before.
    before_step
        Called with the name of each step; what it raises ends the work.

    Raises
    ------
    Permanent
        The series cannot be judged; the text names what and which object, never the patient.
    """
    if decoders is None:
        with DecoderPool() as own:
            return score_series(
                paths,
                pair_paths=pair_paths,
                scorer=scorer,
                options=options,
                decoders=own,
                ahead=ahead,
                before_step=before_step,
            )
    clock = _Clock(before_step)
    chosen, ahead = options or Options(), ahead or ImagesAhead()
    read = partial(build_volume, decoders=decoders, decoded=ahead.frames)
    with clock.step("headers"):
        found = scan_headers(paths, ahead.headers)
    with clock.step("subject"):
        subject = subject_of(found, chosen.phantoms, decoders)
    if subject.phantom is not None:
        analysed = analyse_phantom(found, subject, paths, chosen.phantoms, decoders, clock.check)
        return ScoredSeries(replace(analysed, timings_ms=clock.timings()), _none())
    with clock.step("pair"):
        candidates, pair_findings = _pair_volumes(found, pair_paths, decoders)
    to_score, skipped = _stacks_to_score(found)
    paired = _Paired(candidates, pair_findings)
    stacks, unread = _each(to_score, lambda stack: _score_stack(stack, paired, scorer, chosen, read, clock))
    stacks, blank = _without_score_if_blank(stacks)
    about = (*found.findings, *subject.findings, *pair_findings, *skipped, *unread, *blank)
    result = replace(_combined(found, stacks, about, scorer), subject_decision=chosen.phantoms.decision)
    lead = _leading(stacks)
    pair_uid = _pair_uid(candidates, lead.kind)
    result = replace(
        result, pair_series_uid=pair_uid, timings_ms=clock.timings(), dose=replace(found.dose, head=lead.head)
    )
    return ScoredSeries(result, lead.pictures, lead.key_slices)


def _each(stacks: Sequence[Stack], use: Callable[[Stack], _T]) -> tuple[list[_T], tuple[Finding, ...]]:
    """Use every stack that can be decoded; a stack without one decodable slice costs itself only, unless all do."""
    used: list[_T] = []
    unread: list[Finding] = []
    for stack in stacks:
        try:
            used.append(use(stack))
        except Permanent as error:
            if not used and len(unread) == len(stacks) - 1:
                raise
            sentence = f"The stack {stack.name} was left out: {error}."
            uids = tuple(dict.fromkeys(item.sop_instance_uid for item in stack.slices))[:_MOST_UIDS]
            unread.append(Finding("slices_undecodable", Severity.WARNING, sentence, str(error), None, uids))
    return used, tuple(unread)


def _score_stack(
    stack: Stack,
    paired: _Paired,
    scorer: ScoringModel,
    options: Options,
    read: Callable[[Stack], Volume],
    clock: _Clock,
) -> _StackResult:
    with clock.step("decode"):
        volume = read(stack)
    with clock.step("pair"):
        pairing = pair(volume, paired.candidates) if volume.kind is SeriesKind.PT else Pairing(None, ())
    kind = volume.kind if pairing.ct is None else SeriesKind.PETCT
    with clock.step("slices"):
        kernel = sharpness_of_volume(volume) if volume.kind is SeriesKind.CT else None
        picked = (
            () if volume.unusable else choose_slices(volume, options.slices, options.slice_rule, pairing.ct, kernel)
        )
    reason = volume.unusable or outside_domain(volume, kind, scorer, picked)
    examined = None
    if volume.kind is SeriesKind.PT:
        with clock.step("measure"):
            examined = examine_pet(volume, pairing.ct)
    with clock.step("pictures"):
        indices = [item.index for item in picked]
        windows = windows_of(volume, indices, kernel) if kernel else (SOFT_TISSUE,) * len(indices)
        reason = reason or unread_window(windows, kernel)
        pictures = render_display_images(volume, indices, pairing.ct, windows) if picked else _none()
        key_slices = key_slices_of(volume, indices, pairing.ct, windows) if picked else None

    def judged() -> SeriesScore:
        with clock.step("network"):
            if examined is not None:
                return pet_verdict(volume, pairing.ct, picked, pictures, scorer, options.grades, examined)
            seen = no_score(reason) if reason else grade_series(pictures, volume, kind, picked, scorer, options.grades)
            return ct_verdict(volume, seen, scorer, options.grades)

    # The network hardly holds Python's lock, nor do the filters of the measurements.
    with ThreadPoolExecutor(min(max_threads(), 2), thread_name_prefix="judge") as pool:
        measuring = pool.submit(_measured, volume, pairing.ct, kernel, examined, clock)
        judging = pool.submit(judged)
        verdict, measurements = judging.result(), measuring.result()
    with clock.step("findings"):
        reported_keys = {finding.key for finding in (*paired.findings, *pairing.findings, *verdict.findings)}
        acquisition = acquisition_of(volume.header, volume.kind)
        levels = _levels(volume.kind, measurements, acquisition, options.levels)
        limits = evaluation.thresholds_of(volume, options.rules)
        physics = evaluation.evaluate_rules(volume, measurements, pairing.ct, limits, reported_keys, levels)
        values = {item.name: item.value for item in measurements}
        verdict = replace(verdict, why=with_reference_level(verdict.why, levels, values))
    return _StackResult(
        stack_name=stack.name,
        kind=kind,
        size=len(volume.positions_mm),
        verdict=verdict,
        pictures=pictures,
        measurements=measurements,
        findings=(*volume.findings, *pairing.findings, *verdict.findings, *physics),
        irregular=tuple(item for item in volume.findings if item.severity is not Severity.INFO),
        instances=frozenset(volume.sop_instance_uids),
        key_slices=key_slices,
        blank=len(volume.blank_mm),
        acquisition=acquisition,
        # Only looked at where a dose report may have to give what the images do not state.
        head=volume.kind is SeriesKind.CT and values.get("ctdi_vol") is None and region_of(volume) is BodyRegion.HEAD,
    )


def _levels(
    kind: SeriesKind, measurements: Sequence[Measurement], acquisition: Acquisition | None, levels: ReferenceLevels
) -> Mapping[str, ReferenceLevel]:
    """Return the reference levels of the stratum that the charts will put a CT stack into."""
    if kind is not SeriesKind.CT or not levels.by_stratum:
        return {}
    return levels.of(stratum_of(kind, levels.protocol, measurements, acquisition).label)


def _measured(
    volume: Volume, ct: Volume | None, kernel: KernelSharpness | None, examined: PetExamination | None, clock: _Clock
) -> tuple[Measurement, ...]:
    with clock.step("measure"):
        return measure(volume, ct, kernel, examined)


def _pair_volumes(
    found: HeaderScan, pair_paths: Sequence[Path], decoders: DecoderPool
) -> tuple[list[Volume], tuple[Finding, ...]]:
    """Read the CT that a PET is fused with; what is wrong with it costs the pairing, not the PET."""
    if found.modality != "PT" or not pair_paths:
        return [], ()
    try:
        return _best_ct(found, survey_each(pair_paths), decoders)
    except Permanent as error:
        sentence = f"The PET was scored without its CT, which cannot be used: {error}."
        return [], (Finding("petct_not_paired", Severity.WARNING, sentence),)


def _best_ct(
    found: HeaderScan, others: Sequence[HeaderScan], decoders: DecoderPool
) -> tuple[list[Volume], tuple[Finding, ...]]:
    """Decode the best CT stack (`ct_selection`), or the next best one where that cannot be decoded."""
    cts = [other for other in others if other.modality == "CT"]
    if not cts:
        raise Permanent(f"the paired series is {others[0].modality}")
    own = [ct for ct in cts if same_patient(found.identity, ct.identity)]
    if not own:
        raise Permanent("it names another patient than the PET")
    pet = max(found.stacks, key=lambda stack: len(stack.slices))
    ranked, reason = rank_ct_stacks(pet, [stack for ct in own for stack in ct.stacks])
    if not ranked:
        raise Permanent(reason)
    problem: Permanent | None = None
    for candidate in ranked[:_MOST_CT_TRIES]:
        try:
            volume = build_volume(candidate.stack, decoders)
            if volume.unusable:
                raise Permanent(volume.unusable)
            return [volume], ()
        except Permanent as error:
            problem = problem or error
    raise problem or Permanent(reason)


def _stacks_to_score(found: HeaderScan) -> tuple[list[Stack], tuple[Finding, ...]]:
    """Return the stacks to judge: all, or the largest and evenly chosen others of very many."""
    stacks = list(found.stacks)
    if len(stacks) <= MOST_STACKS:
        return stacks, ()
    largest = max(len(stack.slices) for stack in stacks)
    large = [stack for stack in stacks if len(stack.slices) >= _LEADS_FROM * largest]
    kept = [large[round(index)] for index in np.linspace(0, len(large) - 1, min(MOST_STACKS, len(large)))]
    names = ", ".join(stack.name for stack in kept)
    sentence = f"Of {len(stacks)} stacks {len(kept)} were judged: {names}."
    return kept, (Finding("stacks_sampled", Severity.INFO, sentence),)


def _leading(stacks: Sequence[_StackResult]) -> _StackResult:
    """Return the stack with the lowest score among those at least half as long as the longest."""
    longest = max(stack.size for stack in stacks)
    large = [stack for stack in stacks if stack.size >= _LEADS_FROM * longest]
    scored = [stack for stack in large if stack.verdict.score is not None]
    return min(scored, key=lambda stack: stack.verdict.score or 0.0) if scored else large[0]


def _without_score_if_blank(
    stacks: list[_StackResult],
) -> tuple[list[_StackResult], tuple[Finding, ...]]:
    """Take the scores of a series of several stacks of which a third or more of all slices are blank."""
    blank = sum(stack.blank for stack in stacks)
    # a stack of nothing else keeps its blank slices
    total = sum(stack.size if stack.blank == stack.size else stack.size + stack.blank for stack in stacks)
    if not too_many_blank(blank, total) or all(stack.verdict.score is None for stack in stacks):
        return stacks, ()
    reason = f"{blank} of {total} slices are empty"
    sentence = f"{blank} of {total} slices of the series are empty: nothing can be judged."
    finding = Finding("images_blank", Severity.ERROR, sentence, f"{len(stacks)} stacks")
    return [replace(stack, verdict=no_score(reason)) for stack in stacks], (finding,)


def _combined(
    found: HeaderScan, stacks: Sequence[_StackResult], findings: Sequence[Finding], scorer: ScoringModel
) -> SeriesResult:
    lead = _leading(stacks)
    others = tuple(item for stack in stacks if stack is not lead for item in (_about_other(stack), *_irregular(stack)))
    return SeriesResult(
        series_instance_uid=found.series_instance_uid,
        modality=found.modality,
        kind=lead.kind,
        score=lead.verdict.score,
        interval=lead.verdict.interval,
        grade=lead.verdict.grade,
        grade_low=lead.verdict.grade_low,
        rated_parts=lead.verdict.parts,
        decided_by=lead.verdict.decided_by,
        why=lead.verdict.why,
        slices=lead.verdict.slices,
        measurements=lead.measurements,
        findings=tuple(with_code(item) for item in (*findings, *lead.findings, *others)),
        model=model_ref(scorer, lead.kind),
        instances_used=len(frozenset[str]().union(*(stack.instances for stack in stacks))),
        stack_name=lead.stack_name,
        acquisition=lead.acquisition,
    )


def _about_other(stack: _StackResult) -> Finding:
    verdict = stack.verdict
    if verdict.score is None or verdict.grade is None:
        sentence = f"The stack {stack.stack_name} ({stack.size} slices) has no score."
        return Finding("other_stack", Severity.INFO, sentence, "; ".join(item.sentence for item in verdict.findings))
    label = grade_label(verdict.grade, verdict.grade_low)
    sentence = f"The stack {stack.stack_name} ({stack.size} slices) scored {verdict.score:.1f}, {label}."
    uids = tuple(item.sop_instance_uid for item in verdict.slices)
    scores = ", ".join(f"{item.score:.2f}" for item in verdict.slices)
    return Finding("other_stack", Severity.INFO, sentence, f"slices {scores}", None, uids)


def _irregular(stack: _StackResult) -> Iterator[Finding]:
    """Yield what assembly warns of in a stack that does not lead, with its name."""
    for item in stack.irregular:
        yield replace(item, sentence=f"In the stack {stack.stack_name}: {item.sentence}")


def _pair_uid(candidates: Sequence[Volume], kind: SeriesKind) -> str | None:
    if kind is not SeriesKind.PETCT or not candidates:
        return None
    return at.word(candidates[0].header, "SeriesInstanceUID") or None


def _none() -> DisplayImages:
    return np.zeros((0, 1, 1, 3), np.uint8)


class _Clock:
    """Adds up the milliseconds of named steps, which may run side by side: their sum may exceed the total."""

    def __init__(self, before_step: Callable[[str], None]) -> None:
        self._before_step = before_step
        self._start = time.perf_counter()
        self._spent: dict[str, float] = {}

    def check(self, name: str) -> None:
        """Ask whether the work goes on; what the caller raises ends it."""
        self._before_step(name)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._before_step(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def timings(self) -> dict[str, float]:
        """Return every step and the total since the start."""
        total = 1000 * (time.perf_counter() - self._start)
        return {name: round(spent, 1) for name, spent in (*self._spent.items(), ("total", total))}
