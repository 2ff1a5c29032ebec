"""Jobs that have no record: raycluster did not start in them, or could keep none; by Slurm and the output."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..model.cause_search import find_causes
from ..model.cluster_status import ClusterPhase
from ..model.errors import UsageError
from ..model.text import printable
from ..slurm.job_state import JobState, job_state
from ..slurm.pending import explain
from ..slurm.queue import WAITING
from ..state.catalogue import ALIASED, is_alias, is_worker_job, list_records, owner_of
from ..state.submitted import output_of
from .follow import describe
from .log_search import read_tail
from .logs import Source
from .why import hanging, wrapped

#: Lines of the job's output that are shown.
LAST_LINES = 12

#: What `raycluster run` warns of where it can keep no record.
NO_RECORD = "no record can be kept"

#: How a line of raycluster's begins that says why it ends.
_ERROR = "error: "

#: What a job's exit code and signal mean before raycluster has started (Slurm's sources, signal 53 and 125
#: are Slurm's own).
_CODES: dict[tuple[int, int], tuple[str, str]] = {
    (0, 53): (
        "Slurm could not start the batch script: the directory of its output does not exist on the node, or "
        "cannot be written.",
        "Create the directory of --output, on a file system that the nodes share.",
    ),
    (0, 125): ("The job used more memory than it asked for.", "Ask for more memory: --mem."),
    (126, 0): (
        "A program in the batch script is not executable.",
        "The job's output names it; `chmod +x` makes it executable.",
    ),
    (127, 0): (
        "A program in the batch script was not found on the node.",
        "The job's output names it. Its environment may be on a disk that only the login node has: put it on "
        "a file system that the nodes share.",
    ),
}


@dataclass(frozen=True)
class JobWithoutRecord:
    """What is known of it."""

    job_id: str
    state: JobState | None
    """None when Slurm does not know the job (any more)."""
    output: str
    """Path of its output; empty when not known."""

    @property
    def phase(self) -> ClusterPhase:
        """The state, as `status` shows it."""
        if self.state is None:
            return ClusterPhase.FAILED
        if self.state.state in WAITING:
            return ClusterPhase.PENDING
        if not self.state.has_ended:
            return ClusterPhase.NO_RECORD
        return phase_of_end(self.state.state)

    @property
    def verdict(self) -> str:
        if self.state is None:
            return (
                "Slurm no longer knows the job, and there is no record of a cluster: it ended before "
                "raycluster started, or the record was removed."
            )
        if self.state.state in WAITING:
            return f"The job {describe(self.state)}."
        if not self.state.has_ended:
            return (
                f"The job {describe(self.state)}, and there is no record of a cluster: raycluster has not "
                "started in it, could keep none, or the record was removed."
            )
        if self._never_started:
            return f"The job {describe(self.state)}, before it started."
        if self._ran:
            told = next((line for line in self._ran if NO_RECORD in line or line.startswith(_ERROR)), "")
            told = told.removeprefix(_ERROR)
            return (
                f"The job {describe(self.state)}. raycluster ran in it, and there is no record of the cluster"
                f"{f': {told}' if told else ' (none could be kept, or it was removed).'}"
            )
        if self.state.state == "COMPLETED":
            return (
                "The job completed, and there is no record of a cluster: raycluster did not start in it, "
                "could keep none, or the record was removed."
            )
        known = self._code
        return (
            f"The job {describe(self.state)}, before raycluster started. {known[0] if known else ''}".strip()
        )

    @property
    def _never_started(self) -> bool:
        """Whether it ended in the queue: it had no nodes yet."""
        return (
            self.state is not None and self.state.state in ("CANCELLED", "DEADLINE") and not self.state.nodes
        )

    @property
    def remedies(self) -> tuple[str, ...]:
        """What to do."""
        if self.state is not None and self.state.state in WAITING:
            reason = explain(self.state.reason, self.job_id)
            return (f"{reason[:1].upper()}{reason[1:]}",) if reason else ()
        found = [one.cause.remedy for one in find_causes([(self.output, read_tail(Path(self.output)))])]
        known = self._code if self.state is not None and self.state.has_ended else None
        return (known[1], *found) if known else tuple(found)

    @property
    def last_lines(self) -> tuple[str, ...]:
        """Of the job's output."""
        lines = [line.rstrip() for line in read_tail(Path(self.output)).splitlines()] if self.output else []
        return tuple([line for line in lines if line][-LAST_LINES:])

    @property
    def _ran(self) -> list[str]:
        """The lines that raycluster has written to the job's output; empty when it did not run, or far up."""
        source = Source(Path(self.output), "raycluster")
        lines = read_tail(source.path).splitlines() if self.output else []
        own = [line.partition("raycluster: ") for line in lines if source.wants(line.encode())]
        return [text for _, is_ours, text in own if is_ours]

    @property
    def _code(self) -> tuple[str, str] | None:
        return _CODES.get((self.state.exit_code, self.state.signal)) if self.state is not None else None


