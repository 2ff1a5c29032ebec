"""A worker's policy: its raylet, its head, the cluster's end."""

from __future__ import annotations

import pytest

from raycluster_cli.model.record import EndReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.values import End, Phase
from raycluster_cli.policy.worker import WorkerRules, end_of_cluster

from .play import Around, Event, play, worker_rules

JOINED: list[Event] = [(1.0, on.Joined())]

DRIVER_ENDED = EndReport(0.0, 0, "driver", "", "the driver ended with code 0")
LOST = EndReport(0.0, 137, "supervisor-killed", "n1", "raycluster on n1 was killed by SIGKILL")


def died(code: int, at: float = 9.0, drained: str | None = None) -> Event:
    return at, on.RayletDied(code, drained, "raylet.out")


# -- its raylet --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "event", "code", "reason", "text", "after_s"),
    [
        ("by a signal", worker_rules(), died(-9), 5, "raylet-lost",
         "the raylet on n2 was killed by SIGKILL", 0.5),
        ("by an error", worker_rules(), died(1), 5, "raylet-lost", "the raylet on n2 ended with code 1", 0.5),
        ("with 0", worker_rules(), died(0), 5, "raylet-lost", "the raylet on n2 ended with code 0", 3.0),
        ("drained", worker_rules(), died(0, drained="the driver ended"), 0, "ended",
         "the cluster ended: the driver ended", 0.5),
        ("idle", worker_rules(), died(0, drained="Termination of node that's idle for 5 seconds."), 0,
         "ended", "this node is no longer needed: Termination of node that's idle for 5 seconds.", 0.5),
        ("killed while it was drained", worker_rules(), died(-9, drained="the driver ended"), 5,
         "raylet-lost", "the raylet on n2 was killed by SIGKILL", 0.5),
        ("with 0, and no record", worker_rules(has_record=False), died(0), 0, "ended",
         "the cluster ended: this node was drained", 3.0),
        ("by a signal, and no record", worker_rules(has_record=False), died(-9), 5, "raylet-lost",
         "the raylet on n2 was killed by SIGKILL", 0.5),
        ("where the cluster goes on, and no restart is allowed", worker_rules(loss="continue"), died(-9), 0,
         "raylet-lost", "the raylet on n2 was killed by SIGKILL", 0.5),
        ("fail never restarts", worker_rules(max_restarts=3), died(-9), 5, "raylet-lost",
         "the raylet on n2 was killed by SIGKILL", 0.5),
    ],
)  # fmt: skip
def test_a_raylet_that_ends(
    name: str, given: WorkerRules, event: Event, code: int, reason: str, text: str, after_s: float
) -> None:
    played = play(given, *JOINED, event)
    assert (played.end.code, played.end.reason, played.end.message) == (code, reason, text)
    assert played.at(do.Leave) == 9 + after_s
    assert played.of(do.RestartRaylet) == []
    if reason == "raylet-lost":
        assert (played.end.failed_host, played.end.log) == ("n2", "raylet.out")
        assert played.end.failed
    assert played.phases == [NodePhase.JOINED, NodePhase.STOPPING, NodePhase.STOPPING]


@pytest.mark.parametrize(("code", "told"), [(-9, 1), (1, 1), (0, 0)])
def test_the_head_is_told_of_a_death_that_it_may_not_know(code: int, told: int) -> None:
    assert len(play(worker_rules(), *JOINED, died(code)).of(do.ReportLoss)) == told


@pytest.mark.parametrize(("code", "late_s"), [(0, 2.5), (-9, 0.4)])
@pytest.mark.parametrize("loss", ["fail", "wait:60"])
def test_an_end_that_comes_late_into_the_record_counts(code: int, late_s: float, loss: str) -> None:
    around = Around(end=DRIVER_ENDED, end_at=9 + late_s)
    played = play(worker_rules(loss=loss, max_restarts=3), *JOINED, died(code), around=around)
    assert played.end == End(0, "the cluster ended: the driver ended with code 0", "ended")
    assert played.of(do.RestartRaylet) == []


def test_a_raylet_is_started_again_and_each_time_after_a_longer_rest() -> None:
    given = worker_rules(loss="wait:60", max_restarts=3)
    deaths = [died(-9, at) for at in (9, 29, 49, 69)]
    played = play(given, *JOINED, *deaths)
    assert played.of(do.RestartRaylet) == [
        do.RestartRaylet(0.5), do.RestartRaylet(1.0), do.RestartRaylet(2.0)
    ]  # fmt: skip
    assert "the raylet on n2 was killed by SIGKILL; starting it again in 0.5 s (1 of 3)" in played.told
    assert played.phases == [
        NodePhase.JOINED,
        *[NodePhase.STARTING, NodePhase.JOINED] * 3,
        *[NodePhase.STOPPING] * 2,
    ]
    rejoined = [action for action in played.of(do.EnterPhase) if action == do.EnterPhase(
        NodePhase.JOINED, "started again after the raylet on n2 was killed by SIGKILL")]  # fmt: skip
    assert len(rejoined) == 3
    assert (played.end.code, played.end.reason) == (0, "raylet-lost")
    assert played.end.message == "the raylet on n2 was killed by SIGKILL after 3 restarts"


