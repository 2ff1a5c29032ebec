"""--on-worker-loss: what the loss of a worker means."""

from __future__ import annotations

import itertools

import pytest

from raycluster_cli.model.loss_policy import WorkerLossPolicy
from raycluster_cli.policy.loss import ends_the_cluster, srun_wait_s, worker_restarts, workers_needed

FAIL, CONTINUE, WAIT = (WorkerLossPolicy.parse(text) for text in ("fail", "continue", "wait:60"))


@pytest.mark.parametrize(
    ("loss", "driving", "spare", "ends"),
    [
        (FAIL, True, False, True),
        (FAIL, True, True, True),
        (FAIL, False, False, True),
        (FAIL, False, True, False),
        *((loss, *flags, False) for loss in (CONTINUE, WAIT) for flags in itertools.product((0, 1), (0, 1))),
    ],
)  # fmt: skip
def test_whether_the_cluster_ends(loss: WorkerLossPolicy, driving: bool, spare: bool, ends: bool) -> None:
    assert ends_the_cluster(loss, driving=driving, spare=spare) is ends


@pytest.mark.parametrize(
    ("loss", "quorum", "min_workers", "needed"),
    [(CONTINUE, 3, None, 0), (CONTINUE, 2, 2, 2), (WAIT, 3, None, 3), (WAIT, 2, 2, 2)],
)
def test_how_many_must_be_left(
    loss: WorkerLossPolicy, quorum: int, min_workers: int | None, needed: int
) -> None:
    assert workers_needed(loss, quorum=quorum, min_workers=min_workers) == needed


def test_whether_a_worker_starts_its_raylet_again() -> None:
    assert [worker_restarts(loss) for loss in (FAIL, CONTINUE, WAIT)] == [False, True, True]


@pytest.mark.parametrize(
    ("loss", "spare", "grace_s", "wait_s"),
    [(FAIL, False, 10, 60), (FAIL, False, 30.5, 61), (FAIL, False, 120, 150), (FAIL, True, 10, 0),
     (CONTINUE, False, 10, 0), (WAIT, False, 10, 0)],
)  # fmt: skip
def test_how_long_srun_waits_for_the_other_tasks(
    loss: WorkerLossPolicy, spare: bool, grace_s: float, wait_s: int
) -> None:
    assert srun_wait_s(loss, spare=spare, grace_s=grace_s) == wait_s
