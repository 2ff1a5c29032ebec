"""`raycluster stop` of a job in which raycluster has not started yet.

A job that waits in the queue is cancelled.  In a job that runs the request is left in the record's
directory, where the head finds it when it takes its lease, and ends before it starts anything.  The head of
a cluster whose record was removed finds it there too.  A head with a --name, and one whose job has the id of
an earlier job, has its record elsewhere, or puts away what is there: it is asked when its record appears.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import UsageError
from ..model.log_lines import shortened
from ..model.record import EndReport, Lease
from ..model.wording import duration
from ..slurm.job_state import job_state
from ..slurm.queue import Job
from ..slurm.site import query_config
from ..state.catalogue import NoClusterError, NoRecordError, list_records, record_of
from ..state.record import Record
from .no_record import refuse_job_of_others
from .reader import read_cluster
from .stop import ASK_S, POLL_S, Outcome, Surroundings, stop_cluster

#: How far the clocks of controller and file server may be apart; those of nodes may be minutes wrong.
CLOCKS_APART_S = 10.0


@dataclass(frozen=True)
class EarlyStop:
    """How the record that a job will have is found; tests give their own functions."""

    restarts: Callable[[str], int | None]
    """How often a job was requeued; None when Slurm does not say."""
    cluster: Callable[[], str]
    """The Slurm cluster's name; empty when it is not known."""

    @classmethod
    def of_slurm(cls, around: Surroundings) -> EarlyStop:
        def restarts(job_id: str) -> int | None:
            state = job_state(job_id, around.env)
            return state.restarts if state is not None else None

        return cls(restarts, lambda: query_config(around.env).get("ClusterName", ""))

    def is_earlier_run(self, record: Record, job: Job | None) -> bool:
        """Whether a record is that of a run before a requeue, while the job waits or runs again.

        Or that of an earlier job with the same id: both had ended before this one started.
        """
        if job is None or job.is_ended or record.read_end() is None or (ended := record.end_stamp()) is None:
            return False
        if job.is_waiting or (job.start_time is not None and job.start_time > ended / 1e9 + CLOCKS_APART_S):
            return True
        restarts = self.restarts(job.id)
        return restarts is not None and restarts > record.restart

    def stop(
        self, job: Job, state_dir: Path, around: Surroundings, *, deadline_s: float, cancel: bool
    ) -> Outcome:
        """Stop a job of this user that has no record.  Raises RayclusterError.

        ``cancel``: whether the job is cancelled when raycluster has not started in it after ``deadline_s``.
        """
        if job.is_waiting:
            around.cancel(job.own_id, around.env)
            shown = shortened(job.shown_id, 60)  # of an array all tasks that wait
            around.say(f"job {shown} ({job.state.lower()}) is cancelled")
            return Outcome.ENDED
        cluster, restarts = self.cluster(), self.restarts(job.id)
        if not cluster or restarts is None:
            around.say(
                f"job {job.shown_id} has no record, and Slurm does not answer; `scancel {job.own_id}` ends it"
            )
            return Outcome.FAILED
        key = f"{job.id}.r{restarts}" if restarts else job.id
        before = {record.path: _state(record) for record in _records(state_dir, cluster, key)}
        record = Record.create(state_dir, cluster, key)
        before.setdefault(record.path, _state(record))
        if asked := before[record.path] == _UNUSED:
            record.request_stop("raycluster stop")
        around.say(
            f"job {job.shown_id} has no cluster yet, or its record was removed; its head will find the "
            "request to stop"
        )
        began = looked = around.clock()
        while (waited_s := around.clock() - began) < deadline_s:
            for found in _records(state_dir, cluster, key):
                if not _has_begun(found, before.get(found.path, _UNUSED)):
                    continue
                if asked and found.path != record.path:
                    _withdraw(record)
                status = read_cluster(found, None, events=0)
                if status.is_over:
                    around.say(f"{status.title} ended after {duration(waited_s)}: {status.headline}")
                    return Outcome.ENDED
                return stop_cluster(found, around, deadline_s=deadline_s - waited_s)
            if around.clock() - looked >= ASK_S:
                looked = around.clock()
                if _is_over(job, around):
                    if asked:
                        _withdraw(record)
                    around.say(f"job {job.shown_id} has ended")
                    return Outcome.ENDED
            around.progress(f"job {job.shown_id}: waiting for its head ({waited_s:.0f} s of {deadline_s:g})")
            around.sleep(POLL_S)
        if asked:
            _withdraw(record)
        if cancel:
            around.cancel(job.own_id, around.env)
            around.say(f"job {job.shown_id} is cancelled: raycluster did not start in it")
            return Outcome.FORCED
        state = "is suspended" if job.is_suspended else "is ending" if job.state == "COMPLETING" else "runs"
        around.say(
            f"job {job.shown_id} {state}, but raycluster did not start in it within {duration(deadline_s)}; "
            f"`scancel {job.own_id}`, or --yes here, ends the job"
        )
        return Outcome.FAILED


def named(
    names: list[str], where: Path, around: Surroundings, early: EarlyStop
) -> tuple[list[Record], list[Job]]:
    """The records of clusters that were named, and the jobs that have no record (yet)."""
    records: list[Record] = []
    jobs: list[Job] = []
    for name in dict.fromkeys(names):
        try:
            record = record_of(where, name)
        except NoClusterError:
            raise
        except UsageError as error:
            known = (around.jobs() or {}).values()
            job = next((one for one in known if name in (one.id, one.shown_id)), None)
            if job is None or job.is_ended:
                if isinstance(error, NoRecordError):
                    refuse_job_of_others(name, where, around.env)
                raise
            jobs.append(job)
            continue
        job = (around.jobs() or {}).get(record.job_id) if record.slurm_cluster != "local" else None
        if job is not None and early.is_earlier_run(record, job):
            jobs.append(job)
        else:
            records.append(record)
    return records, jobs


def _is_over(job: Job, around: Surroundings) -> bool:
    """Whether Slurm says that a job has ended."""
    jobs = around.jobs(again=True)
    return jobs is not None and (job.id not in jobs or jobs[job.id].is_ended)


State = tuple["Lease | None", "EndReport | None"]


def _state(record: Record) -> State:
    """What a head changes in its record when it starts, and when it ends."""
    return record.leases.holder(), record.read_end()


def _has_begun(record: Record, before: State) -> bool:
    """Whether a head has taken this record since, or while Slurm was asked just before.

    It takes the lease first, and then puts away the end of an earlier cluster.  One whose record was removed
    has no lease there any more; it writes its end.
    """
    holder, end = _state(record)
    if end is None:
        return holder != before[0] or record.leases.is_held()
    return end != before[1]


#: Of a record that no head has used.
_UNUSED: State = (None, None)


def _records(state_dir: Path, cluster: str, key: str) -> list[Record]:
    """The records of one run of a job, one for each --name."""
    return [one for one in list_records(state_dir) if (one.slurm_cluster, one.key) == (cluster, key)]


def _withdraw(record: Record) -> None:
    """Take the request back, so that it does not stop a cluster that is started much later."""
    with contextlib.suppress(OSError):
        os.unlink(record.path / "stop.json")
        os.rmdir(record.path / "nodes")
        os.rmdir(record.path)
