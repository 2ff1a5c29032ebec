"""What the files of a record hold: plain values, and their JSON.

**Versions.** Each file carries ``"schema"``.  Readers ignore fields that they do not know and give those
that are missing their default, so that the commands of one version can look at clusters of the next.
Schema 1 (version 0.1) had some fields in an ``extra`` object, and other names for some; both are still read.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import field
from typing import Any, NoReturn, TypeVar

from .dataclass import dataclass
from .status import FINAL

SCHEMA = 2

#: Fields by their names in schema 1.
RENAMED = {"culprit_host": "failed_host"}

#: The largest number that a record can hold, in any unit; more is a broken file.
MAX_NUMBER = 2**63

#: The last second of the year 9999: what `time` and `datetime` can still show.
MAX_TIME_S = 253_402_300_799.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class HeadInfo:
    """Who the head is and what a worker or a command needs to reach it."""

    host: str
    address_ip: str
    port: int
    """The GCS's port."""
    identity: str = ""
    """128 random bits in hex: a worker joins only a GCS that shows them."""
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
    state: str = ""
    """Value of status.HeadState."""
    step: str = ""
    """The job step that the head is a task of; workers of `srun raycluster run` are in the same one."""
    launch: str = ""
    """Which launch of that step it is (Allocation.launch): job and step ids can come again."""
    on_worker_loss: str = ""
    """The head's --on-worker-loss, which counts for all nodes."""
    installation: str = ""
    """Of Ray on the head (rayproc.installation): workers with the same one find a template; else empty."""
    gpus: str = ""
    """Of the head (node.accelerators): workers with the same ones find a template, too."""
    head_recovery: bool = False
    with_dashboard: bool = False
    dashboard_port_at: str = ""
    """host:port at which the dashboard is, or starts at the first connection."""
    without_dashboard: bool = False
    """Ray was installed without it on the head: nothing starts there."""
    worker_hosts: str = ""
    """Hostlist of the nodes that workers are expected on."""
    min_workers: int | None = None
    output: str = ""
    """The file that the job's output goes to."""
    errors: str = ""
    """The file that the job's errors go to, where it is another."""
    unplaceable: tuple[str, ...] = ()
    """Tasks, actors and placement groups that wait for resources that no node has, as texts."""
    grace_s: float = 0.0
    """How long the driver may take to end (--grace): `raycluster stop` waits as long."""
    service: bool = False
    """The driver is a server, whose state is in `service.json`."""
    worker_groups: bool = False
    """Worker jobs can join: `groups.json` says of which kinds, `worker-jobs.json` which there are."""

    @property
    def address(self) -> str:
        """host:port as Ray takes it; IPv6 in brackets.

        >>> HeadInfo("a", "fd00::1", 20480).address
        '[fd00::1]:20480'
        """
        ip = f"[{self.address_ip}]" if ":" in self.address_ip else self.address_ip
        return f"{ip}:{self.port}"


@dataclass(frozen=True)
class ProcessDeath:
    """A process of a node that ended unexpectedly."""

    name: str
    pid: int
    code: int
    """Return code as subprocess gives it: negative for a death by signal."""
    when: float = 0.0
    """Unix seconds by the node's own clock."""


@dataclass(frozen=True)
class NodeReport:
    """The last status report of a node."""

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
    reason: str = ""
    """Why the node ended: value of status.EndReason."""
    detail: str = ""
    """What exactly ended it: value of status.EndDetail, or empty."""
    log: str = ""
    """The log in which the end may be explained."""
    deaths: tuple[ProcessDeath, ...] = ()
    oom_kills: int | None = None
    """Processes of the node's control group that the kernel killed for memory; None when not known."""
    restarts: int = 0
    """How often Ray was started again on this node."""
    het_group: int | None = None
    """The component of a heterogeneous job that the node is in."""
    job: str = ""
    """The worker job that the node is in, as Slurm names it (`4712`, `4712_3`); empty in the head's own job.
    The node's ``host`` then ends with it."""
    group: str = ""
    """The worker group (--group)."""
    step: str = ""
    """The id of its step in the job; empty in the batch script."""
    launcher_ip: str = ""
    launcher_port: int | None = None
    """Where the srun of its step listens."""

    @property
    def has_ended(self) -> bool:
        """Whether the node reported its end.

        >>> NodeReport("n1", "worker", "gone").has_ended, NodeReport("n1", "worker", "stopping").has_ended
        (True, False)
        """
        return self.phase in FINAL


