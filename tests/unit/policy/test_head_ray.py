"""The head's own GCS and raylet: lost, or started again (--head-recovery)."""

from __future__ import annotations

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.policy.values import Phase

from .play import Around, Event, all_in, join, leave, play, rules, up

RECOVERS = rules(head_recovery=True, max_restarts=3)

NEVER = Around(recovers=False)


def died(name: str, at: float, code: int = -9) -> Event:
    return at, on.HeadProcessDied(name, code, log=f"{name}.err")


# -- without --head-recovery -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
@pytest.mark.parametrize(
    ("code", "after_s"), [(-9, 0.0), (-6, 0.0), (1, 0.0), (0, 0.3), (-15, 0.3)]
)  # the last two: told to end, by a signal that may be on its way here
def test_a_process_of_the_head_that_ends_is_the_end(name: str, code: int, after_s: float) -> None:
    played = play(rules(), *all_in(), died(name, 9, code))
    assert (played.end.code, played.end.reason, played.end.failed_host) == (5, "head-lost", "n1")
    assert played.end.message.startswith(f"the head's {name} on n1 ")
    assert played.end.log == f"{name}.err"
    assert played.at(do.StopDriver) == pytest.approx(9 + after_s)
    assert played.of(do.StopDriver) == [do.StopDriver(15, 2.0)]  # it can do nothing with Ray any more


@pytest.mark.parametrize("code", [0, -15])
def test_the_signal_that_ended_it_counts_when_it_comes_in_time(code: int) -> None:
    played = play(rules(), *all_in(), died("raylet", 9, code), (9.1, on.SignalReceived(15)))
    assert (played.end.code, played.end.reason) == (143, "signal")


def test_of_two_processes_that_were_told_to_end_the_first_is_named() -> None:
    played = play(rules(), *all_in(), died("gcs_server", 9, 0), died("raylet", 9.2, 0))
    assert played.end.message == "the head's gcs_server on n1 ended with code 0"
    assert played.at(do.StopDriver) == pytest.approx(9.3)


def test_a_process_that_ends_in_the_start_is_the_end_and_nothing_is_recovered() -> None:
    for given in (rules(), RECOVERS):
        played = play(given, (0.1, on.LeaseTaken()), died("gcs_server", 0.3))
        assert (played.end.code, played.end.reason) == (5, "head-lost")
        assert played.of(do.RestartGcs, do.RestartHead) == []


def test_a_start_that_ends_its_own_processes_says_so_itself() -> None:
    from raycluster_cli.policy.values import End

    told = End(3, "the head did not start on n1: …", "error")
    played = play(rules(), (0.1, on.LeaseTaken()), died("gcs_server", 0.3, -15), (0.4, on.StartEnded(told)))
    assert played.end == told


def test_a_silent_gcs_is_the_end() -> None:
    played = play(rules(), *all_in(), (9, on.GcsSilent("no answer to 2 checks of 4 s", "gcs.err")))
    assert (played.end.code, played.end.reason, played.end.log) == (5, "head-lost", "gcs.err")
    assert played.end.message == "the head's GCS on n1 does not answer (no answer to 2 checks of 4 s)"


def test_a_head_raylet_that_does_not_respond_is_the_end() -> None:
    played = play(rules(), *all_in(), (9, on.HeadRayletSilent("missed heartbeats", "raylet.err")))
    assert (played.end.code, played.end.reason, played.end.log) == (5, "head-lost", "raylet.err")
    assert played.end.message == "the head's raylet on n1 does not respond (missed heartbeats)"


