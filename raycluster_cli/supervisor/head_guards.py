"""What a head watches while it runs, of Ray on its own node: the list of nodes, its GCS, its companion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from ..model.errors import RayclusterError, error_text
from ..node.ray_node import RayNode
from ..policy import events as on
from ..policy.head_state import HeadRules, HeadState
from ..policy.values import Phase
from ..rayproc.companion_client import CompanionClient
from ..rayproc.failure import StartFailure
from ..rayproc.gcs_monitor import gcs_lost
from ..rayproc.listed_node import ListedNode
from ..system.proctree import let_tree_go_on
from .parts import Parts
from .usage import tell_usage
from .worker_watch import WorkerWatch

T = TypeVar("T")

#: Pause before the watch over the nodes is started again after its process has ended.
REWATCH_DELAY_S = 0.5

#: Pause between two checks of a GCS whose process has ended, which its parent has noticed.
GCS_REST_S = 1.0

#: How often the head looks whether its companion and what that has started are stopped.
STOPPED_LOOK_S = 10.0

#: How long the GCS may take to say whether a driver has connected; the end of a run waits for it.
DRIVER_ANSWER_S = 1.0

#: How often the GCS is asked for what waits for resources (3 ms); less often in large clusters.
DEMAND_S = 5.0


class HeadGuards:
    """Puts what it sees into the run's queue as events.  Made once there is a node, begun once Ray is up."""

    def __init__(
        self,
        parts: Parts,
        node: RayNode,
        *,
        rules: HeadRules,
        state: Callable[[], HeadState],
        workers: WorkerWatch,
        recovery_over: Callable[[], Awaitable[None]],
    ) -> None:
        """``recovery_over`` returns when no recovery is under way."""
        self._parts = parts
        self._node = node
        self._rules = rules
        self._state = state
        self._workers = workers
        self._recovery_over = recovery_over
        self._watch_over: asyncio.Future[None]
        """Done when the process that watches the nodes has ended."""
        self._unanswered: set[str] = set()
        self._has_worker_jobs = False

    async def begin(self) -> None:
        """Start those that every head has.  Raises RayclusterError."""
        await self._watch_nodes()
        guard = self._parts.tasks.guard
        guard("the watch over the nodes", self._keep_watching_nodes)
        guard("the watch over the GCS", self._watch_gcs)
        guard("the wait for the workers", self._workers.watch_reports)
        guard("stopped processes", self._watch_stopped, vital=False)
        if self._parts.reports.record is not None:
            usage = partial(tell_usage, self._parts, self._node, self._rules.expected + 1)
            guard("what is in use", usage, vital=False)

    # -- the list of nodes -----------------------------------------------------------------------

    async def _watch_nodes(self) -> None:
        self._watch_over = await self._node.watch(self._nodes_changed, self._rules.expected + 1)

    async def _keep_watching_nodes(self) -> None:
        """The subscription to the GCS's nodes, started again whenever its process has ended."""
        note = self._parts.report.note
        while True:
            await asyncio.wait({self._watch_over})
            note("the watch over the nodes ended; starting it again")
            noted = ""
            while self._watch_over.done():
                await asyncio.sleep(REWATCH_DELAY_S)
                await self._recovery_over()
                try:
                    await self._watch_nodes()
                except (RayclusterError, OSError) as error:
                    text = f"the nodes cannot be watched: {error}"
                    if text != noted:  # not twice a second
                        note(text)
                    noted = text

    def _nodes_changed(self, nodes: Sequence[ListedNode]) -> None:
        for node in nodes:
            if node.is_head or node.node_id == self._own_node_id():
                self._head_changed(node)
            elif self._workers.changed(node).job and not self._has_worker_jobs:
                self._has_worker_jobs = True
                self._watch_worker_jobs()

    def _own_node_id(self) -> str:
        started = self._node.started
        return started.node_id if started is not None else ""

    def _head_changed(self, node: ListedNode) -> None:
        """Post that the head's raylet runs and does not respond.  Its parent notices when it ends."""
        raylet = self._node.children.get("raylet")
        own = node.node_id == self._own_node_id()  # not that of a head before a recovery
        if own and not node.alive and raylet is not None and raylet.running:
            why = (node.death.message if node.death else "") or "the GCS has marked its node as dead"
            self._parts.post(on.HeadRayletSilent(why, self._node.log_of("raylet")))

    def _watch_worker_jobs(self) -> None:
        """Watch for what takes the nodes of worker jobs away: their notices, and Slurm."""
        from .notices import watch_notices  # other runs do not pay for it

        guard = self._parts.tasks.guard
        about = (self._parts, self._state, self._companion)
        guard("notices of worker jobs", partial(watch_notices, *about), vital=False)
        if self._parts.context.allocation is not None:
            from .departures import watch_departures

            guard("what Slurm takes away", partial(watch_departures, *about), vital=False)

    def _companion(self) -> CompanionClient | None:
        return self._node.companion

    # -- the head's own GCS ----------------------------------------------------------------------

    async def _watch_gcs(self) -> None:
        """Post that the GCS runs but no longer answers: it counts as lost, for the workers too."""
        node, interval_s = self._node, self._parts.settings.check_interval
        while True:
            loss = await gcs_lost(
                node.address.ip, node.gcs_port, interval_s=interval_s, context=node.tls_context
            )
            gcs = node.children.get("gcs_server")
            if loss.silent and gcs is not None and gcs.running:
                self._parts.post(on.GcsSilent(loss.why, node.log_of("gcs_server")))
                await asyncio.wait({gcs.exited}, timeout=interval_s)
            await asyncio.sleep(GCS_REST_S)
            await self._recovery_over()

    async def watch_demand(self) -> None:
        """Post what waits for resources that no node has: Ray itself does not report it."""
        node = self._node
        while True:
            await asyncio.sleep(DEMAND_S + self._rules.expected / 50)
            if self._state().phase is not Phase.RUNNING or node.companion is None:
                continue
            waiting = await self._asked("which tasks no node can run", node.companion.unplaceable())
            if waiting is not None:
                self._parts.post(on.DemandKnown(waiting))

    async def ask_for_driver(self) -> None:
        """Whether a driver has connected to the GCS; an answer is posted in any case."""
        companion, connected = self._node.companion, None
        if companion is not None:
            connected = await self._asked(
                "whether a driver has connected", companion.had_driver(DRIVER_ANSWER_S)
            )
        self._parts.post(on.DriverKnown(connected))

    async def _asked(self, what: str, answer: Awaitable[T]) -> T | None:
        """What Ray answers; None when it does not, which is logged once, since only messages depend on it."""
        try:
            return await answer
        except (RayclusterError, StartFailure, OSError) as error:
            if what not in self._unanswered:
                self._unanswered.add(what)
                self._parts.report.note(f"Ray did not say {what}: {error_text(error)}")
            return None

    async def _watch_stopped(self) -> None:
        """Companion, watcher or autoscaler were stopped (SIGSTOP): they would miss every loss."""
        while True:
            await asyncio.sleep(STOPPED_LOOK_S)
            companion = self._node.companion
            for pid in let_tree_go_on(companion.child.ref) if companion is not None else ():
                self._parts.report.note(f"process {pid} of raycluster was stopped (SIGSTOP): it is continued")
