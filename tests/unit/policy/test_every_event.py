"""Every event in every phase: nothing raises, one Leave at most, and nothing begins after the end."""

from __future__ import annotations

from typing import Any

import pytest

from raycluster_cli.model.record import EndReport
from raycluster_cli.model.unmet_demand import UnmetDemand
from raycluster_cli.model.value import Value
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.service import ServiceRules
from raycluster_cli.policy.values import Cause, End, Phase
from raycluster_cli.policy.worker import WorkerRules

from .play import Around, Event, all_in, join, leave, node, play, rules, up, worker_rules

JOINED: list[Event] = [(1.0, on.Joined())]

HEAD_BEFORE: dict[str, list[Event]] = {
    "launched": [],
    "starting": [(0.1, on.LeaseTaken())],
    "waiting": [*up(), *join("n2")],
    "running": all_in(),
    "driver failed": [*all_in(), (5, on.DriverExited(1, 4))],
    "loss by a signal": [*all_in(), leave("n2", 5)],
    "recovering the GCS": [*all_in(), (5, on.HeadProcessDied("gcs_server", -9))],
    "recovering the head": [*all_in(), (5, on.HeadProcessDied("raylet", -9))],
    "recovering in the wait": [*up(), (5, on.HeadProcessDied("gcs_server", -9))],
    "ending the driver": [*all_in(), (5, on.SignalReceived(15))],
    "driver ended while it was told to": [
        *all_in(),
        (5, on.SignalReceived(15)),
        (5, on.DriverExited(-15, 4)),
    ],
    "server ready": [*all_in(), (4, on.ServerAnswered())],
    "server unhealthy": [*all_in(), (1.5, on.ServerAnswered()), (2, on.ServerSilent("x"))],
    "server restarting": [*all_in(), (4, on.ServerAnswered()), (4.5, on.DriverExited(-9, 4))],
    "left": [*all_in(), (5, on.DriverExited(0, 4))],
}

TIMERS = (
    "hurry", "head-death", "driver-failed", "time-limit", "workers", "settle", "progress", "shortage",
    "loss n2-1", "loss n9-1", "ready-by", "unhealthy", "give-up", "steady", "unknown",
)  # fmt: skip

HEAD_EVENTS: list[object] = [
    *(on.SignalReceived(number, count) for number in (1, 2, 10, 12, 15, 28, 64) for count in (1, 2)),
    on.KeeperEnded(), on.ParentEnded(), on.GuardFailed("x", "y"), on.StartEnded(End(3, "x", "error")),
    on.LeaseTaken(), on.RayStarted(),
    on.WorkerJoined(node("n2")), on.WorkerJoined(node("n9")),
    leave("n2", 0)[1], leave("n9", 0)[1],
    on.WorkerLost(node("n2"), Cause("no answer")), on.WorkerLost(node("n9"), Cause("ended by SIGTERM", True)),
    on.ReportsRead(),
    *(on.HeadProcessDied(name, code) for name in ("gcs_server", "raylet") for code in (-9, 0)),
    on.GcsSilent("x"), on.HeadRayletSilent("x"), on.Recovered(), on.RecoveryFailed("x"), on.StopRequested(),
    on.TimeLimitKnown(None), on.TimeLimitKnown(5.0), on.TimeLimitKnown(5.0, asked_now=True),
    on.DriverExited(0), on.DriverExited(1), on.DriverExited(-9), on.DriverStopped(0), on.DriverStopped(None),
    on.ServerAnswered(), on.ServerSilent("x"), on.ServerCleared(), on.ServerCleared("x"), on.ServerIdle(30),
    on.FilesGone("/tmp/rc-1/r"), on.DriverKnown(True), on.DriverKnown(False), on.DriverKnown(None),
    on.DemandKnown(()), on.DemandKnown((UnmetDemand("need 64 CPUs", "a task that needs 64 CPUs"),)),
    *(on.TimerFired(name) for name in TIMERS),
]  # fmt: skip

RECOVERS: dict[str, Any] = {"head_recovery": True, "max_restarts": 1, "stop_before_s": 60.0}

SERVES: dict[str, Any] = {"service": ServiceRules(restarts=1)}

