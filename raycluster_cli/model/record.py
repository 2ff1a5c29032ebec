"""What the files of a record hold: plain values, and their JSON.

**Versions.** Each file carries ``"schema": 1``.  Readers ignore fields that they do not know
and give those that are missing their default, so that the commands of one version can look
at clusters of the next.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

SCHEMA = 1

#: Fields by their names of version 0.1, which its records have.
RENAMED = {"culprit_host": "failed_host"}

Value = TypeVar("Value")


@dataclass(frozen=True)
class HeadInfo:
    """Who the head is and what a worker or a command needs to reach it."""

    host: str
    address_ip: str
    port: int
    """The GCS's port."""
    identity: str = ""
    """128 random bits in hex: what the GCS must answer before anybody joins."""
    session: str = ""
    cluster_id: str = ""
    ray_version: str = ""
    python_version: str = ""
    raycluster_version: str = ""
    auth: bool = True
    tls: bool = False
    dashboard: str = ""
    started: float = 0.0
    """Unix seconds by the head's clock."""
    pid: int = 0
    create_time: int = 0
    """Of the head's raycluster process, in clock ticks since boot (proctree.ProcessRef)."""
    expected_workers: int = 0
    driver: tuple[str, ...] = ()
    ports: Mapping[str, Any] = field(default_factory=dict)
    node_root: str = ""
    end_time: float = 0.0
    """Unix seconds of the job's time limit; 0 when unknown."""
    aliases: tuple[str, ...] = ()
    """Other names by which a person may ask for the job: ``100_3`` of an array, its job name."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port as Ray takes it; IPv6 in brackets.

        >>> HeadInfo("a", "fd00::1", 20480).address
        '[fd00::1]:20480'
        """
        ip = f"[{self.address_ip}]" if ":" in self.address_ip else self.address_ip
        return f"{ip}:{self.port}"


@dataclass(frozen=True)
class NodeReport:
    """The last word of a node."""

    host: str
    role: str
    """Value of status.Role."""
    phase: str
    """Value of status.NodePhase."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Unix seconds, by the node's own clock, at which each phase began."""
    pid: int = 0
    create_time: int = 0
    """Clock ticks since boot."""
    node_root: str = ""
    log_path: str = ""
    message: str = ""
    ip: str = ""
    ports: Mapping[str, Any] = field(default_factory=dict)
    node_id: str = ""
    """Ray's."""
    exit_code: int | None = None
    updated: float = 0.0
    """Unix seconds by the node's own clock."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EndReport:
    """How the cluster ended."""

    when: float
    exit_code: int
    reason: str = ""
    failed_host: str = ""
    message: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StopRequest:
    """Somebody asks for the end."""

    when: float
    by: str = ""
    """user@host."""
    reason: str = ""


@dataclass(frozen=True)
class Lease:
    """Who holds the place of the head."""

    host: str
    pid: int
    create_time: int
    """Clock ticks since boot."""
    since: float
    """Unix seconds by the holder's clock."""
    boot_id: str = ""
    pid_namespace: str = ""
    nonce: str = ""


@dataclass(frozen=True)
class Event:
    when: float
    text: str


@dataclass(frozen=True)
class ClusterUsage:
    """What the GCS says is in use."""

    when: float
    """Unix seconds by the head's clock."""
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """By Ray's node id: {"total": {resource: amount}, "used": {…}}; dead nodes are left out."""
    pending: int = 0
    """Tasks and actors that wait for resources."""


@dataclass(frozen=True)
class NodeUsage:
    """What only the node itself can see."""

    when: float
    worker_processes: int
    memory_used_bytes: int
    memory_total_bytes: int


def encode(word: Any) -> str:
    """The JSON of one of these values.

    >>> encode(Event(1.0, "up"))
    '{"schema":1,"when":1.0,"text":"up"}'
    """
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(word)}, separators=(",", ":"), default=str)


def decode(kind: type[Value], data: bytes | None) -> Value | None:
    """A dataclass from JSON, by the rules for versions above; None when it does not fit."""
    if not data:
        return None
    try:
        values = json.loads(data)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    for old, new in RENAMED.items():
        if old in values:
            values.setdefault(new, values.pop(old))
    known: dict[str, Any] = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        if each.name in values:
            value = values[each.name]
            if not _fits(value, str(each.type)):
                return None
            if str(each.type).startswith("tuple"):
                value = tuple(value)
            elif str(each.type) == "float":
                value = float(value)
            known[each.name] = value
    try:
        return kind(**known)
    except TypeError:  # a field without default is missing
        return None


def _fits(value: object, annotation: str) -> bool:
    """Whether a JSON value can stand for a field annotated so."""
    if annotation.endswith("| None") and value is None:
        return True
    base = annotation.split("[")[0].split(" ")[0]
    if base in ("int", "float") and isinstance(value, bool):
        return False
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "tuple": (list,),
        "Mapping": (dict,),
    }
    return isinstance(value, kinds[base])
