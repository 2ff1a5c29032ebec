"""Stop: a head on this host that ignores signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.model.record import HeadInfo
from raycluster_cli.ops.stop import Outcome, stop_cluster
from raycluster_cli.state.record import Record
from raycluster_cli.system.proctree import identify
from tests.unit.ops.test_stop import World
from tests.unit.ops.test_stop import world as world


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[Record, subprocess.Popen[bytes]]]:
    """A head on this machine that reacts neither to the record nor to SIGTERM."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    record = Record.create(tmp_path, "local", "local-7")
    me = identify(process.pid)
    assert me is not None
    record.take_lease(host="here", pid=process.pid)
    record.write_head(
        HeadInfo("here", "127.0.0.1", 1, started=time.time(), pid=process.pid, create_time=me.start_ticks)
    )
    yield record, process
    process.kill()
    process.wait()


def test_a_stubborn_head_here_is_killed(
    stubborn: tuple[Record, subprocess.Popen[bytes]], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, process = stubborn
    monkeypatch.setattr("raycluster_cli.ops.stop.sweep_here", lambda *_: [])
    real = world.around.sleep

    def sleep(seconds: float) -> None:
        time.sleep(0.01)
        process.poll()  # reaps it
        real(seconds)

    world.around.sleep = sleep
    assert stop_cluster(record, world.around, deadline_s=1) is Outcome.FORCED
    assert process.wait(5) == -signal.SIGKILL
