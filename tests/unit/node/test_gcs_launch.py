"""How a running process was started, read from /proc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.node.gcs_launch import GcsLaunch


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
