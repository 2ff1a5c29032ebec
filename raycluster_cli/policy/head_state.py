"""The state of a head's run, and the rules that its decisions depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from ..model.dataclass import dataclass
from ..model.loss_policy import WorkerLossPolicy
from ..model.value import Value
from . import events as on
from .actions import Action
from .loss import workers_needed
from .stopping import Hurrying
from .values import End, Phase, Worker, WorkerReport

if TYPE_CHECKING:
    from .server_state import Server


class HeadRules(Value):
    """What a head's decisions depend on besides events: its settings and its allocation."""

    host: str
    expected: int
    """Workers to wait for."""
    quorum: int
    """How many workers are enough to start with, once they have been there for ``settle_s``."""
    loss: WorkerLossPolicy
    min_workers: int | None = None
    hosts: tuple[str, ...] = ()
    """The hosts of the expected workers, as far as Slurm tells."""
    timeout_s: float = 300.0
    settle_s: float = 0.0
    grace_s: float = 0.0
    stop_before_s: float = 0.0
    has_driver: bool = True
    in_job: bool = True
    head_recovery: bool = False
    max_restarts: int = 0
    requeue_on_preempt: bool = False
    requeue_code: int = 75
    at_terminal: str = ""
    """The cluster's name, where somebody at a terminal may press Ctrl-C; else empty."""
    service: ServicePolicy | None = None
    """How a driver that is a server is treated (--service).  Its module is imported only then."""

    @property
    def spare(self) -> bool:
        """Whether fewer workers than expected are enough."""
        return self.quorum < self.expected

    def enough(self) -> int:
        """How many workers must be left while the driver runs."""
        return workers_needed(self.loss, quorum=self.quorum, min_workers=self.min_workers)


@dataclass(frozen=True)
class HeadState:
    """The state of a head's run."""

    phase: Phase = Phase.LAUNCHED
    deadline: float = 0.0
    """Of the wait for the workers."""
    workers: Mapping[str, Worker] = field(default_factory=dict)
    """The workers of the head's own job that are in the cluster, by node id."""
    elastic: Mapping[str, Worker] = field(default_factory=dict)
    """The workers of worker jobs that are in the cluster, by node id.  The head does not wait for them, and
    their loss does not end the cluster."""
    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    reports_at: float = 0.0
    quorum_since: float | None = None
    driver_running: bool = False
    driver_restarts: int = 0
    driver_exit: on.DriverExited | None = None
    """The driver's end, until its cause is known."""
    driver_connected: bool | None = None
    """Whether a driver has connected to the GCS, as it last said; None: not asked, or no answer."""
    unplaceable: frozenset[str] = frozenset()
    """The kinds of demand (UnmetDemand.kind) that no node could satisfy when that was looked up last."""
    unplaceable_shown: tuple[str, ...] = ()
    """What of it the record shows, as texts."""
    unplaceable_told: frozenset[str] = frozenset()
    """The kinds that a warning has named."""
    server: Server | None = None
    """The state of the server, with --service and once it was started."""
    restart_driver: bool = False
    """The driver ended because of what the head recovers from."""
    told: bool = False
    """Whether the driver was told to end or to save its work: only then may it ask for a requeue."""
    recoveries: int = 0
    recovers: str = ""
    """What is being recovered: gcs or head."""
    recovers_from: str = ""
    """The death that it recovers from, for people."""
    resumes: Phase = Phase.RUNNING
    """The phase that a recovery goes back to."""
    losses: Mapping[str, on.WorkerLost] = field(default_factory=dict)
    """Losses of workers that a signal ended: the head may get the same signal in a moment."""
    shortage: on.WorkerLost | None = None
    """The loss since which too few workers are left."""
    death: on.HeadProcessDied | None = None
    """The death of a process of the head by a signal, which this process may get in a moment."""
    limit_at: float | None = None
    """When the job ends, as Slurm last said."""
    limit_warned: bool = False
    """Whether a warning has said that Slurm does not tell when the job ends."""
    end: End | None = None
    hurrying: Hurrying = field(default_factory=Hurrying)
    left: bool = False
    """Whether the action Leave was returned: once in a run."""

    @property
    def members(self) -> Mapping[str, Worker]:
        """All workers in the cluster, by node id."""
        return {**self.workers, **self.elastic} if self.elastic else self.workers


Step = tuple[HeadState, list[Action]]


class ServicePolicy(Protocol):
    """What the head's other decisions ask about a driver that is a server: policy.service has the answers."""

    def started(self, rules: HeadRules, state: HeadState, now: float) -> Step:
        """The server's process is being started."""

    def restarts_now(self, state: HeadState) -> bool:
        """Whether the server is being started again, so that the end of its process is expected."""

    def failed(
        self, rules: HeadRules, state: HeadState, how: str, loss: tuple[str, str] | None
    ) -> Step | None:
        """What follows from the end of the server's process; None: the end of the job."""

    def lost_node(self, rules: HeadRules, state: HeadState, host: str) -> Step:
        """Too few workers are left, and those that are missing may come back."""

    def clear_first(self, rules: HeadRules, state: HeadState) -> Step:
        """The head's Ray is back, with what a server that ended with it has left there."""

    def go_on(self, rules: HeadRules, state: HeadState, now: float) -> Step:
        """Start the server again once nothing is left of the old one and enough workers are there."""

    def timer(self, rules: HeadRules, state: HeadState, name: str, now: float) -> Step | None:
        """Handle a timer of a server; None for any other one."""

    def step(self, rules: HeadRules, state: HeadState, event: object, now: float) -> Step:
        """Handle an event of the server."""


def then(taken: Step, *, before: list[Action] | None = None, after: list[Action] | None = None) -> Step:
    """The same step with more actions before or after its own."""
    state, actions = taken
    return state, [*(before or []), *actions, *(after or [])]
