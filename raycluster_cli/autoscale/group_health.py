"""Whether a worker group may have further jobs: failed starts, pauses and what Slurm refuses.

Values in, values out; `GroupHealth` never changes.
"""

from __future__ import annotations

from ..model.value import Value
from ..model.worker_job import GroupState

#: This many failed starts in a row pause a group.
FAILURES_TO_PAUSE = 3

#: The first pause; each further one without a start in between is twice as long.
FIRST_PAUSE_S = 60.0
LONGEST_PAUSE_S = 3600.0

#: How long a group waits after Slurm could not take a job for now.
FIRST_RETRY_S = 15.0
LONGEST_RETRY_S = 600.0

#: How long nothing is submitted for a group of which no job can ever start.
NEVER_S = 1800.0

#: How long new jobs avoid a host on which starts failed.
EXCLUDED_S = 3600.0


class GroupHealth(Value):
    """What is known of the starts of one group."""

    failures: int = 0
    """Failed starts in a row."""
    hosts: tuple[str, ...] = ()
    """Those of these failed starts, each once."""
    pauses: int = 0
    """Pauses in a row, without a job that joined in between."""
    retries: int = 0
    """Refusals in a row that can pass."""
    until: float = 0.0
    """Unix seconds until which no job is submitted."""
    problem: str = ""
    excluded: tuple[str, ...] = ()
    excluded_until: float = 0.0

    def is_closed(self, now: float) -> bool:
        """Whether no job may be submitted."""
        return now < self.until

    def hosts_to_avoid(self, now: float) -> tuple[str, ...]:
        return self.excluded if now < self.excluded_until else ()

    def state(self, group: str, now: float) -> GroupState:
        """What the record says of it."""
        until = self.until if self.is_closed(now) else 0.0
        return GroupState(group, until, self.problem, self.hosts_to_avoid(now))


def after_failed_start(health: GroupHealth, hosts: tuple[str, ...], why: str, now: float) -> GroupHealth:
    """A start failed: the third in a row pauses the group, and its hosts are avoided from then on.

    Failures of jobs that were submitted before a pause do not make it longer.
    """
    seen = tuple(dict.fromkeys((*health.hosts, *hosts)))
    if health.is_closed(now):
        avoided = tuple(dict.fromkeys((*health.excluded, *hosts)))
        return health.but(hosts=seen, excluded=avoided if health.excluded_until else ())
    failures = health.failures + 1
    if failures < FAILURES_TO_PAUSE:
        return health.but(failures=failures, hosts=seen)
    pause_s = min(FIRST_PAUSE_S * 2**health.pauses, LONGEST_PAUSE_S)
    where = f" on {', '.join(seen)}" if seen else ""
    return health.but(
        failures=0,
        hosts=(),
        pauses=health.pauses + 1,
        until=now + pause_s,
        problem=f"{failures} starts failed in a row{where}; the last because {why}",
        excluded=seen,
        excluded_until=now + EXCLUDED_S,
    )


def after_joined(health: GroupHealth) -> GroupHealth:
    """A job's nodes have joined: the group can start; hosts that failed stay avoided for their time."""
    return GroupHealth(excluded=health.excluded, excluded_until=health.excluded_until)


def after_never(health: GroupHealth, why: str, now: float) -> GroupHealth:
    """No job of the group can start as it is: one more try in half an hour, in case Slurm was changed."""
    return health.but(until=now + NEVER_S, problem=why)


def after_refusal(health: GroupHealth, why: str, now: float) -> GroupHealth:
    """Slurm takes no job for now."""
    wait_s = min(FIRST_RETRY_S * 2**health.retries, LONGEST_RETRY_S)
    return health.but(until=now + wait_s, problem=why, retries=health.retries + 1)


def after_submission(health: GroupHealth) -> GroupHealth:
    """Slurm has taken a job: what sbatch refused before is no problem any more; failed starts still are."""
    return health.but(retries=0, until=0.0, problem="" if not health.pauses else health.problem)


def without_exclusion(health: GroupHealth) -> GroupHealth:
    """Without the hosts to avoid, Slurm has nodes for the group; with them it has none."""
    return health.but(excluded=(), excluded_until=0.0)