def phase_of_end(state: str) -> ClusterPhase:
    """What `status` shows for a job that ended before raycluster had started, by Slurm's state of it.

    >>> phase_of_end("CANCELLED").value, phase_of_end("TIMEOUT").value
    ('stopped', 'failed')
    """
    kinds = {"COMPLETED": ClusterPhase.ENDED, "CANCELLED": ClusterPhase.STOPPED}
    return kinds.get(state, ClusterPhase.FAILED)


def has_record(state_dir: Path, job_id: str) -> bool:
    """Whether there is a record of this job, or several; that of a heterogeneous job is each component's."""
    records = list_records(state_dir)
    return any(record.job_id == job_id for record in records) or any(
        is_alias(record, job_id) for record in records[:ALIASED]
    )


def job_without_record(
    job_id: str,
    state_dir: Path,
    env: Mapping[str, str],
    *,
    ask: Callable[[str, Mapping[str, str]], JobState | None] = job_state,
) -> JobWithoutRecord | None:
    """A job without a record that Slurm or `raycluster submit` knows; None when there is no such job.

    Also None for a worker job, which has no record of its own: record_of tells its cluster.

    Raises UsageError for a job of another user, whose record this one cannot see.
    """
    if not job_id.isascii() or not job_id.isdigit() or has_record(state_dir, job_id):
        return None
    state = ask(job_id, env)
    if state is not None and not state.is_of(owner_of(state_dir)):
        owner = state.user.partition("(")[0]
        hint = "Only its owner can read its record, and stop or enter the cluster."
        if os.geteuid() == 0:
            hint = f"Root can look at it: --state-dir ~{owner}/.raycluster, or where {owner} keeps records."
        raise UsageError(f"no record of job {job_id} in {state_dir}: the job belongs to {owner}.", hint)
    remembered = (state_dir / "submitted" / job_id).exists()
    if not remembered and (state is None or is_worker_job(state_dir, job_id)):
        return None
    output = output_of(state_dir, job_id) or (state.output if state is not None else "")
    return JobWithoutRecord(job_id, state, output)


def refuse_job_of_others(
    job: str,
    state_dir: Path,
    env: Mapping[str, str],
    *,
    ask: Callable[[str, Mapping[str, str]], JobState | None] = job_state,
) -> None:
    """For a JOB that has no record: raise UsageError if it is another user's.  Asks Slurm."""
    job_without_record(job, state_dir, env, ask=ask)


def page(job: JobWithoutRecord, width: int = 100) -> str:
    """As `why` prints it."""
    lines = [f"Job {job.job_id}: no record of a cluster", "", "Likely cause", *wrapped(job.verdict, width)]
    if job.remedies:
        lines.append("What to do")
        for remedy in dict.fromkeys(job.remedies):
            lines += wrapped(remedy, width, "  - ", "    ")
    lines += _output_lines(job, width)
    return "\n".join(printable(line) for line in lines) + "\n"


def _output_lines(job: JobWithoutRecord, width: int) -> Iterator[str]:
    if not job.output:
        return
    yield ""
    if job.last_lines:
        yield f"Last lines of {job.output}"
        for line in job.last_lines:
            yield from hanging(line, width)
    else:
        yield f"Output: {job.output} (empty, or not visible from here)"


def as_json(job: JobWithoutRecord) -> dict[str, Any]:
    """As `why --json` prints it."""
    ended = job.state is not None and job.state.has_ended
    return {
        "schema": 1,
        "job": job.job_id,
        "state": job.phase.value,
        "running": job.state is not None and not ended,
        "exit_code": job.state.shell_code if job.state is not None and ended else None,
        "reason": "no-record",
        "failed_host": "",
        "culprit": "",
        "message": "",
        "verdict": job.verdict,
        "remedies": list(job.remedies),
        "first": None,
        "causes": [],
        "nodes": [],
    }
