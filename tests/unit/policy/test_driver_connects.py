"""A driver that does not connect to its cluster: what is asked, and what is told."""

from __future__ import annotations

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from tests.unit.policy.play import Around, all_in, play, rules

EXITED = (300.0, on.DriverExited(0, 299.0))


def test_a_driver_that_has_not_connected_after_a_minute_is_told() -> None:
    played = play(rules(), *all_in(), around=Around(driver_connected=False), until=200.0)
    assert len(played.of(do.AskForDriver)) == 1
    assert played.at(do.AskForDriver) == 61.0
    assert "no driver has connected to this cluster of 4 nodes in 60 s" in played.told
    assert 'address="local" starts another Ray' in played.told
    assert played.running


@pytest.mark.parametrize(("connected", "asked"), [(True, 1), (None, 2)])
def test_one_that_has_connected_or_is_not_known_is_not_told(connected: bool | None, asked: int) -> None:
    played = play(rules(), *all_in(), EXITED, around=Around(driver_connected=connected))
    assert len(played.of(do.AskForDriver)) == asked
    assert "connected" not in played.told + played.end.message + played.end.detail
    assert played.end.code == 0


@pytest.mark.parametrize("exited_at", [5.0, 300.0])
def test_the_end_says_that_no_driver_has_connected(exited_at: float) -> None:
    event = (exited_at, on.DriverExited(0, exited_at - 1.0))
    played = play(rules(), *all_in(), event, around=Around(driver_connected=False))
    assert played.end.code == 0
    assert played.end.message.endswith("; no driver has connected to this cluster")
    assert played.end.detail == "never-connected"
    assert played.leave.end == played.end


def test_one_that_connects_late_has_connected() -> None:
    known = (200.0, on.DriverKnown(True))
    played = play(rules(), *all_in(), known, EXITED, around=Around(driver_connected=False))
    assert "connected" not in played.end.message


def test_a_driver_that_failed_is_not_asked_for() -> None:
    failed = (5.0, on.DriverExited(1, 4.0))
    played = play(rules(), *all_in(), failed, around=Around(driver_connected=False))
    assert not played.of(do.AskForDriver)
    assert played.end.code == 1


def test_on_one_node_nobody_needs_to_connect() -> None:
    played = play(rules(workers=0), *all_in(0), EXITED, around=Around(driver_connected=False))
    assert not played.of(do.AskForDriver)
    assert played.end.code == 0


def test_a_signal_ends_the_run_while_the_gcs_is_asked() -> None:
    signalled = (300.005, on.SignalReceived(15))
    played = play(rules(), *all_in(), EXITED, signalled, around=Around(driver_connected=False))
    assert played.leave.end.code == 143
