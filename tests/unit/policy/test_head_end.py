"""Who asks for a head's end, what the driver gets, and whether the job is queued again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.policy.values import End

from .play import Around, Event, Played, all_in, join, leave, play, rules, up

HUP, INT, KILL, USR1, USR2, TERM = 1, 2, 9, 10, 12, 15


def signal(number: int, at: float, count: int = 1) -> Event:
    return at, on.SignalReceived(number, count)


# -- who asks ----------------------------------------------------------------------------------------

ASKS: list[tuple[object, int, str, str]] = [
    (on.SignalReceived(TERM), 143, "signal", "ended by SIGTERM"),
    (on.SignalReceived(INT), 130, "signal", "ended by SIGINT"),
    (on.SignalReceived(HUP), 129, "signal", "ended by SIGHUP"),
    (on.StopRequested("ann@login1"), 143, "stop", "stopped by `raycluster stop` (ann@login1)"),
    (on.StopRequested(), 143, "stop", "stopped by `raycluster stop`"),
    (on.KeeperEnded(), 137, "keeper-killed", "raycluster's keeper on n1 was killed"),
    (on.ParentEnded(), 143, "stop", "the program that started this node has ended"),
    (on.ParentEnded(orderly=True), 0, "stop", "the program that started this node is done"),
    (on.GuardFailed("the GCS monitor", "KeyError(1)"), 1, "bug",
     "an error in raycluster (the GCS monitor): KeyError(1)"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "code", "reason", "text"), ASKS)
def test_while_the_driver_runs_it_is_ended_first(event: object, code: int, reason: str, text: str) -> None:
    played = play(rules(), *all_in(), (9, event))
    assert (played.end.code, played.end.reason, played.end.message) == (code, reason, text)
    number = INT if code == 130 else TERM
    assert played.of(do.StopDriver) == [do.StopDriver(number, 10.0)]
    assert played.at(do.Leave) == pytest.approx(9.1)
    assert played.leave == do.Leave(played.end)


@pytest.mark.parametrize(("event", "code", "reason", "text"), ASKS)
@pytest.mark.parametrize("before", [[], [(0.1, on.LeaseTaken())], up(), [*up(), *join("n2")]])
def test_before_the_driver_ran(before: list[Event], event: object, code: int, reason: str, text: str) -> None:
    played = play(rules(), *before, (2, event), *join("n2", "n3", "n4", at=3), (3, on.RayStarted()))
    assert (played.end.code, played.end.reason, played.end.message) == (code, reason, text)
    assert played.of(do.StopDriver, do.StartDriver, do.AnnounceReady) == []
    assert played.at(do.Leave) == 2


@pytest.mark.parametrize(("event", "code", "reason", "text"), ASKS)
def test_without_a_driver_a_stop_is_a_success(event: object, code: int, reason: str, text: str) -> None:
    played = play(rules(has_driver=False), *all_in(), (9, event))
    code = 0 if isinstance(event, on.StopRequested) else code
    assert (played.end.code, played.end.reason) == (code, reason)
    assert played.at(do.Leave) == 9


@pytest.mark.parametrize("second", [event for event, *_ in ASKS])
@pytest.mark.parametrize(("first", "code"), [(event, code) for event, code, *_ in ASKS])
def test_the_first_reason_counts(first: object, code: int, second: object) -> None:
    played = play(rules(), *all_in(), (9, first), (9.05, second), leave("n2", 9.05))
    assert played.end.code == code
    assert len(played.of(do.StopDriver)) == 1
    assert len(played.of(do.Leave)) == 1


def test_a_start_that_fails_says_why() -> None:
    error = End(2, "the port 6379 is taken.", "error", failed_host="n1")
    played = play(rules(), (0.3, on.StartEnded(error)))
    assert played.leave == do.Leave(error)
    assert played.told == "error: the port 6379 is taken."


def test_a_driver_that_not_even_sigkill_ends_does_not_keep_the_cluster() -> None:
    events = [*all_in(), signal(TERM, 9), (20, on.DriverStopped(None))]
    played = play(rules(), *events, around=Around(driver_code=None))
    assert played.at(do.Leave) == 20
    assert played.end.code == 143


# -- signals: first, second ---------------------------------------------------------------------------


SLOW = Around(driver_takes_s=60.0)
"""A driver that does not end by itself; here nothing kills it, so that each Hurry shows."""


@pytest.mark.parametrize(
    ("name", "given", "events", "hurry_at"),
    [
        ("one", {}, [signal(TERM, 9)], 33.0),
        ("SIGINT twice", {}, [signal(INT, 9), signal(INT, 10, 2)], 10.0),
        ("SIGINT three times", {}, [signal(INT, 9), signal(INT, 10, 2), signal(INT, 11, 3)], 10.0),
        ("two SIGINT before anybody listened", {}, [signal(INT, 9, 2)], 9.0),
        ("SIGTERM twice: Slurm repeats it", {}, [signal(TERM, 9), signal(TERM, 20, 2)], 33.0),
        ("SIGINT after SIGTERM", {}, [signal(TERM, 9), signal(INT, 12)], 12.0),
        ("SIGTERM after SIGINT", {}, [signal(INT, 9), signal(TERM, 12)], 33.0),
        ("SIGHUP, then SIGTERM", {}, [signal(HUP, 9), signal(TERM, 12)], 33.0),
        ("SIGINT after `raycluster stop`", {}, [(9, on.StopRequested()), signal(INT, 12)], 12.0),
        ("SIGTERM after `raycluster stop`", {}, [(9, on.StopRequested()), signal(TERM, 12)], 36.0),
        ("`raycluster stop` alone: the driver has its grace", {}, [(9, on.StopRequested())], None),
        ("a long grace", {"grace_s": 60.0}, [signal(TERM, 9)], 79.0),
        ("the keeper was killed", {}, [(9, on.KeeperEnded())], None),
    ],
)
def test_when_an_end_is_cut_short(
    name: str, given: dict[str, float], events: list[Event], hurry_at: float | None
) -> None:
    played = play(rules(**given), *all_in(), *events, around=Around(driver_code=None), until=200)  # type: ignore[arg-type]
    hurries = [when for when, action in played.done if isinstance(action, do.Hurry)]
    assert hurries == ([] if hurry_at is None else [hurry_at])


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([signal(INT, 9)], ["SIGINT: the driver has 10 s to end; a second Ctrl-C ends everything at once"]),
        ([signal(INT, 9), signal(INT, 9.05, 2)], ["SIGINT: the driver has 10 s to end; a second Ctrl-C ends "
         "everything at once", "SIGINT again: ending at once"]),
        ([signal(TERM, 9), signal(INT, 9.05)], ["SIGINT: ending at once"]),
        ([signal(TERM, 9), signal(TERM, 9.05, 2)], []),
    ],
)  # fmt: skip
def test_what_a_person_at_the_terminal_is_told(events: list[Event], told: list[str]) -> None:
    played = play(rules(), *all_in(), *events)
    assert played.told.splitlines() == told


def test_ctrl_c_in_a_terminal_points_to_a_shell_that_does_not_end_the_cluster() -> None:
    (told,) = play(rules(at_terminal="4711"), *all_in(), signal(INT, 9)).told.splitlines()
    assert told.endswith("Ctrl-C in a shell of `raycluster attach 4711` does not end the cluster")


def test_nobody_is_promised_a_grace_that_there_is_not() -> None:
    assert play(rules(grace_s=0.0), *all_in(), signal(INT, 9)).told == ""
    assert play(rules(has_driver=False), *all_in(), signal(INT, 9)).told == ""
    assert play(rules(), *up(), signal(INT, 9)).told == ""


@pytest.mark.parametrize("number", [USR1, USR2])
def test_the_drivers_own_signals_are_handed_on(number: int) -> None:
    name = {USR1: "SIGUSR1", USR2: "SIGUSR2"}[number]
    played = play(rules(), signal(number, 0.7), *all_in(), signal(number, 9), signal(number, 10, 2))
    assert played.of(do.TellDriver) == [do.TellDriver(number)] * 2
    assert f"{name} ignored: no driver is running" in played.notes
    assert played.running
    ended = play(rules(), *all_in(), (9, on.DriverExited(0, 8)), signal(number, 9.1))
    assert ended.of(do.TellDriver) == []


def test_other_signals_mean_nothing() -> None:
    played = play(rules(), *all_in(), signal(28, 9), signal(64, 9))
    assert played.running


# -- the time limit ----------------------------------------------------------------------------------

LIMIT = rules(stop_before_s=120.0)


def at(*times: tuple[float, float | None]) -> Callable[[float], float | None]:
    """What Slurm says of the job's end: from each time on (None: nothing)."""
    return lambda now: next((end for since, end in reversed(times) if now >= since), None)


