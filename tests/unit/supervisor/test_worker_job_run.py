"""A worker's whole run in a job of its own; Slurm is a shell script that answers as scontrol does."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from raycluster_cli.model.record import EndReport
from raycluster_cli.model.worker_job import WorkerJob, WorkerJobsReport
from raycluster_cli.policy.worker import OWN_END_S, SIGTERM_NOTICE_S
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.notices import read_notices
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from raycluster_cli.supervisor import worker_job
from raycluster_cli.supervisor.worker_job import WorkerJobRun, ask_again_s, look_again_s, notice_s
from tests.unit.slurm.programs import programs
from tests.unit.supervisor.worker_scenes import Played, Scene, head_at, play

JOB = Allocation("4714", ("n7", "n8"), node_name="n8", array_job_id="4711", array_task_id="3")
DRIVER_ENDED = EndReport(200.0, 0, "driver", message="the driver ended with code 0")
JOINED = "raycluster: n8.4711_3 joined cluster 7 at HEAD"


def run_job(
    directory: Path,
    act: Callable[[Scene], Awaitable[None]],
    scontrol: str = "exit 1",
    context: Mapping[str, Any] = MappingProxyType({}),
    **given: Any,
) -> Played:
    """The run of a worker of --cluster 7, and how it ended."""
    env = programs(directory, scontrol=f'echo "$@" >>{directory}/asked\n{scontrol}')
    own = {"host": "n8.4711_3", "worker_job": "4711_3", "key": "4714", **context}
    facts = {"cluster": "7", "drain_before": 0.0, "retry_delay": 10.0, "max_retries": 30, **given}
    return play(directory, act, kind=WorkerJobRun, allocation=JOB, env=env, context=own, **facts)


def asked(directory: Path) -> list[str]:
    """The calls of scontrol."""
    path = directory / "asked"
    return path.read_text().splitlines() if path.exists() else []


async def cluster_ends(scene: Scene) -> None:
    await scene.joined()
    scene.record.write_end(DRIVER_ENDED)
    scene.gcs.stop()


async def nothing_happens(scene: Scene) -> None:
    pass


async def raylet_dies(scene: Scene) -> None:
    await scene.joined()
    scene.node.die(-9)


def test_it_joins_the_cluster_of_another_job_and_says_why_it_ends(tmp_path: Path) -> None:
    played = run_job(tmp_path, cluster_ends, group="gpu")
    assert played.code == 0
    assert played.said[0].startswith("raycluster: n8.4711_3 joined cluster 7 at 127.0.0.1:")
    assert played.said[1:] == ["raycluster: the cluster ended: the driver ended with code 0"]
    report = Record.at(tmp_path / "state" / "bed" / "7").read_node("n8.4711_3")
    assert report is not None
    assert (report.job, report.group, report.phase) == ("4711_3", "gpu", "gone")
    assert not (tmp_path / "state" / "bed" / "4714").exists()
    assert asked(tmp_path) == []


def test_its_raylet_is_not_started_again(tmp_path: Path) -> None:
    """For Ray's autoscaler the node is gone."""
    played = run_job(tmp_path, raylet_dies, head={"on_worker_loss": "continue"})
    assert (played.code, played.report.message) == (5, "the raylet on n8.4711_3 was killed by SIGKILL")
    assert played.node is not None
    assert "reset" not in played.node.done


# -- it leaves -----------------------------------------------------------------------------------------


class Leaving(NamedTuple):
    """Why a node goes: what Slurm says, and what the head is told."""

    scontrol: str
    """What scontrol prints; END stands for 40 s from now."""
    left_s: float
    """How long it has left, as its notice says."""
    why: str
    code: int
    message: str
    drain_before: float = 0.0
    """--drain-before; 0: it gets SIGTERM."""
    started_with: Allocation = JOB
    drained: bool = True
    """Whether it is drained in time; else it leaves when the notice is over."""


NEAR = "the time limit of job 4711_3 is near"
TOLD = "n8.4711_3 was told to end (SIGTERM)"
LIMIT = (36, NEAR, 0, f"left the cluster: {NEAR}", 120.0)
CANCELLED = (SIGTERM_NOTICE_S - OWN_END_S, TOLD, 143, "ended by SIGTERM")
PREEMPTED = (36, "Slurm preempts n8.4711_3", 143, "ended by SIGTERM")
LEAVING = {
    "time limit": Leaving("EndTime=END", *LIMIT),
    "time limit that comes": Leaving("EndTime=END", *LIMIT, drained=False),
    "time limit, as known from its start": Leaving("", *LIMIT, JOB.but(end_time=time.time() + 40)),
    "scancel": Leaving("JobState=RUNNING", *CANCELLED),
    "scancel, not drained": Leaving("JobState=RUNNING", *CANCELLED, drained=False),
    "slurm does not answer": Leaving("", *CANCELLED),
    "preempted": Leaving("JobState=RUNNING EndTime=END PreemptTime=1700000000", *PREEMPTED),
    "preempted, no GraceTime": Leaving(
        "JobState=RUNNING EndTime=1700000000 PreemptTime=1700000000", *CANCELLED
    ),
}


