"""What a head does about processes of its own that were stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.supervisor import head_guards
from raycluster_cli.supervisor.head_guards import HeadGuards
from raycluster_cli.system.proctree import identify, read_stat
from tests.waiting import wait_until


def is_stopped(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state == "T"


@pytest.mark.parametrize("earlier", [False, True], ids=["the companion", "another process with its id"])
def test_a_stopped_companion_is_continued(earlier: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_guards, "STOPPED_LOOK_S", 0.02)
    notes: list[str] = []
    node: Any = SimpleNamespace(companion=None)
    parts: Any = SimpleNamespace(report=SimpleNamespace(note=notes.append))
    unused: Any = None
    guards = HeadGuards(parts, node, rules=unused, state=unused, workers=unused, recovery_over=unused)

    async def watch() -> None:
        watching = asyncio.ensure_future(guards._watch_stopped())
        await asyncio.sleep(0.1)  # there is no companion, as between two of them
        node.companion = companion
        deadline = time.monotonic() + (0.5 if earlier else 30)
        while not notes and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not watching.done()
        watching.cancel()

    with subprocess.Popen(["sleep", "60"]) as process:
        ref = identify(process.pid)
        assert ref is not None
        companion = SimpleNamespace(
            child=SimpleNamespace(ref=ref.but(start_ticks=ref.start_ticks - earlier), pid=ref.pid)
        )
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid), timeout_s=30, what="a stopped process")
        asyncio.run(watch())
        assert is_stopped(process.pid) == earlier
        process.kill()
    told = f"process {process.pid} of raycluster was stopped (SIGSTOP): it is continued"
    assert notes == ([] if earlier else [told])
