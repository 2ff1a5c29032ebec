"""What a run is given from outside: settings, environment, allocation, and who this node is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path

from ..model.dataclass import dataclass
from ..model.settings import Settings
from ..model.status import Role
from ..node.setup import NodeSetup
from ..rayproc.warm import WarmCompanion
from ..slurm.allocation import Allocation
from ..system.keeper_link import Keeper
from ..system.report import Report


@dataclass(frozen=True)
class Context:
    """All that a run is given from outside; the command line alone reads os.environ."""

    settings: Settings
    env: Mapping[str, str]
    allocation: Allocation | None
    role: Role
    key: str
    """The cluster's key in the record: job id and restart count, or one made for a local cluster."""
    slurm_cluster: str
    host: str
    """This node's name, as Slurm and the user know it."""
    state_dir: Path
    driver: tuple[str, ...] = ()
    keeper: Keeper | None = None
    launched: float = field(default_factory=time.time)
    """Unix seconds at which this command's process started."""
    node_ip: str = ""
    """The address that this node must use, in a cluster on one machine; else empty."""
    key_given: bool = False
    """The key was given by hand: head and worker meet in the record without Slurm."""
    symmetric: bool = False
    """Started by `run`: head and workers are tasks of one step and start together."""
    ray_env: Mapping[str, str] = field(default_factory=dict)
    """More variables for Ray's processes on this node."""
    worker_job: str = ""
    """The worker job that this worker runs in, as Slurm names it (--cluster); else empty."""
    warm: WarmCompanion | None = None
    """A companion that imports Ray already, for the first start of Ray here."""

    @property
    def cluster_key(self) -> str:
        """What names this cluster among all: the ports that are tried first follow from it."""
        return f"{self.slurm_cluster}/{self.key}+{self.settings.name}"

    @property
    def step(self) -> str | None:
        """The step that this task belongs to: a record's head of another step is not ours."""
        return self.allocation.step_id if self.allocation else None

    @property
    def launch(self) -> str:
        """The launch of the step that this task belongs to; empty outside a task."""
        return self.allocation.launch if self.allocation else ""

    @property
    def own_token(self) -> str:
        """The token that the user brought along (RAYCLUSTER_TOKEN), or ''."""
        return self.env.get("RAYCLUSTER_TOKEN", "")

    @property
    def needs_record(self) -> bool:
        """Whether workers can join only with a record: they have no other source for head and token."""
        settings = self.settings
        expected = settings.expected_workers
        workers = self.role is Role.WORKER or (len(self.worker_hosts) if expected is None else expected) > 0
        told = bool(self.own_token) or (not settings.auth and settings.master_port is not None)
        return workers and not told

    @property
    def worker_hosts(self) -> list[str]:
        """The hosts from which a head expects workers, where Slurm tells."""
        allocation = self.allocation
        if allocation is None:
            return []
        nodes = allocation.job_nodes
        if self.symmetric and allocation.step_nodes:
            nodes = allocation.step_nodes
        return [node for node in nodes if node != (allocation.node_name or self.host)]

    @property
    def nodes_in_job(self) -> int:
        """How many nodes do the same as this one: the more, the less often each reads the record."""
        return len(self.allocation.job_nodes) if self.allocation else 1

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names by which a person may call this cluster: the array's task, the job's name.

        Of a heterogeneous job each component has an id of its own, and another one that squeue shows.
        """
        allocation = self.allocation
        if allocation is None:
            return ()
        array = f"{allocation.array_job_id}_{allocation.array_task_id}" if allocation.array_job_id else ""
        components = (f"{allocation.job_id}+{number}" for number in range(len(allocation.component_ids)))
        names = (array, *allocation.component_ids[1:], *components, allocation.job_name)
        return tuple(name for name in names if name)

    def node_setup(self, report: Report, ray_env: Mapping[str, str]) -> NodeSetup:
        """The parts of this machine's Ray node, none of them made yet.

        ``ray_env``: variables for Ray's processes on this node.
        """
        return NodeSetup(
            role=self.role,
            settings=self.settings,
            env=self.env,
            allocation=self.allocation,
            host=self.host,
            node_ip=self.node_ip,
            key=self.cluster_key,
            report=report,
            ray_env=ray_env,
        )
