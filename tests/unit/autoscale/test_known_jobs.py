"""How often worker-jobs.json is written: not for each change where it is large."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.autoscale.known_jobs import BYTES_PER_S, LONGEST_PAUSE_S, KnownJobs
from raycluster_cli.model.worker_job import WorkerJob, WorkerJobsReport
from raycluster_cli.state.worker_jobs import JobTexts, WorkerJobFiles


class Files(WorkerJobFiles):
    """Counts what is written, and says how large it would be."""

    def __init__(self, path: Path, size: int = 0) -> None:
        super().__init__(path)
        self.written: list[int] = []
        self._size = size

    def write_jobs(self, report: WorkerJobsReport, texts: JobTexts | None = None) -> int:
        self.written.append(self._size or super().write_jobs(report, texts))
        return self.written[-1]


def changes(known: KnownJobs, number: int) -> None:
    job = WorkerJob("4711", "gpu", "pending", 0.0)
    known.jobs[job.job_id] = replace(job, since=float(number))


@pytest.mark.parametrize(
    ("size", "times"),
    [
        (10_000, 100),  # up to some hundred jobs: each time
        (BYTES_PER_S // 2, 100),
        (BYTES_PER_S * 2, 50),
        (BYTES_PER_S * 100, 10),  # and never more rarely than that
    ],
)
def test_a_change_in_each_second(tmp_path: Path, size: int, times: int) -> None:
    now = 1000.0
    files = Files(tmp_path, size)
    known = KnownJobs(files, lambda: now, print)
    for number in range(100):
        changes(known, number)
        known.write()
        known.write()
        now += 1.0
    assert len(files.written) == times
    now += LONGEST_PAUSE_S
    known.write()  # the last change, in one of the next rounds
    assert len(files.written) == times + (times < 100)
    known.write()
    assert len(files.written) == times + (times < 100)


def test_what_was_submitted_is_in_the_record_at_once(tmp_path: Path) -> None:
    files = Files(tmp_path, BYTES_PER_S * 100)
    known = KnownJobs(files, lambda: 1000.0, print)
    for number in range(5):
        changes(known, number)
        known.write(at_once=True)
    assert len(files.written) == 5


def test_a_clock_that_was_set_back(tmp_path: Path) -> None:
    now = 1000.0
    files = Files(tmp_path, BYTES_PER_S * 100)
    known = KnownJobs(files, lambda: now, print)
    changes(known, 1)
    known.write()
    now = 10.0
    changes(known, 2)
    known.write()
    assert len(files.written) == 2


def test_three_thousand_jobs_are_written_in_parts_of_their_number(tmp_path: Path) -> None:
    """Where the site has no arrays, each job is submitted alone."""
    files = Files(tmp_path)
    known = KnownJobs(files, lambda: 1000.0, print)
    for number in range(3000):
        known.jobs[str(number)] = WorkerJob(str(number), "gpu", "pending", 0.0)
        known.write()
    known.write(at_once=True)
    last = files.written[-1]
    assert sum(files.written) < 100 * last  # 1,500 times as much, if each were written
    report = files.read_jobs()
    assert report is not None and len(report.jobs) == 3000
