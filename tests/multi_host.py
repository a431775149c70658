"""Hosts with a network each, around a router that can lose the packets between two of them without telling anybody.

They are network namespaces of Linux; to make them needs root. The addresses are those kept free for such tests
(198.18.0.0/15, RFC 2544), and none of the machine's own networks is touched.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

__all__ = ["NoNamespaces", "SeparateHosts"]

_PATIENCE_S = 30


class NoNamespaces(Exception):
    """This machine does not let the test make networks, for a reason that the text says."""


class SeparateHosts:
    """Hosts by name; each gets its network when it is first named.

    Raises
    ------
    NoNamespaces
        From any call, where networks cannot be made.
    """

    def __init__(self) -> None:
        self._prefix = f"qa{os.getpid()}"
        self._addresses: dict[str, str] = {}
        self._made: list[str] = []

    def address(self, name: str) -> str:
        """Return the address of a host."""
        if not self._made:
            self._make("router")
            forward = ("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
            _ip("netns", "exec", self._space("router"), *forward)
        if name not in self._addresses:
            self._add(name, len(self._addresses) + 1)
        return self._addresses[name]

    def within(self, name: str) -> Sequence[str]:
        """Return what to put before a command so that it runs on a host."""
        self.address(name)
        return ("ip", "netns", "exec", self._space(name))

    def cut(self, one: str, other: str) -> None:
        """Lose every packet between two hosts from now on: no answer, no reset, no word from the router."""
        self._rules("add", one, other)

    def heal(self, one: str, other: str) -> None:
        """Carry the packets again."""
        self._rules("del", one, other)

    def close(self) -> None:
        """Take the networks away; their processes must have ended."""
        for name in reversed(self._made):
            _ip("netns", "del", self._space(name))
        self._made.clear()

    def _space(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _make(self, name: str) -> None:
        _ip("netns", "add", self._space(name))
        self._made.append(name)
        _ip("-n", self._space(name), "link", "set", "lo", "up")

    def _add(self, name: str, number: int) -> None:
        self._make(name)
        port, router, host = f"host{number}", self._space("router"), self._space(name)
        _ip("-n", router, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host)
        _ip("-n", router, "address", "add", f"198.18.{number}.1/24", "dev", port)
        _ip("-n", router, "link", "set", port, "up")
        _ip("-n", host, "address", "add", f"198.18.{number}.2/24", "dev", "eth0")
        _ip("-n", host, "link", "set", "eth0", "up")
        _ip("-n", host, "route", "add", "default", "via", f"198.18.{number}.1")
        self._addresses[name] = f"198.18.{number}.2"

    def _rules(self, change: str, one: str, other: str) -> None:
        for source, sink in ((one, other), (other, one)):
            way = ("from", self.address(source), "to", self.address(sink), "blackhole")
            _ip("-n", self._space("router"), "rule", change, *way)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_PATIENCE_S)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
