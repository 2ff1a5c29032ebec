"""The head and its workers: all of them in, a quorum, the deadline, losses (--on-worker-loss)."""

from __future__ import annotations

from typing import Any

import pytest

from raycluster_cli.model.status import NodePhase
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.policy.values import Cause, Phase, WorkerReport

from .play import Around, Event, all_in, join, leave, node, play, rules, up

SIGNALLED = Cause("ended by SIGTERM", signalled=True)


# -- the wait ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "events", "ready_at"),
    [
        ("the last of three", rules(), all_in(), 1.0),
        ("no workers at all", rules(workers=0), up(), 0.5),
        ("some came before RayStarted", rules(), [*join("n2", "n3", "n4", at=0.2), *up()], 0.5),
        ("the same one twice", rules(workers=2), [*up(), *join("n2", "n2"), *join("n3", at=3)], 3.0),
        ("one left and another came", rules(workers=2, loss="continue"),
         [*up(), *join("n2"), leave("n2", 2), *join("n3", at=3), *join("n2", at=4, times=2)], 4.0),
        ("a quorum that settles", rules(min_workers=2, settle_s=30.0), [*up(), *join("n2", "n3")], 31.0),
        ("all come while it settles", rules(min_workers=2, settle_s=30.0),
         [*up(), *join("n2", "n3"), *join("n4", at=9)], 9.0),
        ("a quorum without --settle", rules(min_workers=2), [*up(), *join("n2", "n3")], 1.0),
        ("a quorum of none", rules(min_workers=0, settle_s=3.0), up(), 3.5),
        ("a quorum that was lost in between settles anew", rules(min_workers=2, settle_s=30.0),
         [*up(), *join("n2", "n3"), leave("n3", 20), *join("n4", at=25)], 55.0),
        ("at the deadline a quorum is enough", rules(min_workers=2, settle_s=30.0, timeout_s=60.0),
         [*up(), *join("n2", "n3", at=50)], 60.0),
    ],
)  # fmt: skip
def test_when_the_cluster_is_ready(name: str, given: HeadRules, events: list[Event], ready_at: float) -> None:
    played = play(given, *events, until=100)
    assert played.at(do.AnnounceReady) == ready_at
    assert played.of(do.StartDriver) == [do.StartDriver()]
    assert played.phases == [NodePhase.READY, NodePhase.DRIVING]
    assert played.state.phase is Phase.RUNNING


def test_a_cluster_without_a_driver_is_ready_and_waits() -> None:
    played = play(rules(has_driver=False), *all_in(), until=1000)
    assert len(played.of(do.AnnounceReady)) == 1
    assert played.of(do.StartDriver) == []
    assert played.running


def test_those_missing_at_the_start_with_a_quorum_are_named() -> None:
    reports = {"n4": WorkerReport("waiting for head", "importing ray", age_s=2.0)}
    given = rules(min_workers=2, settle_s=5.0, workers=4)
    played = play(given, *up(), *join("n2", "n3"), (3, on.ReportsRead(reports)), until=7)
    assert (
        "starting with 2 of 4 workers (--min-workers 2); missing: n4 (last report 5.0 s ago: importing ray), "
        "n5 (never reported). Workers that start later can still join."
    ) in played.told


def test_a_worker_that_comes_after_the_start_is_in() -> None:
    played = play(rules(min_workers=2), *up(), *join("n2", "n3"), *join("n4", at=20))
    assert [worker.host for worker in played.state.workers.values()] == ["n2", "n3", "n4"]
    assert "worker n4 (10.0.0.4)" not in played.told  # only in the event log
    assert "worker n4 joined (10.0.0.4)" in played.notes
    assert len(played.of(do.StartDriver)) == 1


WAITING = WorkerReport("waiting for head", "importing ray", age_s=41)
FAILED = WorkerReport("failed", "n3 has another Ray")
GONE = WorkerReport("gone", "ended by SIGTERM", age_s=2)