@pytest.mark.parametrize("name", LEAVING)
def test_it_gives_notice_and_leaves_when_it_has_no_work_left(tmp_path: Path, name: str) -> None:
    one = LEAVING[name]
    began = time.time()

    async def act(scene: Scene) -> None:
        await scene.joined()
        if not one.drain_before:
            os.kill(os.getpid(), signal.SIGTERM)
        await scene.until(lambda: read_notices(scene.record.path))
        if one.drained:
            scene.node.drained = "preempted"
            scene.node.die(0)

    allocation = one.started_with
    if allocation.end_time is not None:
        allocation = allocation.but(end_time=began + 40)
    said = one.scontrol.replace("END", f"{began + 40:.0f}")
    scontrol = f"echo JobId=4714 {said}" if said else "exit 1"
    context = {"allocation": allocation}
    played = run_job(tmp_path, act, scontrol, context, drain_before=one.drain_before)
    assert (played.code, played.report.message) == (one.code, one.message)
    (notice,) = read_notices(tmp_path / "state" / "bed" / "7")
    assert (notice.node_id, notice.why) == (played.report.node_id, one.why)
    assert notice.deadline - began == pytest.approx(one.left_s, abs=3)
    assert (played.took_s > one.left_s - 5) is not one.drained
    assert asked(tmp_path)[0] == "show job --oneliner 4714"


@pytest.mark.parametrize(
    ("before_s", "left_s", "expected_s"),
    [(60, 3600, 60), (60, 120, 60), (60, 80, 40), (60, 0, 0), (60, -5, 0)],
)
def test_a_worker_of_a_group_works_for_half_of_its_time_at_least(
    before_s: float, left_s: float, expected_s: float
) -> None:
    assert notice_s(before_s, left_s) == expected_s


@pytest.mark.parametrize(
    ("left_s", "expected_s"),
    [(61, 1), (60.5, 1), (120, 60), (360, 300), (400, 300), (2400, 600), (86400, 21600), (864000, 21600)],
)
def test_when_the_time_limit_is_looked_at_again(left_s: float, expected_s: float) -> None:
    """In time for the notice, 60 s before; until then seldom, for a limit that is changed."""
    assert look_again_s(left_s, 60.0) == expected_s


