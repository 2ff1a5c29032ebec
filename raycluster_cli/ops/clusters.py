"""Which clusters there are: the one that a person means, all of them, and jobs that have no record."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import UsageError
from ..slurm.queue import Job, query_jobs
from ..state.catalogue import NoRecordError, check_readable, list_records, owner_of, record_of
from ..state.files import user
from ..state.record import Record
from .no_record import JobWithoutRecord, phase_of_end, refuse_job_of_others
from .reader import SILENT_S, hosts_of, read_cluster, waiting_message

#: raycluster needs so long to write a record after Slurm has started the job.
BEGIN_S = 30.0

#: What to do about a job that runs and has no record.
NO_RECORD_HINT = (
    "If the records are elsewhere, give their directory with --state-dir. The job's output says whether "
    "raycluster has started; `scancel {job}` cancels the job."
)


def job_without_record(job: Job, now: float | None = None) -> ClusterStatus:
    """A job that has no record: it waits, raycluster has not started in it, or the record was removed."""
    when = time.time() if now is None else now
    if job.is_waiting:
        phase, message = ClusterPhase.PENDING, waiting_message(job, when)
    elif job.is_ended:
        phase = phase_of_end(job.state)
        message = f"Slurm ended the job ({job.state.lower()}) before raycluster had started in it"
    elif job.start_time and when - job.start_time < BEGIN_S:
        phase, message = ClusterPhase.NO_RECORD, "Slurm has started the job; raycluster has not reported yet"
    else:
        phase = ClusterPhase.NO_RECORD
        message = (
            f"Slurm says {job.state.lower()}, but there is no record of a cluster: raycluster has not "
            "started in this job, or the record was removed"
        )
    return ClusterStatus(
        job=job.id,
        name="",
        phase=phase,
        nodes=(),
        expected_nodes=len(hosts_of(job.nodes)),
        started=0.0,
        read_at=when,
        ended=job.end_time if job.is_ended else None,
        end_time=None if job.is_waiting else job.end_time,
        message=message,
        slurm_state=job.state,
        job_name=job.name,
    )


def ended_without_record(job: JobWithoutRecord, now: float | None = None) -> ClusterStatus:
    """A job that ended, or that Slurm has forgotten, before raycluster had started in it."""
    state = job.state
    over = state is None or state.has_ended
    return ClusterStatus(
        job=job.job_id,
        name="",
        phase=job.phase,
        nodes=(),
        expected_nodes=0,
        started=0.0,
        read_at=time.time() if now is None else now,
        exit_code=state.shell_code if state is not None and over else None,
        reason="no-record",
        message=job.verdict.rstrip("."),
        cause=job.verdict if over and (state is None or state.shell_code) else "",
        slurm_state=state.state if state is not None else "",
    )


def no_records(state_dir: Path, env: Mapping[str, str] | None = None) -> UsageError:
    """The error when there is nothing to look at.  Raises it when the directory cannot be read."""
    check_readable(state_dir)
    return UsageError(
        f"there are no records of clusters{of_whom(state_dir)} in {state_dir}.",
        f"Start one with {start_hint(env or {})}, or give the directory of the records with --state-dir.",
    )


def of_whom(state_dir: Path) -> str:
    """Where a directory of another user can be read: whose records were looked for."""
    with contextlib.suppress(OSError):
        if (there := os.stat(state_dir.expanduser()).st_uid) != (uid := owner_of(state_dir)):
            return f" of {user(uid)} (it belongs to {user(there)})"
    return ""


def start_hint(env: Mapping[str, str]) -> str:
    """How to start a cluster: where there is Slurm, by a job."""
    if shutil.which("sbatch", path=env.get("PATH")) is not None:
        return "`raycluster submit -N 2 -- python your_driver.py`"
    return "`raycluster run --local 2 -- python your_driver.py`"


def find_record(state_dir: Path, job: str, env: Mapping[str, str]) -> Record:
    """The record meant by JOB; without one this job's own, else the one that runs, else the newest.

    UsageError when there is none, or several run.
    """
    if job:
        return record_of(state_dir, job)
    inside = env.get("SLURM_JOB_ID", "")
    if inside:
        with contextlib.suppress(UsageError):
            return record_of(state_dir, inside)
    records = list_records(state_dir)
    running = [record for record in records if record.read_end() is None and is_alive(record)]
    if len(running) > 1:
        running = _not_over(running, query_jobs(env, uid=owner_of(state_dir)))
    if len(running) > 1:
        names = ", ".join(record.path.name for record in running[:6])
        raise UsageError(f"{len(running)} clusters run: {names}.", "Name one of them.")
    if running:
        return running[0]
    if records:
        return records[0]
    raise no_records(state_dir, env)


def find_once(state_dir: Path, job: str, env: Mapping[str, str]) -> Record:
    """As :func:`find_record`; where JOB has no record, Slurm is asked whether it is another user's."""
    try:
        return find_record(state_dir, job, env)
    except NoRecordError:
        refuse_job_of_others(job, state_dir, env)
        raise


def _not_over(records: list[Record], jobs: Mapping[str, Job] | None) -> list[Record]:
    """Without those whose job Slurm knows to have ended, or does not know any more."""
    if jobs is None:
        return records

    def runs(record: Record) -> bool:
        job = jobs.get(record.job_id)
        return record.slurm_cluster == "local" or (job is not None and not job.is_ended)

    return [record for record in records if runs(record)]


def own(record: Record) -> Record:
    """The record, if it is this user's.  UsageError for another user's, at which root can only look."""
    if not record.is_mine:
        raise UsageError(
            f"cluster {record.path.name} belongs to {user(record.owner)}: only its owner can enter or change "
            "it.",
            "status, monitor, why and logs look at it; `scancel JOB` cancels the job.",
        )
    return record


def is_alive(record: Record, now: float | None = None) -> bool:
    """Whether a record without an end may be of a cluster that runs; asks no Slurm."""
    here = record.leases.head_runs_here()
    if here is not None:
        return here
    heard = record.leases.last_heartbeat()
    if heard is None:  # no head yet: as young as its directory
        with contextlib.suppress(OSError):
            heard = record.path.stat().st_mtime
    return heard is not None and (time.time() if now is None else now) - heard < SILENT_S


def read_all(
    state_dir: Path, jobs: Mapping[str, Job] | None, *, now: float | None = None, limit: int = 20
) -> list[ClusterStatus]:
    """Clusters that run, all of them, then those that have ended, ``limit`` at most, newest first."""
    running: list[ClusterStatus] = []
    over: list[ClusterStatus] = []
    known = set()
    for record in list_records(state_dir):
        known.add(record.job_id)
        if len(over) >= limit and record.read_end() is not None:
            continue
        status = read_cluster(record, jobs, now=now, events=0, brief=True)
        if status.is_over:
            over.append(status)
        elif status.started or status.nodes or status.slurm_state:
            running.append(status)
    running.sort(key=lambda status: -status.started)
    return running + as_listed(over)[:limit]


def as_listed(statuses: list[ClusterStatus]) -> list[ClusterStatus]:
    """Those that are not over, in their order, then those that are, newest end first, unknown ends last."""
    return sorted(
        statuses, key=lambda status: (status.is_over, -(status.ended or status.started) * status.is_over)
    )