@pytest.mark.parametrize(
    ("name", "given", "around", "when", "text"),
    [
        ("nobody reported", rules(), Around(), 300,
         "2 of 3 workers did not join within 300 s: n3 (never reported), n4 (never reported)"),
        ("one reported", rules(), Around(reports={"n3": WAITING}), 300,
         "n3 (last report 41 s ago: importing ray), n4 (never reported)"),
        ("hosts are not known", rules(hosts=()), Around(), 300,
         "2 of 3 workers did not join within 300 s: 2 more (their hosts are not known)"),
        ("no quorum either", rules(min_workers=2), Around(), 300, "2 of 3 workers did not join"),
        ("one failed", rules(), Around(reports={"n3": FAILED}), 2, "1 worker of 3 cannot join: n3: has an"),
        ("one was told to end", rules(), Around(reports={"n3": GONE}), 2,
         "1 worker of 3 cannot join: n3: ended by SIGTERM"),
        ("one failed and two are enough", rules(min_workers=2), Around(reports={"n3": FAILED}), 300,
         "2 of 3 workers did not join"),
        ("a task ended", rules(), Around(without_task=("n4",)), 2,
         "1 worker of 3 cannot join: on n4 the task ended before raycluster ran in it. "),
        ("a task ended that had reported", rules(),
         Around(reports={"n3": WAITING}, without_task=("n3",)), 2,
         "1 worker of 3 cannot join: n3: its task ended without reporting why (last report: importing ray)"),
        ("a task has reported its end since", rules(),
         Around(reports={"n3": FAILED}, without_task=("n3",)), 2,
         "1 worker of 3 cannot join: n3: has another Ray"),
        ("a task ended and two are enough", rules(min_workers=2), Around(without_task=("n4",)), 300,
         "2 of 3 workers did not join"),
        ("one failed, and a task ended, and two are needed", rules(min_workers=2),
         Around(reports={"n3": FAILED}, without_task=("n4",)), 2,
         "2 workers of 3 cannot join: n3: has another Ray; on n4 the task ended before"),
    ],
)  # fmt: skip
def test_a_wait_that_is_useless_or_too_long(
    name: str, given: HeadRules, around: Around, when: float, text: str
) -> None:
    read = (2, on.ReportsRead(around.reports, around.without_task))
    played = play(given, *up(), *join("n2"), read, around=around, until=400)
    assert played.end.code == 4
    assert played.end.reason == "error"
    assert text in played.end.message
    assert played.told.splitlines()[-1] == f"error: {played.end.message}"
    assert played.at(do.Leave) == pytest.approx(when, abs=0.1)
    assert played.of(do.StartDriver) == []


def test_people_are_told_now_and_then_for_whom_the_head_waits() -> None:
    played = play(rules(), *up(), *join("n2"), (8, on.ReportsRead({"n3": WAITING})), until=75)
    lines = [(when, action.text) for when, action in played.done if isinstance(action, do.Say)]
    assert [when for when, _ in lines] == [10.5, 40.5, 70.5]
    assert lines[0][1].startswith(
        "1 of 3 workers joined after 10 s; waiting for n3 (last report 44 s ago: imp"
    )


# -- losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "given", "code"),
    [
        ("fail", {}, 5),
        ("fail", {"min_workers": 2}, 5),
        ("continue", {}, None),
        ("continue", {"min_workers": 2}, None),
        ("continue", {"min_workers": 3}, 5),
        ("wait:60", {}, 5),
        ("wait:60", {"min_workers": 2}, None),
        ("wait:0", {}, 5),
    ],
)
def test_a_loss_while_the_driver_runs(loss: str, given: dict[str, Any], code: int | None) -> None:
    played = play(rules(loss=loss, **given), *all_in(), leave("n3", 9), until=200)
    assert "worker n3 (10.0.0.3) is lost: its raylet was killed by SIGKILL" in (
        played.told if code is None else played.end.message
    )
    if code is None:
        assert played.running
        assert "; 2 of 3 left" in played.told
    else:
        assert (played.end.code, played.end.reason, played.end.failed_host) == (code, "worker-lost", "n3")
        assert played.of(do.StopDriver) == [do.StopDriver(15, 10.0)]
        assert played.leave.end == played.end


