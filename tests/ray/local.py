"""`raycluster run --local` for tests: in directories of its own, so that what it leaves can be seen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raycluster_cli.system.proctree import all_stats, identify, send_signal
from tests.waiting import wait_until

START_S = 120.0
"""For a cluster on a loaded machine."""

NODES = """
import sys, time, ray
ray.init(logging_level="ERROR")
print("NODES", *sorted(node["NodeName"] for node in ray.nodes() if node["Alive"]), flush=True)
time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[1]))
"""
"""A driver: names the nodes, sleeps for its second argument, ends with its first."""


class Local:
    """A place for local clusters: state and temporary files below one short directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        keep = {name: text for name, text in os.environ.items() if not name.startswith(("SLURM", "RAY"))}
        (base / "t").mkdir()
        self.env = {
            **keep,
            "HOME": str(base),
            "TMPDIR": str(base / "t"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAYCLUSTER_TEST_MARK": str(base),
        }

    def start(self, workers: int, *driver: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "raycluster_cli", "run", "--local", str(workers), *options]
        return subprocess.Popen(
            [*command, "--", *driver],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=open(self.base / "out", "w"),
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return (self.base / "out").read_text()

    def wait_for(self, text: str, process: subprocess.Popen[str]) -> None:
        """Until the output holds ``text``; AssertionError when the run ends without."""

        def said() -> bool:
            over = process.poll() is not None
            found = text in self.output
            assert found or not over, self.output
            return found

        wait_until(said, timeout_s=START_S, what=f"{text!r}")

    def node_pids(self) -> dict[str, int]:
        """Process ids of the nodes' raycluster (their supervisors), by node."""
        words = [json.loads(path.read_text()) for path in self.base.glob(".raycluster/local/*/nodes/*.json")]
        return {word["host"]: word["pid"] for word in words}

    def phase(self, host: str) -> str:
        """What a node is doing, as its report says; empty without one."""
        reports = [
            json.loads(path.read_text()) for path in self.base.glob(f".raycluster/local/*/nodes/{host}.json")
        ]
        return str(reports[0]["phase"]) if reports else ""

    def left(self) -> list[str]:
        """Processes and directories that belong to clusters of this place."""
        mark = f"RAYCLUSTER_TEST_MARK={self.base}".encode()
        found = [str(path) for path in (self.base / "t").iterdir()]
        for stat in all_stats():
            with suppress(OSError):
                here = Path(f"/proc/{stat.pid}")
                ours = mark in (here / "environ").read_bytes().split(b"\0")
                ours = ours or str(self.base).encode() in (here / "cmdline").read_bytes()
                if ours and stat.state not in "ZX":
                    found.append(f"{stat.pid} {stat.name}")
        return found

    def assert_nothing_left(self) -> None:
        wait_until(lambda: not self.left(), timeout_s=15, what="nothing left behind") if self.left() else None
        assert self.left() == []


@contextmanager
def local() -> Iterator[Local]:
    """A place that is removed afterwards, with all that a failed test left there."""
    with tempfile.TemporaryDirectory(prefix="rl", dir="/tmp") as directory:
        place = Local(Path(directory))
        try:
            yield place
        finally:
            deadline = time.monotonic() + 10
            while (left := place.left()) and time.monotonic() < deadline:
                for line in left:
                    if line.split()[0].isdigit() and (ref := identify(int(line.split()[0]))):
                        send_signal(ref, signal.SIGKILL)
                if all(line.startswith("/") for line in left):
                    break
                time.sleep(0.1)
