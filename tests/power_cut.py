"""What a disk may hold after a power cut: every prefix of a log of file operations, with unsynced ones in any order.

A `Recorder` watches one folder while `os` functions are called. Bytes are durable by the fsync of their file, names by
the fsync of their folder (open(2), fsync(2)); all else may be lost, in part or whole, and in any order. `cuts` gives
the folders that a cut behind each operation can leave.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Cut", "Recorder"]

Names = dict[str, dict[str, int]]
Contents = dict[int, bytes]

_WATCHED = ("open", "write", "pwrite", "fsync", "link", "rename", "unlink", "mkdir")
_MIXES = 3


@dataclass(frozen=True)
class Cut:
    """A state of the folder: names, by path relative to it, with their bytes; ``after`` is the last operation."""

    after: str
    step: int
    files: dict[str, bytes]

    def write(self, folder: Path) -> None:
        """Make the state real below ``folder``."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, (0, 0))


@dataclass
class Recorder:
    """Watches ``root``; call `start` when everything in it is durable."""

    root: Path
    log: list[str] = field(default_factory=list)
    _known: dict[int, int] = field(default_factory=dict)
    _next: int = 0
    _synced: Contents = field(default_factory=dict)
    _named: Names = field(default_factory=dict)
    _states: list[tuple[str, Names, Contents, Names, Contents]] = field(default_factory=list)

    def start(self, patch: pytest.MonkeyPatch) -> None:
        """Take what is there for durable and watch from here on."""
        self._named, self._synced = self._look()
        for name in _WATCHED:
            patch.setattr(os, name, self._watching(name, getattr(os, name)))

    def cuts(self, seed: int = 1) -> Iterator[Cut]:
        """Yield every different state, those behind the same operation together."""
        chance = random.Random(seed)
        seen: set[int] = set()
        for step, (operation, named, synced, names, contents) in enumerate(self._states):
            for files in _variants(named, synced, names, contents, chance):
                key = hash((step, frozenset(files.items())))
                if key not in seen:
                    seen.add(key)
                    yield Cut(operation, step, files)

    def _watching(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            # Bytes written since the last operation, by whatever means, are there but not durable.
            self._note(f"before {name}", None)
            doomed = name == "unlink" and os.stat(arguments[0], follow_symlinks=False)
            synced = self._inode(arguments[0]) if name == "fsync" else None
            found = call(*arguments, **named)
            if doomed and doomed.st_nlink == 1:
                self._known.pop(doomed.st_ino, None)
            self._note(name, synced)
            return found

        return watched

    def _inode(self, descriptor: int) -> Path:
        return Path(f"/proc/self/fd/{descriptor}").readlink()

    def _note(self, name: str, synced: Path | None) -> None:
        names, contents = self._look()
        if synced is not None and synced.is_relative_to(self.root):
            place = synced.relative_to(self.root).as_posix()
            if synced.is_dir():
                self._named = {**self._named, place: dict(names.get(place, {}))}
            else:
                number = names[synced.parent.relative_to(self.root).as_posix()][synced.name]
                self._synced = {**self._synced, number: contents[number]}
        state = (name, self._named, self._synced, names, contents)
        if not self._states or state[1:] != self._states[-1][1:]:
            self._states.append(state)
            self.log.append(name)

    def _look(self) -> tuple[Names, Contents]:
        names: Names = {}
        contents: Contents = {}
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            place = names.setdefault(Path(folder).relative_to(self.root).as_posix(), {})
            for file in files:
                path = os.path.join(folder, file)
                number = self._number(os.stat(path).st_ino)
                place[file] = number
                with open(path, "rb") as opened:
                    contents[number] = opened.read()
        return names, contents

    def _number(self, inode: int) -> int:
        # A file system gives the inode of a deleted file to the next one.
        if inode not in self._known:
            self._next += 1
            self._known[inode] = self._next
        return self._known[inode]


def _variants(
    named: Names, synced: Contents, names: Names, contents: Contents, chance: random.Random
) -> Iterator[dict[str, bytes]]:
    """Yield durable names only and all names, each with the least and the most of the bytes, then mixes."""
    every = {**{place: {} for place in names}, **named}
    for listing in (every, names):
        for bytes_of in (_durable, _all, _half, _zeros):
            yield _files(listing, lambda number, pick=bytes_of: pick(number, synced, contents))
    for _ in range(_MIXES):
        mixed = {place: _mixed(named.get(place, {}), names.get(place, {}), chance) for place in {*named, *names}}
        picks: dict[int, Any] = {}
        yield _files(
            mixed,
            lambda number, picks=picks: picks.setdefault(number, chance.choice((_durable, _all, _half, _zeros)))(
                number, synced, contents
            ),
        )


def _mixed(durable: dict[str, int], now: dict[str, int], chance: random.Random) -> dict[str, int]:
    """Lose some of the new names, and bring some of the removed ones back."""
    sure = {file: number for file, number in now.items() if durable.get(file) == number}
    open_ = [item for listing in (durable, now) for item in listing.items() if sure.get(item[0]) != item[1]]
    return {**dict(item for item in open_ if chance.random() < 0.5), **sure}


def _files(listing: Names, bytes_of: Callable[[int], bytes]) -> dict[str, bytes]:
    return {
        (Path(place) / file).as_posix(): bytes_of(number)
        for place, files in listing.items()
        for file, number in files.items()
    }


def _durable(number: int, synced: Contents, contents: Contents) -> bytes:
    return synced.get(number, b"")


def _all(number: int, synced: Contents, contents: Contents) -> bytes:
    return contents.get(number, synced.get(number, b""))


def _half(number: int, synced: Contents, contents: Contents) -> bytes:
    durable, now = _durable(number, synced, contents), _all(number, synced, contents)
    return now if durable == now else now[: len(now) // 2]


def _zeros(number: int, synced: Contents, contents: Contents) -> bytes:
    durable, now = _durable(number, synced, contents), _all(number, synced, contents)
    return now if durable == now else bytes(len(now))