@pytest.mark.parametrize(
    ("name", "given", "events", "end_at"),
    [
        ("it comes back", rules(loss="wait:60"), [leave("n3", 9), *join("n3", at=60, times=2)], None),
        ("another comes", rules(loss="wait:60"), [leave("n3", 9), *join("n9", at=60)], None),
        ("nobody comes", rules(loss="wait:60"), [leave("n3", 9)], 69.0),
        ("two are lost and one comes: the first loss counts", rules(loss="wait:60"),
         [leave("n3", 9), leave("n4", 30), *join("n3", at=50, times=2)], 69.0),
        ("two are lost and both come", rules(loss="wait:60"),
         [leave("n3", 9), leave("n4", 30), *join("n3", "n4", at=50, times=2)], None),
        ("the second loss comes when the first is made good", rules(loss="wait:60"),
         [leave("n3", 9), *join("n3", at=30, times=2), leave("n4", 50)], 110.0),
        ("the one that came back is lost as well", rules(loss="wait:60"),
         [leave("n3", 9), *join("n3", at=30, times=2), leave("n3", 40, times=2)], 100.0),
        ("two of three are enough", rules(loss="wait:60", min_workers=2),
         [leave("n3", 9), leave("n4", 30)], 90.0),
        ("continue down to two", rules(loss="continue", min_workers=2),
         [leave("n3", 9), leave("n4", 30)], 30.0),
        ("continue to the head alone", rules(loss="continue"),
         [leave("n2", 9), leave("n3", 9), leave("n4", 30)], None),
    ],
)  # fmt: skip
def test_workers_that_come_back_or_do_not(
    name: str, given: HeadRules, events: list[Event], end_at: float | None
) -> None:
    played = play(given, *all_in(), *events, until=300)
    if end_at is None:
        assert played.running
        assert played.state.shortage is None or given.enough() <= len(played.state.workers)
        return
    assert played.at(do.StopDriver) == pytest.approx(end_at, abs=0.1)
    assert (played.end.code, played.end.reason) == (5, "worker-lost")


def test_a_shortage_is_told_with_numbers() -> None:
    played = play(rules(loss="wait:60"), *all_in(), leave("n3", 9), until=100)
    assert played.end.message == (
        "worker n3 (10.0.0.3) is lost: its raylet was killed by SIGKILL; 2 left after 60 s, 3 needed"
    )
    played = play(rules(loss="continue", min_workers=3), *all_in(), leave("n3", 9))
    assert played.end.message.endswith("SIGKILL; 2 left, 3 needed")


@pytest.mark.parametrize(
    ("loss", "given", "ends"),
    [
        ("fail", {}, True),
        ("fail", {"min_workers": 2, "settle_s": 60.0}, False),
        ("continue", {}, False),
        ("wait:60", {}, False),
    ],
)
def test_a_loss_before_all_are_in(loss: str, given: dict[str, Any], ends: bool) -> None:
    played = play(rules(loss=loss, **given), *up(), *join("n2", "n3"), leave("n3", 9), until=100)
    assert played.running is not ends
    if not ends:
        assert "is lost" in played.told
        assert "; 1 of 3 left" in played.told


def test_one_who_was_never_in_cannot_be_lost() -> None:
    played = play(rules(), *all_in(), leave("n9", 9), leave("n3", 9, times=7))
    assert played.running
    assert played.of(do.ExplainLoss) == []


def test_a_worker_that_says_so_and_the_gcs_that_says_it_later_are_one_loss() -> None:
    played = play(rules(loss="continue"), *all_in(), leave("n3", 9), leave("n3", 10))
    assert played.of(do.ExplainLoss) == [do.ExplainLoss(node("n3"))]


@pytest.mark.parametrize("loss", ["fail", "continue", "wait:60"])
def test_a_loss_by_a_signal_that_is_on_its_way_here_waits_for_it(loss: str) -> None:
    around = Around(causes={"n3": SIGNALLED, "n4": SIGNALLED})
    events = [*all_in(), leave("n3", 9), leave("n4", 9.1)]
    came = play(rules(loss=loss), *events, (9.6, on.SignalReceived(15)), around=around, until=200)
    assert (came.end.code, came.end.reason) == (143, "signal")
    assert "is lost" not in came.told

    alone = play(rules(loss=loss), *events, around=around, until=200)
    if loss == "continue":
        assert "worker n3 (10.0.0.3) is lost: ended by SIGTERM; 1 of 3 left" in alone.told
        assert "worker n4 (10.0.0.4) is lost: ended by SIGTERM" in alone.told
        assert alone.state.losses == {}
    else:
        assert (alone.end.code, alone.end.reason) == (5, "worker-lost")
        assert alone.at(do.StopDriver) == pytest.approx(10.51 if loss == "fail" else 70.51, abs=0.02)


def test_a_loss_while_the_head_recovers_counts_as_one_with_the_driver_running() -> None:
    died = (8, on.HeadProcessDied("gcs_server", -9))
    given: dict[str, Any] = {"head_recovery": True, "max_restarts": 3}
    failed = play(rules(**given), *all_in(), died, leave("n3", 8.2))
    assert (failed.end.code, failed.end.reason) == (5, "worker-lost")
    went_on = play(rules(loss="continue", **given), *all_in(), died, leave("n3", 8.2))
    assert went_on.running
    assert went_on.state.phase is Phase.RUNNING
