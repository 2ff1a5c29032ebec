"""The hand-written health check against Ray's own gcs_server, started by hand: no cluster, no ray start."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raycluster_cli.rayproc.health import HealthChannel, Outcome, tcp_probe

LOCALHOST = "127.0.0.1"


@dataclass
class Gcs:
    process: subprocess.Popen[bytes]
    port: int
    started_s: float
    """From exec to the first TCP connection."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        return int(sock.getsockname()[1])


async def reached(port: int, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while (await tcp_probe(LOCALHOST, port, timeout_s=1.0)).outcome is not Outcome.REACHED:
        assert time.monotonic() < deadline, "gcs_server did not open its port"
        await asyncio.sleep(0.005)


@pytest.fixture
def gcs(tmp_path: Path) -> Iterator[Callable[..., Gcs]]:
    spec = importlib.util.find_spec("ray")
    assert spec is not None and spec.origin is not None
    binary = Path(spec.origin).parent / "core/src/ray/gcs/gcs_server"
    started: list[subprocess.Popen[bytes]] = []

    def start(**env: str) -> Gcs:
        port = free_port()
        config = base64.b64encode(b"{}").decode()
        began = time.monotonic()
        process = subprocess.Popen(
            [
                str(binary),
                "--undefok=node-id,session-dir",  # unknown to 2.52
                f"--log_dir={tmp_path}",
                f"--config_list={config}",
                f"--gcs_server_port={port}",
                "--metrics-agent-port=-1",
                f"--node-ip-address={LOCALHOST}",
                "--session-name=session_test",
                "--ray-commit=test",
                f"--session-dir={tmp_path}",
                f"--node-id={secrets.token_hex(28)}",
            ],
            env={"PATH": os.environ["PATH"], "RAY_USAGE_STATS_ENABLED": "0", **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        asyncio.run(reached(port))
        return Gcs(process, port, time.monotonic() - began)

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("auth", [False, True], ids=["open", "token"])
def test_a_healthy_gcs_says_yes_with_and_without_authentication(
    gcs: Callable[..., Gcs], tmp_path: Path, auth: bool
) -> None:
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    server = gcs(**({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} if auth else {}))

    async def ask() -> None:
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0)
        assert [await channel.check(timeout_s=2.0) for _ in range(3)] == [True] * 3
        both = await asyncio.gather(*(channel.check(timeout_s=2.0) for _ in range(50)))
        assert all(both)
        assert not channel.closed.is_set()
        channel.close()
        assert channel.closed.is_set()
        assert not await channel.check(timeout_s=1.0)

    asyncio.run(ask())


def test_a_killed_gcs_is_known_at_once(gcs: Callable[..., Gcs]) -> None:
    server = gcs()

    async def ask() -> float:
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0)
        assert await channel.check(timeout_s=2.0)
        began = time.monotonic()
        server.process.kill()
        await asyncio.wait_for(channel.closed.wait(), 5.0)
        took = time.monotonic() - began
        assert not await channel.check(timeout_s=1.0)
        server.process.wait()  # the kernel closes its connections before its listening socket, or after
        probe = await tcp_probe(LOCALHOST, server.port, timeout_s=1.0)
        assert probe.outcome is Outcome.REFUSED
        return took

    assert asyncio.run(ask()) < 2.0  # 5 ms when the machine has nothing else to do


def test_a_stopped_gcs_times_out_and_answers_again_when_it_goes_on(gcs: Callable[..., Gcs]) -> None:
    server = gcs()

    async def ask() -> None:
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0)
        assert await channel.check(timeout_s=2.0)
        server.process.send_signal(signal.SIGSTOP)
        while not all_stopped(server.process.pid):
            await asyncio.sleep(0.005)
        began = time.monotonic()
        assert not await channel.check(timeout_s=0.3)
        assert time.monotonic() - began > 0.25
        assert not channel.closed.is_set()
        server.process.send_signal(signal.SIGCONT)
        assert await channel.check(timeout_s=2.0)
        channel.close()

    asyncio.run(ask())


def all_stopped(pid: int) -> bool:
    """SIGSTOP takes a moment to reach every thread."""
    states = [
        task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


def test_more_checks_than_the_flow_control_windows_hold(gcs: Callable[..., Gcs]) -> None:
    """64 KiB are 13,107 questions of 5 bytes or 9,362 answers of 7: then somebody must give credit."""
    server = gcs()

    async def ask() -> None:
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0)
        for _ in range(150):
            assert all(await asyncio.gather(*(channel.check(timeout_s=10.0) for _ in range(90))))
        channel.close()

    asyncio.run(ask())