def test_a_limit_that_slurm_does_not_say_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its controller may be away for a while; a job without a limit asks more and more seldom."""
    assert [ask_again_s(unknown) for unknown in (0, 1, 2, 7, 10**6)] == [300, 600, 1200, 21600, 21600]
    monkeypatch.setattr(worker_job, "LIMIT_AGAIN_S", 2.0)
    answer = f"EndTime={time.time() + 50:.0f}"
    scontrol = f"test $(wc -l <{tmp_path}/asked) -gt 2 || exit 1\necho {answer}"

    async def act(scene: Scene) -> None:
        await scene.joined()
        await scene.until(lambda: read_notices(scene.record.path))
        scene.node.die(0)

    played = run_job(tmp_path, act, scontrol, drain_before=60.0)
    assert (played.code, played.report.message) == (0, f"left the cluster: {NEAR}")
    assert len(asked(tmp_path)) == 3
    assert 2.0 + 4.0 <= played.took_s < 40.0


# -- its cluster is not there --------------------------------------------------------------------------


class Missing(NamedTuple):
    """A cluster without a record, and what Slurm says of its job."""

    scontrol: str
    said: str
    """Its first line; the last where it does not wait."""
    waits: bool = False
    cluster: str = "7"


UID = os.geteuid()
NO_RECORD = "error: no record of '7' was found in "
MISSING = {
    "pending": Missing(f"echo JobState=PENDING UserId=a({UID})", "job 7 is pending; waiting 60 s", True),
    "starts": Missing(f"echo JobState=RUNNING UserId=a({UID})", "job 7 is running; waiting 60 s", True),
    "slurm does not answer": Missing(
        "echo timed out; exit 1",
        *("there is no record of 7 yet, and Slurm cannot be asked for the job; waiting 60 s", True),
    ),
    "over": Missing(f"echo JobState=FAILED UserId=a({UID})", "error: job 7 has ended (FAILED), and there is"),
    "another user's": Missing(
        "echo JobState=RUNNING UserId=a(424242)", "error: job 7 belongs to uid 424242, and this worker to "
    ),
    "unknown": Missing("echo Invalid job id specified; exit 1", NO_RECORD),
    "a name": Missing("exit 64", "error: no record of 'train' was found in ", cluster="train"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_cluster_that_is_not_there_yet_is_waited_for_while_it_may_come(tmp_path: Path, name: str) -> None:
    one = MISSING[name]

    async def act(scene: Scene) -> None:
        if one.waits:
            await scene.until(lambda: scene.said)
            Record.create(tmp_path / "state", "bed", "7").make_token()
            scene.record.write_head(head_at(scene.gcs.port))
            await cluster_ends(scene)

    def remove(record: Record) -> None:
        shutil.rmtree(record.path)

    scontrol = one.scontrol.replace("(", r"\(").replace(")", r"\)")
    played = run_job(tmp_path, act, scontrol, before=remove, cluster=one.cluster)
    assert played.said[0].startswith(f"raycluster: {one.said}")
    assert played.code == (0 if one.waits else 2)
    assert len(played.said) == (3 if one.waits else 1)
    assert played.node is None or one.waits


@pytest.mark.parametrize(
    ("scontrol", "timeout_s", "waited_s"),
    [
        (rf"echo JobState=PENDING UserId=a\({UID}\)", 20.0, 20.0),
        ("echo timed out; exit 1", 60.0, 10.0),  # nobody can say whether it comes
        ("echo timed out; exit 1", 5.0, 5.0),
    ],
)
def test_it_is_not_waited_for_for_ever(
    tmp_path: Path, scontrol: str, timeout_s: float, waited_s: float
) -> None:
    def remove(record: Record) -> None:
        shutil.rmtree(record.path)

    played = run_job(tmp_path, nothing_happens, scontrol, before=remove, timeout=timeout_s)
    assert played.code == 2
    assert played.said[-1].startswith(f"raycluster: {NO_RECORD}")
    assert waited_s <= played.took_s < waited_s + 30.0
    assert len(played.said) == 2  # it says once what it waits for, although Slurm is asked again


def test_a_worker_job_is_no_cluster_and_will_not_be_one(tmp_path: Path) -> None:
    def before(record: Record) -> None:
        job = WorkerJob("9", "gpu", "running", 1.0)
        WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, (job,)))

    played = run_job(tmp_path, nothing_happens, "echo JobState=RUNNING", before=before, cluster="9")
    assert (played.code, asked(tmp_path)) == (2, [])
    assert played.said[0].startswith("raycluster: error: 9 is a worker job of cluster 7")


@pytest.mark.parametrize(
    ("end", "job", "code", "message"),
    [
        (DRIVER_ENDED, "7", 0, "cluster 7 has ended: the driver ended with code 0"),
        (None, "own", 2, "--cluster 7 names the job that this worker runs in. Leave --cluster out"),
    ],
)
def test_a_cluster_that_cannot_be_joined(
    tmp_path: Path, end: EndReport | None, job: str, code: int, message: str
) -> None:
    def before(record: Record) -> None:
        if end is not None:
            record.write_end(end)

    context = {"allocation": JOB.but(job_id="7")} if job == "own" else {}
    played = run_job(tmp_path, nothing_happens, before=before, context=context)
    assert played.code == code
    assert played.report.message.startswith(message)
    assert played.node is None


# -- its head does not answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scontrol", "code", "message"),
    [
        ("echo JobState=NODE_FAIL", 0, "cluster 7 has ended: Slurm says that its job is over (NODE_FAIL)"),
        ("echo JobState=RUNNING Restarts=1", 0, "cluster 7 has ended: its job was requeued"),
        ("echo Invalid job id; exit 1", 0, "cluster 7 has ended: Slurm does not know its job"),
        ("echo JobState=RUNNING", 4, "the head of cluster 7 has not answered for 12 s"),
        ("echo timed out; exit 1", 4, "the head of cluster 7 has not answered for 12 s"),
    ],
)
def test_a_head_that_does_not_answer_a_worker_that_comes(
    tmp_path: Path, scontrol: str, code: int, message: str
) -> None:
    async def act(scene: Scene) -> None:
        scene.gcs.stop()

    played = run_job(tmp_path, act, scontrol)
    assert (played.code, played.report.message.startswith(message)) == (code, True), played.report.message
    assert played.node is not None
    assert "start" not in played.node.done
    assert asked(tmp_path)[0] == "show job --oneliner 7"


def test_a_head_that_recovers_gets_longer(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.gcs.stop()

    played = run_job(tmp_path, act, "echo JobState=RUNNING", head={"head_recovery": True}, timeout=300.0)
    assert played.code == 4
    assert "has not answered for 50 s" in played.report.message
