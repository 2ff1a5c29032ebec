"""The wait for a cluster that was started: what it prints meanwhile, and when it gives up."""

from __future__ import annotations

from collections.abc import Callable

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import RayclusterError, WorkersMissingError
from ..model.wording import duration

#: How often the record is read; Slurm is asked less often (Looker).
POLL_S = 0.5

#: How long a job may be unknown: it was just submitted, or Slurm has forgotten it.
UNKNOWN_S = 60.0


def wait_until_running(
    look: Callable[[], ClusterStatus | None],
    *,
    title: str,
    tell: Callable[[str], object],
    failed: Callable[[ClusterStatus], RayclusterError],
    unknown: Callable[[], RayclusterError],
    timeout_s: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> None:
    """Look at the cluster until all its workers have joined; ``tell`` each new headline.

    Raises ``failed`` of the status of a cluster that has ended, ``unknown`` when nothing is known of it for
    UNKNOWN_S, and WorkersMissingError after ``timeout_s`` (None: never).
    """
    began = clock()
    told, unknown_since = "", None
    while True:
        status = look()
        waited_s = clock() - began
        if status is None:
            unknown_since = unknown_since if unknown_since is not None else waited_s
            if waited_s - unknown_since > UNKNOWN_S:
                raise unknown()
        else:
            unknown_since = None
            if status.is_over:
                raise failed(status)
            if status.headline != told:
                told = status.headline
                tell(f"{title}: {told} ({duration(waited_s)})")
            if status.phase in (ClusterPhase.RUNNING, ClusterPhase.DEGRADED):
                return
        if timeout_s is not None and waited_s > timeout_s:
            raise WorkersMissingError(
                f"{title} was not ready within {timeout_s:g} s: {told or 'not known'}.",
                "Give a longer start_timeout_s; without one it waits as long as Slurm's queue takes.",
            )
        sleep(POLL_S)
