"""The end of a head, step by step: what the driver left running is ended first, whatever else fails."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.policy import actions as do
from raycluster_cli.policy.values import End
from raycluster_cli.supervisor import head
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.head import HeadRun

DRIVER_ENDED = End(0, "the driver ended with code 0", "driver")


class Driver:
    """As driver.Driver, of which programs still run after it has ended."""

    def __init__(self, steps: list[str], fails: bool = False) -> None:
        self._steps, self._fails = steps, fails
        self.killed = asyncio.Event()

    async def stop_left_running(self, grace_s: float) -> None:
        self._steps.append(f"left running, {grace_s:g} s")
        if self._fails:
            raise OSError("a bug")
        if grace_s > 60:
            await self.killed.wait()

    async def kill(self) -> None:
        self._steps.append("killed")
        self.killed.set()


def end_of(tmp_path: Path, *, grace_s: float = 10.0, fails: bool = False, hurry: bool = False) -> list[str]:
    """The steps of a head's end."""
    steps: list[str] = []

    async def work() -> None:
        run = HeadRun(
            Context(
                settings=Settings(grace=grace_s, expected_workers=0),
                env={},
                allocation=None,
                role=Role.HEAD,
                key="7",
                slurm_cluster="bed",
                host="n1",
                state_dir=tmp_path,
            )
        )
        run.report.stream = io.StringIO()
        one: Any = run
        one.driver = Driver(steps, fails)
        one._node = SimpleNamespace(stop=lambda _: step("Ray"), setup=SimpleNamespace(root=None))

        async def step(name: str) -> None:
            steps.append(name)

        one._write_end = lambda end: step("the end")
        one.archive_logs = lambda end: step("logs")
        patch.setattr(head, "drain_workers", lambda *_: step("drain"))
        patch.setattr(head, "tell_oom_kills", lambda *_: step("killed processes"))
        if hurry:
            run.hurry.set()
        task = asyncio.ensure_future(run.shutdown(do.Leave(DRIVER_ENDED)))
        done, _ = await asyncio.wait({task}, timeout=30)
        assert done, steps
        task.result()

    with pytest.MonkeyPatch.context() as patch:
        asyncio.run(work())
    return steps


@pytest.mark.parametrize("fails", [False, True])
def test_programs_that_the_driver_left_running_are_ended_first(tmp_path: Path, fails: bool) -> None:
    steps = end_of(tmp_path, fails=fails)
    assert steps == ["left running, 10 s", "the end", "drain", "logs", "Ray", "killed processes"]


def test_at_once_they_are_killed(tmp_path: Path) -> None:
    steps = end_of(tmp_path, grace_s=3600, hurry=True)
    assert steps == ["left running, 3600 s", "killed", "the end", "Ray", "killed processes"]
