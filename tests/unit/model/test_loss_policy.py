"""--on-worker-loss: every text that it takes, and the ones that it refuses."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.loss_policy import WorkerLossAction, WorkerLossPolicy
from raycluster_cli.model.settings import Settings


@pytest.mark.parametrize(
    ("text", "kind", "wait_s"),
    [
        ("fail", WorkerLossAction.FAIL, 0.0),
        ("continue", WorkerLossAction.CONTINUE, 0.0),
        ("wait:60", WorkerLossAction.WAIT, 60.0),
        ("wait:0", WorkerLossAction.WAIT, 0.0),
        ("wait:2.5", WorkerLossAction.WAIT, 2.5),
        ("wait:1234567", WorkerLossAction.WAIT, 1234567.0),
    ],
)
def test_every_policy_is_read(text: str, kind: WorkerLossAction, wait_s: float) -> None:
    policy = WorkerLossPolicy.parse(text)
    assert policy == WorkerLossPolicy(kind, wait_s)
    assert Settings(on_worker_loss=text).worker_loss == policy


@pytest.mark.parametrize(
    "text", ["", "Fail", "fail:", "continue:5", "wait", "wait:", "wait:-1", "wait:1s", "wait:inf", "wait:٣"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--on-worker-loss is .*fail, continue or wait:SECONDS.*wait:120"):
        WorkerLossPolicy.parse(text)
    with pytest.raises(UsageError):
        Settings(on_worker_loss=text)
