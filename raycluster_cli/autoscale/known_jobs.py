"""The worker jobs and groups of one cluster as they are now, kept in the record's `worker-jobs.json`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from ..model.errors import RayclusterError, error_text
from ..model.worker_job import GroupState, WorkerJob, WorkerJobsReport, WorkerJobState
from ..state.worker_jobs import JobTexts, WorkerJobFiles
from .group_health import EXCLUDED_S, GroupHealth

#: Ended jobs that the record keeps, for `raycluster why` and `logs`.
KEEP_ENDED = 50

#: Where thousands of jobs wait, the file is large and changes all the time: beyond the first size, so many
#: bytes a second are written at most: once a second for 4,000 jobs.  No pause is longer than the last number.
SMALL_BYTES, BYTES_PER_S, LONGEST_PAUSE_S = 1 << 16, 1 << 20, 10.0


class KnownJobs:
    """Jobs by id and groups by name; whoever changes them holds ``lock`` and calls `write`."""

    def __init__(
        self, files: WorkerJobFiles, clock: Callable[[], float], report: Callable[[str], object]
    ) -> None:
        self.lock = threading.RLock()
        self.jobs: dict[str, WorkerJob] = {}
        self.wanted: dict[str, WorkerJob] = {}
        """What is being submitted, by group."""
        self._health: dict[str, GroupHealth] = {}
        self._ended_before: Counter[str] = Counter()
        """How many jobs of each group have ended and are forgotten."""
        self.unwritten = ""
        """Why worker-jobs.json could not be written the last time, such as a full disk."""
        self._files = files
        self._clock = clock
        self._report = report
        self._written: tuple[tuple[WorkerJob, ...], tuple[GroupState, ...]] | None = None
        self._texts = JobTexts()
        self._write_again = 0.0
        """When the file may be written again, in Unix seconds."""

    def go_on(self) -> bool:
        """Take over what the record has, of the process before this one; False when it has nothing."""
        before = self._files.read_jobs()
        if before is None:
            return False
        self.jobs = {job.job_id: job for job in before.jobs if job.job_id}
        for state in before.groups:
            self._ended_before[state.group] = state.ended_before
            self._health[state.group] = GroupHealth(
                until=state.paused_until,
                problem=state.problem,
                excluded=state.excluded,
                excluded_until=self._clock() + EXCLUDED_S if state.excluded else 0.0,
            )
        return True

    def live(self) -> list[WorkerJob]:
        """The jobs that are not over."""
        return [job for job in self.jobs.values() if job.state != WorkerJobState.ENDED]

    def health(self, group: str) -> GroupHealth:
        return self._health.get(group, GroupHealth())

    def set_health(self, group: str, health: GroupHealth) -> None:
        self._health[group] = health

    def reset_health(self, group: str) -> None:
        self._health.pop(group, None)

    def groups(self) -> dict[str, GroupState]:
        """What holds for each group that had a job so far."""
        now = self._clock()
        return {
            name: replace(self.health(name).state(name, now), ended_before=self._ended_before[name])
            for name in dict.fromkeys((*self._health, *self._ended_before))
        }

    def write(self, *, at_once: bool = False) -> None:
        """Write worker-jobs.json if it would change; a full disk is reported once and no reason to stop.

        A large file may have to wait, unless ``at_once``, for one of the next calls, which come each second.
        """
        ended = [job.job_id for job in self.jobs.values() if job.state == WorkerJobState.ENDED]
        for job_id in ended[:-KEEP_ENDED]:
            self._ended_before[self.jobs.pop(job_id).group] += 1
        if len(ended) > KEEP_ENDED:
            self._files.prune_outputs(self.jobs.keys())
        content = ((*self.jobs.values(), *self.wanted.values()), tuple(self.groups().values()))
        now = self._clock()
        if content == self._written or not (at_once or self._may_write(now)):
            return
        try:
            size = self._files.write_jobs(WorkerJobsReport(now, *content), self._texts)
        except RayclusterError as error:
            before, self.unwritten = self.unwritten, error_text(error)
            if self.unwritten != before:
                self._report(self.unwritten)
            return
        self._written, self.unwritten = content, ""
        self._write_again = now + (min(size / BYTES_PER_S, LONGEST_PAUSE_S) if size > SMALL_BYTES else 0.0)

    def _may_write(self, now: float) -> bool:
        """Also when the clock was set back."""
        return now >= self._write_again or now < self._write_again - LONGEST_PAUSE_S
