"""Plain values: the states of a node and of a cluster.  Imports nothing of the project."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Role(str, enum.Enum):
    """What a node is in the Ray cluster."""

    HEAD = "head"
    WORKER = "worker"


class NodePhase(str, enum.Enum):
    """What a node's raycluster process was doing when it last wrote its word.

    The order is the order in which a good run passes through them.
    """

    LAUNCHED = "launched"
    """raycluster runs on the node and has read its environment."""
    WAITING = "waiting for head"
    """A worker looks for its head."""
    FOUND = "head found"
    """A worker knows its head's address, and the GCS answers there."""
    STARTING = "starting ray"
    """Ray's processes are being started."""
    JOINED = "joined"
    """The raylet is registered with the GCS."""
    READY = "ready"
    """On the head: every expected worker has joined."""
    DRIVING = "driver running"
    """On the head: the driver runs."""
    STOPPING = "stopping"
    """Ray's processes are being ended."""
    GONE = "gone"
    """Ended in order; nothing of the cluster is left on the node."""
    FAILED = "failed"
    """Ended because of an error; ``message`` says which."""


class ClusterPhase(str, enum.Enum):
    """The state of a whole cluster, from its record."""

    STARTING = "starting"
    """The head is coming up or waits for its workers."""
    RUNNING = "running"
    """All expected workers (or the quorum) are in."""
    DEGRADED = "degraded"
    """Running with fewer nodes than expected."""
    STOPPING = "stopping"
    """The end was ordered; nodes are going."""
    ENDED = "ended"
    """Ended in order; the driver's exit code, if there was a driver, was 0."""
    FAILED = "failed"
    """Ended with an exit code other than 0."""
    LOST = "lost"
    """The record says that it runs, but neither Slurm nor its head know of it."""


@dataclass(frozen=True)
class NodeStatus:
    """One node of a cluster, as people and programs see it."""

    host: str
    role: Role
    phase: NodePhase
    since: float
    """Unix seconds of the last change of phase."""
    alive: bool | None = None
    """What the GCS says; None when it was not asked."""
    address: str = ""
    message: str = ""
    cpus_total: float = 0.0
    cpus_used: float = 0.0
    gpus_total: float = 0.0
    gpus_used: float = 0.0
    memory_total_bytes: int = 0
    memory_used_bytes: int = 0
    object_store_total_bytes: int = 0
    object_store_used_bytes: int = 0
    worker_processes: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    """Unix seconds at which each phase was entered, by NodePhase value."""


@dataclass(frozen=True)
class ClusterStatus:
    """A cluster, as people and programs see it: tables, JSON and plain lines are made of this."""

    job: str
    name: str
    phase: ClusterPhase
    nodes: tuple[NodeStatus, ...]
    expected_nodes: int
    started: float
    """Unix seconds at which the head's raycluster process started."""
    ended: float | None = None
    end_time: float | None = None
    """Unix seconds of the job's time limit, where known."""
    address: str = ""
    """host:port of the GCS."""
    dashboard: str = ""
    driver: tuple[str, ...] = ()
    exit_code: int | None = None
    message: str = ""
    events: tuple[tuple[float, str], ...] = ()
    """(Unix seconds, text) of what happened, oldest first."""

    @property
    def ready_nodes(self) -> int:
        """How many nodes are in the cluster now."""
        there = (NodePhase.JOINED, NodePhase.READY, NodePhase.DRIVING)
        return sum(1 for node in self.nodes if node.phase in there and node.alive is not False)
