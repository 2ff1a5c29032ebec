"""A job as `scontrol show job` tells it, for commands that people run from outside."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..model.dataclass import dataclass
from .answer import answer_of
from .job_fields import job_fields, uid_in
from .output_name import output_name
from .queue import ENDED

#: How long scontrol may take.
SCONTROL_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class JobState:
    """A job as `scontrol show job` tells it."""

    state: str
    reason: str = ""
    exit_code: int = 0
    signal: int = 0
    output: str = ""
    """Path of the batch script's output, with its patterns filled in; '' while they are not known."""
    host: str = ""
    """The node that runs the batch script."""
    nodes: str = ""
    restarts: int = 0
    user: str = ""
    """As Slurm writes it: ada(1001)."""
    errors: str = ""
    """Path of the batch script's errors; the same as ``output`` unless sbatch was given -e."""

    @property
    def is_mine(self) -> bool:
        """Whether the job belongs to this user, as far as Slurm says whose it is."""
        return self.is_of(os.getuid())

    def is_of(self, uid: int) -> bool:
        """Whether the job belongs to a user, as far as Slurm says whose it is."""
        return uid_in(self.user) in (None, uid)

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @property
    def shell_code(self) -> int:
        """The job's end as a shell shows it; a job ended by Slurm (time limit, cancelled) is never 0."""
        if self.signal:
            return 128 + self.signal
        if self.exit_code == 0 and self.state not in ("COMPLETED", "RUNNING", "COMPLETING"):
            return 143 if self.state in ("CANCELLED", "PREEMPTED", "TIMEOUT", "DEADLINE") else 1
        return self.exit_code


def parse_job(text: str) -> JobState:
    """Read `scontrol show job`.

    >>> parse_job("JobId=7 JobState=FAILED Reason=None ExitCode=7:0 StdOut=/a b/x.out Power=").output
    '/a b/x.out'
    """
    values = job_fields(text)
    code, _, number = values.get("ExitCode", "0:0").partition(":")
    reason = values.get("Reason", "")
    return JobState(
        state=values.get("JobState", ""),
        reason="" if reason == "None" else reason,
        exit_code=int(code or 0),
        signal=int(number or 0),
        output=output_name(values.get("StdOut", ""), values),
        host=values.get("BatchHost", ""),
        nodes=values.get("NodeList", "").replace("(null)", ""),
        restarts=int(values.get("Restarts", "0") or 0),
        user=values.get("UserId", ""),
        errors=output_name(values.get("StdErr", ""), values),
    )


def job_state(job_id: str, env: Mapping[str, str]) -> JobState | None:
    """Ask Slurm for a job; None when Slurm does not know it (any more) or does not answer."""
    command = ["scontrol", "--oneliner", "show", "job", job_id]
    done = answer_of(command, env, timeout_s=SCONTROL_TIMEOUT_S)
    if done is None:
        return None
    return parse_job(done.stdout) if done.returncode == 0 and done.stdout.strip() else None
