"""The Python interface: score a series, build its volume, measure it, write its report. Re-exported by the package.

>>> import dicom_qa_node as qa
>>> scored = qa.score_series(paths)              # doctest: +SKIP
>>> scored.score, scored.grade                   # doctest: +SKIP
(3.12, 'diagnostic')
>>> volume = qa.load_series(paths)               # doctest: +SKIP
>>> qa.measure(volume)["global_noise_level"]     # doctest: +SKIP
Measurement(name='global_noise_level', value=11.6, unit='[hnsf\\'U]', ...)

Importing this module imports neither torch nor SimpleITK; the functions do when they need them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.domain.results import Finding, Measurement, SeriesResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from pydicom import Dataset

    from dicom_qa_node.config import Config
    from dicom_qa_node.domain.series import StoredInstance
    from dicom_qa_node.models.card import ModelCard
    from dicom_qa_node.score.grading import ScoringModel
    from dicom_qa_node.score.volume import Volume

__all__ = ["ScoreResult", "build_report", "list_models", "load_series", "measure", "open_model", "score_series"]

PathLike = str | Path


@dataclass(frozen=True)
class ScoreResult:
    """The result of one series.

    Attributes
    ----------
    result
        Everything that the quality log and the report hold of it.
    images
        uint8, shape (slices, rows, columns, 3): the scored slices as they were shown to the network, RGB.
    paths
        The files of the series, and of the CT that a PET was scored with.
    """

    result: SeriesResult
    images: npt.NDArray[np.uint8]
    paths: tuple[Path, ...]

    @property
    def score(self) -> float | None:
        """Image quality from 0 (worst) to 4 (best); None where it was withheld, see `findings`."""
        return self.result.score

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bounds of the calibrated 90 % interval of the score."""
        return self.result.interval

    @property
    def grade(self) -> str:
        """The grade, or both ends of a set such as "diagnostic–limited"; "" without a score."""
        return self.result.grade_text

    @property
    def why(self) -> str:
        """What pulled the score down, or why there is none, in one sentence."""
        return self.result.why

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What a person should know about the series."""
        return self.result.findings

    @property
    def measurements(self) -> Mapping[str, Measurement]:
        """The physics beside the score, by name; a value is None where it does not apply, with the reason."""
        return {item.name: item for item in self.result.measurements}

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, equal to an entry of ``dicom-qa-node score --json``."""
        from dicom_qa_node.domain.result_json import result_values

        return result_values(self.result)


def open_model(name: str | None = None, *, device: str = "auto", models_dir: PathLike | None = None) -> ScoringModel:
    """Open a model with its verified weights, to score many series with.

    Parameters
    ----------
    name
        A name of `list_models`: a CT model goes with the default network for fused images and PET; None for the
        defaults.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    models_dir
        Folder of weights; None for those of the package.

    Raises
    ------
    Misconfigured
        Unknown model or device; weights that are missing or not those of the card.
    """
    from dicom_qa_node.models.registry import DEFAULT_CT_MODEL, DEFAULT_MODEL, card_of
    from dicom_qa_node.score.ct_inference import open_scorer

    rates_ct = name is None or card_of(name).kinds == ("ct",)
    display, ct = (DEFAULT_MODEL, name or DEFAULT_CT_MODEL) if rates_ct else (name or DEFAULT_MODEL,) * 2
    return open_scorer(display, ct, device, None if models_dir is None else Path(models_dir))


def list_models() -> list[ModelCard]:
    """Return the cards of all networks in order of their names; ``measured`` is None where no weights are shipped."""
    from dicom_qa_node.models.registry import all_cards

    return sorted(all_cards().values(), key=lambda card: card.name)


def score_series(
    paths: PathLike | Iterable[PathLike],
    *,
    ct_paths: PathLike | Iterable[PathLike] | None = None,
    model: str | ScoringModel | None = None,
    config: Config | None = None,
) -> ScoreResult:
    """Score one series by the code of the node's scoring worker.

    Parameters
    ----------
    paths
        Files or folders of one CT or PET series. A folder that holds a PET and the CT of its study and frame of
        reference is scored as PET/CT, with the node's own pairing rule.
    ct_paths
        The CT of a PET, where it is not among ``paths``.
    model
        Name of a model, or one from `open_model`, which saves opening it for each series; None for the default.
    config
        Sections ``score``, ``findings`` and ``phantoms`` apply; None for the defaults.

    Raises
    ------
    Permanent
        The series cannot be scored, or ``paths`` hold several; the text names the cause, never the patient.
    Misconfigured
        The model cannot be used.
    """
    from dicom_qa_node.config import Config as Settings
    from dicom_qa_node.score import pipeline
    from dicom_qa_node.score.phantom_series import PhantomLane

    settings = config or Settings()
    files, paired = _one_series(_listed(paths))
    if ct_paths is not None:
        paired, _ = _one_series(_listed(ct_paths))
    scorer = _scorer_of(model, settings)
    options = pipeline.Options.of(settings.score, settings.findings, PhantomLane(settings.phantoms))
    found = pipeline.score_series(files, pair_paths=paired, scorer=scorer, options=options)
    return ScoreResult(found.result, found.pictures, (*files, *paired))


