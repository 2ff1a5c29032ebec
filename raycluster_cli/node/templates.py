"""Templates for the start of workers: made on a head, used on a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..rayproc.failure import StartFailure
from ..rayproc.installation import find_installation, ray_variables
from ..rayproc.plan import NodePlan
from ..rayproc.started import Started
from ..rayproc.template import Launch, Template, with_values
from ..system.process import Child, Reaper
from ..system.report import Report
from ..system.waiting import done_within, in_thread
from .accelerators import Accelerators, find_accelerators
from .companion import NodeCompanion
from .raylet_launch import start_by_template
from .setup import NodeSetup

#: How long it may take to find out which Ray is installed: five files of the environment are read.
FIND_S = 30.0

#: How long making a template may take: 50 ms once Ray is imported.
MAKE_S = 60.0

#: What the companion says of a template besides its text.
_FACTS = ("ray_version", "session", "cluster_id", "gcs_address", "node_id_bytes", "accelerator_type")


class NodeTemplates:
    """Makes templates on a head, and starts workers by them."""

    def __init__(self, *, setup: NodeSetup, companion: NodeCompanion, reaper: Reaper, report: Report) -> None:
        self.on_starting: Callable[[], None] = lambda: None
        """Called when the companion has been told to start Ray here."""
        self._setup = setup
        self._companion = companion
        self._reaper = reaper
        self._report = report
        self._installation: str | None = None
        self._accelerators: Accelerators | None = None

    async def installation(self) -> str:
        """Which Ray is installed here (rayproc.installation); empty when that cannot be found out."""
        if self._installation is None:
            finding = in_thread(partial(find_installation, self._setup.env))
            self._installation = finding.result() if await done_within(finding, FIND_S) else ""
        return self._installation

    async def accelerators(self) -> Accelerators:
        """GPUs and other accelerators of this node."""
        if self._accelerators is None:
            setup = self._setup
            find = partial(find_accelerators, setup.env, setup.allocation, setup.settings.num_gpus)
            looking = in_thread(find)
            done = await done_within(looking, FIND_S)
            self._accelerators = looking.result() if done else Accelerators(doubt="/dev does not answer")
        return self._accelerators

    async def make(self, plan: NodePlan, identity: str) -> dict[str, Any]:
        """What the workers of this head, which runs, may execute their raylets with.  Raises StartFailure."""
        companion = self._companion.there()
        await companion.ready(MAKE_S)
        made = await companion.template(plan, MAKE_S)
        return await self._template(plan, identity, made, Launch.from_json(made["launch"]))

    async def make_early(self, plan: NodePlan, identity: str) -> dict[str, Any]:
        """The same while the head's Ray starts, in time for its raylet's start.  Raises StartFailure.

        Returns only when the GCS answers, and not at all where it never does.
        """
        companion = self._companion.there()
        made = await companion.template(plan, MAKE_S, early=True)
        known = await asyncio.shield(companion.cluster)
        cluster = {name: str(known[name]) for name in ("session", "cluster_id")}
        launch = with_values(Launch.from_json(made["launch"]), cluster)
        return await self._template(plan, identity, {**made, **cluster}, launch)

    async def _template(
        self, plan: NodePlan, identity: str, made: Mapping[str, Any], launch: Launch
    ) -> dict[str, Any]:
        return Template(
            identity=identity,
            installation=await self.installation(),
            variables=ray_variables(self._setup.env),
            agent_at_once=plan.agent_at_once,
            gpus=(await self.accelerators()).gpus if made["describes_gpus"] else "",
            spills=bool(plan.spill_dir),
            launch=launch,
            **{name: made[name] for name in _FACTS},
        ).as_json()

    async def start(
        self, template: Template, plan: NodePlan, timeout_s: float
    ) -> tuple[Started, Child] | None:
        """Execute a worker's raylet; None where the node has to start in another way, which is noted."""
        try:
            return await start_by_template(
                template,
                plan,
                installation=await self.installation(),
                gpus=(await self.accelerators()).gpus,
                given=self._setup.env,
                reaper=self._reaper,
                timeout_s=timeout_s,
            )
        except StartFailure as failed:
            self._report.note(
                f"{self._setup.host} starts its raylet by Ray's own code: the head's template is not used "
                f"({failed.message.rstrip('.')})"
            )
            return None
