"""A node of the cluster as the watcher reports it: the entries of its `nodes` events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..model.value import Value

#: Reasons in Ray's terms (NodeDeathInfo) of a node that was drained, by Ray's autoscaler or by raycluster.
_DRAINED = ("autoscaler_drain_idle", "autoscaler_drain_preempted")


class NodeDeath(Value):
    """Why the GCS counts a node as dead."""

    reason: str = ""
    """Ray's name of the reason, in lower case: "unexpected_termination"."""
    message: str = ""

    @property
    def drained(self) -> bool:
        """Whether the node was told to leave."""
        return self.reason in _DRAINED


class ListedNode(Value):
    """A node in the GCS's list of nodes."""

    node_id: str
    name: str = ""
    """The node's name: the host, and for a worker of a worker job also the job."""
    ip: str = ""
    alive: bool = True
    is_head: bool = False
    labels: Mapping[str, str] = MappingProxyType({})
    death: NodeDeath | None = None
    """None while it is alive."""

    @classmethod
    def from_event(cls, entry: Mapping[str, Any]) -> ListedNode:
        """The node of one entry of a `nodes` event (private.gcs).

        >>> dead = {"node_id": "ab", "alive": False, "death": {"reason": "UNEXPECTED_TERMINATION"}}
        >>> ListedNode.from_event(dead).death
        NodeDeath(reason='unexpected_termination', message='')
        """
        death = entry.get("death")
        return cls(
            node_id=str(entry["node_id"]),
            name=str(entry.get("name", "")),
            ip=str(entry.get("ip", "")),
            alive=bool(entry["alive"]),
            is_head=bool(entry.get("is_head")),
            labels=dict(entry.get("labels") or {}),
            death=NodeDeath(str(death.get("reason", "")).lower(), str(death.get("message") or ""))
            if death
            else None,
        )


#: Called with the nodes that have changed.
NodesListener = Callable[[Sequence[ListedNode]], None]
