"""What the modules of one run share, whatever the node's role.  Each is given this, and never the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from ..model.dataclass import dataclass
from ..model.settings import Settings
from ..system.process import Reaper, Signals
from ..system.report import Report
from .context import Context
from .report_writer import ReportWriter
from .tasks import Tasks

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """The shared parts of a run.  What a module needs besides, it is given one by one."""

    context: Context
    report: Report
    """Messages to the user."""
    reports: ReportWriter
    """This node's status reports, and the record."""
    reaper: Reaper
    signals: Signals
    tasks: Tasks
    post: Callable[[object], None]
    """Puts an event into the run's queue."""
    hurry: asyncio.Event
    """Set when the shutdown must not wait any longer: what still runs is killed."""

    @property
    def settings(self) -> Settings:
        return self.context.settings

    async def on_record(self, call: Callable[..., T], *args: Any) -> T:
        """A call on the record that the start needs.  Raises UsageError when it does not return."""
        return await self.reports.need(call, *args, where=self.context.state_dir)
