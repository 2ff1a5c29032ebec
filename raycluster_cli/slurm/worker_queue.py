"""One squeue for all worker jobs of a cluster: its arguments, and its answer as values."""

from __future__ import annotations

from collections.abc import Collection

from ..model.value import Value
from .queue import ENDED, WAITING, parse_time

#: Id as shown to users (100_3), its number, state, start, nodes, reason, and last the comment, which may
#: contain '|'.
_FORMAT = "%i|%A|%T|%S|%N|%r|%k"

#: Most jobs that a squeue is asked for by name: its command line has a limit.
MOST_NAMED = 1000


class QueueLine(Value):
    """A worker job as squeue shows it."""

    id: str
    """With the task of an array: 4711_3."""
    state: str
    start_time: float | None = None
    """When it started, or when Slurm expects to start it, in Unix seconds."""
    nodes: str = ""
    """As a hostlist."""
    reason: str = ""
    comment: str = ""
    number: str = ""
    """Slurm's own number, which the job sees as SLURM_JOB_ID: of an array's task another than in ``id``."""

    @property
    def is_ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_pending(self) -> bool:
        return self.state in WAITING

    @property
    def is_suspended(self) -> bool:
        return self.state in ("SUSPENDED", "STOPPED")


def squeue_arguments(uid: int, job_ids: Collection[str] = ()) -> list[str]:
    """The arguments of the squeue that shows these jobs of a user, each task of an array on its own line.

    Without ``job_ids``, or with very many, it shows all jobs of the user.  With --user slurmctld sends no
    others' jobs.
    """
    bases = sorted({job_id.partition("_")[0] for job_id in job_ids}, key=int)
    return [
        *("--noheader", "--array", "--states=all", f"--user={uid}", f"--format={_FORMAT}"),
        *([f"--jobs={','.join(bases)}"] if 0 < len(bases) <= MOST_NAMED else []),
    ]


def parse_queue(text: str) -> dict[str, QueueLine]:
    """The jobs by id.

    >>> parse_queue("4711_3|4714|RUNNING|1700000000|n[1-2]|None|raycluster:7")["4711_3"].nodes
    'n[1-2]'
    """
    lines = (line.split("|", 6) for line in text.splitlines())
    found = (tuple(part.strip() for part in parts) for parts in lines if len(parts) == 7)
    return {
        job: QueueLine(
            *(job, state, parse_time(start), nodes, "" if reason == "None" else reason, comment, number)
        )
        for job, number, state, start, nodes, reason, comment in found
    }
