"""A worker in a job of its own that is told to end, or whose time is up: it gives notice and leaves."""

from __future__ import annotations

import signal

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy.values import Phase
from raycluster_cli.policy.worker import WorkerState, step

from .play import Around, Event, play, worker_rules

ELASTIC = worker_rules(elastic=True)
JOINED: Event = (1.0, on.Joined())
TERM: Event = (2.0, on.SignalReceived(signal.SIGTERM))
AGAIN: Event = (3.0, on.SignalReceived(signal.SIGTERM, 2))
INT: Event = (4.0, on.SignalReceived(signal.SIGINT))
LIMIT: Event = (2.0, on.NodeGoes("the time limit of job 4712 is near", 600.0))


def gone(at: float, code: int = 0, drained: str | None = "going") -> Event:
    return at, on.RayletDied(code, drained)


@pytest.mark.parametrize(
    ("name", "events", "code", "at", "notices"),
    [
        ("SIGTERM, and the raylet leaves", [JOINED, TERM, gone(9)], 143, 9, 1),
        ("SIGTERM, and the raylet stays", [JOINED, TERM], 143, 22, 1),
        ("SIGTERM twice", [JOINED, TERM, AGAIN], 143, 22, 1),
        ("SIGTERM ends the raylet as well", [JOINED, TERM, gone(2.1, -15, None)], 143, 2.1, 1),
        ("Ctrl-C does not wait", [JOINED, INT], 130, 4, 0),
        ("SIGTERM, then Ctrl-C", [JOINED, TERM, INT], 130, 4, 1),
        ("SIGTERM before it has joined", [TERM], 143, 2, 0),
        ("the time limit, and the raylet leaves", [JOINED, LIMIT, gone(50)], 0, 50, 1),
        ("the time limit, and the raylet stays", [JOINED, LIMIT], 0, 598, 1),
        ("the time limit, then SIGTERM", [JOINED, LIMIT, (90, on.SignalReceived(15))], 143, 110, 2),
        ("drained by the autoscaler", [JOINED, gone(5)], 0, 5.5, 0),
    ],
)  # fmt: skip
def test_when_it_leaves(name: str, events: list[Event], code: int, at: float, notices: int) -> None:
    played = play(ELASTIC, *events, until=1000)
    assert int(played.end.code) == code
    assert played.at(do.Leave) == pytest.approx(at, abs=0.1)
    assert len(played.of(do.GiveNotice)) == notices


def test_the_notice_says_why_and_leaves_time_for_the_end() -> None:
    played = play(ELASTIC, JOINED, LIMIT, gone(50), until=100)
    assert played.of(do.GiveNotice) == [do.GiveNotice("the time limit of job 4712 is near", 596.0)]
    assert played.end.message == "left the cluster: the time limit of job 4712 is near"


@pytest.mark.parametrize(
    ("grace_end", "at", "left_s", "why"),
    [
        (300.0, 296, 294, "Slurm preempts n2"),
        (12.0, 22, 20, "n2 was told to end (SIGTERM)"),  # Slurm kills later than at its end
        (None, 22, 20, "n2 was told to end (SIGTERM)"),
    ],
)
def test_a_preempted_worker_has_its_grace_time(
    grace_end: float | None, at: float, left_s: float, why: str
) -> None:
    played = play(ELASTIC, JOINED, TERM, AGAIN, around=Around(grace_end=grace_end), until=1000)
    (notice,) = played.of(do.GiveNotice)
    assert isinstance(notice, do.GiveNotice)
    assert (notice.why, notice.left_s) == (why, pytest.approx(left_s, abs=0.1))
    assert played.at(do.Leave) == pytest.approx(at, abs=0.1)
    assert played.end.code == 143


def test_without_an_answer_of_slurm_it_leaves_in_time() -> None:
    state = WorkerState(phase=Phase.RUNNING)
    state, actions = step(ELASTIC, state, TERM[1], 2.0)
    assert actions == [do.AskGraceTime(), do.Arm("notice", 22.0)]
    state, _ = step(ELASTIC, state, on.TimerFired("notice"), 22.0)
    assert state.end is not None
    assert state.end.code == 143


def test_a_worker_of_the_heads_job_ends_at_once() -> None:
    played = play(worker_rules(), JOINED, TERM, until=100)
    assert played.at(do.Leave) == 2
    assert played.of(do.GiveNotice) == []