def asked(played: Played) -> list[tuple[float, bool]]:
    return [(when, action.now) for when, action in played.done if isinstance(action, do.AskTimeLimit)]


@pytest.mark.parametrize(
    ("name", "around", "stopped_at", "text"),
    [
        ("known at the start", Around(known_end=1000.0, ends_at=at((0, 1000.0))), 880.0, "1 min 59 s"),
        ("only Slurm knows it", Around(ends_at=at((0, 1000.0))), 880.0, "1 min 59 s"),
        ("raised", Around(known_end=1000.0, ends_at=at((0, 1000.0), (700, 2000.0))), 1880.0, "1 min 59 s"),
        ("shortened", Around(known_end=2000.0, ends_at=at((0, 2000.0), (650, 1000.0))), 880.0, "1 min 59 s"),
        (
            "shortened to little more",
            Around(known_end=9000.0, ends_at=at((0, 9000.0), (30, 215.0))),
            95.0,
            "1 min 59 s",
        ),
        (
            "raised, and Slurm does not answer at the end",
            Around(known_end=1000.0, ends_at=at((0, 1000.0), (700, 2000.0), (1500, None))),
            1880.0,
            "1 min 59 s",
        ),
        ("near when the job begins", Around(known_end=60.0, ends_at=at((0, 60.0))), 0.5, "59 s"),
        ("over", Around(known_end=0.2, ends_at=at((0, 0.2))), 0.5, "0.0 s"),
        ("Slurm says it later", Around(ends_at=at((0, None), (500, 2000.0))), 1880.0, "1 min 59 s"),
    ],
)
def test_when_the_driver_is_told_to_end_before_the_time_limit(
    name: str, around: Around, stopped_at: float, text: str
) -> None:
    played = play(LIMIT, *all_in(), around=around, until=3000)
    assert (played.end.code, played.end.reason) == (143, "time-limit")
    assert played.at(do.Leave) == pytest.approx(stopped_at + 0.1, abs=0.2)
    assert f"the job's time limit is {text} away" in played.end.message
    if stopped_at > 1:
        assert played.of(do.StopDriver) == [do.StopDriver(TERM, 110.0)]


