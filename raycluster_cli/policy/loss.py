"""--on-worker-loss: the effect of a worker's loss on the cluster, and on srun in a batch script."""

from __future__ import annotations

import math

from ..model.loss_policy import WorkerLossAction, WorkerLossPolicy

#: How long srun waits at least for the other tasks once one has ended.
SRUN_WAIT_S = 60

#: How long the shutdown of a cluster takes beyond the driver's grace.
END_S = 30


def ends_the_cluster(loss: WorkerLossPolicy, *, driving: bool, spare: bool) -> bool:
    """Whether the cluster ends because a worker is lost.

    ``driving``: the driver runs, or the cluster was announced as ready.  ``spare``: fewer workers than
    expected are enough (--min-workers), so that one that is lost before the start need not end it.
    """
    return loss.kind is WorkerLossAction.FAIL and (driving or not spare)


def workers_needed(loss: WorkerLossPolicy, *, quorum: int, min_workers: int | None) -> int:
    """How many workers must be left while the driver runs, or come back within ``loss.wait_s``."""
    return quorum if loss.kind is WorkerLossAction.WAIT else (min_workers or 0)


def worker_restarts(loss: WorkerLossPolicy) -> bool:
    """Whether a worker starts its raylet again after it died."""
    return loss.kind is not WorkerLossAction.FAIL


def srun_wait_s(loss: WorkerLossPolicy, *, spare: bool, grace_s: float) -> int:
    """srun's --wait: how long the other tasks may go on once one has ended; 0: without limit.

    A task that runs for longer is on a node that died.  There is no limit where the cluster goes on without a
    worker; otherwise it leaves room for the driver's --grace after a worker was lost.
    """
    if not ends_the_cluster(loss, driving=False, spare=spare):
        return 0
    return max(SRUN_WAIT_S, math.ceil(grace_s) + END_S)
