"""The worker jobs of one cluster: submits them, cancels them, and knows what becomes of each."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from ..model.errors import RayclusterError, error_text
from ..model.log_lines import SLURMSTEPD
from ..model.worker_group import WorkerGroup
from ..model.worker_job import GroupState, WorkerJob, WorkerJobState, job_of
from ..slurm.answer import Run
from ..slurm.pending import Wait, advice_for, wait_of
from ..slurm.sbatch import MAX_ARRAY, HeadJob, is_marked
from ..slurm.worker_queue import QueueLine, parse_queue, squeue_arguments
from ..state.worker_jobs import WorkerJobFiles
from .cancellation import HAS_ENDED
from .commands import Commands
from .group_health import GroupHealth, after_failed_start, after_joined, after_never
from .job_decisions import IN_CLUSTER, Next, RayNode, moved, needs_queue, next_of
from .known_jobs import KnownJobs
from .submission import LaunchRefusedError, Submission

__all__ = ["HeadJob", "LaunchRefusedError", "RayNode", "WorkerJobs"]

#: squeue is called this often at most while a job is about to start or end.
SQUEUE_INTERVAL_S = 5.0

#: The same while nothing has changed for ten minutes, as with jobs that are pending for hours.
QUIET_AFTER_S = 600.0
QUIET_INTERVAL_S = 30.0

#: Most jobs of one scancel: its command line has a limit.
CANCEL_AT_ONCE = 500

#: After an sbatch without an answer, its jobs are looked for in the queue for this long.
LOOK_FOR_LOST_S = 60.0

#: How far a job's output is read for the reason of a failed start, from its end.
OUTPUT_TAIL_BYTES = 4096


class WorkerJobs:
    """Submits, cancels and watches the worker jobs of one cluster.

    An *instance* is one node of a worker job, under the id of :func:`.worker_job.instance_id`.  All methods
    block (sbatch and squeue take up to seconds) and may be called from several threads.

    ``worker-jobs.json`` is written whenever something changed, and before `launch` returns, so that the jobs
    can be cancelled after a crash.  An object that is made for a cluster that has this file goes on with
    its jobs: Ray's autoscaler was started again.
    """

    def __init__(
        self,
        head: HeadJob,
        files: WorkerJobFiles,
        env: Mapping[str, str],
        *,
        report: Callable[[str], object] | None = None,
        run: Run = subprocess.run,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``env``: the environment of the head's job, which the worker jobs get without what is its own.

        ``report`` takes one line on what happened, once; without it, it goes into the record's events.
        """
        self._head = head
        self._report = report or files.append_event
        self._clock = clock
        self._commands = Commands(files, env, run=run, clock=clock, sleep=sleep)
        self._known = KnownJobs(files, clock, self._report)
        self._submission = Submission(
            head, files, self._commands, self._known, clock=clock, report=self._report
        )
        self._submitting = threading.Lock()
        self._asked = 0.0
        self._changed = clock()
        self._squeue_failed = False
        if self._known.go_on():  # an sbatch may have been under way, and be still
            self._submission.unanswered = clock()
            files.launches.forget_requests()

    def launch(self, group: WorkerGroup, count: int) -> list[str]:
        """Submit jobs for ``count`` further nodes with one sbatch; returns their instances.

        Raises LaunchRefusedError with Slurm's reason.  With nodes_per_job the number of nodes is rounded up.
        """
        number = min(-(-count // group.nodes_per_job), MAX_ARRAY)
        if number < 1:
            return []
        known = self._known
        with self._submitting:
            self._submission.check_open(group.name)
            wanted = WorkerJob(
                *("", group.name, WorkerJobState.WANTED.value, self._clock()),
                nodes=number * group.nodes_per_job,
            )
            with known.lock:
                known.wanted[group.name] = wanted
                known.write()
            try:
                jobs = self._submission.submit(group, number)
            finally:
                with known.lock:
                    del known.wanted[group.name]
                    self._changed = self._clock()
                    known.write(at_once=True)
        return [instance for job in jobs for instance in job.instance_ids]

    def cancel(self, instances: Collection[str], why: str, *, now: bool = True) -> None:
        """End the jobs of these instances, pending or running; a job of several nodes ends as a whole.

        Without ``now`` their workers have left the cluster: the jobs complete by themselves, and `poll`
        cancels those that have not after half a minute.  Raises RayclusterError when scancel fails, which
        `poll` tries again as well.
        """
        at = self._clock()
        with self._known.lock:
            jobs = self._known.jobs
            ids = [job_id for job_id in dict.fromkeys(map(job_of, instances)) if job_id in jobs]
            ids = [job_id for job_id in ids if jobs[job_id].state != WorkerJobState.ENDED]
            for job_id in ids:
                jobs[job_id] = moved(jobs[job_id], WorkerJobState.DRAINING, at, why)
            self._changed = at
            self._known.write()
        if now:
            self._scancel(ids)

    def _scancel(self, ids: list[str]) -> None:
        for begin in range(0, len(ids), CANCEL_AT_ONCE):
            some = ids[begin : begin + CANCEL_AT_ONCE]
            done = self._commands.call("scancel", some)
            if done.code != 0 and not any(text in done.stderr for text in HAS_ENDED):
                said = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.code}"]
                raise RayclusterError(f"`scancel {' '.join(some)}` failed: {said[0]}.")

    # ------------------------------------------------------------------ poll

    def poll(self, nodes: Mapping[str, RayNode]) -> dict[str, WorkerJob]:
        """The jobs that are not over, by instance.  ``nodes``: all nodes that the GCS has, by instance.

        To be called about once a second.  It calls squeue at most every 5 s (30 s when nothing has changed
        for ten minutes), and only while a job is pending, starting, ending, or no longer among ``nodes``.
        An instance that is not in the answer is over: its job ended, or will never start.
        """
        now, known = self._clock(), self._known
        with known.lock:
            live = known.live()
            in_ray = {job.job_id: [nodes[i] for i in job.instance_ids if i in nodes] for job in live}
            unsure = {job.job_id for job in live if needs_queue(job, in_ray[job.job_id])}
            looks = self._submission.unanswered is not None and not known.wanted
            interval_s = QUIET_INTERVAL_S if now - self._changed >= QUIET_AFTER_S else SQUEUE_INTERVAL_S
            asks = bool(unsure or looks) and now - self._asked >= interval_s
            if asks:
                self._asked = now
        queue = self._squeue(() if looks else unsure) if asks else None
        cancels: list[str] = []
        with known.lock:
            for before in live:
                if known.jobs.get(before.job_id) is not before:
                    continue  # cancelled meanwhile
                asked = queue is not None and before.job_id in unsure
                line = queue.get(before.job_id) if queue is not None and asked else None
                step = next_of(before, line, asked, in_ray[before.job_id], now)
                if step.cancel:
                    cancels.append(before.job_id)
                self._take(before, step, now)
            if queue is not None and looks and not known.wanted:
                cancels += self._lost_jobs(queue, now)
            known.write()
            answer = {instance: job for job in known.live() for instance in job.instance_ids}
        if cancels:
            try:
                self._scancel(cancels)
            except RayclusterError as error:
                self._report(error_text(error))
        return answer

    def _squeue(self, ids: Collection[str]) -> dict[str, QueueLine] | None:
        """What squeue shows of these jobs, or of all; None when it does not answer, which is said once."""
        try:
            done = self._commands.call("squeue", squeue_arguments(os.getuid(), ids))
        except RayclusterError as error:
            why = error_text(error)
        else:
            if done.code == 0 or "Invalid job id" in done.stderr:  # of one job that Slurm has forgotten
                self._squeue_failed = False
                return parse_queue(done.stdout)
            why = done.stderr.strip() or f"squeue ended with code {done.code}"
        if not self._squeue_failed:
            self._report(f"the state of the worker jobs is not known: {why}")
        self._squeue_failed = True
        return None

    def _take(self, before: WorkerJob, step: Next, now: float) -> None:
        """Keep the outcome of a step, with what it means for the group."""
        job, group = step.job, step.job.group
        if job == before and not step.failed_start and not step.never:
            return
        known = health = self._known.health(group)
        if step.failed_start:
            job, health = self._failed(job, step.failed_start, health, now)
        if step.never:
            health = after_never(health, step.never, now)
            if known.problem != step.never:
                self._report(f"worker group {group}: {step.never}")
        if job.state in IN_CLUSTER and before.state not in IN_CLUSTER:
            health = after_joined(health)
        elif job.state == WorkerJobState.ENDED and not step.failed_start:
            self._report(f"worker group {group}: job {job.job_id} has ended: {job.reason}")
        elif job.state == WorkerJobState.PENDING and job.reason != before.reason:
            self._say_wait(job)
        if (job.state, job.reason) != (before.state, before.reason):
            self._changed = now
        if health != known:
            self._known.set_health(group, health)
        self._known.jobs[job.job_id] = job

    def _failed(
        self, job: WorkerJob, why: str, health: GroupHealth, now: float
    ) -> tuple[WorkerJob, GroupHealth]:
        said = _last_line(job.output)
        why = f"{why}: {said}" if said else why
        after = after_failed_start(health, job.hosts, why, now)
        where = f" on {', '.join(job.hosts)}" if job.hosts else ""
        self._report(f"worker group {job.group}: job {job.job_id} failed to start{where}: {why}")
        if after.pauses > health.pauses:
            self._report(f"worker group {job.group} pauses for {after.until - now:.0f} s: {after.problem}")
        return replace(job, reason=why), after

    def _say_wait(self, job: WorkerJob) -> None:
        if wait_of(job.reason) in (Wait.HELD, Wait.LIMIT):
            advice = advice_for(job.reason).replace("JOB", job.job_id)
            what = f"worker group {job.group}: job {job.job_id}"
            self._report(f"{what} waits: {job.reason}. {advice}".strip())

    def _lost_jobs(self, queue: Mapping[str, QueueLine], now: float) -> list[str]:
        """Jobs of this cluster that no answer of sbatch has named: no instance is theirs."""
        if now - (self._submission.unanswered or 0.0) >= LOOK_FOR_LOST_S:
            self._submission.unanswered = None
        return [
            job_id
            for job_id, line in queue.items()
            if is_marked(line.comment, self._head.mark)
            and not line.is_ended
            and job_id not in self._known.jobs
        ]

    # ------------------------------------------------------------------ groups

    def groups(self) -> dict[str, GroupState]:
        """What holds for each group that had a job so far."""
        with self._known.lock:
            return self._known.groups()

    def resume(self, group: str) -> None:
        """Forget pause and problem of a group: `raycluster scale` has set it again."""
        with self._known.lock:
            self._known.reset_health(group)
            self._known.write()


def _last_line(output: str) -> str:
    """The last line that a job has written: its error when its start failed; empty when there is none."""
    try:
        with open(output, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - OUTPUT_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    said = (line.strip() for line in reversed(lines) if not re.search(SLURMSTEPD, line))
    return next((line[:300] for line in said if line), "")
