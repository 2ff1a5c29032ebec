"""A driver that is a server: ready, unhealthy, started again, idle."""

from __future__ import annotations

from typing import Any

import pytest

from raycluster_cli.model.service import ServiceState
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.policy.service import PATIENCE_S, STEADY_S, ServiceRules
from raycluster_cli.policy.values import Cause, End, WorkerReport

from .play import Around, Event, Played, all_in, join, leave, node, play, rules

ANSWERED = on.ServerAnswered()
SILENT = on.ServerSilent("nothing listens on 10.0.0.1:20491", detail="nothing-listens")

HOPELESS = on.ServerSilent("Ray Serve's application default is DEPLOY_FAILED", never_ready=True)
STARTING = ServiceState.STARTING


def serving(loss: str = "fail", **service: Any) -> HeadRules:
    return rules(loss=loss, service=ServiceRules(**service))


def states(played: Played) -> list[str]:
    """What the record says of the server, in its order."""
    return [action.state.value for action in played.of(do.ReportServer)]  # type: ignore[union-attr]


def silent(first: float, until: float) -> list[Event]:
    """A health check that fails every 2 s."""
    return [(first + 2 * number, SILENT) for number in range(int((until - first) / 2) + 1)]


READY: list[Event] = [*all_in(), (9, ANSWERED)]


def test_it_starts_and_is_ready_once_it_answers() -> None:
    played = play(serving(), *all_in(), (2, SILENT), (3, SILENT), (9, ANSWERED), (14, ANSWERED))
    reports = played.of(do.ReportServer)
    # What it waits for is in the record, written once.
    assert reports[:2] == [do.ReportServer(STARTING), do.ReportServer(STARTING, SILENT.why)]
    assert states(played)[2:] == ["ready"]
    assert "the server is ready after 8.0 s" in played.told
    assert played.running


@pytest.mark.parametrize(
    ("restarts", "events", "code"),
    [
        (0, [(9, HOPELESS)], 5),
        (0, [(8, SILENT), (9, HOPELESS)], 5),
        (1, [(9, HOPELESS)], None),
        # One that was ready may come back: a new version of the application failed, for example.
        (0, [(9, ANSWERED), (14, HOPELESS), (40, HOPELESS)], None),
    ],
)
def test_one_that_will_never_be_ready(restarts: int, events: list[Event], code: int | None) -> None:
    played = play(serving(restarts=restarts), *all_in(), *events)
    text = f"the server will not be ready: {HOPELESS.why}"
    if code is None:
        assert played.running
        assert (text in played.told) == bool(restarts)
    else:
        assert played.end == End(code, text, "service", failed_host="n1")


@pytest.mark.parametrize(
    ("failing", "until", "found"),
    [
        ([(14, SILENT), (16, ANSWERED)], 60, ["starting", "ready"]),
        (silent(14, 14 + PATIENCE_S - 1), 14 + PATIENCE_S - 0.1, ["starting", "ready"]),
        (silent(14, 40), 40, ["starting", "ready", "unhealthy"]),
        ([*silent(14, 40), (41, ANSWERED)], 60, ["starting", "ready", "unhealthy", "ready"]),
        (silent(14, 1000), 1000, ["starting", "ready", "unhealthy"]),  # nobody asked for a restart
    ],
)
def test_a_busy_server_is_given_time(failing: list[Event], until: float, found: list[str]) -> None:
    played = play(serving(), *READY, *failing, until=until)
    assert states(played) == found
    assert played.running


def test_how_long_it_did_not_answer_is_told() -> None:
    played = play(serving(), *READY, *silent(14, 40), (41, ANSWERED))
    assert "the server answers again after 27 s" in played.told


def test_one_that_hangs_is_started_again() -> None:
    played = play(serving(restarts=1, unhealthy_after_s=60), *READY, *silent(14, 74), (90, ANSWERED))
    assert states(played) == ["starting", "ready", "unhealthy", "restarting", "starting", "ready"]
    assert played.at(do.ClearServer) == pytest.approx(74, abs=0.1)
    assert played.of(do.StartDriver) == [do.StartDriver(0), do.StartDriver(1)]
    text = "not answered for 1 min 0 s (nothing listens on 10.0.0.1:20491); starting it again (1 of 1)"
    assert text in played.told


