"""A worker in a job of its own that is told to end, or whose time is up: it gives notice and leaves."""

from __future__ import annotations

import signal

import pytest

from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on

from .play import Event, play, worker_rules

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


def test_a_worker_of_the_heads_job_ends_at_once() -> None:
    played = play(worker_rules(), JOINED, TERM, until=100)
    assert played.at(do.Leave) == 2
    assert played.of(do.GiveNotice) == []