def test_it_is_said_once_that_slurm_does_not_know() -> None:
    played = play(LIMIT, *all_in(), until=1000)
    assert played.told == "--stop-before has no effect: Slurm does not say when this job ends"
    assert [now for _, now in asked(played)] == [False, *[True] * 16]
    assert played.running


@pytest.mark.parametrize(
    ("given", "asks"), [(rules(), [(0.5, False)]), (rules(stop_before_s=120.0, in_job=False), [])]
)
def test_who_does_not_need_it_is_not_stopped_by_it(given: HeadRules, asks: list[tuple[float, bool]]) -> None:
    """The end is asked for once all the same: `raycluster status` shows it."""
    played = play(given, *all_in(), around=Around(known_end=100.0), until=1000)
    assert asked(played) == asks
    assert played.running


@pytest.mark.parametrize(
    ("stop_before_s", "when"),
    [
        (120.0, [0.5, 60.5, 120.5, 180.5]),
        (600.0, [0.5, 60.5, 120.5, 180.5]),
        (50.0, [0.5, 25.5, 50.5, 75.5]),
        (1.0, [0.5, 20.5, 40.5, 60.5]),
    ],
)
def test_slurm_is_asked_again_and_again_and_before_the_end(stop_before_s: float, when: list[float]) -> None:
    around = Around(known_end=1000.0, ends_at=at((0, 1000.0)))
    given = rules(stop_before_s=stop_before_s)
    found = [at for at, _ in asked(play(given, *all_in(), around=around, until=3000))]
    assert found[:4] == pytest.approx(when, abs=0.1)
    assert found[-1] == pytest.approx(1000.0 - stop_before_s, abs=0.1)