def _scorer_of(model: str | ScoringModel | None, settings: Config) -> ScoringModel:
    """Return the model that was given, the one of that name, or those of the configuration."""
    from dicom_qa_node.score.ct_inference import open_scorer

    if model is None:
        chosen = settings.score
        return open_scorer(chosen.model, chosen.ct_model, chosen.device, chosen.models_dir, chosen.site_calibration)
    return open_model(model) if isinstance(model, str) else model


def load_series(paths: PathLike | Iterable[PathLike], *, stack: str | None = None) -> Volume:
    """Build the volume of one series: slices ordered along their normal, in HU or SUV.

    Parameters
    ----------
    paths
        Files or folders of one series.
    stack
        Name of a stack (phase, kernel, acquisition) where the series holds several; None for the largest.

    Returns
    -------
    Volume
        ``voxels`` has shape (slices, rows, columns); ``spacing_mm`` is (slice, row, column).

    Raises
    ------
    Permanent
        Nothing in it can be assembled, or there is no such stack.
    """
    from dicom_qa_node.score.volume_builder import build_volumes

    files, _ = _one_series(_listed(paths))
    volumes = build_volumes(files)
    if stack is None:
        return max(volumes, key=lambda volume: len(volume.positions_mm))
    for volume in volumes:
        if volume.stack_name == stack:
            return volume
    raise Permanent(f"there is no stack {stack!r}; the series has {', '.join(repr(v.stack_name) for v in volumes)}")


def measure(volume: Volume, paired_ct: Volume | None = None) -> dict[str, Measurement]:
    """Measure the physics of a volume.

    Parameters
    ----------
    volume
        CT in HU, or PET.
    paired_ct
        The CT of a PET volume's study and frame of reference; not used for CT.

    Returns
    -------
    dict
        Measurements by name, with unit (UCUM), direction and usual range; a value is None where a quantity does not
        apply, and ``not_applicable`` then holds the reason. Formulas and sources: docs/measurements.md.
    """
    from dicom_qa_node.score.physics.measurements import measure as measured

    return {item.name: item for item in measured(volume, paired_ct)}


def build_report(scored: ScoreResult, *, scored_at: dt.datetime | None = None, config: Config | None = None) -> Dataset:
    """Return the Structured Report (Comprehensive 3D SR, TID 1500) of a result, ready for ``save_as``.

    Parameters
    ----------
    scored
        From `score_series`; the files of the series must still be there.
    scored_at
        Time of the evaluation with its time zone; None for now.
    config
        ``ae_title`` and section ``report`` apply; None for the defaults.

    Raises
    ------
    Permanent
        An image that the result refers to cannot be read.
    """
    from dicom_qa_node.config import Config as Settings
    from dicom_qa_node.domain.clock import utc_now
    from dicom_qa_node.report.source_headers import read_sources
    from dicom_qa_node.report.sr_document import ReportRequest, build_document

    sources = read_sources(Path("/"), scored.result, [_instance(path) for path in scored.paths])
    request = ReportRequest(scored.result, 1, scored_at or utc_now())
    return build_document(request, sources, config or Settings())


def _listed(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def _one_series(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of the one series below ``paths``, and those of the CT series that a PET may be paired with."""
    from dicom_qa_node.score.series_files import find_series

    found = find_series(paths).series
    paired = {ct.series_instance_uid for item in found for ct in item.ct_candidates}
    chosen = [item for item in found if item.series_instance_uid not in paired]
    if len(chosen) != 1:
        named = ", ".join(f"{item.modality} {item.series_instance_uid}" for item in chosen[:3])
        raise Permanent(f"{len(chosen)} series instead of one: {named}" if chosen else "there is no DICOM series")
    return list(chosen[0].files), [path for ct in chosen[0].ct_candidates for path in ct.files]


def _instance(path: Path) -> StoredInstance:
    from dicom_qa_node.dicom_io.pydicom_patches import dcmread
    from dicom_qa_node.domain.clock import utc_now
    from dicom_qa_node.domain.series import SeriesHeader, StoredInstance

    wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"]
    header = dcmread(path, stop_before_pixels=True, specific_tags=wanted)
    series = SeriesHeader(str(header.SeriesInstanceUID), str(header.StudyInstanceUID), str(header.get("Modality", "")))
    return StoredInstance(
        sop_instance_uid=str(header.SOPInstanceUID),
        sop_class_uid=str(header.SOPClassUID),
        transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
        path=str(path.resolve()),
        sha256="",
        size_bytes=path.stat().st_size,
        received_at=utc_now(),
        calling_ae="",
        association_id="",
        series=series,
    )
