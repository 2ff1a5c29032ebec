"""Submits the jobs of a group with one sbatch, and knows what its refusals mean for the group."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from pathlib import Path

from ..model.errors import RayclusterError, error_text
from ..model.sbatch_words import option_value
from ..model.worker_group import WorkerGroup
from ..model.worker_job import WorkerJob, WorkerJobState
from ..slurm.refusal import Refusal, hint_for, in_one_line, is_unanswered, refusal_of
from ..slurm.sbatch import HeadJob, job_ids, sbatch_arguments
from ..state.worker_jobs import WorkerJobFiles
from .commands import Answer, Commands, MissingCommandError, SlowCommandError
from .group_health import GroupHealth, after_never, after_refusal, after_submission, without_exclusion
from .known_jobs import KnownJobs


class LaunchRefusedError(RayclusterError):
    """No job was submitted: Slurm refused it, or the group is paused or can have no node.

    The message is one line for people.  Calling again soon is cheap: as long as the group is closed it
    raises the same without a call of Slurm's.
    """


def may_be_in_queue(done: Answer, number: int) -> bool:
    """Whether Slurm may have taken jobs that this answer of sbatch does not name.

    A refusal that Slurm has given is one.  What else failed may have failed after the jobs were taken: the
    connection, sbatch itself (killed, out of memory), or a plugin that prints behind the job's id.

    >>> refusal, killed = Answer(1, "", "sbatch: error: Invalid account"), Answer(-9, "", "")
    >>> may_be_in_queue(refusal, 1), may_be_in_queue(killed, 1)
    (False, True)
    """
    if done.code == 0:
        return not job_ids(done.stdout, number)
    return done.code not in (1, 127) or is_unanswered(done.stderr)


class Submission:
    """The way of a group's jobs into the queue."""

    def __init__(
        self,
        head: HeadJob,
        files: WorkerJobFiles,
        commands: Commands,
        known: KnownJobs,
        *,
        clock: Callable[[], float],
        report: Callable[[str], object],
    ) -> None:
        self._head = head
        self._files = files
        self._commands = commands
        self._known = known
        self._clock = clock
        self._report = report
        self.unanswered: float | None = None
        """When a call of sbatch had no answer, in Unix seconds: its jobs may be in the queue."""

    def check_open(self, group: str) -> None:
        """Raise LaunchRefusedError while the group gets no job."""
        with self._known.lock:
            health = self._known.health(group)
        if health.is_closed(self._clock()):
            raise LaunchRefusedError(f"worker group {group}: {health.problem}")

    def submit(self, group: WorkerGroup, number: int) -> list[WorkerJob]:
        """Submit jobs, one by one where the site has no arrays.  Raises LaunchRefusedError."""
        with self._known.lock:
            avoided = self._known.health(group.name).hosts_to_avoid(self._clock())
        outputs = self._outputs()
        done = self._sbatch(group, number, outputs, avoided)
        if done.code != 0 and avoided and refusal_of(done.stderr) is Refusal.NEVER:
            # Without the hosts on which starts failed no node is left, or --nodelist names one of them.
            with self._known.lock:
                self._known.set_health(group.name, without_exclusion(self._known.health(group.name)))
            avoided = ()
            done = self._sbatch(group, number, outputs, avoided)
        if done.code != 0 and number > 1 and "job array" in done.stderr:
            # The site's MaxArraySize is smaller, or 0: arrays are not allowed.
            return self._one_by_one(group, number)
        ids = job_ids(done.stdout, number) if done.code == 0 else []
        if not ids:
            raise self._refused(group.name, done)
        in_record = outputs if option_value(group.sbatch, "output") is None else None
        now = self._clock()
        jobs = [
            WorkerJob(
                *(job_id, group.name, WorkerJobState.PENDING.value, now),
                nodes=group.nodes_per_job,
                output=str(in_record / f"{job_id}.out") if in_record else "",
            )
            for job_id in ids
        ]
        with self._known.lock:
            self._known.jobs.update((job.job_id, job) for job in jobs)
            self._known.set_health(group.name, after_submission(self._known.health(group.name)))
            self._known.write()
        what = f"job {ids[0]}" if number == 1 else f"{number} jobs ({ids[0]} to {ids[-1]})"
        self._report(f"worker group {group.name}: {what} submitted{f' by {done.by}' if done.by else ''}")
        return jobs

    def _one_by_one(self, group: WorkerGroup, number: int) -> list[WorkerJob]:
        """Jobs until Slurm refuses one: those before it are in the queue.

        Raises LaunchRefusedError when it refuses the first.
        """
        jobs: list[WorkerJob] = []
        while len(jobs) < number:
            try:
                jobs += self.submit(group, 1)
            except LaunchRefusedError:
                if not jobs:
                    raise
                break
        return jobs

    def _outputs(self) -> Path | None:
        """The directory of output files; None where the record takes none, because its disk is full."""
        if not self._known.unwritten:
            with contextlib.suppress(RayclusterError):
                return self._files.output_dir()
        return None

    def _sbatch(
        self, group: WorkerGroup, number: int, outputs: Path | None, avoided: Collection[str]
    ) -> Answer:
        arguments = sbatch_arguments(self._head, group, number, outputs=outputs, excluded=avoided)
        try:
            done = self._commands.call("sbatch", arguments)
        except MissingCommandError as error:
            raise self._not_now(group.name, str(error).replace("JOB", self._head.key)) from error
        except SlowCommandError as error:
            self.unanswered = self._clock()
            raise self._not_now(group.name, str(error)) from error
        except RayclusterError as error:  # the record takes no request for a login node
            raise self._not_now(group.name, error_text(error)) from error
        if may_be_in_queue(done, number):
            self.unanswered = self._clock()
        return done

    def _refused(self, group: str, done: Answer) -> LaunchRefusedError:
        said = in_one_line(done.stderr) or f"code {done.code}, and no job id."
        why, kind = f"sbatch refused the job: {said}", refusal_of(done.stderr)
        if kind is Refusal.ELSEWHERE and not done.by:
            why += (
                f" Where jobs cannot be submitted from compute nodes, run "
                f"`raycluster scale {self._head.key} --serve` on a login node."
            )
        why = f"{why} {hint_for(done.stderr)}".strip()
        if kind is Refusal.NEVER or (kind is Refusal.ELSEWHERE and done.by):
            return self._close(group, why, after_never)
        return self._not_now(group, why)

    def _not_now(self, group: str, why: str) -> LaunchRefusedError:
        """The group waits for some seconds, longer each time; said once as long as it stays the same."""
        return self._close(group, why, after_refusal)

    def _close(
        self, group: str, why: str, how: Callable[[GroupHealth, str, float], GroupHealth]
    ) -> LaunchRefusedError:
        with self._known.lock:
            before = self._known.health(group)
            self._known.set_health(group, how(before, why, self._clock()))
            self._known.write()
        if before.problem != why:
            self._report(f"worker group {group}: {why}")
        return LaunchRefusedError(f"worker group {group}: {why}")
