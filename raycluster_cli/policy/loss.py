"""--on-worker-loss: what the loss of a worker means for the cluster (for srun: model.loss_policy)."""

from __future__ import annotations

from ..model.loss_policy import WorkerLossAction, WorkerLossPolicy


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
