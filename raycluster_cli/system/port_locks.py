"""Port locks: units of ports, locked against every raycluster in the same network namespace.

The lock of a unit is an abstract unix socket, bound for as long as the ports are claimed.  Its scope is the
network namespace, which is exactly that of TCP ports (also with a private /tmp, in containers, and between
users).  There is no file, no mode and no owner, and the kernel releases the lock when its holder dies in any
way.  Why this and not a lock file: docs/decisions/0002.

Where the kernel refuses abstract sockets (a seccomp or Landlock profile), the last port of each unit is bound
on TCP instead and never listens.  That locks in the same way and costs one port in each unit.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence

from .port_probe import any_address, tcp_socket

UNIT = 128
"""Ports in a unit, the smallest range that is locked."""


class PortLocks:
    """The units that one claim has locked."""

    def __init__(self, name: str, abstract: bool) -> None:
        self.name = name
        self._held: dict[int, socket.socket] = {}
        self.abstract = abstract and self._abstract_possible()

    @staticmethod
    def _abstract_possible() -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.bind("")  # the kernel chooses a free abstract name
            return True
        except OSError:
            return False

    def take(self, units: Sequence[int]) -> bool:
        """Lock all of these units in this order, or none; whether it worked."""
        taken: list[int] = []
        for unit in units:
            lock = self._bind(unit)
            if lock is None:
                self.release(taken)
                return False
            self._held[unit] = lock
            taken.append(unit)
        return True

    def _bind(self, unit: int) -> socket.socket | None:
        if self.abstract:
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where: str | tuple[str, int] = f"\0{self.name}/{unit}"
        else:
            # Without SO_REUSEADDR, so that no other bind of this port succeeds while it is held.
            lock = tcp_socket()
            where = (any_address(lock), unit * UNIT + UNIT - 1)
        try:
            lock.bind(where)
            return lock
        except OSError:
            lock.close()
            return None

    def release(self, units: Iterable[int]) -> None:
        for unit in units:
            lock = self._held.pop(unit, None)
            if lock is not None:
                lock.close()

    def release_all(self) -> None:
        self.release(list(self._held))

    def held(self) -> list[socket.socket]:
        return list(self._held.values())
