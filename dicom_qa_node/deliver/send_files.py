"""Sends files to any application entity, for ``dicom-qa-node send PATH HOST PORT``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicom_qa_node.deliver.targets.base import Deferred, Refused
from dicom_qa_node.deliver.targets.dicom import MAX_CONTEXTS, FileKind, Peer, associate, contexts_for, file_kind, store

__all__ = ["Peer", "SendSummary", "files_below", "send_files"]

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class SendSummary:
    """What became of the files: ``failed`` names each with the reason, ``skipped`` those that are not DICOM files."""

    sent: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def files_below(paths: Iterable[Path]) -> list[Path]:
    """Return the files at and below these paths, in order of their names; hidden ones and DICOMDIR are left out."""
    found: dict[Path, None] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if not hidden and file.name != "DICOMDIR" and not file.is_dir():
                found[file] = None
    return list(found)


def send_files(paths: Sequence[Path], peer: Peer, progress: Progress | None = None) -> SendSummary:
    """Send files over one association (several if they need more than 128 presentation contexts).

    Parameters
    ----------
    progress
        Called after each file with the number of files done and their total.

    Returns
    -------
    SendSummary
        A file that the peer refuses is listed with its words, and the others still go.

    Raises
    ------
    Refused, Deferred
        No association can be had at all.
    """
    summary = SendSummary()
    kinds = _kinds(paths, summary)
    done = len(summary.skipped)
    for batch in _batches(kinds):
        for _ in _send_batch(batch, peer, summary):
            done += 1
            if progress is not None:
                progress(done, len(paths))
    return summary


def _kinds(paths: Sequence[Path], summary: SendSummary) -> dict[Path, FileKind]:
    kinds = {}
    for path in paths:
        try:
            kinds[path] = file_kind(path)
        except Refused as error:
            summary.skipped.append((path, str(error)))
    return kinds


def _batches(kinds: dict[Path, FileKind]) -> Iterator[dict[Path, FileKind]]:
    batch: dict[Path, FileKind] = {}
    for path, kind in sorted(kinds.items(), key=lambda item: item[1].sop_class):
        if len(contexts_for([*batch.values(), kind])) > MAX_CONTEXTS:
            yield batch
            batch = {}
        batch[path] = kind
    if batch:
        yield batch


def _send_batch(batch: dict[Path, FileKind], peer: Peer, summary: SendSummary) -> Iterator[None]:
    with associate(peer, contexts_for(list(dict.fromkeys(batch.values())))) as assoc:
        for path, kind in batch.items():
            try:
                store(assoc, path, kind)
                summary.sent += 1
            except (Refused, Deferred) as error:
                summary.failed.append((path, str(error)))
            yield
