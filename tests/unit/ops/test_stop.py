"""Stop: asks, waits, forces, clears; with records by hand and a Slurm that is a few functions."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.cluster_status import ClusterPhase
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.stop import Outcome, Surroundings, running_clusters, stop_cluster
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record
from tests.unit.records_by_hand import change_head, write_record


class World:
    """A clock that runs when somebody sleeps, a Slurm, and what was said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.cancelled: list[str] = []
        self.jobs: dict[str, Job] | None = {}
        self.then: list[tuple[float, Any]] = []
        self.around = Surroundings(
            {"PATH": "/nonexistent"},
            say=self.said.append,
            query=lambda: self.jobs,
            cancel=self.cancel,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def cancel(self, job: str, _: object, *, step: str | None = None, extra: tuple[str, ...] = ()) -> None:
        self.cancelled.append(" ".join([*extra, f"{job}.{step}" if step else job]))
        if not extra:
            self.jobs = {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in [each for each in self.then if each[0] <= self.now]:
            self.then.remove(due)
            due[1]()


@pytest.fixture
def world() -> World:
    return World()


def end(record: Record) -> None:
    """As a head that was asked to end ends."""
    assert record.stop_requested() is not None
    head = record.read_node("n001")
    assert head is not None
    now = time.time()
    record.write_end(EndReport(now, 143, "stop", "", "stopped by `raycluster stop`"))
    record.write_node(dataclasses.replace(head, phase=NodePhase.GONE.value, updated=now))


def test_a_head_that_reacts(tmp_path: Path, world: World) -> None:
    record = write_record(tmp_path, 3)
    world.then = [(3.0, lambda: end(record))]
    assert stop_cluster(record, world.around) is Outcome.ENDED
    assert world.cancelled == []
    assert world.said[0].startswith("4711 ended after 3")


@pytest.mark.parametrize(("cluster", "hint"), [("bed", "`scancel 4711` ends it."), ("local", "Ctrl-C")])
def test_a_record_that_cannot_be_written_leaves_scancel(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, cluster: str, hint: str
) -> None:
    record = write_record(tmp_path, 3, cluster=cluster)

    def full(*_: object, **__: object) -> None:
        raise RayclusterError("cannot write stop.json: No space left on device.", "Free space.")

    monkeypatch.setattr(Record, "request_stop", full)
    with pytest.raises(
        RayclusterError, match=r"4711 cannot be asked to end: cannot write stop\.json: .*\."
    ) as found:
        stop_cluster(record, world.around)
    assert hint in found.value.hint


def ending(record: Record) -> None:
    """As a head that waits for its driver to end."""
    head = record.read_node("n001")
    assert head is not None
    record.write_node(dataclasses.replace(head, phase=NodePhase.STOPPING.value, updated=time.time()))


@pytest.mark.parametrize(
    ("grace_s", "reacts", "ends_at", "outcome", "at_s"),
    [
        (12.0, True, 15.0, Outcome.ENDED, 15.0),
        (12.0, True, 99.0, Outcome.FORCED, 22.0),
        (12.0, False, 99.0, Outcome.FORCED, 4.0),
        (0.0, True, 99.0, Outcome.FORCED, 4.0),
    ],
    ids=["within the grace", "beyond the grace", "does not react", "old record"],
)
def test_a_head_that_is_ending_gets_its_own_grace(
    tmp_path: Path,
    world: World,
    grace_s: float,
    reacts: bool,
    ends_at: float,
    outcome: Outcome,
    at_s: float,
) -> None:
    record = write_record(tmp_path, 3)
    change_head(record, grace_s=grace_s)
    world.jobs = {"4711": Job("4711", "4711", "RUNNING")}
    world.then = [(1.0, lambda: ending(record))] if reacts else []
    world.then.append((ends_at, lambda: end(record)))
    first: list[float] = []
    say = world.around.say
    world.around.say = lambda text: (first.append(world.now), say(text))[1]
    assert stop_cluster(record, world.around, deadline_s=4.0) is outcome
    assert first[0] == pytest.approx(at_s, abs=1.0)


def test_twice_is_no_error(tmp_path: Path, world: World) -> None:
    record = write_record(tmp_path, 3, end=EndReport(time.time() - 60, 0, "driver"))
    assert stop_cluster(record, world.around) is Outcome.OVER
    assert record.stop_requested() is None


def test_one_of_several_ends_before_it_is_waited_for(tmp_path: Path, world: World) -> None:
    record = write_record(tmp_path, 3, end=EndReport(time.time(), 143, "stop"))
    said: list[str] = []
    world.around.say = said.append
    assert stop_cluster(record, world.around, requested=True) is Outcome.ENDED
    assert "ended: " in said[0] and "already" not in said[0]


@pytest.mark.parametrize("step", ["0", ""])
def test_no_answer_means_scancel(tmp_path: Path, world: World, step: str) -> None:
    record = write_record(tmp_path, 3)
    change_head(record, step=step)
    world.jobs = {"4711": Job("4711", "4711", "RUNNING")}
    assert stop_cluster(record, world.around, deadline_s=10) is Outcome.FORCED
    assert world.cancelled == (["--signal=TERM 4711.0", "4711.0"] if step else ["4711"])
    ended = record.read_end()
    assert ended is not None
    assert read_cluster(record).is_over


@pytest.mark.parametrize(
    ("silent_s", "ending", "at_s"),
    [
        (60.0, False, 24.0),  # 20 s for an answer, and one look at the queue
        (60.0, True, 64.0),  # it answered before its host failed
        (5.0, False, 105.0),  # as long as the head touches its lease, Slurm may only be slow
    ],
)
def test_a_head_whose_host_does_not_respond(
    tmp_path: Path, world: World, silent_s: float, ending: bool, at_s: float
) -> None:
    """Slurm takes the cancellation, and the job is COMPLETING until the host answers or is given up."""
    record = write_record(tmp_path, 2)
    lease = next(iter(record.path.glob("head.claim.*")))
    os.utime(lease, (time.time() - silent_s, time.time() - silent_s))
    if ending:
        head = record.read_node("n001")
        assert head is not None
        record.write_node(dataclasses.replace(head, phase=NodePhase.STOPPING.value, updated=time.time()))
    world.jobs = {"4711": Job("4711", "4711", "RUNNING")}

    def cancel(job: str, *_: object, **__: object) -> None:
        world.jobs = {"4711": Job("4711", "4711", "COMPLETING")}

    world.around.cancel = cancel
    outcome = stop_cluster(record, world.around)
    assert world.now == pytest.approx(at_s, abs=1.5)
    if silent_s > 45:
        assert outcome is Outcome.FORCED
        assert world.said[-1].endswith("n001 does not respond, and Slurm waits for it")
        assert record.read_end() is not None
    else:
        assert outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("step", "cancelled"), [("", ["4711_2"]), ("0", ["--signal=TERM 4711_2.0", "4711_2.0"])]
)
def test_of_an_array_only_the_task_is_cancelled(
    tmp_path: Path, world: World, step: str, cancelled: list[str]
) -> None:
    """The last task has the array's id."""
    record = write_record(tmp_path, 2)
    change_head(record, step=step)
    world.jobs = {"4711": Job("4711", "4711_2", "RUNNING")}
    stop_cluster(record, world.around, deadline_s=5)
    assert world.cancelled == cancelled


def test_no_answer_and_no_slurm(tmp_path: Path, world: World) -> None:
    world.jobs = None
    assert stop_cluster(write_record(tmp_path, 3), world.around, deadline_s=5) is Outcome.FAILED
    assert "nothing more can be done from here" in world.said[-1]


def test_slurm_has_ended_it_meanwhile(tmp_path: Path, world: World) -> None:
    record = write_record(tmp_path, 3)
    world.jobs = {"4711": Job("4711", "4711", "RUNNING")}
    world.then = [(4.0, lambda: setattr(world, "jobs", {}))]
    assert stop_cluster(record, world.around, deadline_s=5) is Outcome.CLEARED
    assert world.cancelled == []
    assert read_cluster(record).is_over


def test_a_lost_cluster_is_cleared(tmp_path: Path, world: World) -> None:
    record = write_record(tmp_path, 3)
    old = time.time() - 600
    os.utime(record.path / "head.claim.1", (old, old))
    world.jobs = {"4711": Job("4711", "4711", "RUNNING")}
    assert stop_cluster(record, world.around) is Outcome.CLEARED
    assert world.cancelled == ["4711"]
    assert read_cluster(record).phase is ClusterPhase.FAILED


def test_running_clusters(tmp_path: Path) -> None:
    write_record(tmp_path, 2, key="1", end=EndReport(time.time(), 0, "driver"))
    write_record(tmp_path, 2, key="2")
    lost = write_record(tmp_path, 2, key="3")
    os.utime(lost.path / "head.claim.1", (1, 1))
    found = {record.key: status.phase for record, status in running_clusters(tmp_path, None)}
    assert found == {"2": ClusterPhase.RUNNING, "3": ClusterPhase.LOST}
