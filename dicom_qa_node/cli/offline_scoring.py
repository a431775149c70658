"""Scores series from disk: the pipeline of the worker without database and spool."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicom_qa_node import log
from dicom_qa_node.cli.output import progress_bar
from dicom_qa_node.config import Config
from dicom_qa_node.domain.errors import NodeError, NotFound, Permanent
from dicom_qa_node.domain.result_json import failure_values, result_values
from dicom_qa_node.score.ct_inference import open_scorer
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.grading import ScoringModel
from dicom_qa_node.score.image_files import write_images
from dicom_qa_node.score.phantom_series import PhantomLane
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.series_files import SeriesFiles, find_series
from dicom_qa_node.score.threads import set_max_threads

__all__ = ["score_folders"]


def score_folders(config: Config, paths: Sequence[Path], pictures: Path | None) -> list[dict[str, Any]]:
    """Judge every series below ``paths``; each gives its verdict as JSON values, or an ``error`` with the reason.

    Raises
    ------
    NotFound
        There is no DICOM file.
    Misconfigured
        The model or the device cannot be used; then nothing is scored.
    """
    log.configure("error")
    found = find_series(paths)
    if not found.series and not found.broken:
        raise NotFound(f"there is no DICOM file in {', '.join(map(str, paths))}")
    if pictures is not None:
        _make_folder(pictures)
    set_max_threads(config.score.threads)
    settings = config.score
    scorer = open_scorer(
        settings.model, settings.ct_model, settings.device, settings.models_dir, settings.site_calibration
    )
    entries = [failure_values("", "", reason) | {"file": str(path)} for path, reason in found.broken]
    with DecoderPool() as decoders, progress_bar() as progress:
        task = progress.add_task("scoring", total=len(found.series))
        for series in found.series:
            progress.update(task, description=f"scoring {series.modality} {series.description}".rstrip())
            entries.append(_score_one(series, scorer, decoders, config, pictures))
            progress.advance(task)
    return entries


def _make_folder(pictures: Path) -> None:
    try:
        pictures.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=pictures):
            pass
    except OSError as error:
        raise Permanent(f"pictures cannot be written to {pictures}: {error.strerror}; nothing was scored") from error


def _score_one(
    series: SeriesFiles, scorer: ScoringModel, decoders: DecoderPool, config: Config, pictures: Path | None
) -> dict[str, Any]:
    pair = [path for ct in series.ct_candidates for path in ct.files]
    options = Options.of(config.score, config.findings, PhantomLane(config.phantoms))
    try:
        found = score_series(series.files, pair_paths=pair, scorer=scorer, options=options, decoders=decoders)
    except NodeError as error:
        return failure_values(series.series_instance_uid, series.modality, str(error))
    except Exception as error:  # noqa: BLE001 - the edge of one series: the others must still be judged
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"internal error: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        return failure_values(series.series_instance_uid, series.modality, reason)
    entry = result_values(found.result)
    if pictures is not None and found.result.slices:
        entry["picture"] = str(write_images(found, pictures / series.series_instance_uid, options.grades)[0])
    return entry
