"""How often the watcher asks the GCS for the nodes, and what it says of nodes that it drains."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from raycluster_cli.rayproc import watcher as module
from raycluster_cli.rayproc.protocol import Writer
from raycluster_cli.rayproc.watcher import BUSY_S, CALM_S, FIRST_S, Watcher


class Cluster:
    """A GCS that knows two nodes, one of which is there."""

    address = "127.0.0.1:1"

    def __init__(self) -> None:
        self.alive = 1

    def nodes(self) -> list[dict[str, Any]]:
        return [{"node_id": str(number), "alive": number < self.alive} for number in range(2)]


class Silent(Writer):
    def __call__(self, event: dict[str, Any]) -> None:
        pass


def test_it_asks_often_at_first_and_seldom_once_all_are_there() -> None:
    cluster, now = Cluster(), [0.0]
    watcher = Watcher(Silent(-1), -1, clock=lambda: now[0])
    watcher._cluster = cluster
    watcher._obey({"do": "watch", "address": cluster.address, "expected": 2})
    pauses = []
    for number in range(12):
        cluster.alive = 2 if number > 9 else 1
        watcher._poll()
        pauses.append(round(watcher._next - now[0], 3))
        now[0] = watcher._next
    assert pauses[:2] == [FIRST_S, round(1.3 * FIRST_S, 3)]
    assert pauses[2:4] == sorted(pauses[2:4])
    assert set(pauses[5:10]) == {BUSY_S}
    assert set(pauses[10:]) == {CALM_S}
    assert sum(pauses[:10]) > 8 * FIRST_S


class Told(Writer):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def test_the_answers_of_drained_nodes_and_of_those_that_give_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GCS that is slow or away has said nothing: Ray was not told, as far as is known."""
    over = threading.Event()

    class Draining(Cluster):
        def drain(self, node_id: str, reason: str, message: str, deadline_s: float) -> tuple[bool, str]:
            assert (reason, message, deadline_s) == ("preemption", "it goes", 60.0)
            if node_id == "hangs":
                over.wait(30)
            if node_id == "fails":
                raise ConnectionError("refused")
            return node_id == "drained", "" if node_id == "drained" else "it is busy"

    monkeypatch.setattr(module, "DRAIN_ANSWER_S", 0.1)
    told = Told()
    watcher = Watcher(told, -1)
    watcher._cluster = Draining()
    given = {"reason": "preemption", "message": "it goes", "deadline_s": 60}
    watcher._drain({"do": "drain", "id": 1, "nodes": ["drained", "busy", "fails", "hangs"], **given})
    over.set()
    (event,) = told.events
    assert event["results"] == {
        "drained": {"answered": True, "accepted": True, "refusal": ""},
        "busy": {"answered": True, "accepted": False, "refusal": "it is busy"},
        "fails": {"answered": False, "accepted": False, "refusal": "ConnectionError: refused"},
        "hangs": {"answered": False, "accepted": False, "refusal": "no answer within 0.1 s"},
    }