# -- with --head-recovery ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "events", "restarts", "drivers", "told"),
    [
        ("the GCS alone", [died("gcs_server", 9)],
         [do.RestartGcs(0.3)], 1,
         ["the head's gcs_server on n1 was killed by SIGKILL; recovering (1 of 3)",
          "the GCS is back; the driver goes on (0.5 s)"]),
        ("the GCS, told to end", [died("gcs_server", 9, -15)], [do.RestartGcs(0.3)], 1, []),
        ("the raylet, and the driver with it",
         [died("raylet", 9), (9.1, on.DriverExited(-9, 8.1))],
         [do.RestartHead(0.3)], 2,
         ["the head's raylet on n1 was killed by SIGKILL; recovering (1 of 3)",
          "the head is back (0.5 s)", "starting the driver again (1)"]),
        ("the driver is known to have failed before the raylet's death is",
         [(9, on.DriverExited(1, 8)), died("raylet", 9.1)], [do.RestartHead(0.3)], 2, []),
        ("the driver fails for a GCS that is away", [died("gcs_server", 9), (9.2, on.DriverExited(1, 8.2))],
         [do.RestartGcs(0.3)], 2, ["the GCS is back (0.5 s)", "starting the driver again (1)"]),
        ("the driver is ended for the restart and ends with 0",
         [died("raylet", 9), (9.4, on.DriverExited(0, 8.4))], [do.RestartHead(0.3)], 2, []),
        ("the driver's end comes as an answer to the restart's own stop",
         [died("raylet", 9), (9.4, on.DriverStopped(-15))], [do.RestartHead(0.3)], 2, []),
        ("the raylet while the GCS is being recovered",
         [died("gcs_server", 9), died("raylet", 9.2), (9.25, on.DriverExited(-9, 8))],
         [do.RestartGcs(0.3), do.RestartHead(0.3)], 2,
         ["raylet on n1 was killed by SIGKILL during the recovery; starting the whole head again"]),
        ("both at once, the raylet first", [died("raylet", 9), died("gcs_server", 9)],
         [do.RestartHead(0.3)], 1, []),
        ("three times, each after a longer rest",
         [died("gcs_server", 9), died("gcs_server", 19), died("gcs_server", 29)],
         [do.RestartGcs(0.3), do.RestartGcs(0.6), do.RestartGcs(1.2)], 1, ["recovering (3 of 3)"]),
        ("a silent one is ended, and its death starts the recovery",
         [(9, on.GcsSilent("no answer"))], [do.RestartGcs(0.3)], 1,
         ["the head's GCS on n1 does not answer (no answer); ending it"]),
        ("so is a raylet that does not respond",
         [(9, on.HeadRayletSilent("missed heartbeats")), (9.4, on.DriverExited(0, 8.4))],
         [do.RestartHead(0.3)], 2,
         ["the head's raylet on n1 does not respond (missed heartbeats); ending it", "the head is back"]),
        ("one that is silent while it starts again is left alone",
         [died("gcs_server", 9), (9.2, on.GcsSilent("no answer"))], [do.RestartGcs(0.3)], 1, []),
    ],
)  # fmt: skip
def test_what_is_started_again(
    name: str, events: list[Event], restarts: list[do.Action], drivers: int, told: list[str]
) -> None:
    played = play(RECOVERS, *all_in(), *events)
    assert played.of(do.RestartGcs, do.RestartHead) == restarts
    assert played.of(do.StartDriver) == [do.StartDriver(number) for number in range(drivers)]
    assert played.running
    assert played.state.phase is Phase.RUNNING
    assert played.state.driver_running
    for text in told:
        assert text in played.told


def test_more_than_max_restarts_is_the_end() -> None:
    given = rules(head_recovery=True, max_restarts=2)
    events = [died("gcs_server", 9), died("gcs_server", 19), died("gcs_server", 29)]
    played = play(given, *all_in(), *events)
    assert (played.end.code, played.end.reason) == (5, "head-lost")
    assert played.end.message == "the head's gcs_server on n1 was killed by SIGKILL after 2 recoveries"
    silent = play(given, *all_in(), *events[:2], (29, on.GcsSilent("no answer")))
    assert (silent.end.reason, silent.of(do.KillSilent)) == ("head-lost", [])


