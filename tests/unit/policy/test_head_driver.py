"""The driver's own end: its code, and the loss that it may come from."""

from __future__ import annotations

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.values import Cause, End, WorkerReport

from .play import Around, all_in, leave, play, rules, up


@pytest.mark.parametrize(
    ("code", "ends_with", "text", "host"),
    [
        (0, 0, "the driver ended with code 0 after 1 min 15 s", ""),
        (7, 7, "the driver ended with code 7 after 1 min 15 s", "n1"),
        (75, 75, "the driver ended with code 75 after 1 min 15 s", "n1"),
        (-9, 137, "the driver was killed by SIGKILL after 1 min 15 s", "n1"),
        (-11, 139, "the driver was killed by SIGSEGV after 1 min 15 s", "n1"),
    ],
)
def test_its_code_is_the_clusters(code: int, ends_with: int, text: str, host: str) -> None:
    played = play(rules(), *all_in(), (76, on.DriverExited(code, 75)))
    assert played.end == End(ends_with, text, "driver", failed_host=host)
    assert played.leave == do.Leave(played.end)
    assert played.of(do.StopDriver) == []


LOST = Around(reports={"n3": WorkerReport("stopping", "the raylet on n3 was killed by SIGKILL", age_s=0.2)})
LONG_AGO = Around(reports={"n3": WorkerReport("failed", "n3 has another Ray", age_s=3600)})
FINE = Around(reports={"n3": WorkerReport("joined", "", age_s=0.2)})


@pytest.mark.parametrize(
    ("around", "host", "text"),
    [
        (LOST, "n3", "ended with code 1 after 8.0 s; the raylet on n3 was killed by SIGKILL"),
        (LONG_AGO, "n1", "ended with code 1 after 8.0 s"),
        (FINE, "n1", "ended with code 1 after 8.0 s"),
    ],
)
def test_a_driver_that_fails_before_a_loss_is_known(around: Around, host: str, text: str) -> None:
    played = play(rules(), *all_in(), (9, on.DriverExited(1, 8)), around=around)
    assert (played.end.code, played.end.reason, played.end.failed_host) == (1, "driver", host)
    assert played.end.message.endswith(text)


def test_a_loss_that_becomes_known_while_the_reports_are_read_is_named() -> None:
    around = Around(reports={"n3": WorkerReport("joined", "")})
    lost = on.WorkerLost(next(iter(play(rules(), *all_in()).state.workers.values())), Cause("no answer"))
    played = play(rules(), *all_in(), (9, on.DriverExited(1, 8)), (9.005, lost), around=around)
    assert played.end.reason == "driver"
    assert played.end.message.endswith("; worker n2 (10.0.0.2) is lost: no answer")
    assert played.end.failed_host == "n2"
    assert len(played.of(do.Leave)) == 1


def test_a_driver_that_fails_after_the_loss_is_known_does_not_count() -> None:
    played = play(rules(), *all_in(), leave("n3", 9), (9.05, on.DriverExited(1, 8)), around=LOST)
    assert (played.end.code, played.end.reason) == (5, "worker-lost")
    assert played.at(do.Leave) == pytest.approx(9.11)  # once the last of its processes has ended


def test_a_success_does_not_wait_for_reports() -> None:
    played = play(
        rules(head_recovery=True, max_restarts=3), *all_in(), (9, on.DriverExited(0, 8)), around=LOST
    )
    assert played.of(do.ReadReports) == []
    assert played.at(do.Leave) == pytest.approx(9, abs=0.02)  # the GCS is asked whether a driver connected


def test_a_failure_waits_for_the_raylets_death_where_the_head_recovers() -> None:
    played = play(rules(head_recovery=True, max_restarts=3), *all_in(), (9, on.DriverExited(1, 8)))
    assert played.at(do.Leave) == pytest.approx(9.21)
    assert played.end.code == 1


def test_a_signal_while_the_reports_are_read_is_the_end() -> None:
    played = play(rules(), *all_in(), (9, on.DriverExited(1, 8)), (9.005, on.SignalReceived(15)))
    assert played.end.code == 143
    assert len(played.of(do.Leave)) == 1


def test_a_driver_that_cannot_be_started() -> None:
    error = End(2, "the driver 'train.py' was not found in PATH.", "error", failed_host="n1")
    played = play(rules(), *all_in(), (1.0, on.StartEnded(error)))
    assert played.leave == do.Leave(error)
    assert played.of(do.StopDriver) == []
    assert played.told == "error: the driver 'train.py' was not found in PATH."


def test_the_end_of_a_driver_that_does_not_run_means_nothing() -> None:
    for events in (up(), [*up(), (2, on.DriverExited(0, 1))]):
        assert play(rules(), *events, (9, on.DriverExited(1, 1))).running
