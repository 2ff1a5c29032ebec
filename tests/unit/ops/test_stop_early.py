"""Stop of jobs whose cluster has no record yet; with a Slurm that is a few functions."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raycluster_cli.model.record import EndReport
from raycluster_cli.ops.stop import Outcome
from raycluster_cli.ops.stop_early import EarlyStop, named
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.catalogue import NoClusterError
from raycluster_cli.state.record import Record
from tests.unit.growing import write_growing_record
from tests.unit.ops.test_stop import World

RUNNING = Job("4711", "4711", "RUNNING")
PENDING = Job("4711", "4711", "PENDING")

#: When a cluster ended, Unix seconds.
ENDED = 1_790_000_000.0


def slurm(restarts: int | None = 0) -> EarlyStop:
    return EarlyStop(lambda job: restarts, lambda: "tux")


@pytest.fixture
def world() -> World:
    made = World()
    made.jobs = {"4711": RUNNING}
    return made


def test_a_job_that_waits_is_cancelled(tmp_path: Path, world: World) -> None:
    outcome = slurm().stop(PENDING, tmp_path, world.around, deadline_s=9, cancel=False)
    assert outcome is Outcome.ENDED
    assert world.cancelled == ["4711"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("restarts", "key", "starts"),
    [
        pytest.param(0, "4711", True, id="it starts"),
        pytest.param(2, "4711.r2", True, id="it starts after a requeue"),
        pytest.param(0, "4711", False, id="its record was removed"),
    ],
)
def test_the_head_of_a_job_that_runs_finds_the_request(
    tmp_path: Path, world: World, restarts: int, key: str, starts: bool
) -> None:
    record = Record(tmp_path / "tux" / key, "tux", key, "")

    def head() -> None:
        if starts:
            record.take_lease(host="n1")
        assert record.stop_requested() is not None
        record.write_end(EndReport(time.time(), 143, "stop", "", "stopped by `raycluster stop`"))

    world.then = [(2.0, head)]
    outcome = slurm(restarts).stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=False)
    assert outcome is Outcome.ENDED
    assert world.cancelled == []
    assert "ended after" in world.said[-1]


def stopped(record: Record) -> None:
    """As a head that has found the request ends."""
    assert record.stop_requested() is not None
    record.write_end(EndReport(time.time(), 143, "stop", "", "stopped by `raycluster stop`"))


def test_the_head_of_a_cluster_with_a_name_is_asked_when_it_starts(tmp_path: Path, world: World) -> None:
    record = Record(tmp_path / "tux" / "4711+tune", "tux", "4711", "tune")

    def head() -> None:
        Record.create(tmp_path, "tux", "4711", "tune").take_lease(host="n1")

    world.then = [(2.0, head), (4.0, lambda: stopped(record))]
    outcome = slurm().stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=False)
    assert outcome is Outcome.ENDED
    assert "4711+tune ended after" in world.said[-1]
    assert list((tmp_path / "tux").iterdir()) == [record.path]


def test_the_head_of_a_job_with_the_id_of_an_earlier_one_is_asked_when_it_starts(
    tmp_path: Path, world: World
) -> None:
    """A controller that was set up anew counts its jobs from 1 again."""
    record = Record.create(tmp_path, "tux", "4711")
    record.take_lease(host="n1")
    record.write_end(EndReport(time.time() - 3600, 0, "driver"))
    os.utime(record.path / "end.json", (time.time() - 3600,) * 2)
    job = RUNNING.but(start_time=time.time())
    world.jobs = {"4711": job}
    assert named(["4711"], tmp_path, world.around, slurm()) == ([], [job])
    world.then = [(2.0, lambda: record.take_lease(host="n1") and None), (4.0, lambda: stopped(record))]
    assert slurm().stop(job, tmp_path, world.around, deadline_s=9, cancel=False) is Outcome.ENDED
    assert "4711 ended after" in world.said[-1]
    assert world.now >= 4.0


@pytest.mark.parametrize("name", ["", "tune"])
def test_a_head_that_starts_while_slurm_is_asked_about_the_job(
    tmp_path: Path, world: World, name: str
) -> None:
    record = Record(tmp_path / "tux" / f"4711{name and '+'}{name}", "tux", "4711", name)

    def restarts(job_id: str) -> int:
        Record.create(tmp_path, "tux", "4711", name).take_lease(host="n1")
        return 0

    world.then = [(2.0, lambda: stopped(record))]
    early = EarlyStop(restarts, lambda: "tux")
    assert early.stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=True) is Outcome.ENDED
    assert world.cancelled == []


def test_an_earlier_cluster_with_the_id_of_a_job_is_left_alone(tmp_path: Path, world: World) -> None:
    """Nothing starts in the job."""
    record = Record.create(tmp_path, "tux", "4711")
    record.take_lease(host="n1")
    request = record.request_stop("raycluster stop")
    record.write_end(EndReport(time.time() - 3600, 0, "driver"))
    outcome = slurm().stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=False)
    assert outcome is Outcome.FAILED
    assert "raycluster did not start in it" in world.said[-1]
    assert record.stop_requested() == request
    assert record.read_end() is not None


@pytest.mark.parametrize(
    ("cancel", "outcome", "cancelled"), [(False, Outcome.FAILED, []), (True, Outcome.FORCED, ["4711"])]
)
def test_a_job_in_which_raycluster_does_not_start(
    tmp_path: Path, world: World, cancel: bool, outcome: Outcome, cancelled: list[str]
) -> None:
    assert slurm().stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=cancel) is outcome
    assert world.cancelled == cancelled
    assert list((tmp_path / "tux").iterdir()) == []  # a cluster that starts later is not stopped


def test_without_an_answer_of_slurm_nothing_is_done(tmp_path: Path, world: World) -> None:
    outcome = slurm(None).stop(RUNNING, tmp_path, world.around, deadline_s=9, cancel=True)
    assert outcome is Outcome.FAILED
    assert world.cancelled == []
    assert "`scancel 4711` ends it" in world.said[-1]


@pytest.mark.parametrize(
    ("job", "ended", "restarts", "earlier"),
    [
        (PENDING, True, 1, True),
        (RUNNING, True, 1, True),
        (RUNNING, True, 0, False),
        (RUNNING, True, None, False),
        (RUNNING, False, 1, False),
        (Job("4711", "4711", "COMPLETED"), True, 1, False),
        (None, True, 1, False),
        (Job("4711", "4711", "RUNNING", start_time=ENDED + 60), True, 0, True),
        (Job("4711", "4711", "RUNNING", start_time=ENDED + 3), True, 0, False),  # clocks differ
        (Job("4711", "4711", "RUNNING", start_time=ENDED - 60), True, 0, False),
    ],
)
def test_the_record_of_a_run_before_a_requeue(
    tmp_path: Path, job: Job | None, ended: bool, restarts: int | None, earlier: bool
) -> None:
    record = Record.create(tmp_path, "tux", "4711")
    if ended:
        record.write_end(EndReport(ENDED, 75, "driver"))
        os.utime(record.path / "end.json", (ENDED, ENDED))
    assert slurm(restarts).is_earlier_run(record, job) is earlier


def test_a_worker_job_is_not_stopped_as_a_cluster(tmp_path: Path, world: World) -> None:
    where = write_growing_record(tmp_path).path.parent.parent
    world.jobs = {"4712": Job("4712", "4712_1", "RUNNING")}
    with pytest.raises(NoClusterError, match="4712_1 is a worker job of cluster"):
        named(["4712_1"], where, world.around, slurm())


def test_a_job_that_ends_meanwhile_is_not_waited_for(tmp_path: Path, world: World) -> None:
    def ends() -> None:
        world.jobs = {"4711": RUNNING.but(state="COMPLETED")}

    world.then = [(2.0, ends)]
    assert slurm().stop(RUNNING, tmp_path, world.around, deadline_s=60, cancel=False) is Outcome.ENDED
    assert "job 4711 has ended" in world.said[-1]
    assert world.now < 15.0
    assert not list((tmp_path / "tux").iterdir())


def test_a_suspended_job_is_not_said_to_run(tmp_path: Path, world: World) -> None:
    suspended = RUNNING.but(state="SUSPENDED")
    assert slurm().stop(suspended, tmp_path, world.around, deadline_s=9, cancel=False) is Outcome.FAILED
    assert "job 4711 is suspended, but raycluster did not start in it" in world.said[-1]


def test_of_an_array_many_tasks_that_wait_are_named_in_short(tmp_path: Path, world: World) -> None:
    job = PENDING.but(shown_id="4711_[1-199:2%4]")
    assert slurm().stop(job, tmp_path, world.around, deadline_s=9, cancel=False) is Outcome.ENDED
    assert world.cancelled == [f"4711_[{','.join(str(task) for task in range(1, 200, 2))}]"]
    many = PENDING.but(shown_id=f"4711_[{','.join(str(task) for task in range(1, 99, 3))}]")
    assert slurm().stop(many, tmp_path, world.around, deadline_s=9, cancel=False) is Outcome.ENDED
    assert len(world.said[-1]) < 100
