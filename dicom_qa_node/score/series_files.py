"""Finds the series in folders of DICOM files, and the CT series that a PET may be fused with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_qa_node.dicom_io.pydicom_patches import dcmread
from dicom_qa_node.domain.errors import NotFound

__all__ = ["Found", "SeriesFiles", "find_series"]

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
