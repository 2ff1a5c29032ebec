"""The state of a requeued job whose record is still that of the run before."""

from __future__ import annotations

from dataclasses import replace

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.record import EndReport
from ..slurm.queue import Job
from ..state.record import Record


def is_another_run(status: ClusterStatus, record: Record, end: EndReport | None, job: Job) -> bool:
    """Whether Slurm has the job for a run after the one of the record; the next record comes with its head.

    ``end``: as the record has it; a host that lost its power leaves none.
    """
    if job.is_ended or not (status.started or end):
        return False
    started_later = end is not None and job.start_time is not None and job.start_time > end.when
    return (job.is_waiting or started_later) and not _has_next_record(record)


def as_next_run(status: ClusterStatus, end: EndReport | None, job: Job, waits: str) -> ClusterStatus:
    """The status of that run; ``waits``: why the job waits, in words."""
    how = (end.message or f"exit code {end.exit_code}") if end is not None else ""
    before = f"the run before it: {how}" if how else "the run before it did not report how it ended"
    return replace(
        status,
        phase=ClusterPhase.PENDING if job.is_waiting else ClusterPhase.STARTING,
        message=f"requeued; {waits if job.is_waiting else 'Slurm has started it again'} ({before})",
        nodes=(),
        expected_nodes=0,
        started=0.0,
        ended=None,
        end_time=None if job.is_waiting else job.end_time,
        address="",
        head_host="",
        dashboard="",
        exit_code=None,
        reason="",
        failed_host="",
    )


def _has_next_record(record: Record) -> bool:
    leaf = f"{record.job_id}.r{record.restart + 1}" + (f"+{record.name}" if record.name else "")
    return record.path.with_name(leaf).exists()
