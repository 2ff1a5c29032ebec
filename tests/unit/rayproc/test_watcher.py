"""How often the watcher asks the GCS for the nodes."""

from __future__ import annotations

from typing import Any

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
