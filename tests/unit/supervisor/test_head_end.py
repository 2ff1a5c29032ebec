"""The end of a head, step by step: what the driver left running is ended first, whatever else fails."""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.record import NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadState
from raycluster_cli.policy.values import End, Worker
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.supervisor import head
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.head import HeadRun
from raycluster_cli.supervisor.head_end import DRAIN_S, drain_workers, tell_oom_kills
from tests.unit.loops import in_loop

from .scene import Scene

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


# -- steps of it -------------------------------------------------------------------------------------

ONE, TWO = Worker("bb", "n2", "10.0.0.2"), Worker("cc", "n3", "10.0.0.3")


class Draining:
    """A head's node whose workers leave as a test says."""

    def __init__(self, running: bool = True) -> None:
        self.children: dict[str, Any] = {"gcs_server": SimpleNamespace(running=running)}
        self.state = HeadState(workers={one.node_id: one for one in (ONE, TWO)})
        self.changed = asyncio.Event()
        self.told: list[str] = []

    async def drain(self, node_ids: list[str], why: str, deadline_s: float) -> None:
        self.told = [*node_ids, why]

    def left(self, worker: Worker) -> None:
        workers = {key: one for key, one in self.state.workers.items() if one is not worker}
        self.state = replace(self.state, workers=workers)
        self.changed.set()

    async def over(self, scene: Scene) -> float:
        """How long the drain takes, in seconds."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        node: Any = self
        await drain_workers(scene.parts, node, lambda: self.state, self.changed, "the driver ended")
        return loop.time() - began


@in_loop
async def test_workers_that_leave_are_waited_for_and_no_longer(tmp_path: Path) -> None:
    scene, node = Scene(tmp_path), Draining()
    loop = asyncio.get_running_loop()
    loop.call_later(0.02, node.left, ONE)
    loop.call_later(0.25, node.left, TWO)
    assert 0.2 < await node.over(scene) < 0.5
    assert node.told == ["bb", "cc", "the driver ended"]
    await scene.close()


@in_loop
async def test_one_that_does_not_leave_is_waited_for_with_a_limit(tmp_path: Path) -> None:
    scene, node = Scene(tmp_path), Draining()
    assert DRAIN_S <= await node.over(scene) < DRAIN_S + 0.3
    await scene.close()


@pytest.mark.parametrize("how", ["hurry", "no GCS", "no workers", "the GCS has ended"])
def test_nobody_is_waited_for(tmp_path: Path, how: str) -> None:
    @in_loop
    async def test() -> None:
        scene, node = Scene(tmp_path), Draining(running=how != "the GCS has ended")
        if how == "hurry":
            scene.parts.hurry.set()
        elif how == "no GCS":
            node.children.clear()
        elif how == "no workers":
            node.state = HeadState()
        assert await node.over(scene) < 0.01
        assert bool(node.told) == (how == "hurry")
        await scene.close()

    test()


@in_loop
async def test_a_worker_that_says_that_it_has_ended_counts_as_gone(tmp_path: Path) -> None:
    """The GCS would notice it a second later."""
    scene, node = Scene(tmp_path), Draining()
    assert scene.record is not None
    for worker, phase in ((ONE, "gone"), (TWO, "joined")):
        scene.record.write_node(NodeReport(worker.host, "worker", phase, updated=time.time()))
    await node.over(scene)
    assert set(scene.posted) == {on.WorkerLeft(ONE)}
    await scene.close()


@pytest.mark.parametrize(
    ("kills", "code", "step", "said"),
    [
        ({"n2": 1, "n3": 2}, 0, "0", "the kernel killed 3 processes of this step"),
        ({"n2": 1}, 1, "0", ""),  # as srun's
        ({"n2": 1}, 0, None, ""),  # no srun
        ({"n2": 0}, 0, "0", ""),
        ({"n1": 1}, 0, "0", ""),  # our own report: the kernel is asked instead
    ],
)
def test_processes_that_the_kernel_killed_are_told_where_srun_ends_by_them(
    tmp_path: Path, kills: dict[str, int], code: int, step: str | None, said: str
) -> None:
    @in_loop
    async def test() -> None:
        scene = Scene(tmp_path, allocation=Allocation("7", ("n1", "n2", "n3"), step_id=step))
        assert scene.record is not None
        for host, number in kills.items():
            report = NodeReport(host, "worker", "gone", updated=time.time(), oom_kills=number)
            scene.record.write_node(report)
        await tell_oom_kills(scene.parts, 2, End(code, "the driver ended", "driver"))
        assert said in "\n".join(scene.said) and bool(said) == bool(scene.said)
        await scene.close()

    test()
