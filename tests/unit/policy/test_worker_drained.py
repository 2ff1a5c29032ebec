"""A worker whose raylet was drained at the cluster's end, where no shared record can say that it ended."""

from __future__ import annotations

import itertools

import pytest

from raycluster_cli.model.loss_policy import WorkerLossPolicy
from raycluster_cli.policy import events as on
from raycluster_cli.policy import worker as policy
from raycluster_cli.policy.worker import WorkerRules, WorkerState

RULES = WorkerRules(host="n2", loss=WorkerLossPolicy.parse("fail"), head_host="n1", has_record=True)
LOST = on.GcsLost("connection refused", False)
DRAINED = on.RayletDied(0, "the driver ended with code 0", "")
KILLED = on.RayletDied(-9, None, "")


def outcome(*events: object) -> tuple[int, str]:
    """Exit code and reason after these events, none of which finds an end in the record."""
    state = WorkerState()
    for now, event in enumerate((on.Joined(), *events, *[on.EndLookedUp(None)] * 2)):
        state, _ = policy.step(RULES, state, event, float(now))
    assert state.end is not None
    return int(state.end.code), state.end.reason


@pytest.mark.parametrize("order", [*itertools.permutations([LOST, DRAINED])])
def test_drained_by_a_head_whose_gcs_goes_at_the_same_time(order: tuple[object, ...]) -> None:
    assert outcome(*order) == (0, "ended")


@pytest.mark.parametrize("order", [*itertools.permutations([LOST, KILLED])])
def test_a_raylet_that_was_not_drained_has_lost_its_head(order: tuple[object, ...]) -> None:
    assert outcome(*order) == (5, "head-lost")
