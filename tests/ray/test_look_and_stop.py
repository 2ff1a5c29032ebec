"""status, monitor and stop with a real cluster on this machine."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.system.proctree import read_stat
from tests.waiting import wait_until

DRIVER = """
import time
import ray

ray.init(log_to_driver=False)

@ray.remote(num_cpus=1)
def work():
    time.sleep(300)

held = ray.put(b"x" * 30_000_000)
print("WORKING", flush=True)
ray.get([work.remote() for _ in range(20)])
"""


class Cluster:
    """`raycluster run --local 1` with a driver that keeps it busy, and its record."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.env = {**os.environ, "RAYCLUSTER_STATE_DIR": str(self.state), "RAY_USAGE_STATS_ENABLED": "0"}
        script = directory / "driver.py"
        script.write_text(DRIVER)
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "raycluster_cli",
                "run",
                "--local",
                "1",
                "--",
                sys.executable,
                str(script),
            ],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "WORKING\n"

    def call(self, *words: str, code: int = 0) -> str:
        """`raycluster WORDS`: stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "raycluster_cli", *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def told(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call(*words))
        return found

    def roots(self) -> list[Path]:
        """The directories of the cluster's nodes on this machine, as far as they are there."""
        words = self.state.glob("local/*/nodes/*.json")
        roots = [Path(json.loads(word.read_text())["node_root"]) for word in words]
        return [root for root in roots if root.exists()]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    if cluster.process.poll() is None:
        cluster.process.send_signal(signal.SIGINT)
        try:
            cluster.process.wait(30)
        except subprocess.TimeoutExpired:
            cluster.process.kill()
            cluster.process.wait()


def test_seen_and_stopped(cluster: Cluster) -> None:
    def busy() -> dict[str, Any] | None:
        """What monitor tells, once the driver's tasks run on both nodes."""
        found = cluster.told("monitor", "--once", "--json")
        used = [node["usage"] for node in found["nodes"]]
        return found if all(one and one["worker_processes"] for one in used) else None

    found = wait_until(busy, timeout_s=60, what="tasks on both nodes")
    assert (found["state"], found["nodes_ready"]) == ("running", 2)
    assert sum(node["usage"]["cpus_used"] for node in found["nodes"]) > 0
    assert found["nodes"][0]["usage"]["object_store_used_bytes"] >= 30_000_000
    assert all(node["usage"]["memory_used_bytes"] > 1 << 20 for node in found["nodes"])
    cluster.call("monitor", "--once", "--exit-status")
    assert "running" in cluster.call("status")
    assert "slowest: " in cluster.call("status", "--timing")
    assert "ended after" in cluster.call("stop")
    assert cluster.process.wait(30) == 143
    assert cluster.told("status", found["job"], "--json")["state"] == "stopped"
    cluster.call("monitor", found["job"], "--exit-status", code=143)
    assert cluster.roots() == []
    assert "no cluster of mine runs" in cluster.call("stop", code=2)


def test_nothing_is_measured_when_nobody_watches(cluster: Cluster) -> None:
    time.sleep(2.5)
    assert list(cluster.state.glob("local/*/usage.json")) == []


def test_killed_with_its_keeper(cluster: Cluster) -> None:
    stat = read_stat(cluster.process.pid)
    head = json.loads(next(cluster.state.glob("local/*/head.json")).read_text())
    assert stat is not None
    os.kill(cluster.process.pid, signal.SIGKILL)
    os.kill(head["pid"], signal.SIGKILL)
    cluster.process.wait()
    wait_until(lambda: not cluster.roots(), timeout_s=30, what="nodes that clear themselves")
    found = cluster.told("status", "--json")["clusters"][0]
    assert (found["state"], found["reason"]) == ("failed", "supervisor-killed")
    assert "killed" in found["message"]
    cluster.call("monitor", "--once", "--exit-status", code=found["exit_code"])


def test_a_live_screen(cluster: Cluster) -> None:
    """On a terminal of 80x24: drawn on the other screen, without scrolling, and left as it was."""
    pid, fd = pty.fork()
    if pid == 0:
        env = {**cluster.env, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "raycluster_cli", "monitor"], env)
    text = b""
    deadline = time.monotonic() + 60

    def read_until(what: bytes) -> None:
        nonlocal text
        while what not in text:
            assert time.monotonic() < deadline, text
            if select.select([fd], [], [], 0.5)[0]:
                try:
                    text += os.read(fd, 65536)
                except OSError:  # the program has ended
                    assert what in text, text
                    return

    read_until(b"procs")
    read_until(b"Driver runs on 2 nodes")
    assert b"\x1b[?1049h" in text
    os.write(fd, b"q")
    read_until(b"\x1b[?1049l")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"\x1b[32m" not in text
    os.close(fd)
