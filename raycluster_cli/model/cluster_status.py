"""The state of a cluster and of its nodes, as screens, JSON and `raycluster why` show it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import field

from .dataclass import dataclass
from .group_status import GroupStatus
from .service import ServiceReport
from .status import MEMBER, NodePhase, Role


class ClusterPhase(str, enum.Enum):
    """The state of a whole cluster, from its record."""

    PENDING = "pending"
    """Slurm has the job in its queue; nothing runs yet."""
    NO_RECORD = "no record"
    """Slurm runs the job, but no record of a cluster in it can be found."""
    STARTING = "starting"
    """The head is coming up or waits for its workers."""
    RUNNING = "running"
    """All expected workers have joined."""
    DEGRADED = "degraded"
    """Running with fewer nodes than expected."""
    STOPPING = "stopping"
    """The cluster was told to end; its nodes are shutting down."""
    SUSPENDED = "suspended"
    """Slurm has stopped the job's processes (`scontrol suspend`, or preemption by suspension)."""
    ENDED = "ended"
    """Completed: shut down cleanly, and the driver's exit code, if there was a driver, was 0."""
    STOPPED = "stopped"
    """Ended on request: `raycluster stop`, scancel, Ctrl-C."""
    FAILED = "failed"
    """Ended with an exit code other than 0."""
    LOST = "lost"
    """Its head exited without reporting how the cluster ended."""


#: Phases of a cluster that is over.
OVER = (ClusterPhase.ENDED, ClusterPhase.STOPPED, ClusterPhase.FAILED, ClusterPhase.LOST)

#: A job without a time limit ends after a year, as Slurm tells it: longer than this is none, seconds.
NO_LIMIT_S = 364 * 86400.0


@dataclass(frozen=True)
class Usage:
    """What a node has, and how much of it is in use.  Sizes in bytes."""

    cpus_total: float = 0.0
    cpus_used: float = 0.0
    """Of what Ray hands out: CPUs that tasks and actors hold, not the processor's load."""
    gpus_total: float = 0.0
    gpus_used: float = 0.0
    object_store_total_bytes: int = 0
    object_store_used_bytes: int = 0
    memory_total_bytes: int = 0
    """What Slurm and the kernel grant on the node."""
    memory_used_bytes: int | None = None
    """Private memory of the cluster's processes on the node, object store included; None: not known."""
    worker_processes: int | None = None
    """Ray's worker processes; None: not known."""


@dataclass(frozen=True)
class NodeStatus:
    """One node of a cluster, as people and programs see it."""

    host: str
    role: Role
    phase: NodePhase
    since: float = 0.0
    """Unix seconds of the last change of phase; 0 when unknown."""
    alive: bool | None = None
    """What the GCS says; None when it was not asked."""
    address: str = ""
    message: str = ""
    updated: float = 0.0
    """Unix seconds of the node's last report."""
    is_current: bool = True
    """False when the last report does not say how the node is now: its cluster is over, or lost."""
    node_id: str = ""
    """Ray's."""
    exit_code: int | None = None
    node_root: str = ""
    log_path: str = ""
    usage: Usage | None = None
    """None when it was not measured: that is done only while somebody watches."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Unix seconds at which each phase was entered, by NodePhase value."""
    job: str = ""
    """The worker job that the node is in; empty in the head's own job."""
    group: str = ""
    """Its worker group."""
    idle_since: float = 0.0
    """Unix seconds since when a node of a worker job has had no work; 0: it has some, or not known."""

    @property
    def is_member(self) -> bool:
        """Whether the node is in the cluster now."""
        return self.phase in MEMBER and self.alive is not False and self.is_current

    @property
    def is_lost(self) -> bool:
        """Whether the node was a member and is no longer one, without having reported its end."""
        return self.phase in MEMBER and self.alive is False

    @property
    def is_problem(self) -> bool:
        """Whether a person should look at this node first."""
        return self.phase is NodePhase.FAILED or self.is_lost

    @property
    def state(self) -> str:
        """The node's state for programs."""
        if self.is_lost:
            return "lost"
        if self.phase in MEMBER:
            return "ready" if self.is_current else "unknown"
        return str(self.phase.value)

    @property
    def label(self) -> str:
        """The node's state for people, in one or two words.

        A node that had joined is lost, as events and messages say; one that never joined has failed.
        """
        if self.phase is NodePhase.FAILED and NodePhase.JOINED.value in self.phases:
            return "lost"
        return self.state if self.is_lost or self.phase in MEMBER else self.phase.label


