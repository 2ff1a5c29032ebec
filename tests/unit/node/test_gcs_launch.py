"""How a running process was started, read from /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.node.gcs_launch import GcsLaunch
from raycluster_cli.system.process import Reaper


@pytest.fixture
def cat(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "out").open("wb") as out:
        child = subprocess.Popen(
            ["/bin/cat", "-"], stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=tmp_path, env={"A": "b=c"}
        )
    assert child.stdin is not None
    child.stdin.write(b"it runs")
    child.stdin.flush()
    while not (tmp_path / "out").read_bytes():
        assert child.poll() is None
    yield child
    child.kill()
    child.communicate()


def test_a_running_process(cat: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log = str(tmp_path / "out")
    assert GcsLaunch.of(cat.pid) == GcsLaunch(("/bin/cat", "-"), {"A": "b=c"}, str(tmp_path), log, log)


def test_one_that_has_ended_and_was_not_reaped(cat: subprocess.Popen[bytes]) -> None:
    cat.kill()
    os.waitid(os.P_PID, cat.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(OSError):
        GcsLaunch.of(cat.pid)


def test_what_is_meant_for_the_driver_does_not_end_it(tmp_path: Path) -> None:
    """`--signal=USR1@300` reaches every process of a step."""
    log = str(tmp_path / "log")
    launch = GcsLaunch(("/bin/sleep", "60"), {}, str(tmp_path), log, log)

    async def scene() -> str:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        child = launch.spawn(reaper)
        try:
            return await asyncio.to_thread(Path(f"/proc/{child.pid}/status").read_text)
        finally:
            await child.stop(0.0)

    status = asyncio.run(asyncio.wait_for(scene(), 30))
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in status.splitlines()
        if line[:3] == "Sig" and "Q" not in line
    }
    ignored = {number for number in (signal.SIGUSR1, signal.SIGUSR2) if masks["SigIgn"] >> (number - 1) & 1}
    assert ignored == {signal.SIGUSR1, signal.SIGUSR2}
    assert masks["SigBlk"] >> (signal.SIGINT - 1) & 1
