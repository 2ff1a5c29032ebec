"""The stand-in for a raylet's agent becomes the agent when it is wanted, and not before."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raycluster_cli
from raycluster_cli.rayproc.boot import gate_command
from raycluster_cli.rayproc.lazy_agent import MAX_CONNECTIONS, judge, wake
from tests.waiting import wait_until

#: In place of the socket at which a supervisor hands a listening socket over.
NOBODY = "/nonexistent"

LAZY = [sys.executable, "-I", "-S", str(Path(raycluster_cli.__file__).parent / "rayproc/lazy_agent.py")]

SERVER = """
import os, socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((host, port))
server.listen()
def answer(connection):
    connection.sendall(f"{os.getpid()} {os.getcwd()} {sys.path[0]}".encode() + connection.recv(100))
    connection.close()
while True:
    threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()
"""

AGENT = """
import os, sys, time
with open(sys.argv[1], "w") as file:
    file.write(str(os.getpid()))
time.sleep(60)
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


def start(
    started: list[subprocess.Popen[bytes]],
    *arguments: str,
    env: dict[str, str] | None = None,
    gate: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Behind a gate where one is given."""
    before = gate_command(str(gate)) if gate else []
    process = subprocess.Popen([*before, *LAZY, *arguments], stdin=subprocess.PIPE, env=env)
    started.append(process)
    return process


@contextlib.contextmanager
def held(gate: Path) -> Iterator[None]:
    """A gate as a supervisor holds it."""
    os.mkfifo(gate)
    fd = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(fd)


def waits_at_gate(process: subprocess.Popen[bytes]) -> bool:
    """Whether the shell has the gate open for reading alone, after which it only waits."""
    with contextlib.suppress(OSError):
        fds = os.listdir(f"/proc/{process.pid}/fd")
        return "4" in fds and "3" not in fds
    return False


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(port: int, text: bytes) -> str:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(text)
        return connection.makefile(newline="").read()


def test_behind_a_gate(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    gate, mark, script = tmp_path / "gate", tmp_path / "mark", tmp_path / "agent.py"
    script.write_text(AGENT)
    with held(gate):
        process = start(started, "now", "--", sys.executable, "-u", str(script), str(mark), gate=gate)
        wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
        assert wake(str(gate))
        wait_until(lambda: mark.exists() and mark.read_text(), timeout_s=30, what="the command")
    assert mark.read_text() == str(process.pid)  # the same process: whoever watches it notices nothing


def test_a_gate_that_was_opened_before(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    gate, mark, script = tmp_path / "gate", tmp_path / "mark", tmp_path / "agent.py"
    script.write_text(AGENT)
    with held(gate):
        assert wake(str(gate))
        start(started, "now", "--", sys.executable, "-u", str(script), str(mark), gate=gate)
        wait_until(mark.exists, timeout_s=30, what="the command")


@pytest.mark.parametrize("made", [True, False])
def test_a_gate_that_nobody_holds(tmp_path: Path, started: list[subprocess.Popen[bytes]], made: bool) -> None:
    gate, mark, script = tmp_path / "gate", tmp_path / "mark", tmp_path / "agent.py"
    script.write_text(AGENT)
    if made:
        os.mkfifo(gate)
    start(started, "now", "--", sys.executable, "-u", str(script), str(mark), gate=gate)
    wait_until(mark.exists, timeout_s=30, what="the command")


def test_at_once(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    mark, script = tmp_path / "mark", tmp_path / "agent.py"
    script.write_text(AGENT)
    process = start(started, "now", "--", sys.executable, "-u", str(script), str(mark))
    wait_until(lambda: mark.exists() and mark.read_text(), timeout_s=30, what="the command")
    assert mark.read_text() == str(process.pid)


def test_with_the_socket_of_its_parent(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 10) as early:  # before there is anybody to answer
            how = ["socket", str(server.fileno()), str(port), "1", "--", sys.executable, "-u", str(script)]
            process = subprocess.Popen(
                [*LAZY, *how, "127.0.0.1", str(port)], stdin=subprocess.PIPE, pass_fds=(server.fileno(),)
            )
            started.append(process)
            early.sendall(b"one")
            answer = early.makefile().read()
    assert answer == f"{process.pid} {os.getcwd()} {tmp_path}one"
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 1


def test_at_a_port(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    port = free_port()
    process = start(
        started,
        "port",
        "127.0.0.1",
        str(port),
        NOBODY,
        "--",
        sys.executable,
        "-u",
        str(script),
        "127.0.0.1",
        str(port),
    )
    wait_until(
        lambda: _listens(port, process.pid), timeout_s=30, what="the stand-in listens", interval_s=0.01
    )
    assert "lazy_agent.py port" in command_line(process.pid)
    # The very connection that wakes it is served, and later ones too.
    for text in (b"POST /one HTTP/1.1\r\n\r\n", b"POST /two HTTP/1.1\r\n\r\n"):
        assert ask(port, text) == f"{process.pid} {os.getcwd()} {tmp_path}{text.decode()}"
    assert "lazy_agent.py become" in command_line(process.pid)


TOKEN = "0123456789abcdef0123456789abcdef"

#: Requests that the agent would refuse, and what the client gets; one that is not complete gets nothing.
REFUSED = {
    "no token": (b"POST /x HTTP/1.1\r\nHost: n1\r\n\r\n", b"HTTP/1.1 401 Unauthorized"),
    "another token": (b"GET / HTTP/1.1\r\nAuthorization: Bearer 0123\r\n\r\n", b"HTTP/1.1 401 Unauthorized"),
    "an empty token": (b"GET / HTTP/1.1\r\nAuthorization: Bearer \r\n\r\n", b"HTTP/1.1 401 Unauthorized"),
    "the token as a path": (f"GET /{TOKEN} HTTP/1.1\r\n\r\n".encode(), b"HTTP/1.1 401 Unauthorized"),
    "no end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 20000, b""),
    "half a request": (b"GET / HTTP/1.1\r\nAuthorization: Bear", b""),
    "nothing": (b"", b""),
}


def at_a_port(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], token: str
) -> tuple[subprocess.Popen[bytes], int]:
    """A stand-in that asks for the token."""
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "token").write_text(f"{token}\n")
    port = str(free_port())
    env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    command = [sys.executable, "-u", str(tmp_path / "server.py"), "127.0.0.1", port]
    process = start(started, "port", "127.0.0.1", port, NOBODY, "--", *command, env=env)
    wait_until(lambda: _listens(int(port), process.pid), timeout_s=10, what="the stand-in listens")
    return process, int(port)


def test_only_a_request_with_the_token_wakes_it(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process, port = at_a_port(tmp_path, started, TOKEN)
    for what, (request, answer) in REFUSED.items():
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            got = b""
            with contextlib.suppress(OSError):  # refused before it has sent all
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                got = connection.makefile("rb").read()
            assert got.startswith(answer), what
            assert bool(got) == bool(answer), what
        assert "lazy_agent.py port" in command_line(process.pid), what
    request = f"POST /x HTTP/1.1\r\nHost: n1\r\nauthorization: Bearer {TOKEN}\r\n\r\nbody"
    assert ask(port, request.encode()) == f"{process.pid} {os.getcwd()} {tmp_path}{request}"


def test_strangers_who_send_nothing_are_not_in_the_way(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    process, port = at_a_port(tmp_path, started, TOKEN)
    strangers = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(MAX_CONNECTIONS + 8)]
    try:
        strangers[0].settimeout(20)
        assert strangers[0].recv(1) == b""  # the oldest had to go, so that there are never more
        strangers[-1].sendall(b"GET / HT")
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            # In pieces, as a slow network brings it.
            connection.sendall(f"POST /x HTTP/1.1\r\nX-Ray-Authorization: Bearer {TOKEN[:8]}".encode())
            connection.sendall(f"{TOKEN[8:]}\r\n\r\n".encode())
            assert connection.makefile().read().startswith(f"{process.pid} ")
    finally:
        for stranger in strangers:
            stranger.close()


def test_half_a_request_is_no_news_until_more_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address, 10) as silent:
            client, _ = server.accept()
            client.setblocking(False)
            assert judge(client) is None
            silent.sendall(b"POST / HT")
            wait_until(lambda: client.recv(9, socket.MSG_PEEK), timeout_s=10, what="its bytes")
            assert judge(client) is None
            # What is there already does not count as news again.
            assert not select.select([client], [], [], 0)[0]
            silent.shutdown(socket.SHUT_WR)
            wait_until(lambda: select.select([client], [], [], 1)[0], timeout_s=10, what="its end")
            assert judge(client) is False
            client.close()


def test_the_agent_starts_where_strangers_fill_the_queue_of_its_port(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """The connection that started it is passed on to its own port, once there is room again."""
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    with contextlib.ExitStack() as closing:
        server = closing.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        port = server.getsockname()[1]
        for _ in range(4):
            stranger = closing.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", port))
        client, accepted = socket.socketpair()
        closing.enter_context(client)
        closing.enter_context(accepted)
        env = {
            **os.environ,
            "RAYCLUSTER_LAZY_FD": str(server.fileno()),
            "RAYCLUSTER_LAZY_PORT": str(port),
            "RAYCLUSTER_LAZY_CLIENT_FDS": str(accepted.fileno()),
        }
        command = [*LAZY, "become", "--", str(script), "127.0.0.1", str(port)]
        fds = (server.fileno(), accepted.fileno())
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=env, pass_fds=fds))
        client.settimeout(30)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(f"{started[0].pid} ".encode())


def _listens(port: int, pid: int) -> bool:
    """Whether somebody listens on the port, found out without a connection, which would wake it."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()
    return any(f":{port:04X}" in line.split()[1] and line.split()[3] == "0A" for line in lines[1:])


def test_the_stand_in_ends_with_its_parent(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    process = start(started, "port", "127.0.0.1", str(free_port()), NOBODY, "--", "/bin/false")
    assert process.stdin is not None
    process.stdin.close()  # as when the raylet dies
    assert process.wait(5) == 0


def test_the_stand_in_ends_with_its_parent_while_the_supervisor_is_stopped(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """Nothing comes from the supervisor's socket; the stand-in waits for it, and sees the raylet's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as supervisor:
        supervisor.bind(str(tmp_path / "socket"))
        supervisor.listen(1)
        where = ["127.0.0.1", str(free_port()), str(tmp_path / "socket")]
        process = start(started, "port", *where, "--", "/bin/false")
        supervisor.settimeout(30)
        with supervisor.accept()[0]:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(5) == 0


def test_behind_a_gate_it_ends_once_the_gate_is_let_go(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """The raylet has ended, and the supervisor, which has noticed that, closes the gate."""
    gate = tmp_path / "gate"
    with held(gate):
        process = start(started, "now", "--", "/bin/false", gate=gate)
        wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
        assert process.stdin is not None
        process.stdin.close()
    assert process.wait(5) == 0


class Supervised:
    """A node's directory whose supervisor is this process, until :meth:`end`."""

    def __init__(self, root: Path) -> None:
        self.mark = root / "cleared"
        self.env = {**os.environ, "RAYCLUSTER_NODE_ROOT": str(root)}
        os.mkfifo(root / "alive")
        self._alive = os.open(root / "alive", os.O_RDWR | os.O_NONBLOCK)
        command = ["/bin/sh", "-c", f"echo cleared >{self.mark}"]
        (root / "orphaned.json").write_text(json.dumps({"command": command}))

    def end(self) -> None:
        os.close(self._alive)

    def wait_cleared(self) -> None:
        wait_until(self.mark.exists, timeout_s=10, what="the command for an orphaned node")


def test_it_ends_with_its_supervisor(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    """The raylet, its parent, goes on; an agent that ends takes it along."""
    supervised = Supervised(tmp_path)
    port = free_port()
    where = ["127.0.0.1", str(port), NOBODY]
    process = start(started, "port", *where, "--", "/bin/false", env=supervised.env)
    wait_until(lambda: _listens(port, process.pid), timeout_s=30, what="the stand-in listens")
    assert process.poll() is None
    supervised.end()
    assert process.wait(5) == 1
    supervised.wait_cleared()


def test_behind_a_gate_it_ends_with_its_supervisor(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    supervised, gate = Supervised(tmp_path), tmp_path / "gate"
    with held(gate):
        process = start(started, "now", "--", "/bin/false", env=supervised.env, gate=gate)
        wait_until(lambda: waits_at_gate(process), timeout_s=30, what="the shell waits")
        supervised.end()
        assert process.poll() is None
    assert process.wait(5) == 1
    supervised.wait_cleared()


@pytest.mark.parametrize("how", [["now"], ["port", "127.0.0.1", "1", NOBODY]])
def test_it_ends_when_its_supervisor_has_ended_before_it_began(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], how: list[str]
) -> None:
    supervised, gate = Supervised(tmp_path), tmp_path / "gate"
    os.mkfifo(gate)
    if how[0] == "port":
        how[2] = str(free_port())
    supervised.end()
    process = start(started, *how, "--", "/bin/false", env=supervised.env, gate=gate)
    assert process.wait(5) == 1
    supervised.wait_cleared()


def test_the_agent_itself_ends_with_its_supervisor(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    supervised = Supervised(tmp_path)
    mark, script = tmp_path / "mark", tmp_path / "agent.py"
    script.write_text(AGENT)
    process = start(started, "now", "--", sys.executable, "-u", str(script), str(mark), env=supervised.env)
    wait_until(mark.exists, timeout_s=30, what="the agent")
    supervised.end()
    assert process.wait(5) == 1
    supervised.wait_cleared()


def test_wake_writes_only_where_somebody_waits(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    assert not wake(str(gate))
    os.mkfifo(gate)
    assert not wake(str(gate))
    reader = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    assert wake(str(gate))
    assert os.read(reader, 10) == b"go\n"
    os.close(reader)
