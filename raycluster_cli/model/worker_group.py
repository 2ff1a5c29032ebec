"""A worker group: workers of one kind that a cluster may ask Slurm for, beyond its own allocation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from .dataclass import dataclass
from .errors import UsageError

#: The group of --max-nodes, which needs no name of its own.
DEFAULT_GROUP = "worker"

#: The head's node type in Ray's autoscaler; no group may have this name.
HEAD_GROUP = "head"

#: Idle time after which a worker job ends (--worker-idle-timeout).
IDLE_TIMEOUT_S = 300.0

#: How long before its job's time limit a worker is drained.
DRAIN_BEFORE_S = 60.0

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?")


@dataclass(frozen=True)
class WorkerGroup:
    """Which jobs a group's workers are, and how many of them there may be."""

    name: str
    max_workers: int
    """Most Ray nodes of this group at a time, pending ones included."""
    min_workers: int = 0
    """Nodes that are there from the start, whether they are needed or not."""
    sbatch: tuple[str, ...] = ()
    """sbatch's options for one job of this group, such as `--partition=gpu`."""
    idle_timeout_s: float = IDLE_TIMEOUT_S
    drain_before_s: float = DRAIN_BEFORE_S
    """This long before a job's time limit its nodes get no new work; 0: they work until it."""
    nodes_per_job: int = 1
    """Nodes of one job; they start and end together."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """What a node has in Ray's terms (CPU, GPU, memory in bytes, custom); empty: worked out."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name == HEAD_GROUP:
            raise UsageError(
                f"{self.name!r} cannot be the name of a worker group",
                hint="Use lower-case letters, digits, - and _, up to 32 characters, and not 'head'.",
            )
        if not 0 <= self.min_workers <= self.max_workers:
            raise UsageError(
                f"worker group {self.name}: min is {self.min_workers} and max is {self.max_workers}",
                hint="Needed: 0 <= min <= max.",
            )
        if self.nodes_per_job < 1:
            raise UsageError(
                f"worker group {self.name}: nodes_per_job is {self.nodes_per_job}, at least 1 is needed"
            )


@dataclass(frozen=True)
class GroupBounds:
    """What `raycluster scale` sets for a group while the cluster runs; it replaces the group's own."""

    min_workers: int
    max_workers: int


@dataclass(frozen=True)
class GroupsReport:
    """The record's `groups.json`: which groups the cluster has, by the head at its start."""

    groups: tuple[WorkerGroup, ...]
    pid: int = 0
    """Of the head's raycluster process."""
    restart: int = 0
    """How often the head's job was requeued before this start."""
