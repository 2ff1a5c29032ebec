"""The shared parts of a run for tests: all of them real, but for the queue, which is a list."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.own_record import first_report
from raycluster_cli.supervisor.parts import Parts
from raycluster_cli.supervisor.report_writer import ReportWriter
from raycluster_cli.supervisor.tasks import Tasks
from raycluster_cli.system.process import Reaper, Signals
from raycluster_cli.system.report import Report


class Scene:
    """One node of cluster 7 on Slurm cluster `bed`, which keeps its record in a directory of the test's."""

    def __init__(
        self,
        directory: Path,
        *,
        role: Role = Role.HEAD,
        host: str = "n1",
        settings: Settings | None = None,
        env: Mapping[str, str] | None = None,
        has_record: bool = True,
        key: str = "7",
        **more: Any,
    ) -> None:
        """``more``: of the context."""
        self.posted: list[object] = []
        self.failed: list[str] = []
        """Tasks and guards that have failed, with the error."""
        self._text = io.StringIO()
        context = Context(
            settings=settings or Settings(),
            env=env or {},
            role=role,
            key=key,
            slurm_cluster="bed",
            host=host,
            state_dir=directory / "state",
            **{"allocation": None, **more},
        )
        self.record = Record.create(context.state_dir, "bed", key) if has_record else None
        report = Report(verbose=True, stream=self._text)
        self.parts = Parts(
            context=context,
            report=report,
            reports=ReportWriter(self.record, first_report(context), note=report.note),
            reaper=Reaper(),
            signals=Signals(),
            tasks=Tasks(self._failed, self._failed),
            post=self.posted.append,
            hurry=asyncio.Event(),
        )

    def _failed(self, name: str, error: Exception) -> None:
        self.failed.append(f"{name}: {error!r}")

    @property
    def said(self) -> list[str]:
        """The lines that the user is told, or would be with --verbose."""
        return [line.removeprefix("raycluster: ") for line in self._text.getvalue().splitlines()]

    async def close(self) -> None:
        """End what runs in the background, and write what is to be written."""
        await self.parts.tasks.close()
        await self.parts.reports.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Returns once it is so; the test's deadline limits the wait."""
    while not is_so():
        await asyncio.sleep(0.01)