def test_unhealthy_after_may_be_shorter_than_the_usual_patience() -> None:
    played = play(serving(restarts=1, unhealthy_after_s=5), *READY, *silent(14, 20), until=30)
    assert states(played) == ["starting", "ready", "restarting", "starting"]


def test_one_that_hangs_again_and_again_ends_the_job() -> None:
    again = [*silent(14, 40), (60, ANSWERED), *silent(70, 90)]
    played = play(serving(restarts=1, unhealthy_after_s=20), *READY, *again)
    assert (played.end.code, played.end.reason, played.end.failed_host) == (5, "service", "n1")
    assert played.end.message.endswith("; it was started again 1 time")


@pytest.mark.parametrize(("code", "ends_with"), [(1, 1), (-9, 137), (0, 0)])
def test_without_restarts_its_code_is_the_jobs(code: int, ends_with: int) -> None:
    played = play(serving(), *READY, (20, on.DriverExited(code, 19)))
    assert (played.end.code, played.end.reason) == (ends_with, "driver")


def test_one_that_ends_by_itself_is_not_started_again() -> None:
    played = play(serving(restarts=3), *READY, (20, on.DriverExited(0, 19)))
    assert played.end.code == 0


def test_one_that_crashes_is_started_again_with_longer_rests() -> None:
    crashes: list[Event] = [(at, on.DriverExited(-9, 1)) for at in (20, 30, 40, 50)]
    played = play(serving(restarts=3), *READY, *crashes)
    rests = [action.rest_s for action in played.of(do.ClearServer)]  # type: ignore[union-attr]
    assert rests == [1, 2, 4]
    assert [action.restarts for action in played.of(do.StartDriver)] == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert (played.end.code, played.end.reason) == (137, "driver")
    assert played.end.message.endswith("; it was started again 3 times")


def test_an_hour_of_health_resets_the_count() -> None:
    late = 30 + STEADY_S
    crashes: list[Event] = [(20, on.DriverExited(1, 1)), (25, ANSWERED), (late, on.DriverExited(1, 1))]
    assert play(serving(restarts=1), *READY, *crashes).running
    soon: list[Event] = [(20, on.DriverExited(1, 1)), (25, ANSWERED), (late - 60, on.DriverExited(1, 1))]
    assert play(serving(restarts=1), *READY, *soon).end.code == 1


@pytest.mark.parametrize(("restarts", "code"), [(0, 5), (1, None)])
def test_one_that_is_never_ready(restarts: int, code: int | None) -> None:
    played = play(serving(ready_timeout_s=30, restarts=restarts), *all_in(), (20, SILENT), until=35)
    text = "the server was not ready after 30 s (--ready-timeout): nothing listens on 10.0.0.1:20491"
    if code is None:
        assert played.running
        assert text in played.told
    else:
        assert played.end == End(code, text, "service", failed_host="n1", detail="nothing-listens")


def test_what_was_seen_of_the_server_before_does_not_count() -> None:
    played = play(serving(restarts=1), *READY, (20, on.DriverExited(-9, 9)), (20.5, ANSWERED), (20.6, SILENT))
    assert states(played) == ["starting", "ready", "restarting", "starting"]


# -- lost workers --------------------------------------------------------------------------------------


def test_it_is_started_again_once_its_workers_are_back() -> None:
    played = play(serving("wait:60"), *READY, leave("n2", 20), *join("n2", at=40, times=2), (50, ANSWERED))
    assert states(played) == ["starting", "ready", "restarting", "starting", "ready"]
    starts = [when for when, action in played.done if isinstance(action, do.StartDriver)]
    assert starts == [1.0, 40.0]
    assert played.running