def test_a_recovery_that_fails_names_what_it_recovered_from() -> None:
    played = play(RECOVERS, *all_in(), died("gcs_server", 9), around=NEVER)
    assert (played.end.code, played.end.reason, played.end.log) == (5, "head-lost", "gcs_server.err")
    assert played.end.message == (
        "the head's gcs_server on n1 was killed by SIGKILL, and could not be recovered: "
        "the GCS did not start again"
    )


def test_the_failure_of_a_recovery_that_is_over_means_nothing() -> None:
    played = play(RECOVERS, *all_in(), died("gcs_server", 9), (12, on.RecoveryFailed("cancelled")))
    assert played.running


def test_a_driver_that_completes_while_only_the_gcs_is_away_has_completed() -> None:
    played = play(RECOVERS, *all_in(), died("gcs_server", 9), (9.2, on.DriverExited(0, 8.2)))
    assert (played.end.code, played.end.reason) == (0, "driver")
    assert played.of(do.StartDriver) == [do.StartDriver()]


@pytest.mark.parametrize(
    ("event", "code"),
    [(on.SignalReceived(15), 143), (on.StopRequested("ann@login"), 143), (on.KeeperEnded(), 137)],
)
def test_what_asks_for_the_end_ends_a_recovery(event: object, code: int) -> None:
    played = play(RECOVERS, *all_in(), died("raylet", 9), (9.1, on.DriverExited(-9, 8)), (9.2, event))
    assert played.end.code == code
    assert played.leave.end == played.end
    assert played.of(do.StartDriver) == [do.StartDriver()]  # not again, though the head came back


# -- while the workers are waited for ----------------------------------------------------------------


def test_a_recovery_during_the_wait_goes_back_to_it() -> None:
    played = play(RECOVERS, *up(), *join("n2"), died("gcs_server", 9), *join("n3", "n4", at=9.2), until=20)
    assert played.at(do.AnnounceReady) == pytest.approx(9.8)
    assert "the GCS is back (0.5 s)" in played.told
    assert played.of(do.StartDriver) == [do.StartDriver()]


def test_a_deadline_that_passes_during_a_recovery_still_counts() -> None:
    given = rules(head_recovery=True, max_restarts=3, timeout_s=10.0)
    played = play(given, *up(), *join("n2"), died("gcs_server", 9.5), until=60)
    assert (played.end.code, played.end.reason) == (4, "error")
    assert "2 of 3 workers did not join within 10 s" in played.end.message


def test_progress_is_told_again_after_a_recovery() -> None:
    given = rules(head_recovery=True, max_restarts=3)
    played = play(given, *up(), died("gcs_server", 10.2), until=60)  # the line of 10.5 s is due meanwhile
    assert "waiting for n2" in played.told


def test_a_quorum_that_settles_during_a_recovery_starts_after_it() -> None:
    given: HeadRules = rules(head_recovery=True, max_restarts=3, min_workers=2, settle_s=9.0)
    played = play(given, *up(), *join("n2", "n3"), died("gcs_server", 9.5), until=60)
    assert played.at(do.AnnounceReady) == pytest.approx(10.3)
    lost = play(given, *up(), *join("n2", "n3"), died("gcs_server", 9.5), leave("n3", 9.6), until=60)
    assert lost.of(do.AnnounceReady) == []


@pytest.mark.parametrize("given", [rules(), RECOVERS], ids=["fail", "recovers"])
def test_files_that_were_removed_end_the_cluster_with_the_remedy(given: HeadRules) -> None:
    played = play(given, *all_in(), (9, on.FilesGone("/tmp/rc-1/r/s/sockets/raylet")))
    assert (played.end.code, played.end.reason) == (5, "head-lost")
    assert "/tmp/rc-1/r/s/sockets/raylet on n1 was removed" in played.end.message
    assert "--temp-dir" in played.end.message
