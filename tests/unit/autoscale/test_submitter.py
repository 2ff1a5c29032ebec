"""The thread between Ray's autoscaler and Slurm; its steps are made here, without the thread."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest

from raycluster_cli.autoscale.submitter import NOT_NEEDED, Submitter
from raycluster_cli.autoscale.worker_jobs import LaunchRefusedError, RayNode
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.node_type import ClusterNode, FailedLaunch, Instance
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.model.worker_job import GroupState, WorkerJob
from tests.waiting import wait_until

GROUPS = [WorkerGroup("gpu", 8), WorkerGroup("cpu", 8)]
NOW = 1000.0


class Jobs:
    """Remembers the calls; answers as told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.refusal = ""
        self.most = 100
        self.jobs: dict[str, WorkerJob] = {}
        self.states: dict[str, GroupState] = {}
        self.seen: Mapping[str, RayNode] = {}

    def launch(self, group: WorkerGroup, count: int) -> list[str]:
        self.calls.append(("launch", group.name, count))
        if self.refusal:
            raise LaunchRefusedError(self.refusal)
        return [f"7_{number}" for number in range(min(count, self.most))]

    def cancel(self, instances: Collection[str], why: str, *, now: bool = True) -> None:
        self.calls.append(("cancel" if now else "let go", list(instances), why))
        if self.refusal:
            raise RayclusterError(self.refusal)

    def poll(self, nodes: Mapping[str, RayNode]) -> dict[str, WorkerJob]:
        self.calls.append(("poll",))
        self.seen = nodes
        return self.jobs

    def groups(self) -> dict[str, GroupState]:
        return self.states

    def resume(self, group: str) -> None:
        self.calls.append(("resume", group))


def made() -> tuple[Jobs, Submitter, list[tuple[str, str]]]:
    jobs, told = Jobs(), list[tuple[str, str]]()
    return jobs, Submitter(jobs, GROUPS, lambda kind, text: told.append((kind, text)), lambda: NOW), told


def test_a_launch_is_in_flight_until_it_has_its_instances() -> None:
    jobs, submitter, told = made()
    submitter.launch("gpu", 2, "a")
    assert (submitter.in_flight(), submitter.instances(), jobs.calls) == ({"gpu": 2}, {}, [])
    submitter.step()
    assert jobs.calls == [("launch", "gpu", 2)]
    assert submitter.in_flight() == {}
    assert submitter.instances() == {"7_0": Instance("gpu"), "7_1": Instance("gpu")}
    assert (submitter.failures(), told) == ([], [])


def test_fewer_than_asked_for_is_a_failure_of_the_rest() -> None:
    jobs, submitter, _ = made()
    jobs.most = 3
    submitter.launch("gpu", 5, "a")
    submitter.step()
    assert len(submitter.instances()) == 3
    assert submitter.failures() == [FailedLaunch("gpu", 2, "a", "too many at once")]
    assert submitter.in_flight() == {}


def test_the_jobs_of_an_autoscaler_before_this_one() -> None:
    _, submitter, _ = made()
    submitter.know(
        [
            WorkerJob("7_0", "gpu", "pending", NOW),
            WorkerJob("8", "cpu", "ready", NOW, nodes=2),
            WorkerJob("9", "cpu", "ended", NOW),
        ]
    )
    assert submitter.instances() == {
        "7_0": Instance("gpu"),
        "8": Instance("cpu", True),
        "8/1": Instance("cpu", True),
    }


def test_a_refusal_is_a_failure_that_pauses_the_group() -> None:
    jobs, submitter, told = made()
    jobs.refusal = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    jobs.states = {"gpu": GroupState("gpu", paused_until=NOW + 60)}
    for request in ("a", "b"):
        submitter.launch("gpu", 2, request)
        submitter.step()
        assert submitter.failures() == [FailedLaunch("gpu", 2, request, jobs.refusal)]
        assert submitter.failures() == []
    assert told == [], "WorkerJobs reports it"
    assert (submitter.in_flight(), submitter.instances()) == ({}, {})
    assert submitter.paused(NOW) == {"gpu"}
    assert submitter.paused(NOW + 61) == set()


def test_a_problem_that_is_shown_does_not_pause_a_group() -> None:
    """WorkerJobs says until when it submits nothing: then it has to be asked again."""
    jobs, submitter, _ = made()
    jobs.states = {
        "gpu": GroupState("gpu", NOW + 60, "no such partition"),
        "cpu": GroupState("cpu", 0.0, "n7"),
    }
    submitter.look([])
    submitter.step()
    assert submitter.paused(NOW) == {"gpu"}


@pytest.mark.parametrize(
    ("state", "running"),
    [
        ("wanted", False),
        ("pending", False),
        ("starting", True),
        ("ready", True),
        ("idle", True),
        ("draining", True),
    ],
)
def test_the_jobs_are_the_instances(state: str, running: bool) -> None:
    jobs, submitter, _ = made()
    submitter.launch("cpu", 1, "a")
    submitter.step()
    jobs.jobs = {"8": WorkerJob("8", "gpu", state, NOW)}
    submitter.look([])
    submitter.step()
    assert submitter.instances() == {"8": Instance("gpu", running)}


def test_what_the_jobs_are_told_of_the_nodes() -> None:
    jobs, submitter, _ = made()
    submitter.look(
        [
            ClusterNode("aa", "7_0", "gpu", idle_s=12.0),
            ClusterNode("bb", "7_1", "gpu", draining=True, host="n4"),
            ClusterNode("cc", "7_2", "gpu", alive=False),
            ClusterNode("dd", "head/dd", "head", idle_s=3.0),
            ClusterNode("ee", "own/ee", "own"),
        ]
    )
    submitter.step()
    assert jobs.seen == {
        "7_0": RayNode("aa", idle_since=NOW - 12.0),
        "7_1": RayNode("bb", draining=True, host="n4"),
    }


def test_looks_do_not_pile_up_while_slurm_is_slow() -> None:
    jobs, submitter, _ = made()
    for _ in range(5):
        submitter.look([])
    submitter.step()
    assert jobs.calls == [("poll",)]
    submitter.look([])
    submitter.step()
    assert jobs.calls == [("poll",)] * 2


def test_cancel_and_resume() -> None:
    jobs, submitter, told = made()
    submitter.cancel(["7_0", "8"])
    submitter.cancel([])
    submitter.let_go(["9"])
    submitter.resume("gpu")
    submitter.step()
    assert jobs.calls == [
        ("cancel", ["7_0", "8"], NOT_NEEDED),
        ("let go", ["9"], NOT_NEEDED),
        ("resume", "gpu"),
    ]
    jobs.refusal = "scancel: error: slurmctld does not answer"
    submitter.cancel(["8"])
    submitter.step()
    assert told == [("warn", jobs.refusal)]


def test_an_error_in_the_thread_ends_the_process() -> None:
    _, submitter, _ = made()
    submitter.start()
    submitter.check()
    submitter.launch("no such group", 1, "a")

    def failed() -> bool:
        try:
            submitter.check()
        except KeyError:
            return True
        return False

    wait_until(failed, timeout_s=30, what="the error")
