"""What Ray's autoscaler gets and returns, as plain values: node types, nodes, failed launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Protocol

from .dataclass import dataclass

#: The node type of the nodes that were not launched for demand: the workers of the head's own job.
OWN_NODES = "own"


@dataclass(frozen=True)
class NodeType:
    """One entry of `available_node_types`."""

    name: str
    min_workers: int
    max_workers: int
    resources: Mapping[str, float] = field(default_factory=dict)
    """What a node of it has, in Ray's terms; memory in bytes."""
    labels: Mapping[str, str] = field(default_factory=dict)
    idle_timeout_s: float | None = None
    """None: its nodes are never ended for being idle."""
    nodes_per_job: int = 1
    """Nodes that are submitted and ended together."""


@dataclass(frozen=True)
class ClusterNode:
    """A node as the GCS knows it."""

    node_id: str
    """Ray's id of it, in hex."""
    instance: str
    """RAY_CLOUD_INSTANCE_ID of its raylet; of a node without one, a name made of its id."""
    node_type: str
    """HEAD_GROUP, OWN_NODES or the name of a group."""
    alive: bool = True
    draining: bool = False
    idle_s: float | None = None
    """How long it has had no work; None while it has some."""
    resources: Mapping[str, float] = field(default_factory=dict)
    host: str = ""
    """Its name in Slurm, where known."""


@dataclass(frozen=True)
class Instance:
    """A node that was launched: from the request to the end of its job."""

    group: str
    running: bool = False
    """False while its job waits in the queue."""


@dataclass(frozen=True)
class FailedLaunch:
    """A request for nodes that failed."""

    group: str
    count: int
    request: str
    reason: str


class Launcher(Protocol):
    """Where the nodes come from.  No method waits for Slurm."""

    def launch(self, group: str, count: int, request: str) -> None:
        """Ask for ``count`` further nodes; ``request`` names this call."""

    def cancel(self, instances: Sequence[str]) -> None:
        """End these, whether they run or not."""

    def let_go(self, instances: Sequence[str]) -> None:
        """These have left the cluster and end by themselves; end those that do not."""

    def instances(self) -> Mapping[str, Instance]:
        """Those that were launched and are not over, by id."""

    def failures(self) -> Sequence[FailedLaunch]:
        """The launches that failed since the last call."""