def test_the_rest_has_a_maximum() -> None:
    given = worker_rules(loss="continue", max_restarts=20)
    played = play(given, *JOINED, *(died(-9, 100.0 * number) for number in range(1, 9)))
    rests = [action.delay_s for _, action in played.done if isinstance(action, do.RestartRaylet)]
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_restart_that_fails_is_the_end_of_this_node() -> None:
    given = worker_rules(loss="wait:60", max_restarts=3)
    played = play(given, *JOINED, died(-9), around=Around(recovers=False))
    assert (played.end.code, played.end.reason, played.end.log) == (0, "raylet-lost", "raylet.err")
    assert played.end.message == (
        "the raylet on n2 was killed by SIGKILL, and did not start again: the GCS refused it"
    )


def test_a_restart_that_fails_because_the_cluster_ends_is_no_loss() -> None:
    around = Around(recovers=False, end=DRIVER_ENDED, end_at=9.9)  # Ray is started again from 10 to 10.5
    played = play(worker_rules(loss="wait:60", max_restarts=3), *JOINED, died(-9), around=around)
    assert played.end.reason == "ended"


# -- its head ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "silent", "around", "code", "reason", "text", "after_s"),
    [
        ("refused", False, Around(), 5, "head-lost",
         "the head at 10.0.0.1:6379 is lost: Connection refused", 3.0),
        ("silent", True, Around(), 5, "head-lost",
         "the head at 10.0.0.1:6379 is lost: Connection refused", 0.5),
        ("an end that comes late", False, Around(end=DRIVER_ENDED, end_at=11.5), 0, "ended",
         "the cluster ended: the driver ended with code 0", 2.5),
        ("an end that comes too late", True, Around(end=DRIVER_ENDED, end_at=11.5), 5, "head-lost",
         "the head at 10.0.0.1:6379 is lost: Connection refused", 0.5),
        ("its supervisor was killed", False, Around(end=LOST, end_at=9.2), 5, "head-lost",
         "the cluster ended: raycluster on n1 was killed by SIGKILL", 0.2),
    ],
)  # fmt: skip
def test_a_head_that_is_gone(
    name: str, silent: bool, around: Around, code: int, reason: str, text: str, after_s: float
) -> None:
    played = play(worker_rules(), *JOINED, (9, on.GcsLost("Connection refused", silent)), around=around)
    assert (played.end.code, played.end.reason, played.end.message) == (code, reason, text)
    assert played.at(do.Leave) == pytest.approx(9 + after_s)
    if reason == "head-lost":
        assert played.end.failed_host == "n1"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        *(
            (reason, 0)
            for reason in ("driver", "signal", "stop", "time-limit", "worker-lost", "error", "bug")
        ),
        *((reason, 5) for reason in ("head-lost", "supervisor-killed", "keeper-killed")),
    ],
)
def test_what_the_cluster_s_end_is_for_a_worker(reason: str, code: int) -> None:
    end = end_of_cluster(EndReport(1.0, 7, reason, "n3", "the reason"))
    assert (end.code, end.message, end.failed_host) == (code, "the cluster ended: the reason", "n3")
    assert end.reason == ("head-lost" if code else "ended")


def test_a_head_that_goes_away_and_comes_back() -> None:
    away = [(9, on.GcsAway("Connection refused")), (12, on.GcsBack())]
    played = play(worker_rules(), *JOINED, *away, until=60)
    assert played.running
    assert played.told.splitlines() == [
        "the GCS at 10.0.0.1:6379 is not reachable (Connection refused); waiting for the head to recover it",
        "the GCS at 10.0.0.1:6379 is reachable again",
    ]
    assert len(played.of(do.LookForEnd)) == 3  # at 9, 10 and 11: for half a second each


def test_a_head_that_is_away_for_a_moment_is_not_worth_a_line() -> None:
    played = play(worker_rules(), *JOINED, (9, on.GcsAway("closed")), (9.3, on.GcsBack()), until=60)
    assert played.told == ""


def test_a_head_that_does_not_come_back_is_lost() -> None:
    events = [(9, on.GcsAway("Connection refused")), (59, on.GcsLost("Connection refused"))]
    played = play(worker_rules(), *JOINED, *events)
    assert (played.end.code, played.end.reason) == (5, "head-lost")


def test_a_head_that_ends_instead_of_coming_back() -> None:
    around = Around(end=DRIVER_ENDED, end_at=20.0)
    played = play(worker_rules(), *JOINED, (9, on.GcsAway("closed")), around=around, until=60)
    assert (played.end.code, played.end.reason) == (0, "ended")
    assert played.at(do.Leave) == pytest.approx(20, abs=1.1)


# -- both --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["fail", "wait:60"])
@pytest.mark.parametrize("code", [-9, 0, 1])
@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("raylet_at", [8.9, 9.0, 9.1])
def test_a_raylet_that_ends_with_its_head_is_a_loss_of_the_head(
    raylet_at: float, silent: bool, code: int, loss: str
) -> None:
    given = worker_rules(loss=loss, max_restarts=3)
    events = [*JOINED, died(code, raylet_at), (9, on.GcsLost("closed", silent))]
    played = play(given, *events, until=60)
    assert (played.end.code, played.end.reason) == (5, "head-lost")
    ended = play(given, *events, around=Around(end=DRIVER_ENDED, end_at=9.3), until=60)
    assert (ended.end.code, ended.end.reason) == (0, "ended")