@dataclass(frozen=True)
class ClusterStatus:
    """A cluster, as people and programs see it: tables, JSON and plain lines are made of this."""

    job: str
    """The job's key: id, with .rN after a requeue."""
    name: str
    phase: ClusterPhase
    nodes: tuple[NodeStatus, ...]
    expected_nodes: int
    """Those of the head's job, the head included, and of worker jobs that have joined; 0 when unknown."""
    started: float
    """Unix seconds at which the head's raycluster process started; 0 when it has not."""
    read_at: float = 0.0
    """Unix seconds at which this was read."""
    ended: float | None = None
    end_time: float | None = None
    """Unix seconds of the job's time limit, where known."""
    address: str = ""
    """host:port of the GCS."""
    head_host: str = ""
    dashboard: str = ""
    driver: tuple[str, ...] = ()
    is_service: bool = False
    """The driver is a server (--service)."""
    service: ServiceReport | None = None
    """What it does, while the cluster runs and once it was started."""
    exit_code: int | None = None
    reason: str = ""
    """Value of EndReason; empty when the record does not say."""
    failed_host: str = ""
    """The host that caused the end."""
    message: str = ""
    """Why it ended, or why it does not run; while it runs, that its head's heartbeat is late."""
    cause: str = ""
    """The likely cause of a bad end, as `raycluster why` tells it; empty when it was not looked for."""
    slurm_cluster: str = ""
    slurm_state: str = ""
    """The job's state as Slurm names it; empty when Slurm was not reached or does not know the job."""
    job_name: str = ""
    record: str = ""
    """Path of the record; empty for a job that has none yet."""
    stop_asked_by: str = ""
    """user@host that asked for the end, until the cluster has ended."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """raycluster, ray, python: of the head."""
    auth: bool = True
    tls: bool = False
    pending_tasks: int = 0
    """Tasks and actors that wait for resources, while somebody watches."""
    unplaceable: tuple[str, ...] = ()
    """Tasks, actors and placement groups that wait for resources that no node has, as texts."""
    groups: tuple[GroupStatus, ...] = ()
    """The worker groups with their jobs; none in a cluster of a fixed size, or one that is over."""
    left_in_slurm: tuple[str, ...] = ()
    """Worker jobs that Slurm still has though the cluster has ended, as texts."""
    usage_at: float | None = None
    """Unix seconds at which usage was measured; None when it was not."""
    events: tuple[tuple[float, str], ...] = ()
    """(Unix seconds, text) of what happened, oldest first."""

    @property
    def ready_nodes(self) -> int:
        """How many nodes are in the cluster now."""
        return sum(1 for node in self.nodes if node.is_member)

    @property
    def is_over(self) -> bool:
        return self.phase in OVER

    @property
    def title(self) -> str:
        """What a person calls the cluster: the job's id and the name, where it has one."""
        return f"{self.job}+{self.name}" if self.name else self.job

    @property
    def age_s(self) -> float:
        """Seconds from the start to the end, or to now; 0 when it has not started."""
        return max((self.ended or self.read_at) - self.started, 0.0) if self.started else 0.0

    @property
    def time_left_s(self) -> float | None:
        """Seconds to the job's time limit; None when there is none, or unknown or over."""
        if self.end_time is None or self.is_over:
            return None
        if self.end_time - (self.started or self.read_at) > NO_LIMIT_S:
            return None
        return max(self.end_time - self.read_at, 0.0)

    @property
    def driver_since(self) -> float | None:
        """Unix seconds at which the driver started; None when none has."""
        for node in self.nodes:
            if node.role is Role.HEAD:
                return node.phases.get(NodePhase.DRIVING.value)
        return None

    @property
    def service_line(self) -> str:
        """What the server does, in a few words; empty without one."""
        found = self.service
        if found is None:
            return ""
        if found.state == "ready":
            return f"server is ready at {found.url}"
        return f"server is {found.state}{f': {found.message}' if found.message else ''}"

    @property
    def problems(self) -> tuple[NodeStatus, ...]:
        return tuple(node for node in self.nodes if node.is_problem)

    @property
    def headline(self) -> str:
        """The state in one line."""
        nodes = f"{self.ready_nodes} of {self.expected_nodes} nodes"
        if self.phase is ClusterPhase.PENDING:
            return self.message or "waiting in Slurm's queue"
        if self.phase is ClusterPhase.STARTING:
            text = f"{nodes} ready" if self.expected_nodes else "the head has not reported yet"
            return text + self._late
        if self.phase in (ClusterPhase.NO_RECORD, ClusterPhase.SUSPENDED):
            return self.message
        if self.phase is ClusterPhase.RUNNING:
            ready = f"{self.ready_nodes} {'node' if self.ready_nodes == 1 else 'nodes'}"
            text = f"driver runs on {ready}" if self.driver_since else f"{ready} ready, no driver"
            if self.service is not None:
                is_ready = self.service.state == "ready"
                text = (
                    f"{self.service_line} on {ready}" if is_ready else f"{ready} ready; {self.service_line}"
                )
            return text + self._coming + self._cannot_start + self._late
        if self.phase is ClusterPhase.DEGRADED:
            lost = [node.host for node in self.nodes if node.is_problem or node.phase is NodePhase.GONE]
            absent = [node.host for node in self.nodes if node.phase is NodePhase.NOT_REPORTED]
            text = f"continues with {nodes}"
            text += f"; lost: {_some(lost)}" if lost else ""
            text += f"; {self.service_line}" if self.service is not None else ""
            return (
                text
                + (f"; never reported: {_some(absent)}" if absent else "")
                + self._cannot_start
                + self._late
            )
        if self.phase is ClusterPhase.STOPPING:
            return self.message or f"stop requested by {self.stop_asked_by or 'somebody'}"
        text = self.message or self.phase.value
        code = f"exit code {self.exit_code}"
        text = f"{text.rstrip('.')} ({code})" if self.exit_code and code not in text else text
        return f"{text}; Slurm still has {_some(self.left_in_slurm)}" if self.left_in_slurm else text

    @property
    def _coming(self) -> str:
        """Nodes of worker jobs that are not in the cluster yet."""
        coming = sum(max(group.nodes - group.joined_nodes, 0) for group in self.groups)
        return f"; {coming} more pending or starting" if coming else ""

    @property
    def _late(self) -> str:
        """The end of a headline when the head's heartbeat is late."""
        return f"; {self.message}" if self.message else ""

    @property
    def _cannot_start(self) -> str:
        """The end of a headline when tasks or actors cannot start."""
        return f"; {_some(self.unplaceable)} cannot start on these nodes" if self.unplaceable else ""


def _some(hosts: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return ", ".join(hosts[:3]) + more
