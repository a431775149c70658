"""Tells systemd how the service does: the datagrams of sd_notify(3); without systemd every call does nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

__all__ = ["Notifier", "environment_for_children"]


class Notifier:
    """Sends state to the socket that systemd names in ``NOTIFY_SOCKET`` (``environment``: that of the process)."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        values = os.environ if environment is None else environment
        address = values.get("NOTIFY_SOCKET", "")
        # A leading @ stands for the abstract namespace, whose names begin with a zero byte (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        ours = values.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = values.get("WATCHDOG_USEC", "") if ours else ""
        #: Seconds within which systemd wants to hear from us, None without a watchdog.
        self.watchdog_s = int(usec) / 1e6 if usec.isdigit() else None

    def ready(self, status: str) -> None:
        """Say that the service has started."""
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """Say in one line what the service does."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Keep the watchdog quiet."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Say that the service is on its way down."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            # A service must run on when nobody listens any more.
            try:
                sender.connect(self._address)
                sender.send("\n".join(lines).encode())
            except OSError:
                return


def environment_for_children(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without systemd's socket: a child must not speak for the service."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
    return {name: value for name, value in environment.items() if name not in ours}
