"""--on-worker-loss: what the loss of a worker means for the cluster, and for srun in a batch script."""

from __future__ import annotations

import math

from ..model.loss_policy import WorkerLossAction, WorkerLossPolicy

#: What srun waits for the other tasks at least, once one has ended.
SRUN_WAIT_S = 60

#: What the end of a cluster takes beyond the driver's grace.
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
    """Whether a worker starts its own dead raylet again."""
    return loss.kind is not WorkerLossAction.FAIL


def srun_wait_s(loss: WorkerLossPolicy, *, spare: bool, grace_s: float) -> int:
    """srun's --wait: how long the other tasks may go on once one has ended; 0: without limit.

    A task that goes on for longer is on a node that died.  Not where the cluster goes on without a worker,
    nor while the driver has the time that --grace gives it after a worker was lost.
    """
    if not ends_the_cluster(loss, driving=False, spare=spare):
        return 0
    return max(SRUN_WAIT_S, math.ceil(grace_s) + END_S)
