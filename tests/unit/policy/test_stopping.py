"""What a request to end means: signals, and how long the driver gets."""

from __future__ import annotations

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy.events import SignalReceived
from raycluster_cli.policy.stopping import (
    Hurrying,
    driver_grace_s,
    driver_signal,
    on_ceiling,
    on_ending_signal,
    signal_end,
)
from raycluster_cli.policy.values import End


@pytest.mark.parametrize(
    ("number", "count", "before", "stopping", "after", "hurries", "arms"),
    [
        (15, 1, Hurrying(), False, Hurrying(124.0), False, True),
        (15, 2, Hurrying(110.0), True, Hurrying(110.0), False, False),
        (15, 1, Hurrying(), True, Hurrying(124.0), False, True),
        (2, 1, Hurrying(), False, Hurrying(124.0), False, True),
        (2, 1, Hurrying(), True, Hurrying(124.0, asked=True), True, True),
        (2, 2, Hurrying(), False, Hurrying(124.0, asked=True), True, True),
        (2, 2, Hurrying(110.0), True, Hurrying(110.0, asked=True), True, False),
        (2, 3, Hurrying(110.0, asked=True), True, Hurrying(110.0, asked=True), False, False),
        (1, 2, Hurrying(110.0), True, Hurrying(110.0), False, False),
    ],
)
def test_what_a_signal_brings_at_100(
    number: int, count: int, before: Hurrying, stopping: bool, after: Hurrying, hurries: bool, arms: bool
) -> None:
    found, actions = on_ending_signal(
        SignalReceived(number, count), before, 100.0, stopping=stopping, grace_s=10.0
    )
    assert found == after
    assert (do.Hurry() in actions) is hurries
    assert [action for action in actions if isinstance(action, do.Arm)] == [do.Arm("hurry", 124.0)] * arms


@pytest.mark.parametrize(("grace_s", "at"), [(0.0, 124.0), (14.0, 124.0), (15.0, 125.0), (120.0, 230.0)])
def test_the_ceiling_leaves_time_for_the_grace(grace_s: float, at: float) -> None:
    found, _ = on_ending_signal(SignalReceived(15), Hurrying(), 100.0, stopping=False, grace_s=grace_s)
    assert found.at == at


def test_at_the_ceiling_the_end_is_cut_short_once() -> None:
    hurrying, actions = on_ceiling(Hurrying(24.0))
    assert (hurrying, actions) == (Hurrying(24.0, asked=True), [do.Hurry()])
    assert on_ceiling(hurrying) == (hurrying, [])


@pytest.mark.parametrize(("number", "code", "driver_gets"), [(1, 129, 15), (2, 130, 2), (15, 143, 15)])
def test_the_end_by_a_signal_and_what_the_driver_gets(number: int, code: int, driver_gets: int) -> None:
    end = signal_end(number, "n1")
    assert (end.code, end.reason, end.failed_host) == (code, "signal", "n1")
    assert end.detail == {1: "sighup", 2: "sigint", 15: "sigterm"}[number]
    assert driver_signal(end) == driver_gets


@pytest.mark.parametrize(
    ("reason", "grace_s", "stop_before_s", "gets_s"),
    [
        ("signal", 10, 0, 10),
        ("stop", 300, 0, 300),
        ("worker-lost", 10, 120, 10),
        ("head-lost", 10, 0, 2),
        ("head-lost", 1, 0, 1),
        ("time-limit", 10, 120, 110),
        ("time-limit", 10, 15, 10),
        ("time-limit", 60, 30, 60),
    ],
)
def test_the_drivers_grace(reason: str, grace_s: float, stop_before_s: float, gets_s: float) -> None:
    end = End(1, reason=reason)
    assert driver_grace_s(end, grace_s=grace_s, stop_before_s=stop_before_s) == gets_s


@pytest.mark.parametrize(
    ("code", "reason", "failed", "keeps_logs"),
    [
        (0, "driver", False, False),
        (7, "driver", False, True),
        (143, "signal", False, True),
        (143, "stop", False, False),
        (143, "time-limit", False, True),
        (5, "worker-lost", False, True),
        (5, "service", False, True),
        (5, "head-lost", True, True),
        (0, "raylet-lost", True, True),
        (0, "ended", False, False),
        (4, "error", True, True),
        (1, "bug", True, True),
        (137, "keeper-killed", True, True),
    ],
)
def test_whose_end_is_a_failure(code: int, reason: str, failed: bool, keeps_logs: bool) -> None:
    """`status` shows a node that has failed as lost: not a head whose worker or server it was."""
    end = End(code, reason=reason)
    assert (end.failed, end.keeps_logs) == (failed, keeps_logs)
