"""Compares stored files with the checksums that were written with them: before they are used, and now and then.

A disk that loses a bit says nothing; a score of other bytes than those that were acknowledged would be wrong.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from dicom_qa_node.dicom_io.element_scanner import BrokenDataSet
from dicom_qa_node.dicom_io.part10 import checksum_in
from dicom_qa_node.domain.errors import Permanent
from dicom_qa_node.log import log_event
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["Scrubber", "StoredFileChanged", "Verification", "verify"]

_LOGGER = logging.getLogger(__name__)
_MIB = 1 << 20
_NAMED = 3


class StoredFileChanged(Permanent):
    """A stored file is not as it was written; the text names it."""


def verify(path: Path, name: str, sha256: str | None = None) -> int:
    """Compare a stored file with its checksum.

    Parameters
    ----------
    name
        How the error names the file: its path in the spool.
    sha256
        What the registry says of its data set, which has to agree, too.

    Returns
    -------
    int
        How many bytes were read; 0 for a file that was written without a checksum.

    Raises
    ------
    StoredFileChanged
        The data set has other bytes than when it was written, or the checksum itself is damaged.
    FileNotFoundError
        It is gone.
    """
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                found = checksum_in(data)
                if found is None:
                    # Not written by a receiver of this node: a series that was put into the spool by hand.
                    return 0
                with memoryview(data) as view:
                    digest = hashlib.sha256(view[found.data_start :]).hexdigest()
                size = len(data) - found.data_start
        except (BrokenDataSet, ValueError) as error:
            raise StoredFileChanged(f"the stored file {name} has a damaged beginning") from error
    if (digest, size) != (found.sha256, found.size_bytes) or sha256 not in (None, digest):
        raise StoredFileChanged(f"the stored file {name} has changed since it was written: its SHA-256 differs")
    return size


class Verification:
    """Compares stored files with their checksums in threads, beside other work; a file that is gone is passed over.

    Parameters
    ----------
    files
        Path, name in the spool, and SHA-256 in the registry of each.
    threads
        How many are read at the same time; hashing does not hold Python's lock.
    """

    def __init__(self, files: Iterable[tuple[Path, str, str]], threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="verify")
        self._checks = [self._pool.submit(_verify_if_there, *file) for file in files]

    def __enter__(self) -> Verification:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> None:
        """Wait for all.

        Raises
        ------
        StoredFileChanged
            One has other bytes than when it was written.
        """
        for check in self._checks:
            check.result()


def _verify_if_there(path: Path, name: str, sha256: str) -> None:
    with suppress(FileNotFoundError):
        verify(path, name, sha256)


@dataclass(slots=True)
class Scrubber:
    """Reads the images and reports of a spool again and again at a low rate, in the order of their names.

    Where it stands outlives a restart (``scrub.json`` in the spool).
    """

    layout: SpoolLayout
    rate_mb_s: float
    _changed: dict[str, str] = field(default_factory=dict)

    def run(self, seconds: float) -> int:
        """Verify as many files as the rate allows in ``seconds``; return how many.

        Raises
        ------
        StoredFileChanged
            Files that were found changed are still in the spool.
        """
        budget, done, last = int(self.rate_mb_s * _MIB * seconds), 0, ""
        for path in self._after(self._position()):
            last = self.layout.relative(path)
            try:
                size = verify(path, last)
                self._changed.pop(last, None)
            except FileNotFoundError:
                continue
            except StoredFileChanged as error:
                size = path.stat().st_size
                if last not in self._changed:
                    log_event(_LOGGER, logging.ERROR, "stored_file_changed", path=last, reason=str(error))
                self._changed[last] = str(error)
            done += 1
            budget -= max(size, 1)
            if budget <= 0:
                break
        else:
            last = ""
        self._remember(last)
        self._changed = {name: text for name, text in self._changed.items() if (self.layout.root / name).exists()}
        if self._changed:
            names = ", ".join(sorted(self._changed)[:_NAMED])
            raise StoredFileChanged(f"{len(self._changed)} stored files have changed on the disk: {names}")
        return done

    def _after(self, position: str) -> Iterator[Path]:
        for folder in (self.layout.instances, self.layout.root / "reports"):
            for shard in sorted(folder.glob("??")):
                if position and self.layout.relative(shard) < str(Path(position).parent):
                    continue
                for path in sorted(shard.glob("*.dcm")):
                    if self.layout.relative(path) > position:
                        yield path

    def _position(self) -> str:
        try:
            return str(json.loads(self._file.read_bytes())["after"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _remember(self, position: str) -> None:
        self._file.write_text(json.dumps({"after": position}))

    @property
    def _file(self) -> Path:
        return self.layout.root / "scrub.json"
