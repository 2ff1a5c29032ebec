"""A worker group and its jobs, as screens, JSON, `raycluster scale` and `raycluster why` show them."""

from __future__ import annotations

from .dataclass import dataclass
from .worker_group import DEFAULT_GROUP
from .worker_job import WorkerJob, WorkerJobState

#: States in which a worker job's nodes are in the cluster.
_JOINED = (WorkerJobState.READY, WorkerJobState.IDLE, WorkerJobState.DRAINING)


@dataclass(frozen=True)
class GroupStatus:
    """One group: its bounds, what holds for it, and its jobs."""

    name: str = DEFAULT_GROUP
    min_workers: int = 0
    max_workers: int = 0
    """The bounds that hold now, in nodes."""
    is_set: bool = False
    """The bounds are those of `raycluster scale`."""
    nodes_per_job: int = 1
    idle_timeout_s: float = 0.0
    sbatch: tuple[str, ...] = ()
    jobs: tuple[WorkerJob, ...] = ()
    """Those that are not over, and what ended last; oldest first."""
    paused_until: float = 0.0
    """Unix seconds until which no job is submitted; 0: not paused."""
    problem: str = ""
    excluded: tuple[str, ...] = ()
    ended_before: int = 0
    """Jobs that have ended and are not among ``jobs``."""

    @property
    def live_jobs(self) -> tuple[WorkerJob, ...]:
        """The jobs that are not over."""
        return tuple(job for job in self.jobs if job.state != WorkerJobState.ENDED)

    @property
    def nodes(self) -> int:
        """Nodes that are in the cluster or on the way to it."""
        return sum(job.nodes for job in self.live_jobs if job.state != WorkerJobState.DRAINING)

    @property
    def joined_nodes(self) -> int:
        return sum(job.nodes for job in self.jobs if job.state in _JOINED)

    @property
    def is_fixed(self) -> bool:
        """It neither grows nor shrinks by itself."""
        return self.min_workers == self.max_workers

    @property
    def range(self) -> str:
        """The bounds as `raycluster scale` takes them.

        >>> GroupStatus(max_workers=8).range, GroupStatus(min_workers=2, max_workers=2).range
        ('0..8', '2')
        """
        return str(self.max_workers) if self.is_fixed else f"{self.min_workers}..{self.max_workers}"

    def nodes_by_state(self) -> dict[str, int]:
        """How many nodes are in each state, in the order of a job's life; without states that none is in."""
        counts = {state.value: 0 for state in WorkerJobState if state is not WorkerJobState.ENDED}
        for job in self.live_jobs:
            state = str(WorkerJobState(job.state).value) if job.state in counts else job.state
            counts[state] = counts.get(state, 0) + job.nodes
        return {state: number for state, number in counts.items() if number}
