"""AsyncSlurmCluster: SlurmCluster for programs with an event loop.

Each call runs in a thread of its own.  A call that is cancelled is told so, and has ended what it started
when the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ..model.cluster_status import ClusterStatus
from ..model.group_status import GroupStatus
from ..system.report import say
from ..system.waiting import in_thread
from .cancellation import call_with
from .slurm_cluster import SlurmCluster

T = TypeVar("T")


class AsyncSlurmCluster:
    """SlurmCluster with methods that are awaited.

    ```python
    async with AsyncSlurmCluster(nodes=4, time="2:00:00") as cluster:
        code = await cluster.run(["python", "train.py"])
    ```

    The arguments are those of SlurmCluster.  Several calls of :meth:`run` may run at the same time.
    """

    def __init__(self, nodes: int | str | None = None, **options: Any) -> None:
        self._cluster = SlurmCluster(nodes, **options)

    @classmethod
    async def attach(
        cls,
        job_id: str | int,
        *,
        state_dir: str | Path | None = None,
        progress: Callable[[str], object] | None = say,
    ) -> AsyncSlurmCluster:
        """As SlurmCluster.attach."""
        new = cls.__new__(cls)
        call = partial(SlurmCluster.attach, job_id, state_dir=state_dir, progress=progress)
        new._cluster = await in_thread(call)
        return new

    async def start(self) -> AsyncSlurmCluster:
        """As SlurmCluster.start.  When it is cancelled, the job is ended."""
        await self._call(self._cluster.start)
        return self

    async def stop(self) -> None:
        """As SlurmCluster.stop.  When it is cancelled, the cluster is ended nevertheless."""
        await self._call(self._cluster.stop)

    async def __aenter__(self) -> AsyncSlurmCluster:
        if not self._cluster.is_started:
            await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._call(partial(self._cluster.__exit__, kind, error, traceback))

    @property
    def job_id(self) -> str:
        """The id of the Slurm job.  Raises UsageError before the start."""
        return self._cluster.job_id

    async def address(self) -> str:
        """As SlurmCluster.address."""
        return await self._call(lambda: self._cluster.address)

    async def environment(self) -> dict[str, str]:
        """As SlurmCluster.environment."""
        return await self._call(lambda: self._cluster.environment)

    async def dashboard(self) -> str:
        """As SlurmCluster.dashboard."""
        return await self._call(lambda: self._cluster.dashboard)

    async def status(self) -> ClusterStatus:
        """As SlurmCluster.status."""
        return await self._call(self._cluster.status)

    async def url(self, wait_s: float = 0.0) -> str:
        """As SlurmCluster.url."""
        return await self._call(partial(self._cluster.url, wait_s))

    async def run(
        self, command: Sequence[str], *, node: str = "", env: Mapping[str, str] | None = None
    ) -> int:
        """As SlurmCluster.run.  When it is cancelled, the command gets SIGINT and has ended."""
        return await self._call(partial(self._cluster.run, command, node=node, env=env))

    async def logs(self, component: str = "", *, node: str = "", lines: int = 100) -> str:
        """As SlurmCluster.logs."""
        return await self._call(partial(self._cluster.logs, component, node=node, lines=lines))

    async def scale(self, *changes: int | str) -> tuple[GroupStatus, ...]:
        """As SlurmCluster.scale."""
        return await self._call(partial(self._cluster.scale, *changes))

    async def connect(self, **options: Any) -> Any:
        """As SlurmCluster.connect."""
        return await self._call(partial(self._cluster.connect, **options))

    async def _call(self, call: Callable[[], T]) -> T:
        """The result of a call in a thread; a cancellation goes on when the call has ended."""
        cancelled = threading.Event()
        future: asyncio.Future[T] = in_thread(partial(call_with, cancelled, call))
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError:
            cancelled.set()
            while not future.done():
                try:
                    await asyncio.wait({future})
                except asyncio.CancelledError:
                    continue  # it ends what it started; a job must not stay
            future.exception()  # seen
            raise
        return future.result()

    def __repr__(self) -> str:
        return repr(self._cluster).replace("<Slurm", "<AsyncSlurm", 1)

    def _repr_html_(self) -> str:
        return self._cluster._repr_html_().replace("SlurmCluster", "AsyncSlurmCluster", 1)
