"""Finds the series in folders of DICOM files, pairs PET with CT, and scores them without a database."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node import log
from dicom_qa_node.cli.exit_codes import NotFound
from dicom_qa_node.cli.output import progress_bar
from dicom_qa_node.cli.result_json import failure_values, result_values
from dicom_qa_node.config import Config
from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.errors import NodeError, Permanent
from dicom_qa_node.score.ct_inference import open_scorer
from dicom_qa_node.score.decoder_pool import DecoderPool
from dicom_qa_node.score.grading import ScoringModel
from dicom_qa_node.score.image_files import write_images
from dicom_qa_node.score.pipeline import Options, score_series
from dicom_qa_node.score.threads import set_max_threads

__all__ = ["Found", "SeriesFiles", "find_series", "score_folders"]

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "SeriesDescription", "SeriesNumber",
]  # fmt: skip
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


@dataclass(slots=True)
class SeriesFiles:
    """The files of one series on disk; ``ct_candidates`` are the CT series of a PET's study and frame of reference."""

    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    modality: str
    description: str
    files: list[Path] = field(default_factory=list)
    ct_candidates: list[SeriesFiles] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in the folders: series in order of their paths, and DICOM files that could not be read, with why."""

    series: tuple[SeriesFiles, ...]
    broken: tuple[tuple[Path, str], ...]
    others: int


def find_series(paths: Iterable[Path]) -> Found:
    """Read the headers of every file below ``paths`` and group them by Series Instance UID.

    Files that are not DICOM are only counted, unless they are named themselves.

    Raises
    ------
    NotFound
        A path does not exist.
    """
    series: dict[str, SeriesFiles] = {}
    broken: list[tuple[Path, str]] = []
    others = 0
    for path, named in _files(paths):
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            _add(series, header, path)
        except InvalidDicomError:
            others += 1
            if named:
                broken.append((path, "no DICOM file"))
        except _UNREADABLE as error:
            broken.append((path, f"header cannot be read: {error or type(error).__name__}"))
    _pair(list(series.values()))
    return Found(tuple(series.values()), tuple(broken), others)


_UNREADABLE = (OSError, ValueError, KeyError, AttributeError, EOFError, TypeError, NotImplementedError, IndexError)


def _files(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise NotFound(f"{path} does not exist")
        inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in inside:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file, file == path


def _add(series: dict[str, SeriesFiles], header: Dataset, path: Path) -> None:
    if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY_CLASS:
        return
    uid = str(header.get("SeriesInstanceUID", ""))
    if not uid:
        raise ValueError("it has no Series Instance UID, or ends before it")
    if uid not in series:
        series[uid] = SeriesFiles(
            series_instance_uid=uid,
            study_instance_uid=str(header.get("StudyInstanceUID", "")),
            frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "")),
            modality=str(header.get("Modality", "")),
            description=str(header.get("SeriesDescription", "")),
        )
    series[uid].files.append(path)


def _pair(series: Sequence[SeriesFiles]) -> None:
    """Give each PET the CT series of its study and frame of reference; `score.ct_selection` takes the best."""
    for pet in series:
        if pet.modality == "PT" and pet.frame_of_reference_uid:
            pet.ct_candidates = [
                other
                for other in series
                if other.modality == "CT"
                and other.study_instance_uid == pet.study_instance_uid
                and other.frame_of_reference_uid == pet.frame_of_reference_uid
            ]


def score_folders(config: Config, paths: Sequence[Path], pictures: Path | None) -> list[dict[str, Any]]:
    """Judge every series below ``paths``; each gives its verdict as JSON values, or an ``error`` with the reason.

    Raises
    ------
    NotFound
        There is not DICOM file.
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
    options = Options.of(config.score, config.findings)
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
