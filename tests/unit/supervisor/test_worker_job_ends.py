"""What a head does about its worker jobs at its end, with commands of Slurm's that are shell scripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.worker_job import LaunchRequest, WorkerJob, WorkerJobsReport
from raycluster_cli.policy.values import Worker
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from raycluster_cli.supervisor.worker_job_ends import (
    earlier_restarts,
    end_earlier_restarts,
    end_worker_jobs,
    is_the_servers,
)
from raycluster_cli.system.process import Reaper


def job(job_id: str, state: str = "pending") -> WorkerJob:
    return WorkerJob(job_id, "gpu", state, 1.0)


def line_of_squeue(text: str) -> str:
    """Id, state and comment as squeue prints them among its other columns."""
    job_id, state, comment = text.split("|")
    return f"{job_id}|{job_id}|{state}|||None|{comment}"


class Host:
    """A head's node: its record, and the commands that are there."""

    def __init__(self, tmp_path: Path) -> None:
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        self.state_dir = tmp_path / "state"
        self.said = tmp_path / "cancelled"
        self.notes: list[str] = []
        self.hurries = False
        self.path = f"{self.bin}:/usr/bin:/bin"

    def command(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def slurm(self, *queue: str, scancel: str = "") -> None:
        self.command(
            "squeue", "cat <<'END'\n" + "\n".join(map(line_of_squeue, queue)) + "\nEND" if queue else "exit 0"
        )
        self.command("scancel", f'echo "$@" >> {self.said}\n{scancel}')

    @property
    def cancelled(self) -> list[str]:
        return self.said.read_text().split() if self.said.exists() else []

    def does(self, work: Callable[[Any], Any], record: Record | None) -> None:
        """Do a step of a head's end."""

        async def ask(call: Callable[..., Any], *args: Any, **_: Any) -> Any:
            return call(*args)

        async def run() -> None:
            loop = asyncio.get_running_loop()
            hurry = asyncio.Event()
            if self.hurries:
                hurry.set()
            reaper = Reaper()
            reaper.attach(loop)
            quietly = lambda call, *args: loop.run_in_executor(None, call, *args)  # noqa: E731
            parts = SimpleNamespace(
                context=SimpleNamespace(env={"PATH": self.path}),
                reaper=reaper,
                reports=SimpleNamespace(record=record, ask=ask, quietly=quietly),
                report=SimpleNamespace(note=self.notes.append, say=self.notes.append),
                hurry=hurry,
            )
            await work(parts)

        asyncio.run(run())


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def states(record: Record) -> dict[str, str]:
    report = WorkerJobFiles(record.path).read_jobs()
    assert report is not None
    return {one.job_id: one.state for one in report.jobs}


def test_what_is_in_the_queue_is_cancelled_and_workers_that_have_left_end_by_themselves(host: Host) -> None:
    record = Record.create(host.state_dir, "tux", "4700", "tune")
    files = WorkerJobFiles(record.path)
    files.write_jobs(WorkerJobsReport(1.0, (job("1"), job("2", "ready"), job("3", "ready"))))
    files.launches.write_request(LaunchRequest(7, "sbatch", (), 1.0, {"API_KEY": "secret"}))
    host.slurm(
        *("1|PENDING|", "2|RUNNING|", "3|RUNNING|"),
        *("8|PENDING|raycluster:4700+tune", "9|PENDING|raycluster:4700"),  # the second is another cluster's
    )
    host.does(lambda parts: end_worker_jobs(parts, ["2"]), record)
    assert host.cancelled == ["1", "3", "8"]
    assert set(states(record).values()) == {"ended"}
    assert host.notes == ["3 worker jobs cancelled: 1, 3, 8"]
    assert files.launches.pending_requests() == []


@pytest.mark.parametrize(
    ("silent", "hurries", "told"),
    [
        ((), False, []),
        (("10.0.0.3",), False, ["n3 does not respond: Slurm may show worker job 3 as COMPLETING"]),
        (("10.0.0.3", "10.0.0.4"), False, ["n[3-4] does not respond: Slurm may show worker job 3, 4 as"]),
        (("10.0.0.3",), True, []),  # a second Ctrl-C: nothing is waited for
    ],
)
def test_jobs_that_slurm_cannot_end_now_are_told(
    host: Host, silent: tuple[str, ...], hurries: bool, told: list[str]
) -> None:
    async def responds(address: str) -> bool:
        return address not in silent

    record = Record.create(host.state_dir, "tux", "4700")
    jobs = tuple(job(one, "ready") for one in "234")
    WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, jobs))
    host.slurm("2|RUNNING|", "3|RUNNING|", "4|RUNNING|")
    host.hurries = hurries
    stayed = [Worker(one, f"n{one}.{one}", f"10.0.0.{one}", one) for one in "34"]
    host.does(lambda parts: end_worker_jobs(parts, ["2"], stayed, probe=responds), record)
    assert host.notes[0] == "2 worker jobs cancelled: 3, 4"
    assert [note[: len(text)] for note, text in zip(host.notes[1:], told, strict=True)] == told


