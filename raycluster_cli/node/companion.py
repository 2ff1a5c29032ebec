"""This node's companion: started early, replaced when it has ended, ended when a worker no longer needs it.

Through it the node's GCS is asked: which nodes there are, and to drain them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..model.errors import RayclusterError
from ..rayproc.companion_client import CompanionClient
from ..rayproc.failure import StartFailure
from ..rayproc.listed_node import ListedNode, NodesListener
from ..rayproc.warm import WarmCompanion
from ..system.process import Reaper
from ..system.report import Report
from .setup import NodeSetup

#: More nodes than any cluster has: while so many are expected, the companion polls the list every 50 ms.
MORE_THAN_THERE_ARE = 1_000_000


class NodeCompanion:
    """At most one companion at a time; ``client`` is None when there is none."""

    def __init__(
        self, *, setup: NodeSetup, reaper: Reaper, report: Report, warm: WarmCompanion | None
    ) -> None:
        self.client: CompanionClient | None = None
        self._setup = setup
        self._reaper = reaper
        self._report = report
        self._warm = warm

    # -- the process -----------------------------------------------------------------------------

    def begin(self) -> CompanionClient:
        """Start a companion, which begins to import Ray.  The first may have been started already."""
        log = self._setup.directory.path / "companion.log"
        if self._warm is not None:
            warm, self._warm = self._warm, None
            client = CompanionClient(self._reaper.take(warm.pid, "companion", warm.stdin, warm.stdout))
            client.log_to(log, warm.log)
        else:
            fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                client = CompanionClient.spawn(self._reaper.spawn, self._setup.env, stderr=fd)
            finally:
                os.close(fd)
        self._setup.directory.journal("companion", client.child.pid)
        self.client = client
        return client

    def there(self) -> CompanionClient:
        """The companion; a new one where there is none."""
        return self.client or self.begin()

    def kill(self) -> CompanionClient | None:
        """SIGKILL it, its starts and its watcher; returns what is left to be closed."""
        client, self.client = self.client, None
        if client is not None:
            client.kill()
        return client

    async def drop(self) -> None:
        """End it: a worker does not need it once Ray runs, and it has most of raycluster's memory."""
        client, self.client = self.client, None
        if client is not None:
            await client.close()

    # -- the GCS ---------------------------------------------------------------------------------

    async def watch(
        self,
        address: str,
        env: Mapping[str, str],
        listener: NodesListener,
        *,
        expected_nodes: int,
        import_s: float,
    ) -> asyncio.Future[None]:
        """Call ``listener`` with the nodes that changed, now and at every change.

        Returns once the watch has begun, with a future that is done when it has ended (the companion or its
        watcher was killed).  Raises RayclusterError.
        """
        if self.client is not None and self.client.child.exited.done():
            await self.drop()
        client = self.there()
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard(event: Mapping[str, Any]) -> None:
            if over.done():  # this watch has ended; a later one has its own listener
                return
            if event["event"] == "nodes":
                listener([ListedNode.from_event(entry) for entry in event["changed"]])
            elif event["event"] == "unreachable":
                self._report.note(f"the list of nodes cannot be read: {event['message']}")
            elif event["event"] == "watcher_ended":
                over.set_result(None)

        def ended(_: object) -> None:
            if not over.done():
                over.set_result(None)

        client.child.exited.add_done_callback(ended)
        client.listen(heard)
        try:
            await client.ready(import_s)
            await client.watch(address, env, expected=expected_nodes)
        except StartFailure as failed:
            ended(None)
            raise RayclusterError(f"the list of nodes cannot be read: {failed.message}") from failed
        return over

    async def drain(
        self, address: str, env: Mapping[str, str], node_ids: Sequence[str], message: str, deadline_s: float
    ) -> None:
        """Drain nodes and watch them leave.  One that cannot be drained is ended by its own supervisor."""
        if self.client is None:
            return
        try:
            await self.client.drain(node_ids, message=message, deadline_s=deadline_s, timeout_s=deadline_s)
            await self.client.watch(address, env, expected=MORE_THAN_THERE_ARE, timeout_s=deadline_s)
        except StartFailure as failed:
            self._report.note(f"the workers could not be drained: {failed.message}")
