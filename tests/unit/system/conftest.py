"""Port claims and servers for the tests of ports, released and closed at the end of each test."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.system.port_map import PortMap
from raycluster_cli.system.ports import PortClaim, claim_ports

LOW, HIGH = 11264, 15360
"""Four blocks of 1,024 ports: not those of Ray's defaults that others on this machine may use."""

Claimer = Callable[..., PortClaim]


def worker_ports(ports: PortMap) -> list[int]:
    """The ports for worker processes."""
    return list(ports.worker_list or range(ports.worker_low, ports.worker_high + 1))


def everything(ports: PortMap) -> list[int]:
    """Each port of a map, those of worker processes one by one."""
    values = {**vars(ports)}
    for name in ("worker_list", "worker_low", "worker_high"):
        del values[name]
    return [*worker_ports(ports), *(port for port in values.values() if port)]


@pytest.fixture
def ports_alone() -> Iterator[None]:
    """Other processes with these tests on this machine wait: they would find each other's ports in use.

    Those of one run (pytest -n 3) as well as those of another.
    """
    path = Path(tempfile.gettempdir(), f"raycluster-tests-ports-{os.getuid()}")
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def claim(ports_alone: None) -> Iterator[Claimer]:
    """claim_ports in the range of these tests, given back at the end."""
    name = f"test/{uuid.uuid4().hex}"
    made: list[PortClaim] = []

    def make(key: str = "1", **options: object) -> PortClaim:
        values = {"address": "127.0.0.1", "head": True, "lowest": LOW, "highest": HIGH, "lock_name": name}
        made.append(claim_ports(key, **{**values, **options}))  # type: ignore[arg-type]
        return made[-1]

    make.lock_name = name  # type: ignore[attr-defined]
    yield make
    for each in made:
        each.close()


@pytest.fixture
def listen(ports_alone: None) -> Iterator[Callable[..., socket.socket]]:
    """A server on a port, closed at the end."""
    made: list[socket.socket] = []

    def make(
        port: int, address: str = "0.0.0.0", *, listening: bool = True, v6only: bool = False
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        made.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(listening))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(v6only))
        sock.bind((address, port))
        if listening:
            sock.listen()
        return sock

    yield make
    for each in made:
        each.close()
