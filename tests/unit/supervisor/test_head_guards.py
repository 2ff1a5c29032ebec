"""What a head watches while it runs: the list of nodes, its GCS, and questions that Ray does not answer."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.unmet_demand import UnmetDemand
from raycluster_cli.node.labels import JOB_LABEL
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules, HeadState
from raycluster_cli.policy.values import Phase, Worker
from raycluster_cli.rayproc import gcs_monitor
from raycluster_cli.rayproc.listed_node import ListedNode, NodeDeath
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.notices import Notice, write_notice
from raycluster_cli.supervisor.head_guards import DEMAND_S, REWATCH_DELAY_S, HeadGuards
from raycluster_cli.supervisor.worker_watch import WorkerWatch
from raycluster_cli.system.proctree import ProcessRef
from tests.unit.loops import in_loop, skip
from tests.unit.rayproc.test_gcs_monitor import Gcs, running
from tests.unit.slurm.programs import programs

from .fake_node import WatchedNode
from .scene import Scene, until

HEAD = ListedNode("aa", "n1", "10.0.0.1", is_head=True)
WORKER = ListedNode("bb", "n2", "10.0.0.2")
OF_A_JOB = ListedNode("cc", "n3.8", "10.0.0.3", labels={JOB_LABEL: "8"})


class Companion:
    """Answers as a test says."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.drained: list[str] = []
        self.child = SimpleNamespace(ref=ProcessRef(os.getpid(), 1))  # one that has ended

    async def _say(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def had_driver(self, timeout_s: float) -> Any:
        return await self._say()

    async def unplaceable(self) -> Any:
        return await self._say()

    async def drain(self, node_ids: list[str], *, message: str, deadline_s: float) -> Any:
        self.drained.append(f"{node_ids[0]}: {message}")
        return {node_ids[0]: {"answered": True, "accepted": True}}


class Head:
    """The guards of a head whose Ray is up."""

    def __init__(self, directory: Path, *, state: HeadState | None = None, **scene: Any) -> None:
        self.scene = Scene(directory, **scene)
        self.node = WatchedNode(directory)
        self.state = state or HeadState(phase=Phase.RUNNING)
        self.recovering = asyncio.Event()
        self.recovered = asyncio.Event()
        rules = HeadRules("n1", 1, 1, self.scene.parts.settings.worker_loss)
        self.workers = WorkerWatch(self.scene.parts, rules, lambda: self.state)
        self.guards = HeadGuards(
            self.scene.parts,
            self.node,  # type: ignore[arg-type]
            rules=rules,
            state=lambda: self.state,
            workers=self.workers,
            recovery_over=self._recovery_over,
        )
        self.posted = self.scene.posted

    async def _recovery_over(self) -> None:
        if self.recovering.is_set():
            await self.recovered.wait()

    async def begun(self) -> Head:
        await self.node.start(1.0, SimpleNamespace(session_name=None))  # type: ignore[arg-type]
        await self.guards.begin()
        return self


@in_loop
async def test_nodes_that_join_and_leave_are_posted(tmp_path: Path) -> None:
    head = await Head(tmp_path).begun()
    death = NodeDeath("unexpected_termination", "health check failed")
    head.node.listener([HEAD, WORKER])
    head.node.listener([WORKER.but(alive=False, death=death)])
    worker = Worker("bb", "n2", "10.0.0.2")
    assert head.posted[:2] == [on.WorkerJoined(worker), on.WorkerLeft(worker)]
    assert head.workers.deaths == {"bb": death}
    await head.scene.close()


@pytest.mark.parametrize(
    ("node", "runs", "posted"),
    [
        (HEAD, True, []),
        (HEAD.but(alive=False, death=NodeDeath("x", "missed checks")), True, ["missed checks"]),
        (HEAD.but(alive=False), True, ["the GCS has marked its node as dead"]),
        (HEAD.but(alive=False), False, []),  # its parent notices its end
        (HEAD.but(node_id="old", alive=False), True, []),  # the head before a recovery
        (HEAD.but(is_head=False, alive=False), True, ["the GCS has marked its node as dead"]),
    ],
)
def test_the_heads_own_raylet_counts_as_silent_while_it_runs(
    tmp_path: Path, node: ListedNode, runs: bool, posted: list[str]
) -> None:
    @in_loop
    async def test() -> None:
        head = await Head(tmp_path).begun()
        head.node.has("raylet").running = runs
        head.node.listener([node])
        found = [event for event in head.posted if isinstance(event, on.HeadRayletSilent)]
        assert found == [on.HeadRayletSilent(why, "/logs/raylet.err") for why in posted]
        assert not [event for event in head.posted if isinstance(event, on.WorkerLeft)]
        await head.scene.close()

    test()


@in_loop
async def test_the_watch_over_the_nodes_is_started_again_once_the_recovery_is_over(tmp_path: Path) -> None:
    head = await Head(tmp_path).begun()
    head.recovering.set()
    head.node.refusals = [
        RayclusterError("the GCS is away"),
        RayclusterError("the GCS is away"),
        OSError("no fork"),
    ]
    head.node.watches[0].set_result(None)
    await asyncio.sleep(10 * REWATCH_DELAY_S)
    assert len(head.node.refusals) == 3, "the GCS is still being started"
    head.recovered.set()
    await until(lambda: len(head.node.watches) == 2)
    assert head.scene.said == [
        "the watch over the nodes ended; starting it again",
        "the nodes cannot be watched: the GCS is away",
        "the nodes cannot be watched: no fork",
    ]
    assert head.scene.failed == []
    await head.scene.close()


@in_loop
async def test_a_watch_that_fails_by_a_bug_goes_on_with_the_subscription_that_it_has(tmp_path: Path) -> None:
    """A second one beside it would post all twice."""
    head = await Head(tmp_path).begun()
    head.node.refusals = [KeyError("bug")]
    head.node.watches[0].set_result(None)
    await until(lambda: len(head.node.watches) == 2)
    await asyncio.sleep(10)
    assert len(head.node.watches) == 2
    assert len(head.scene.failed) == 1
    await head.scene.close()


def a_job(*, in_slurm: bool) -> Allocation | None:
    return Allocation("7", ("n1",)) if in_slurm else None


@pytest.mark.parametrize("in_slurm", [True, False])
def test_what_takes_worker_jobs_away_is_watched_once_there_is_one(tmp_path: Path, in_slurm: bool) -> None:
    asked = tmp_path / "asked"
    env = programs(
        tmp_path, sinfo=f"echo x >>{asked}; echo 'n3|draining|bad disk'", scontrol="exit 0", squeue="exit 0"
    )
    worker = Worker("cc", "n3.8", "10.0.0.3", "8")

    @in_loop
    async def test() -> None:
        state = HeadState(phase=Phase.RUNNING, elastic={"cc": worker})
        head = Head(tmp_path, state=state, allocation=a_job(in_slurm=in_slurm), env=env)
        head.scene.parts.reaper.attach(asyncio.get_running_loop())
        head.node.companion = companion = Companion()
        await head.begun()
        assert head.scene.record is not None
        write_notice(head.scene.record.path, Notice("cc", time.time() + 60, "its time limit is near"))
        head.node.listener([WORKER])
        await asyncio.sleep(5)
        assert companion.drained == []
        head.node.listener([OF_A_JOB, OF_A_JOB])
        await until(lambda: len(companion.drained) == 1 + in_slurm)
        await asyncio.sleep(25)
        told = ["cc: its time limit is near", "cc: Slurm drains n3 (bad disk)"]
        assert companion.drained == told[: 1 + in_slurm]
        assert asked.exists() == in_slurm
        assert head.scene.failed == []
        await head.scene.close()

    test()


@in_loop
async def test_a_gcs_that_hangs_is_posted_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    head = Head(tmp_path, settings=Settings(check_interval=0.1))
    head.node.address.ip = "127.0.0.1"
    gcs = Gcs()
    async with running(gcs) as port:
        head.node.gcs_port = port
        process = head.node.has("gcs_server")
        await head.begun()
        await until(lambda: gcs.checks > 0)
        gcs.answers = False
        for _ in range(gcs_monitor.FAILED_CHECKS):
            before = gcs.checks
            await until(lambda before=before: gcs.checks > before)  # type: ignore[misc]
            skip(gcs_monitor.CHECK_TIMEOUT_S)
        await until(lambda: any(isinstance(event, on.GcsSilent) for event in head.posted))
        process.running = False
        process.exited.set_result(-9)
    count = len([event for event in head.posted if isinstance(event, on.GcsSilent)])
    await asyncio.sleep(10)
    assert len([event for event in head.posted if isinstance(event, on.GcsSilent)]) == count == 1
    await head.scene.close()


@pytest.mark.parametrize(
    ("phase", "answer", "posted"),
    [
        (Phase.RUNNING, (UnmetDemand("need 8 CPUs", "3 tasks that need 8 CPUs"),), 1),
        (Phase.RUNNING, (), 1),
        (Phase.WAITING, (), 0),
        (Phase.RUNNING, RayclusterError("no answer"), 0),
    ],
)
def test_demand_is_asked_for_while_the_driver_runs(
    tmp_path: Path, phase: Phase, answer: Any, posted: int
) -> None:
    @in_loop
    async def test() -> None:
        head = Head(tmp_path, state=HeadState(phase=phase))
        watching = asyncio.ensure_future(head.guards.watch_demand())
        await asyncio.sleep(1.5 * DEMAND_S)  # there is no companion yet
        assert head.posted == []
        head.node.companion = Companion(answer)
        await asyncio.sleep(DEMAND_S)
        assert head.posted == [on.DemandKnown(answer)] * posted
        assert not watching.done()
        await head.scene.close()

    test()


@pytest.mark.parametrize(
    ("companion", "connected"), [(Companion(True), True), (Companion(False), False), (None, None)]
)
def test_whether_a_driver_has_connected(tmp_path: Path, companion: Any, connected: bool | None) -> None:
    @in_loop
    async def test() -> None:
        head = Head(tmp_path)
        head.node.companion = companion
        await head.guards.ask_for_driver()
        assert head.posted == [on.DriverKnown(connected)]

    test()


@in_loop
async def test_a_question_that_ray_does_not_answer_is_written_down_once(tmp_path: Path) -> None:
    head = Head(tmp_path)
    head.node.companion = Companion(RayclusterError("the GCS did not answer within 1 s."))
    for _ in range(3):
        await head.guards.ask_for_driver()
    assert head.posted == [on.DriverKnown(None)] * 3
    assert head.scene.said == [
        "Ray did not say whether a driver has connected: the GCS did not answer within 1 s."
    ]
