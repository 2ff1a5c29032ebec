"""The stand-in for a raylet's agent becomes the agent when it is wanted, and not before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raycluster_cli
from raycluster_cli.rayproc.lazy_agent import wake
from tests.waiting import wait_until

LAZY = [sys.executable, "-I", "-S", str(Path(raycluster_cli.__file__).parent / "rayproc/lazy_agent.py")]

SERVER = """
import os, socket, sys
host, port = sys.argv[1], int(sys.argv[2])
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((host, port))
server.listen()
while True:
    connection, _ = server.accept()
    connection.sendall(f"{os.getpid()} {os.getcwd()} {sys.path[0]}".encode() + connection.recv(100))
    connection.close()
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def start(started: list[subprocess.Popen[bytes]], *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*LAZY, *arguments], stdin=subprocess.PIPE)
    started.append(process)
    return process


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(port: int, text: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(text)
        return connection.makefile().read()


def test_behind_a_gate(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    process = start(started, "gate", str(gate), "--", "/bin/sh", "-c", f"echo $$ >{mark}; sleep 60")
    wait_until(gate.exists, timeout_s=5, what="the gate")
    wait_until(lambda: wake(str(gate)), timeout_s=5, what="a reader at the gate", interval_s=0.01)
    wait_until(lambda: mark.exists() and mark.read_text(), timeout_s=5, what="the command")
    assert mark.read_text().strip() == str(
        process.pid
    )  # the same process: whoever watches it notices nothing


def test_at_a_port(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    port = free_port()
    process = start(
        started,
        "port",
        "127.0.0.1",
        str(port),
        "--",
        sys.executable,
        "-u",
        str(script),
        "127.0.0.1",
        str(port),
    )
    wait_until(lambda: _listens(port, process.pid), timeout_s=5, what="the stand-in listens", interval_s=0.01)
    assert "lazy_agent.py port" in command_line(process.pid)
    # The very connection that wakes it is served, and later ones too.
    for text in (b"one", b"two"):
        assert ask(port, text) == f"{process.pid} {os.getcwd()} {tmp_path}{text.decode()}"
    assert "lazy_agent.py become" in command_line(process.pid)


def _listens(port: int, pid: int) -> bool:
    """Whether somebody listens on the port, found out without a connection, which would wake it."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
    return any(f":{port:04X}" in line.split()[1] and line.split()[3] == "0A" for line in lines[1:])


@pytest.mark.parametrize("how", ["gate", "port"])
def test_it_ends_with_its_parent(tmp_path: Path, started: list[subprocess.Popen[bytes]], how: str) -> None:
    where = [str(tmp_path / "gate")] if how == "gate" else ["127.0.0.1", str(free_port())]
    process = start(started, how, *where, "--", "/bin/false")
    assert process.stdin is not None
    process.stdin.close()  # as when the raylet dies
    assert process.wait(5) == 0


def test_wake_writes_only_where_somebody_waits(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    assert not wake(str(gate))
    os.mkfifo(gate)
    assert not wake(str(gate))
    reader = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    assert wake(str(gate))
    assert os.read(reader, 10) == b"go\n"
    os.close(reader)