@dataclass(frozen=True)
class EndReport:
    """How the cluster ended."""

    when: float
    exit_code: int
    reason: str = ""
    failed_host: str = ""
    message: str = ""
    detail: str = ""
    """Value of status.EndDetail; empty where there is none, and in records of 0.1 (ops.end_detail)."""


@dataclass(frozen=True)
class StopRequest:
    """A request to end the cluster."""

    when: float
    by: str = ""
    """user@host."""
    reason: str = ""


@dataclass(frozen=True)
class Lease:
    """Which process is the head."""

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


def encode(value: Any) -> str:
    """The JSON of one of these values.

    >>> encode(Event(1.0, "up"))
    '{"schema":2,"when":1.0,"text":"up"}'
    """
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(value)}, separators=(",", ":"), default=str)


def decode(kind: type[Value], data: bytes | None) -> Value | None:
    """A dataclass from JSON, by the rules for versions above; None when it does not fit.

    >>> decode(Event, b'{"schema":1,"when":1.0,"text":"up","extra":{}}')
    Event(when=1.0, text='up')
    >>> decode(Event, b'{"when":NaN,"text":"up"}') is None
    True
    """
    return value_of(kind, read_json(data))


def read_json(data: bytes | None) -> object:
    """What JSON holds, with no number that is too large for a record; None when it is not JSON.

    >>> read_json(b'{"jobs":[1]}'), read_json(b'{"jobs":[')
    ({'jobs': [1]}, None)
    """
    if not data:
        return None
    try:
        values: object = json.loads(data, parse_constant=_refuse, parse_int=_int, parse_float=_float)
    except (ValueError, RecursionError):
        return None
    return values


def value_of(kind: type[Value], values: object) -> Value | None:
    """A dataclass from an object of JSON, by the rules for versions above; None when it does not fit.

    >>> value_of(Event, {"when": 1.0, "text": "up"})
    Event(when=1.0, text='up')
    """
    if not isinstance(values, dict):
        return None
    if isinstance(extra := values.get("extra"), dict):
        values = {**{name: one for name, one in extra.items() if one is not None}, **values}
    for old, new in RENAMED.items():
        if old in values:
            values.setdefault(new, values[old])
    known: dict[str, Any] = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        if each.name in values:
            known[each.name] = _field(values[each.name], str(each.type))
            if known[each.name] is _UNFIT:
                return None
    try:
        return kind(**known)
    except TypeError:  # a field without default is missing
        return None


_UNFIT = object()


def _field(value: object, annotation: str) -> object:
    """A JSON value as a field annotated so has it, or _UNFIT."""
    if value is None and annotation.endswith("| None"):
        return None
    base = annotation.removesuffix(" | None")
    if base == "float" or base == "int":
        fits = isinstance(value, int if base == "int" else (int, float)) and not isinstance(value, bool)
        if fits and base == "float":
            assert isinstance(value, (int, float))
            return float(value) if abs(value) <= MAX_TIME_S else _UNFIT
        return value if fits else _UNFIT
    if base in ("str", "bool"):
        return value if isinstance(value, str if base == "str" else bool) else _UNFIT
    if base == "tuple[str, ...]":
        return _tuple([_field(one, "str") for one in value]) if isinstance(value, list) else _UNFIT
    if base == "tuple[ProcessDeath, ...]":
        found = (
            [value_of(ProcessDeath, one) or _UNFIT for one in value] if isinstance(value, list) else [_UNFIT]
        )
        return _tuple(found)
    if not isinstance(value, dict):
        return _UNFIT
    if base == "Mapping[str, float]":
        times = {name: _field(one, "float") for name, one in value.items()}
        return _UNFIT if _UNFIT in times.values() else times
    return value


def _tuple(values: list[Any]) -> object:
    return _UNFIT if any(value is _UNFIT for value in values) else tuple(values)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _int(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > MAX_NUMBER:
        raise ValueError("an integer too large for a record")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or abs(value) > MAX_NUMBER:
        raise ValueError("a number too large for a record")
    return value