def test_the_longest_look_for_the_clusters_end_counts() -> None:
    events = [*JOINED, died(-9, 8.9), (9, on.GcsLost("closed"))]  # looks until 9.4 and until 12
    played = play(worker_rules(), *events, around=Around(end=DRIVER_ENDED, end_at=11.5))
    assert (played.end.code, played.end.reason) == (0, "ended")


def test_one_raylet_dies_once() -> None:
    played = play(worker_rules(loss="wait:60", max_restarts=3), *JOINED, died(-9), died(-9, 9.1))
    assert len(played.of(do.ReportLoss)) == 1
    assert len(played.of(do.RestartRaylet)) == 1


def test_a_head_that_is_lost_while_ray_starts_again_here() -> None:
    given = worker_rules(loss="wait:60", max_restarts=3)
    played = play(given, *JOINED, died(-9), (9.8, on.GcsLost("closed")), around=Around(recovers=False))
    assert (played.end.code, played.end.reason) == (5, "head-lost")


def test_a_raylet_that_ends_while_the_head_is_away_is_started_again() -> None:
    given = worker_rules(loss="wait:60", max_restarts=3)
    played = play(given, *JOINED, (8.9, on.GcsAway("closed")), died(-9), (12, on.GcsBack()), until=60)
    assert played.of(do.RestartRaylet) == [do.RestartRaylet(0.5)]
    assert played.state.phase is Phase.RUNNING


# -- the end by others -------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [[], JOINED, [*JOINED, died(-9, 1.8)]])
@pytest.mark.parametrize(
    ("event", "code", "reason", "text"),
    [
        (on.SignalReceived(15), 143, "signal", "ended by SIGTERM"),
        (on.SignalReceived(2), 130, "signal", "ended by SIGINT"),
        (on.SignalReceived(1), 129, "signal", "ended by SIGHUP"),
        (on.KeeperEnded(), 137, "keeper-killed", "raycluster's keeper on n2 was killed"),
        (on.ParentEnded(), 143, "stop", "the program that started this node has ended"),
        (on.ParentEnded(orderly=True), 0, "stop", "the program that started this node is done"),
        (on.GuardFailed("the GCS monitor", "KeyError(1)"), 1, "bug",
         "an error in raycluster (the GCS monitor): KeyError(1)"),
    ],
)  # fmt: skip
def test_who_ends_a_worker(before: list[Event], event: object, code: int, reason: str, text: str) -> None:
    played = play(worker_rules(), *before, (2, event))
    assert (played.end.code, played.end.reason, played.end.message) == (code, reason, text)
    assert played.at(do.Leave) == 2


@pytest.mark.parametrize(
    ("events", "hurry_at"),
    [
        ([(9, 15, 1)], 33.0),
        ([(9, 2, 1), (10, 2, 2)], 10.0),
        ([(9, 15, 1), (20, 15, 2)], 33.0),
        ([(9, 15, 1), (12, 2, 1)], 12.0),
    ],
)
def test_when_an_end_is_cut_short(events: list[tuple[float, int, int]], hurry_at: float) -> None:
    signals = [(at, on.SignalReceived(number, count)) for at, number, count in events]
    played = play(worker_rules(), *JOINED, *signals, until=100)
    assert [at for at, action in played.done if isinstance(action, do.Hurry)] == [hurry_at]


def test_the_drivers_signals_are_not_for_a_worker() -> None:
    played = play(worker_rules(), *JOINED, (9, on.SignalReceived(10)))
    assert played.notes == "SIGUSR1 ignored: the driver runs on the head"
    assert played.running


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (End(4, "n2 did not join a head: …", "error", failed_host="n2"), "error: n2 did not join a head: …"),
        (End(0, "the cluster ended: the driver ended with code 0", "ended"), ""),
    ],
)
def test_a_start_without_a_node(end: End, told: str) -> None:
    played = play(worker_rules(), (0.5, on.StartEnded(end)))
    assert played.leave == do.Leave(end)
    assert played.told == told


def test_files_that_were_removed_end_this_node_with_the_remedy() -> None:
    played = play(worker_rules(), *JOINED, (9, on.FilesGone("/tmp/rc-1/r/s/sockets/raylet")))
    assert (played.end.code, played.end.reason, played.end.failed_host) == (5, "raylet-lost", "n2")
    assert "/tmp/rc-1/r/s/sockets/raylet on n2 was removed" in played.end.message


def test_sockets_that_an_ending_raylet_removed_are_not_missed() -> None:
    drained = (8.9, on.RayletDied(0, "the driver ended", "raylet.out"))
    played = play(worker_rules(), *JOINED, drained, (9, on.FilesGone("/tmp/rc-1/r/s/sockets/raylet")))
    assert (played.end.code, played.end.reason) == (0, "ended")
