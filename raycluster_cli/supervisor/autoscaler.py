"""The head's guard over Ray's autoscaler, which runs in a fork of its companion (autoscale.engine).

Imported only by a head with worker groups.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError
from ..model.unmet_demand import UnmetDemand
from ..model.worker_group import WorkerGroup
from ..node.ray_node import RayNode
from ..policy import events as on
from ..rayproc.boot import raycluster_command
from ..rayproc.failure import StartFailure
from ..rayproc.protocol import Event
from .parts import Parts
from .worker_groups import options_for_workers

#: The hosts for which programs use no proxy.
NO_PROXY = ("no_proxy", "NO_PROXY")

#: What runs in the fork.
ENGINE = "raycluster_cli.autoscale.engine"

#: How long to wait for a companion that was killed to be replaced.
COMPANION_S = 60.0
LOOK_S = 0.2


class Autoscaler:
    """The autoscaler of one head."""

    def __init__(
        self,
        parts: Parts,
        node: RayNode,
        address: str,
        groups: Sequence[WorkerGroup],
        recovery_over: Callable[[], Awaitable[None]],
    ) -> None:
        """``address``: of the head's GCS.  ``recovery_over`` returns when no recovery is under way."""
        self._parts = parts
        self._node = node
        self._address = address
        self._groups = groups
        self._recovery_over = recovery_over
        self._unsupported = False

    async def keep(self) -> None:
        """Run it until it ends, then raise RayclusterError: a guard is started again.

        Returns when this version of Ray's autoscaler is not supported; a warning has said so.
        """
        await self._recovery_over()
        companion = await self._companion()
        try:
            number, over = companion.serve(
                ENGINE, Path(self._logs_dir(), "monitor.err"), self._heard, **self._request()
            )
        except StartFailure as failed:
            raise RayclusterError(f"Ray's autoscaler could not be started: {failed.message}") from failed
        try:
            event = await asyncio.shield(over)
        finally:
            companion.end(number)
        if self._unsupported:
            return
        how = event.get("message") or f"exit code {event.get('code')}"
        raise RayclusterError(f"it ended: {how}")

    async def _companion(self) -> Any:
        """The one that watches the nodes; when it was killed another guard starts a new one."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COMPANION_S
        while loop.time() < deadline:
            companion = self._node.companion
            if companion is not None and not companion.child.exited.done():
                try:
                    await companion.ready(COMPANION_S)
                except StartFailure as failed:
                    raise RayclusterError(
                        f"Ray's autoscaler needs the companion: {failed.message}"
                    ) from failed
                return companion
            await asyncio.sleep(LOOK_S)
        raise RayclusterError("Ray's autoscaler needs the companion, and there is none")

    def _logs_dir(self) -> str:
        started = self._node.started
        if started is None:
            raise RayclusterError("Ray's autoscaler needs a head that runs")
        return f"{started.session_dir}/logs"

    def _request(self) -> dict[str, Any]:
        context, record = self._parts.context, self._parts.reports.record
        assert record is not None, "a head with worker groups has a record"
        env = self._node.client_environment()
        return {
            "address": self._address,
            "env": {name: value for name, value in env.items() if name.startswith("RAY_")},
            "logs_dir": self._logs_dir(),
            "record": str(record.path),
            "head": {
                "key": record.path.name,
                "name": context.env.get("SLURM_JOB_NAME") or "raycluster",
                "directory": os.getcwd(),
                "raycluster": raycluster_command(),
                "options": options_for_workers(context.settings),
            },
            # Where a proxy is set, workers must not use it for the head and for each other.
            "job_env": {**context.env, **{name: env[name] for name in NO_PROXY if name in env}},
            "groups": [asdict(group) for group in self._groups],
        }

    def _heard(self, event: Event) -> None:
        report, kind = self._parts.report, event["kind"]
        if kind == "unplaceable":
            self._parts.post(on.DemandKnown(tuple(UnmetDemand(*one) for one in event["unplaceable"])))
        elif kind == "say":
            report.say(event["text"])
        elif kind == "up":
            report.note("Ray's autoscaler runs")
        else:
            self._unsupported = self._unsupported or kind == "unsupported"
            report.warn(event["text"])
