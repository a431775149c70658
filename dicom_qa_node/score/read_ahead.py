"""Reads images while their series is still arriving, so that little is left to do when it is complete.

A worker without a series reads the headers of what came in, and decodes compressed pictures. Nothing depends on it:
what was not read ahead, or was forgotten for want of memory, is read when the series is scored. Stored files never
change; their checksums are compared when the series is scored, as without it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dicom_qa_node.dicom_io import headers as at
from dicom_qa_node.domain.errors import Transient
from dicom_qa_node.flow.registry import Arrival, Registry
from dicom_qa_node.log import RateLimitedLog
from dicom_qa_node.score.decoder_pool import BrokenPixels, DecoderPool, codestreams, in_order
from dicom_qa_node.score.slice_headers import SliceHeader
from dicom_qa_node.score.volume_builder import HeadersFound, ImagesAhead
from dicom_qa_node.spool.layout import SpoolLayout

__all__ = ["ReadAhead"]

_LOGGER = logging.getLogger(__name__)
_AT_ONCE = 8
_MOST_SERIES = 16
_MOST_FRAME_BYTES = 256 << 20
_MOST_SLICES = 20_000


class ReadAhead:
    """What arrives, read by one worker of several.

    Parameters
    ----------
    decoders
        Where compressed pictures are decoded; of the worker.
    worker, workers
        Each of the ``workers`` of a host reads the series that fall to its number (from 0), so that none is read twice.
    """

    def __init__(
        self, registry: Registry, spool_dir: Path, decoders: DecoderPool, worker: int = 0, workers: int = 1
    ) -> None:
        self._registry, self._layout, self._decoders = registry, SpoolLayout(spool_dir), decoders
        self._worker, self._workers = worker, max(workers, 1)
        self._series: OrderedDict[str, ImagesAhead] = OrderedDict()
        self._after: int | None = None
        self._told = RateLimitedLog(_LOGGER)

    def step(self) -> bool:
        """Read a few images; False when there is none."""
        try:
            arrivals = self._arrivals()
        except Transient as error:
            self._told.log(logging.WARNING, "read_ahead_postponed", reason=str(error))
            return False
        mine = [item for item in arrivals if item.receiving and self._is_mine(item.series_instance_uid)]
        with at.tolerant():
            fresh = [(self._of(item.series_instance_uid), self._layout.absolute(item.path)) for item in mine]
            for series, path in fresh:
                if self._has_room() and path.is_file():
                    series.headers[path] = HeadersFound.of_file(path)
                    series.frames.pop(path, None)
        self._decode(fresh)
        return bool(arrivals)

    def take(self, series_instance_uid: str) -> ImagesAhead:
        """Return what was read of a series, and forget it."""
        return self._series.pop(series_instance_uid, None) or ImagesAhead()

    def _arrivals(self) -> Sequence[Arrival]:
        if self._after is None:
            # What came before this worker is read when it is scored.
            self._after = self._registry.newest_instance()
        found = self._registry.arrivals(self._after, _AT_ONCE)
        if found:
            self._after = found[-1].instance_id
        return found

    def _is_mine(self, uid: str) -> bool:
        return sum(uid.encode()) % self._workers == self._worker

    def _of(self, uid: str) -> ImagesAhead:
        self._series.setdefault(uid, ImagesAhead())
        self._series.move_to_end(uid)
        return self._series[uid]

    def _decode(self, fresh: Sequence[tuple[ImagesAhead, Path]]) -> None:
        found = [(series, path, _compressed_slice(series.headers.get(path))) for series, path in fresh]
        wanted = [(series, path, header) for series, path, header in found if header is not None]
        room = self._room(sum(header.pixels.frame_bytes for _, _, header in wanted))

        def decode(series: ImagesAhead, path: Path, header: SliceHeader) -> None:
            try:
                (stream,) = codestreams(header.pixels)
                series.frames[path] = self._decoders.decode(stream)
            except (BrokenPixels, ValueError):
                # It is found again, and said, when the series is scored.
                return

        tasks = []
        for series, path, header in wanted:
            if header.pixels.frame_bytes <= room:
                room -= header.pixels.frame_bytes
                tasks.append(partial(decode, series, path, header))
        in_order(tasks, self._decoders.count)

    def _has_room(self) -> bool:
        """Forget the series that waited longest until there is room for headers; whether there is."""
        while (held := sum(series.slice_count for series in self._series.values())) >= _MOST_SLICES:
            if len(self._series) <= 1:
                break
            self._series.popitem(last=False)
        return held < _MOST_SLICES

    def _room(self, wanted_bytes: int) -> int:
        """Forget the series that waited longest until there is room for pictures, and return how much there is."""
        while True:
            room = _MOST_FRAME_BYTES - sum(series.frame_bytes for series in self._series.values())
            if len(self._series) <= 1 or (room >= wanted_bytes and len(self._series) <= _MOST_SERIES):
                return room
            self._series.popitem(last=False)


def _compressed_slice(headers: HeadersFound | None) -> SliceHeader | None:
    """Return the header of a file with one compressed picture."""
    if headers is None or len(headers.slices) != 1:
        return None
    (found,) = headers.slices
    return found if found.frame is None and found.pixels.transfer_syntax.is_encapsulated else None
