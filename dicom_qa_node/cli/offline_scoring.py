"""Scores series from disk: the pipeline of the worker without database and spool."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dicom_qa_node import log
from dicom_qa_node.cli.exit_codes import NotFound
from dicom_qa_node.cli.offline import SeriesFiles, find_series
from dicom_qa_node.cli.present import progress_bar
from dicom_qa_node.cli.verdict_json import failure, verdict
from dicom_qa_node.config import Config
from dicom_qa_node.errors import NodeError, Permanent
from dicom_qa_node.score.decoders import Decoders
from dicom_qa_node.score.infer import Scorer
from dicom_qa_node.score.pictures import write_pictures
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.threads import allow

__all__ = ["score_found"]


def score_found(config: Config, paths: Sequence[Path], pictures: Path | None) -> list[dict[str, Any]]:
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
    allow(config.score.threads)
    scorer = Scorer.open(config.score.model, config.score.device, config.score.models_dir)
    entries = [failure("", "", reason) | {"file": str(path)} for path, reason in found.broken]
    with Decoders() as decoders, progress_bar() as progress:
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
    series: SeriesFiles, scorer: Scorer, decoders: Decoders, config: Config, pictures: Path | None
) -> dict[str, Any]:
    pair = series.pair.files if series.pair else []
    options = Options.of(config.score, config.findings)
    try:
        found = score_series(series.files, pair_paths=pair, scorer=scorer, options=options, decoders=decoders)
    except NodeError as error:
        return failure(series.series_instance_uid, series.modality, str(error))
    except Exception as error:  # noqa: BLE001 - the edge of one series: the others must still be judged
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"internal error: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
        return failure(series.series_instance_uid, series.modality, reason)
    entry = verdict(found.result)
    if pictures is not None and found.result.slices:
        entry["picture"] = str(write_pictures(found, pictures / series.series_instance_uid, options.grades)[0])
    return entry