AFTER_THE_END = (do.Hurry, do.Leave, do.Note, do.Say, do.Arm, do.TellDriver)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("fail", {}),
        ("fail", RECOVERS),
        ("continue", {}),
        ("wait:1", RECOVERS),
        ("fail", SERVES),
        ("wait:1", RECOVERS | SERVES),
    ],
)
@pytest.mark.parametrize("phase", HEAD_BEFORE)
def test_a_head_takes_in_every_event_in_every_phase(phase: str, loss: str, options: dict[str, Any]) -> None:
    given = rules(loss=loss, **options)
    around = Around(ends_at=lambda now: 1e6)
    before = play(given, *HEAD_BEFORE[phase], around=around, until=5.0)
    for event in HEAD_EVENTS:
        played = play(given, *HEAD_BEFORE[phase], (5.001, event), around=around, until=12)
        leaves = played.of(do.Leave)
        assert len(leaves) == (0 if played.running else 1), event
        if not before.running:
            assert played.end.reason == before.end.reason, event
            assert (played.state.phase, played.of(do.StartDriver)) == (
                Phase.STOPPING,
                before.of(do.StartDriver),
            ), event
            late = [action for when, action in played.done if when > 5.0]
            assert all(isinstance(action, AFTER_THE_END) for action in late), event


WORKER_BEFORE: dict[str, list[Event]] = {
    "starting": [],
    "joined": JOINED,
    "raylet dead": [*JOINED, (4.9, on.RayletDied(-9))],
    "raylet ended with 0": [*JOINED, (4.9, on.RayletDied(0))],
    "restarting": [*JOINED, (4.2, on.RayletDied(-9))],
    "head away": [*JOINED, (4.9, on.GcsAway("closed"))],
    "head lost": [*JOINED, (4.9, on.GcsLost("closed"))],
    "left": [*JOINED, (4.9, on.SignalReceived(15))],
}

WORKER_EVENTS: list[object] = [
    on.NodeGoes("the time limit is near", 60.0),
    on.GraceTimeKnown(60.0),
    *(on.SignalReceived(number, count) for number in (1, 2, 10, 12, 15, 28, 64) for count in (1, 2)),
    on.KeeperEnded(), on.ParentEnded(), on.GuardFailed("x", "y"), on.StartEnded(End(4, "x", "error")),
    on.FilesGone("x"), on.Joined(), on.RayletDied(-9), on.RayletDied(0), on.RayletDied(0, "the driver ended"),
    on.RestartFailed("x"), on.GcsLost("x"), on.GcsLost("x", silent=True), on.GcsAway("x"), on.GcsAway(""),
    on.GcsBack(),
    on.EndLookedUp(None), on.EndLookedUp(EndReport(0.0, 0, "driver")),
    on.EndLookedUp(EndReport(0.0, 137, "supervisor-killed")),
    *(on.TimerFired(name) for name in ("hurry", "look", "unknown")),
]  # fmt: skip


@pytest.mark.parametrize(
    "given", [worker_rules(), worker_rules(loss="wait:60", max_restarts=1, has_record=False)]
)
@pytest.mark.parametrize("phase", WORKER_BEFORE)
def test_a_worker_takes_in_every_event_in_every_phase(phase: str, given: WorkerRules) -> None:
    before = play(given, *WORKER_BEFORE[phase], until=5.0)
    for event in WORKER_EVENTS:
        played = play(given, *WORKER_BEFORE[phase], (5.0, event), until=12)
        assert len(played.of(do.Leave)) == (0 if played.running else 1), event
        if not before.running:
            late = [action for when, action in played.done if when >= 5.0]
            assert played.end == before.end, event
            assert all(isinstance(action, (do.Hurry, do.Note, do.Say, do.Arm)) for action in late), event


def test_no_kind_of_event_is_left_out() -> None:
    kinds = {
        kind
        for kind in vars(on).values()
        if isinstance(kind, type) and issubclass(kind, Value) and kind.__module__ == on.__name__
    }
    assert {type(event) for event in (*HEAD_EVENTS, *WORKER_EVENTS)} == kinds
