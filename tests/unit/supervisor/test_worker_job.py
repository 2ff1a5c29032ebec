"""A worker of --cluster: its names, and what it makes of a cluster that is not there (any more)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.option_text import parse_pairs
from raycluster_cli.model.record import EndReport, HeadInfo
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.rayproc.gcs_monitor import Loss
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.job_calls import KnownJob, parse_known_job
from raycluster_cli.state.catalogue import NoRecordError
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.cluster_of_worker import dead_head, end_before, job_in, no_record_error
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.worker_job import WorkerJobRun, in_worker_job, own_record

JOB = Allocation("4714", ("n7", "n8"), node_name="n8", array_job_id="4711", array_task_id="3")


def context(allocation: Allocation | None, **settings: str) -> Context:
    return Context(
        settings=Settings(cluster="4700", **settings),  # type: ignore[arg-type]
        env={},
        allocation=allocation,
        role=Role.WORKER,
        key="4714",
        slurm_cluster="tux",
        host="n8",
        state_dir=Path("/nowhere"),
    )


def test_a_node_has_a_name_that_no_other_has_and_says_its_job_to_ray() -> None:
    found = in_worker_job(context(JOB, labels="disk=nvme", group="gpu"))
    assert found.host == "n8.4711_3"
    assert found.worker_job == "4711_3"
    labels = parse_pairs("--labels", found.settings.labels)
    assert labels == {"disk": "nvme", "slurm/worker-job": "4711_3", "ray.io/node-group": "gpu"}
    assert found.ray_env == {"RAY_CLOUD_INSTANCE_ID": "4711_3/1", "RAY_NODE_TYPE_NAME": "gpu"}


def test_without_a_group_it_is_no_instance_of_the_autoscalers() -> None:
    found = in_worker_job(context(JOB))
    assert found.ray_env == {"RAY_CLOUD_INSTANCE_ID": "", "RAY_NODE_TYPE_NAME": ""}
    assert "ray.io/node-group" not in found.settings.labels


def test_outside_slurm_the_process_tells_nodes_apart() -> None:
    found = in_worker_job(context(None))
    assert found.host == f"n8.{found.worker_job}"
    assert found.worker_job.isdigit()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a record of another user")
def test_root_looks_at_the_records_of_others_and_joins_none(tmp_path: Path) -> None:
    """What is in a record is executed: the template of a raylet."""
    record = Record.create(tmp_path / "state", "tux", "4700")
    assert own_record(tmp_path / "state", "4700").path == record.path
    with pytest.raises(NoRecordError):
        own_record(tmp_path / "state", "4701")
    for path in (tmp_path / "state", record.path.parent, record.path):
        os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to"):
        own_record(tmp_path / "state", "4700")


def test_a_group_that_cannot_be_one() -> None:
    with pytest.raises(UsageError, match="--group is 'Big GPU'"):
        in_worker_job(context(JOB, group="Big GPU"))


HEAD = HeadInfo("n1", "10.0.0.1", 6379, started=100.0)
END = EndReport(200.0, 1, message="the driver ended with code 1")


@pytest.mark.parametrize(
    ("end", "head", "message"),
    [
        (None, HEAD, None),
        (None, None, None),
        (END, HEAD, "cluster 4711 has ended: the driver ended with code 1"),
        (END, None, "cluster 4711 has ended: the driver ended with code 1"),
        (END, HeadInfo("n1", "10.0.0.1", 6379, started=201.0), None),  # of the cluster before this one
    ],
)
def test_a_cluster_that_has_ended(end: EndReport | None, head: HeadInfo | None, message: str | None) -> None:
    found = end_before(end, head, "4711")
    assert (found.message if found else None) == message
    assert found is None or found.code == 0


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (KnownJob("PENDING", uid=424241), None),
        (KnownJob("RUNNING", uid=424241), None),
        (KnownJob("RUNNING"), None),
        (
            KnownJob("COMPLETED", uid=424241),
            "job 7 has ended (COMPLETED), and there is no record of a cluster in it.",
        ),
        (KnownJob("RUNNING", uid=424242), "job 7 belongs to uid 424242, and this worker to uid 424241."),
        (None, ""),
    ],
)
def test_whether_a_job_without_a_record_may_still_have_one(
    known: KnownJob | None, message: str | None
) -> None:
    found = no_record_error("7", known, 424241)
    assert (found.message if found else None) == message


@pytest.mark.parametrize(
    ("known", "asked", "silent_s", "code"),
    [
        (None, False, 1, None),
        (None, False, 12, 4),  # nobody can be asked
        (None, True, 1, 0),  # Slurm has forgotten the job
        (KnownJob("RUNNING", restarts=1), True, 1, None),
        (KnownJob("RUNNING", restarts=1), True, 12, 4),
        (KnownJob("RUNNING", restarts=2), True, 1, 0),
        (KnownJob("PENDING", restarts=1), True, 1, 0),
        (KnownJob("NODE_FAIL", restarts=1), True, 1, 0),
        (KnownJob("COMPLETING", restarts=1), True, 1, 0),
    ],
)
def test_a_head_that_does_not_answer(
    known: KnownJob | None, asked: bool, silent_s: float, code: int | None
) -> None:
    end = dead_head("4711.r1", 1, known, asked=asked, silent_s=silent_s)
    assert (None if end is None else int(end.code)) == code


@pytest.mark.parametrize(("silent_s", "code"), [(12.0, None), (49.0, None), (50.0, 4)])
def test_a_head_that_recovers_may_be_silent_for_longer(silent_s: float, code: int | None) -> None:
    end = dead_head("4711", 0, KnownJob("RUNNING"), asked=True, silent_s=silent_s, limit_s=50.0)
    assert (None if end is None else int(end.code)) == code


def waiting_worker(tmp_path: Path) -> WorkerJobRun:
    """A worker that has joined, with what it reads while its head is away."""
    run = WorkerJobRun(context(JOB))
    run.reports.use(Record.create(tmp_path, "tux", "4711"))
    run.cluster = SimpleNamespace(target=SimpleNamespace(ip="10.0.0.1", head=None))  # type: ignore[assignment]
    return run


@pytest.mark.parametrize(
    ("responds", "silent", "state", "answers", "asked"),
    [
        # it recovers: Slurm is asked when most are back, and not in each round
        (True, False, "RUNNING", ["", "", "", "", ""], [8.5, 19.0]),
        (True, True, "RUNNING", ["", "", "", "", ""], [8.5, 19.0]),
        # all of its processes were killed at once
        (True, False, "FAILED", ["", "", "over", "", "over"], [8.5, 19.0]),
        # its host has no power, or no network
        (False, True, "RUNNING", ["host", "host", "host", "host", "host"], []),
    ],
)
def test_a_head_that_recovers_is_given_up_when_it_cannot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    responds: bool,
    silent: bool,
    state: str,
    answers: list[str],
    asked: list[float],
) -> None:
    now, when = 0.0, []

    async def probe(ip: str, head: object) -> bool:
        return ip == "10.0.0.1" and responds

    async def ask(job: str, *_: object) -> KnownJob:
        when.append(now)
        return KnownJob(state)

    monkeypatch.setattr("raycluster_cli.supervisor.worker.head_host_responds", probe)
    monkeypatch.setattr("raycluster_cli.supervisor.worker_job.known_job", ask)
    run = waiting_worker(tmp_path)
    words = {"host": "its host does not respond", "over": "its job is over"}
    for now, want in zip([0.0, 7.0, 8.5, 9.0, 19.0], answers, strict=True):
        said = asyncio.run(run.head_is_gone(Loss("no answer", silent=silent), now))
        assert words[want] in said if want else not said, now
    assert when == asked


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("4711", "4711"),
        ("4711_3", "4711_3"),
        ("4711.r2", "4711"),
        ("4711+tune", "4711"),
        ("train", None),
        ("/x", None),
    ],
)
def test_the_job_in_what_people_call_a_cluster(text: str, job: str | None) -> None:
    assert job_in(text) == job


def test_what_slurm_says_of_a_job() -> None:
    text = "JobId=7 JobName=a UserId=ada(1000) GroupId=x(5) JobState=REQUEUED Reason=None Restarts=2 X=1"
    assert parse_known_job(text) == KnownJob("REQUEUED", 1000, 2)
    assert parse_known_job("slurm_load_jobs error: Invalid job id specified") is None
