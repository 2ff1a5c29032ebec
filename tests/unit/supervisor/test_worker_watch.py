"""What a head reads of its workers while it waits for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.model.record import NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules, HeadState
from raycluster_cli.policy.values import Phase, Worker
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.task_probe import CONFIRM_S, TASK_PROBE_S
from raycluster_cli.supervisor.report_writer import RECORD_LOOK_S
from raycluster_cli.supervisor.worker_watch import MOST_ASKED, OLD_REPORT_S, UNCHANGED_S, WorkerWatch
from tests.unit.loops import in_loop, skip
from tests.unit.slurm.programs import programs

from .scene import Scene, until

HOSTS = ("n2", "n3")
STEP = Allocation("7", ("n1", *HOSTS), step_id="0", step_nodes=("n1", *HOSTS), node_name="n1")


def report(host: str, *, role: str = "worker", ago_s: float = 0.0) -> NodeReport:
    return NodeReport(host, role, "waiting", message="no head yet", updated=time.time() - ago_s)


def watch(scene: Scene, state: HeadState, hosts: tuple[str, ...] = HOSTS) -> WorkerWatch:
    rules = HeadRules("n1", len(hosts), len(hosts), Settings().worker_loss, hosts=hosts)
    return WorkerWatch(scene.parts, rules, lambda: state)


def read(scene: Scene) -> list[on.ReportsRead]:
    return [event for event in scene.posted if isinstance(event, on.ReportsRead)]


@in_loop
async def test_reports_of_workers_are_told_and_those_of_an_earlier_cluster_are_not(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    scene.record.write_node(report("n2", ago_s=4.0))
    scene.record.write_node(report("n3", ago_s=OLD_REPORT_S + 60))
    scene.record.write_node(report("n1", role="head"))
    await watch(scene, HeadState()).read_reports()
    (event,) = read(scene)
    assert {host: (one.phase, one.message) for host, one in event.reports.items()} == {
        "n2": ("waiting", "no head yet")
    }
    assert 3.9 < event.reports["n2"].age_s < 10
    await scene.close()


@in_loop
async def test_without_a_record_the_answer_is_that_nothing_is_known(tmp_path: Path) -> None:
    scene = Scene(tmp_path, has_record=False)
    await watch(scene, HeadState()).read_reports()
    assert scene.posted == [on.ReportsRead({}, ())]


@in_loop
async def test_where_the_record_hangs_what_it_said_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    scene.record.write_node(report("n2"))
    workers = watch(scene, HeadState())
    await workers.read_reports()
    hangs: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(scene.parts.reports, "submit", lambda *_: hangs)
    reading = asyncio.ensure_future(workers.read_reports())
    await asyncio.sleep(0)
    skip(RECORD_LOOK_S)
    await reading
    assert [list(event.reports) for event in read(scene)] == [["n2"], ["n2"]]


@pytest.mark.parametrize(
    ("phase", "symmetric", "without"),
    [(Phase.WAITING, True, ["n3"]), (Phase.RUNNING, True, []), (Phase.WAITING, False, [])],
)
def test_slurm_is_asked_for_the_tasks_of_hosts_that_say_nothing_while_they_are_waited_for(
    tmp_path: Path, phase: Phase, symmetric: bool, without: list[str]
) -> None:
    asked = tmp_path / "asked"
    env = programs(
        tmp_path, srun=f'echo "$3" >>{asked}; echo "n3: StepId=7.0 does not exist on node (null)."'
    )

    @in_loop
    async def test() -> None:
        scene = Scene(tmp_path, allocation=STEP, symmetric=symmetric, env=env)
        scene.parts.reaper.attach(asyncio.get_running_loop())
        state = HeadState(phase=phase, workers={"bb": Worker("bb", "n2", "10.0.0.2")})
        watching = asyncio.ensure_future(watch(scene, state).watch_reports())
        await asyncio.sleep(TASK_PROBE_S + 3 * CONFIRM_S)
        assert watching.done() == (phase is Phase.RUNNING)
        watching.cancel()
        assert sorted({host for event in read(scene) for host in event.without_task}) == without
        await scene.close()

    test()
    calls = asked.read_text().splitlines() if asked.exists() else []
    assert len(calls) >= 2 if without else not calls, "two answers must agree"
    assert set(calls) <= {"--nodelist=n3"}


@in_loop
async def test_a_worker_that_reports_nothing_new_may_have_been_killed(tmp_path: Path) -> None:
    """With its keeper: nothing there says so.  One that has joined, or has reported its end, is known."""
    workers = watch(Scene(tmp_path), HeadState(workers={"bb": Worker("bb", "n2", "10.0.0.2")}))
    first, joined, gone = report("n3"), report("n2"), replace(report("n3"), phase="failed")
    assert workers._silent({"n2": joined, "n3": first}) == []
    skip(UNCHANGED_S)
    await asyncio.sleep(0)
    assert workers._silent({"n2": joined, "n3": first}) == ["n3"]
    assert workers._silent({"n2": joined, "n3": replace(first, message="head found")}) == []
    skip(UNCHANGED_S)
    await asyncio.sleep(0)
    assert workers._silent({"n2": joined, "n3": gone}) == []


@in_loop
async def test_slurm_is_asked_for_some_of_very_many_hosts(tmp_path: Path) -> None:
    hosts = tuple(f"n{number}" for number in range(2, 500))
    scene = Scene(tmp_path)
    assert scene.record is not None
    scene.record.write_node(report("n2"))
    silent = watch(scene, HeadState(), hosts)._silent({"n2": report("n2")})
    assert silent == list(hosts[1 : MOST_ASKED + 1])


@in_loop
async def test_the_wait_is_over_when_the_driver_runs(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    state = HeadState(phase=Phase.STARTING)
    rules = HeadRules("n1", 1, 1, Settings().worker_loss)
    watching = asyncio.ensure_future(WorkerWatch(scene.parts, rules, lambda: state).watch_reports())
    await until(lambda: len(read(scene)) == 3)
    state = HeadState(phase=Phase.RUNNING)
    await watching
    await scene.close()
