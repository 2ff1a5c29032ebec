"""What Slurm has of a cluster's worker jobs when it ends: which of them are cancelled."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.autoscale.cancellation import (
    as_ended,
    cancel_worker_jobs,
    to_cancel,
    to_keep_from_queue,
)
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.worker_group import GroupsReport
from raycluster_cli.model.worker_job import GroupState, LaunchRequest, WorkerJob, WorkerJobsReport
from raycluster_cli.slurm.worker_queue import QueueLine
from raycluster_cli.state.worker_jobs import WorkerJobFiles

OURS, THEIRS = "raycluster:4700", "raycluster:4600"


def queued(job_id: str, state: str, comment: str = "") -> QueueLine:
    return QueueLine(job_id, state, comment=comment)


def job(job_id: str, state: str = "pending") -> WorkerJob:
    return WorkerJob(job_id, "gpu", state, 1.0)


@pytest.mark.parametrize(
    ("name", "known", "queue", "leaving", "ids"),
    [
        ("pending", [job("1")], [queued("1", "PENDING")], [], ["1"]),
        ("running, not joined", [job("1", "starting")], [queued("1", "RUNNING")], [], ["1"]),
        ("its worker has left", [job("1", "ready")], [queued("1", "RUNNING")], ["1"], []),
        ("its end is under way", [job("1", "ready")], [queued("1", "COMPLETING")], [], []),
        ("Slurm has it no more", [job("1", "ready")], [], [], []),
        ("over, and its id is another's", [job("1", "ended")], [queued("1", "RUNNING")], [], []),
        ("not in the record", [], [queued("2_1", "PENDING", OURS)], [], ["2_1"]),
        ("another cluster's", [], [queued("2", "PENDING", THEIRS), queued("3", "RUNNING")], [], []),
        ("not in the record, with a comment", [], [queued("2", "PENDING", f"{OURS} mine")], [], ["2"]),
        ("a mark that begins alike", [], [queued("2", "PENDING", f"{OURS}1")], [], []),
        ("its comment is the group's own", [job("1")], [queued("1", "PENDING", "mine")], [], ["1"]),
        ("Slurm does not say", [job("1"), job("2", "ready"), job("3", "ended"), job("")], None, ["2"], ["1"]),
    ],
)  # fmt: skip
def test_which_are_cancelled(
    name: str, known: list[WorkerJob], queue: list[QueueLine] | None, leaving: list[str], ids: list[str]
) -> None:
    lines = None if queue is None else {line.id: line for line in queue}
    assert to_cancel(known, lines, OURS, leaving) == ids


def test_what_slurm_may_put_back_into_the_queue() -> None:
    lines = (
        queued("1", "COMPLETING"),
        queued("2", "COMPLETING", OURS),
        queued("3", "RUNNING", OURS),
        queued("4", "COMPLETING", THEIRS),
        queued("5", "COMPLETING", OURS),
        queued("6", "COMPLETING", OURS),
    )
    # One that was a node of the cluster was launched, and so was one whose node has just left.
    known = [job("1", "ended"), replace(job("5", "ended"), node_ids=("ab",)), job("6", "ready")]
    assert to_keep_from_queue(known, {line.id: line for line in lines}, OURS, ["6"]) == ["1", "2"]
    assert to_keep_from_queue([job("1", "ended")], None, OURS) == []


def test_no_group_is_paused_after_the_end() -> None:
    report = WorkerJobsReport(1.0, (job("1"),), (GroupState("gpu", 900.0, "sbatch refused the job"),))
    ended = as_ended(report, 5.0)
    assert [(one.state, one.reason) for one in ended.jobs] == [("ended", "the cluster ended")]
    assert ended.groups == (GroupState("gpu", 0.0, "sbatch refused the job"),)


class Slurm:
    """squeue and scancel, as this module calls them."""

    def __init__(self, queue: str, refusal: str = "") -> None:
        self.queue = queue
        self.refusal = refusal
        self.cancelled: list[str] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        match Path(command[0]).name:
            case "squeue":
                return subprocess.CompletedProcess(command, 0, self.queue, "")
            case "scancel":
                self.cancelled += command[1:]
                return subprocess.CompletedProcess(command, int(bool(self.refusal)), "", self.refusal)
        raise AssertionError(command)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The record of cluster 4700, with a host's commands beside it."""
    for name in ("squeue", "scancel"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    path = tmp_path / "4700"
    path.mkdir()
    return path


def test_the_jobs_are_cancelled_and_the_record_says_so(record: Path) -> None:
    files = WorkerJobFiles(record)
    files.write_jobs(WorkerJobsReport(1.0, (job("1"), job("2", "ready"), job(""))))
    slurm = Slurm(
        "1|1|PENDING|||None|raycluster:4700\n2|2|RUNNING|||None|raycluster:4700\n9|9|RUNNING|||None|x|y\n"
    )
    env = {"PATH": str(record.parent)}
    assert cancel_worker_jobs(record, env, run=slurm, now=7.0) == ["1", "2"]
    assert slurm.cancelled == ["1", "2"]
    after = files.read_jobs()
    assert after is not None
    assert [(one.job_id, one.state, one.since) for one in after.jobs] == [
        ("1", "ended", 7.0),
        ("2", "ended", 7.0),
    ]


def test_no_request_with_the_jobs_environment_is_left(record: Path) -> None:
    """A server that comes later would submit a job for a cluster that has ended."""
    files = WorkerJobFiles(record)
    files.write_jobs(WorkerJobsReport(1.0, ()))
    for number in (6, 7):
        files.launches.write_request(LaunchRequest(number, "sbatch", (), 1.0, {"API_KEY": "secret"}))
    assert files.launches.take_request(6) is not None
    files.launches.say_serving()
    cancel_worker_jobs(record, {"PATH": str(record.parent)}, run=Slurm(""))
    assert [path.name for path in (record / "launch").iterdir()] == ["serving"]


def test_jobs_that_a_full_disk_kept_from_the_record_are_known_by_their_mark(record: Path) -> None:
    WorkerJobFiles(record).write_groups(GroupsReport(()))
    slurm = Slurm("1|1|PENDING|||None|raycluster:4700\n9|9|RUNNING|||None|x\n")
    assert cancel_worker_jobs(record, {"PATH": str(record.parent)}, run=slurm) == ["1"]


def test_a_cluster_that_never_submitted_a_job_asks_slurm_nothing(record: Path) -> None:
    slurm = Slurm("1|1|PENDING|||None|raycluster:4700\n")
    assert cancel_worker_jobs(record, {"PATH": str(record.parent)}, run=slurm) == []
    assert slurm.cancelled == []


def test_a_refusal_is_told_with_slurms_words(record: Path) -> None:
    WorkerJobFiles(record).write_jobs(WorkerJobsReport(1.0, (job("1"),)))
    slurm = Slurm("1|1|PENDING|||None|\n", refusal="scancel: error: Access denied\n")
    with pytest.raises(RayclusterError, match="`scancel 1` ended with code 1: scancel: error: Access denied"):
        cancel_worker_jobs(record, {"PATH": str(record.parent)}, run=slurm)


def test_a_refusal_of_the_first_five_hundred_does_not_keep_the_others(record: Path) -> None:
    jobs = [str(number) for number in range(1000, 1600)]
    WorkerJobFiles(record).write_jobs(WorkerJobsReport(1.0, tuple(map(job, jobs))))
    queue = "".join(f"{one}|{one}|PENDING|||None|\n" for one in jobs)
    slurm = Slurm(queue, refusal="scancel: error: Socket timed out\n")
    with pytest.raises(RayclusterError, match="Socket timed out"):
        cancel_worker_jobs(record, {"PATH": str(record.parent)}, run=slurm)
    assert slurm.cancelled == jobs


def test_where_slurms_commands_are_not_there(record: Path) -> None:
    WorkerJobFiles(record).write_jobs(WorkerJobsReport(1.0, (job("1"),)))
    with pytest.raises(RayclusterError, match="scancel is not here"):
        cancel_worker_jobs(record, {"PATH": "/nowhere"})