def make_certificates(where: Path) -> dict[str, str]:
    """A CA and one certificate for both ends, as Ray's TLS variables want them."""
    ca, key, request, cert = (str(where / name) for name in ("ca.pem", "key.pem", "request.pem", "cert.pem"))
    ca_key, names = str(where / "ca-key.pem"), where / "names"
    names.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for command in (
        ["req", "-x509", *new_key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=test ca"],
        ["req", *new_key, "-keyout", key, "-out", request, "-subj", "/CN=test node"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"],
    ):
        more = ["-out", cert, "-days", "2", "-extfile", str(names)] if command[0] == "x509" else []
        subprocess.run(["openssl", *command, *more], check=True, capture_output=True)
    return {"RAY_TLS_SERVER_CERT": cert, "RAY_TLS_SERVER_KEY": key, "RAY_TLS_CA_CERT": ca}


def test_a_gcs_with_tls_answers_who_shows_a_certificate_and_nobody_else(
    gcs: Callable[..., Gcs], tmp_path: Path
) -> None:
    files = make_certificates(tmp_path)
    server = gcs(RAY_USE_TLS="1", **files)

    async def ask() -> None:
        ours = ssl.create_default_context(cafile=files["RAY_TLS_CA_CERT"])
        ours.load_cert_chain(files["RAY_TLS_SERVER_CERT"], files["RAY_TLS_SERVER_KEY"])
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0, context=ours)
        assert await channel.check(timeout_s=2.0)
        server.process.kill()
        await asyncio.wait_for(channel.closed.wait(), 2.0)

    async def ask_without() -> None:
        plain = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0)
        assert not await plain.check(timeout_s=0.5)
        plain.close()
        nobody = ssl.create_default_context(cafile=files["RAY_TLS_CA_CERT"])
        channel = await HealthChannel.connect(LOCALHOST, server.port, timeout_s=2.0, context=nobody)
        assert not await channel.check(timeout_s=0.5)
        channel.close()

    asyncio.run(ask_without())
    asyncio.run(ask())


needs_network = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2: to pull a cable"
)


@pytest.mark.slow
@needs_network
def test_a_cable_pulled_for_5_s_is_survived_and_one_pulled_for_good_known_in_15_s() -> None:
    """Two network namespaces, joined by a cable that can be pulled."""
    here, there = f"rch{os.getpid() % 100000}", f"rct{os.getpid() % 100000}"
    near, far = "10.254.253.1", "10.254.253.2"
    box = subprocess.Popen(["unshare", "-n", "sleep", "120"])
    inside = ["nsenter", "-t", str(box.pid), "-n"]

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=10)

    def plug(state: str) -> None:
        run(*inside, "ip", "link", "set", there, state)

    server = None
    try:
        deadline = time.monotonic() + 5
        while os.readlink(f"/proc/{box.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(box.pid))
        run("ip", "addr", "add", f"{near}/30", "dev", here)
        run("ip", "link", "set", here, "up")
        run(*inside, "ip", "addr", "add", f"{far}/30", "dev", there)
        plug("up")
        # Any server will do, since its host's kernel is what answers or not.
        server = subprocess.Popen([*inside, sys.executable, "-c", SILENT_SERVER, far], stdout=subprocess.PIPE)
        assert server.stdout is not None
        port = int(server.stdout.readline())

        async def watch() -> None:
            idle = await HealthChannel.connect(far, port, timeout_s=2.0)
            asking = await HealthChannel.connect(far, port, timeout_s=2.0)
            plug("down")
            assert not await asking.check(timeout_s=0.5)
            await asyncio.sleep(4.5)
            plug("up")
            await asyncio.sleep(4.0)
            assert not idle.closed.is_set() and not asking.closed.is_set()
            plug("down")
            began = time.monotonic()
            assert not await asking.check(timeout_s=0.5)
            await asyncio.wait_for(asyncio.gather(idle.closed.wait(), asking.closed.wait()), 15.0)
            assert time.monotonic() - began > 6.0

        asyncio.run(watch())
    finally:
        for process in (server, box):
            if process is not None:
                process.kill()
                process.communicate()
        subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)


SILENT_SERVER = """
import socket, sys, time
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
kept = [server.accept() for _ in range(2)]
time.sleep(120)
"""
