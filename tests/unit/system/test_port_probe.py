"""Single ports: whether a server could listen on one, and who has it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.system import port_probe
from raycluster_cli.system.port_probe import (
    connected_users,
    first_ephemeral_port,
    listening_users,
    port_error,
    port_holder,
)

Listen = Callable[..., socket.socket]

PORT = 9321
"""Below all blocks: other processes of the tests may be probing the ports of a block just now."""


def test_a_free_port_and_one_in_use(listen: Listen) -> None:
    assert port_error(PORT) is None
    listen(PORT, "127.0.0.1")
    error = port_error(PORT)
    assert error is not None and error.errno == errno.EADDRINUSE


def test_who_is_connected_to_a_port(listen: Listen) -> None:
    listen(PORT, "127.0.0.1")
    assert connected_users(PORT) == set()
    with socket.create_connection(("127.0.0.1", PORT), 5):
        assert connected_users(PORT) == {os.geteuid()}
        assert connected_users(PORT + 1) == set()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_who_listens_on_a_port(listen: Listen, address: str) -> None:
    assert listening_users(PORT) == set()
    with listen(PORT, address, v6only=":" in address):
        assert listening_users(PORT) == {os.geteuid()}
        assert listening_users(PORT + 1) == set()


def test_without_ipv6_the_port_is_tested_on_ipv4(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 that is compiled in and switched off: sockets can be made, but no address can be bound."""
    real = port_probe.tcp_socket

    class SwitchedOff(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(port_probe, "tcp_socket", lambda: SwitchedOff(socket.AF_INET6, socket.SOCK_STREAM))
    assert port_error(PORT) is None
    listen(PORT, "127.0.0.1")
    error = port_error(PORT)
    assert error is not None and error.errno == errno.EADDRINUSE
    assert real().family in (socket.AF_INET, socket.AF_INET6)


def test_where_no_ipv6_socket_can_be_made_there_is_one_for_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    made = socket.socket

    def refuse(family: int = -1, *args: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *args)

    monkeypatch.setattr(port_probe.socket, "socket", refuse)
    with port_probe.tcp_socket() as sock:
        assert (sock.family, port_probe.any_address(sock)) == (socket.AF_INET, "0.0.0.0")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_holder_is_this_process(listen: Listen, address: str) -> None:
    listen(PORT, address, v6only=":" in address)
    name = Path("/proc/self/comm").read_text().strip()
    assert port_holder(PORT) == f"{name} (pid {os.getpid()})"


def proc_with(tmp_path: Path, table: str) -> Path:
    (tmp_path / "self/net").mkdir(parents=True)
    (tmp_path / "self/net/tcp").write_text(f"  sl  local_address rem_address   st\n{table}")
    return tmp_path


LINE = "  0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1\n"


@pytest.mark.parametrize(
    ("uid", "inode", "holder"),
    [(0, 77, "a process of user root"), (4242424, 77, "a process of uid 4242424"), (0, 0, "")],
)
def test_of_a_process_that_cannot_be_inspected_the_user_is_known(
    tmp_path: Path, uid: int, inode: int, holder: str
) -> None:
    proc = proc_with(tmp_path, LINE.format(port=PORT, uid=uid, inode=inode))
    (proc / "12").mkdir()  # without fd: as another user's process
    assert port_holder(PORT, proc) == holder
    assert port_holder(PORT + 1, proc) == ""


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert port_holder(PORT, tmp_path) == ""
    assert first_ephemeral_port(tmp_path) == 32768


def test_the_range_of_outgoing_connections(tmp_path: Path) -> None:
    file = tmp_path / "sys/net/ipv4/ip_local_port_range"
    file.parent.mkdir(parents=True)
    file.write_text("16000\t65535\n")
    assert first_ephemeral_port(tmp_path) == 16000
    file.write_text("\n")
    assert first_ephemeral_port(tmp_path) == 32768
