"""A TCP line to a server on loopback that a test can cut and heal."""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["CutLine"]


class CutLine:
    """Carries connections from ``port`` to ``to_port``; while cut it drops them, and every new one."""

    def __init__(self, port: int, to_port: int) -> None:
        self._to_port, self._cut = to_port, False
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        self._cut = True
        for end in self._open:
            _drop(end)

    def heal(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        _drop(self._listener)
        for thread in self._threads:
            thread.join(10)
        for end in (*self._open, self._listener):
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._cut:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to_port))
            self._open += [near, far]
            for ends in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=_carry, args=ends, daemon=True))
                self._threads[-1].start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _drop(source)
    _drop(target)


def _drop(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