def test_a_crash_that_a_lost_worker_causes_does_not_count() -> None:
    around = Around(reports={"n2": WorkerReport("failed", "the raylet on n2 was killed by SIGKILL", 0.1)})
    crash: Event = (20, on.DriverExited(1, 9))
    played = play(
        serving("wait:60"), *READY, crash, leave("n2", 20.1), *join("n2", at=40, times=2), around=around
    )
    assert [action.restarts for action in played.of(do.StartDriver)] == [0, 1]  # type: ignore[union-attr]
    assert played.running


def test_a_loss_that_becomes_known_during_the_restart_is_waited_for() -> None:
    lost = leave("n2", 20.5)
    played = play(
        serving("wait:60", restarts=1), *READY, (20, on.DriverExited(1, 9)), lost, *join("n2", at=40, times=2)
    )
    starts = [when for when, action in played.done if isinstance(action, do.StartDriver)]
    assert starts == [1.0, 40.0]


def test_workers_that_do_not_come_back_end_the_job() -> None:
    played = play(serving("wait:10"), *READY, leave("n2", 20), until=40)
    assert (played.end.code, played.end.reason) == (5, "worker-lost")


def test_with_fail_a_lost_worker_ends_the_job() -> None:
    played = play(serving(restarts=3), *READY, leave("n2", 20))
    assert (played.end.code, played.end.reason) == (5, "worker-lost")


# -- the head recovers ---------------------------------------------------------------------------------


def test_it_goes_on_when_the_head_recovers() -> None:
    given = rules(head_recovery=True, max_restarts=1, service=ServiceRules())
    played = play(given, *READY, (20, on.HeadProcessDied("raylet", -9)), (20.1, on.DriverExited(-15, 9)))
    assert states(played) == ["starting", "ready", "restarting", "starting"]
    assert [action.restarts for action in played.of(do.StartDriver)] == [0, 1]  # type: ignore[union-attr]
    assert played.at(do.RestartHead) < played.at(do.ClearServer)


def test_a_restart_waits_for_the_heads_recovery() -> None:
    given = rules(head_recovery=True, max_restarts=1, service=ServiceRules(restarts=1))
    died = on.HeadProcessDied("gcs_server", -9)
    played = play(given, *READY, (20, on.DriverExited(-9, 9)), (21, died))
    starts = [when for when, action in played.done if isinstance(action, do.StartDriver)]
    assert starts[1] == pytest.approx(21.8, abs=0.1)  # when the GCS is back


# -- the end -------------------------------------------------------------------------------------------


def test_a_server_without_work_ends_the_job_well() -> None:
    played = play(serving(), *READY, (1800, on.ServerIdle(1790)))
    assert played.end == End(0, "the server had no work for 29 min 50 s (--idle-timeout)", "idle")
    assert played.of(do.StopDriver)


def test_a_server_that_is_not_ready_is_not_idle() -> None:
    assert play(serving(), *all_in(), (20, on.ServerIdle(10))).running


@pytest.mark.parametrize("at", [20.001, 20.5])
def test_a_stop_while_it_is_started_again(at: float) -> None:
    played = play(serving(restarts=1), *READY, (20, on.DriverExited(-9, 9)), (at, on.StopRequested("ada@n1")))
    assert (played.end.code, played.end.reason) == (143, "stop")
    assert played.of(do.StartDriver) == [do.StartDriver(0)]
    assert len(played.of(do.Leave)) == 1


def test_a_signal_ends_it_as_any_driver() -> None:
    played = play(serving(restarts=1), *READY, (20, on.SignalReceived(15)))
    assert played.end.code == 143
    assert played.of(do.ClearServer) == []


def test_every_state_is_used() -> None:
    played = play(serving(restarts=1, unhealthy_after_s=60), *READY, *silent(14, 74))
    assert set(states(played)) == {state.value for state in ServiceState}


def test_a_loss_by_a_signal_while_it_crashes() -> None:
    lost = on.WorkerLost(node("n2"), Cause("ended by SIGTERM", True))
    played = play(serving(restarts=1), *READY, (20, on.DriverExited(1, 9)), (20.01, lost))
    assert (played.end.code, played.end.reason) == (5, "worker-lost")
