"""The status of the cluster that a person or a program names: of its record, or of its job without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..model.cluster_status import ClusterStatus
from ..model.errors import UsageError
from ..slurm.queue import Job, query_jobs
from ..state.catalogue import is_worker_job, owner_of
from .clusters import ended_without_record, find_record, job_without_record
from .no_record import has_record
from .no_record import job_without_record as unrecorded
from .reader import read_cluster
from .server_readiness import ASK_SLURM_S


def find_status(
    job: str, where: Path, jobs: Mapping[str, Job] | None, env: Mapping[str, str]
) -> ClusterStatus:
    """The cluster that a person means, also one that has no record (yet).  Raises UsageError."""
    return _without_a_record(job, where, jobs, env) or read_cluster(find_record(where, job, env), jobs)


def _without_a_record(
    job: str, where: Path, jobs: Mapping[str, Job] | None, env: Mapping[str, str]
) -> ClusterStatus | None:
    """The job when it is known and has no record."""
    waiting = without_record_yet(job, where, jobs)
    if waiting is not None or not job:
        return waiting
    found = unrecorded(job, where, env)
    return ended_without_record(found) if found is not None else None


def without_record_yet(job: str, where: Path, jobs: Mapping[str, Job] | None) -> ClusterStatus | None:
    """The job when it is in Slurm's queue or runs, and has no record."""
    by_id = jobs or {}
    # A task of an array has an id of its own, and people know the other one: 100_3.
    found = by_id.get(job) or next((one for one in by_id.values() if one.shown_id == job), None)
    if found is None or found.is_ended or has_record(where, found.id):
        return None
    if is_worker_job(where, job):
        return None
    return job_without_record(found)


class Looker:
    """Looks at a job again and again; asks Slurm less often than it reads the record."""

    def __init__(
        self,
        job: str,
        where: Path,
        env: Mapping[str, str],
        query: Callable[[], Mapping[str, Job] | None] | None = None,
    ) -> None:
        """``query``: asks Slurm for the jobs, None for no answer."""
        self._job = job
        self._where = where
        self._env = env
        self._jobs: Mapping[str, Job] | None = None
        self._ask_at = 0.0
        self._query = query or (lambda: query_jobs(env, uid=owner_of(where)))
        self._record = ""
        """The record of the last look."""
        self.problem: UsageError | None = None
        """Why the last look found nothing."""

    def look(self) -> ClusterStatus | None:
        """None when neither the record nor Slurm knows the job, or JOB means several."""
        asked_now = time.monotonic() >= self._ask_at
        if asked_now:
            self._ask()
        try:
            found = self._find()
            # A record that has appeared: what Slurm said before is not of this run.
            if found.record != self._record and asked_now:
                self._ask_at = 0.0  # the next look asks again
            elif found.record != self._record:
                self._ask()
                found = self._find()
        except UsageError as error:
            self.problem = error
            return None
        self._record = found.record
        return found

    def _find(self) -> ClusterStatus:
        return find_status(self._job, self._where, self._jobs, self._env)

    def _ask(self) -> None:
        self._jobs = self._query()
        self._ask_at = time.monotonic() + ASK_SLURM_S