def test_a_refusal_is_raised_after_all_were_tried_and_the_record_does_not_say_that_they_ended(
    host: Host,
) -> None:
    record = Record.create(host.state_dir, "tux", "4700")
    ids = [str(number) for number in range(1000, 1501)]
    WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, tuple(map(job, ids))))
    host.slurm(*(f"{one}|PENDING|" for one in ids), scancel='echo "scancel: error: No." >&2; exit 1')
    with pytest.raises(RayclusterError, match="scancel: error: No"):
        host.does(lambda parts: end_worker_jobs(parts, []), record)
    assert host.cancelled == ids
    assert set(states(record).values()) == {"pending"}


def test_without_squeue_the_record_counts(host: Host) -> None:
    record = Record.create(host.state_dir, "tux", "4700")
    WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, (job("1"), job("2", "ready"))))
    host.slurm()
    host.command("squeue", "exit 1")
    host.does(lambda parts: end_worker_jobs(parts, ["2"]), record)
    assert host.cancelled == ["1"]


def test_where_a_server_cancels_them_nothing_is_missing(host: Host) -> None:
    record = Record.create(host.state_dir, "tux", "4700")
    files = WorkerJobFiles(record.path)
    files.write_jobs(WorkerJobsReport(1.0, (job("1"),)))
    host.path = str(host.bin)
    with pytest.raises(RayclusterError, match="scancel"):
        host.does(lambda parts: end_worker_jobs(parts, []), record)
    files.launches.say_serving()
    host.does(lambda parts: end_worker_jobs(parts, []), record)
    assert host.notes == ["`raycluster scale --serve` cancels the worker jobs"]
    assert states(record) == {"1": "pending"}
    assert not is_the_servers(files, {"PATH": host.path}, now=time.time() + 3600)


def test_a_job_that_slurm_may_requeue_is_the_servers_too(host: Host) -> None:
    """Where squeue is here, and scancel is not."""
    record = Record.create(host.state_dir, "tux", "4700")
    files = WorkerJobFiles(record.path)
    files.write_jobs(WorkerJobsReport(1.0, (job("1"),)))
    files.launches.say_serving()
    host.command("squeue", f"echo '{line_of_squeue('1|COMPLETING|')}'")
    host.path = str(host.bin)
    host.does(lambda parts: end_worker_jobs(parts, []), record)
    assert host.notes == ["`raycluster scale --serve` cancels the worker jobs"]


def test_at_an_ordinary_end_scancel_is_not_called(host: Host) -> None:
    record = Record.create(host.state_dir, "tux", "4700")
    ended = replace(job("2", "ended"), node_ids=("ab",))
    WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, (job("1", "ready"), ended)))
    host.slurm("1|COMPLETING|", "2|COMPLETING|")  # an epilog runs
    host.does(lambda parts: end_worker_jobs(parts, ["1"]), record)
    assert host.cancelled == []


def test_a_requeued_head_ends_the_clusters_before_it(host: Host) -> None:
    first, second, now = (Record.create(host.state_dir, "tux", f"4700{r}") for r in ("", ".r1", ".r2"))
    first.write_end(EndReport(time.time(), 0, "driver", "n1", "done"))
    for number, record in enumerate((first, second), 1):
        WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, (job(str(number)),)))
    host.slurm("1|PENDING|", "2|PENDING|", "3|PENDING|raycluster:4700.r2")
    host.does(lambda parts: end_earlier_restarts(parts, now), None)
    assert host.cancelled == ["2", "1"]
    ends = [record.read_end() for record in (first, second, now)]
    assert [end.message if end else None for end in ends] == [
        *("done", "Slurm requeued the job before its head could report an end", None)
    ]
    assert earlier_restarts(first) == []