def test_before_the_limit_the_drivers_own_code_counts() -> None:
    around = Around(known_end=1000.0, ends_at=at((0, 1000.0)), driver_code=0)
    played = play(LIMIT, *all_in(), around=around, until=3000)
    assert (played.end.code, played.end.reason) == (0, "time-limit")
    assert played.end.message.endswith("away; the driver ended with code 0")


def test_a_cluster_without_a_driver_ends_with_success_before_the_limit() -> None:
    around = Around(known_end=1000.0, ends_at=at((0, 1000.0)))
    played = play(rules(has_driver=False, stop_before_s=120.0), *all_in(), around=around, until=3000)
    assert (played.end.code, played.end.reason) == (0, "time-limit")


# -- requeue -----------------------------------------------------------------------------------------

REQUEUES = rules(requeue_on_preempt=True)


@pytest.mark.parametrize(
    ("name", "given", "events", "driver_code", "code", "requeued"),
    [
        ("told by a signal", REQUEUES, [signal(TERM, 9)], 75, 75, True),
        ("told by SIGUSR1, and it ended by itself", REQUEUES,
         [signal(USR1, 9), (11, on.DriverExited(75, 10))], 75, 75, True),
        ("told by the time limit", rules(requeue_on_preempt=True, stop_before_s=120.0),
         [(9, on.TimeLimitKnown(100.0, asked_now=True))], 75, 75, True),
        ("told because a worker was lost", REQUEUES, [leave("n2", 9)], 75, 75, True),
        ("not told", REQUEUES, [(9, on.DriverExited(75, 8))], 75, 75, False),
        ("SIGUSR1 before it ran", REQUEUES, [signal(USR1, 0.6), (9, on.DriverExited(75, 8))], 75, 75, False),
        ("told by `raycluster stop`", REQUEUES, [(9, on.StopRequested())], 75, 143, False),
        ("another code", REQUEUES, [signal(TERM, 9)], 1, 143, False),
        ("another code asks", rules(requeue_on_preempt=True, requeue_code=99), [signal(TERM, 9)],
         99, 99, True),
        ("the option is not given", rules(), [signal(TERM, 9)], 75, 143, False),
        ("not in a job", rules(requeue_on_preempt=True, in_job=False), [signal(TERM, 9)], 75, 75, False),
    ],
)  # fmt: skip
def test_whether_the_job_is_queued_again(
    name: str, given: HeadRules, events: list[Event], driver_code: int, code: int, requeued: bool
) -> None:
    played = play(given, *all_in(), *events, around=Around(driver_code=driver_code))
    assert (played.leave.end.code, played.leave.requeue) == (code, requeued)


def test_a_head_whose_keeper_was_killed_writes_its_end_before_all_else() -> None:
    """Slurm may kill it at any moment."""
    played = play(rules(has_driver=True), *all_in(), (5, on.KeeperEnded()), around=Around(driver_takes_s=3))
    first = next(action for when, action in played.done if when >= 5)
    assert isinstance(first, do.WriteEnd)
    assert (first.end.code, first.end.reason) == (137, "keeper-killed")
