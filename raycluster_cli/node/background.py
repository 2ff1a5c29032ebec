"""Background work of a node whose failures are reported and never lost."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from ..system.report import Report

OnFailure = Callable[[str, BaseException], None]
"""on_failure(what was done, the exception)"""


def in_background(what: str, work: Coroutine[Any, Any, None], on_failure: OnFailure) -> asyncio.Task[None]:
    """Start the work; ``on_failure`` is called when it ends with an exception."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            on_failure(what, error)

    task = asyncio.ensure_future(work)
    task.add_done_callback(ended)
    return task


def reported(report: Report, host: str) -> OnFailure:
    """A failure becomes a warning, with its traceback in the record's event log."""

    def on_failure(what: str, error: BaseException) -> None:
        report.warn(f"{what} failed on {host}: {error!r}")
        report.note("".join(traceback.format_exception(type(error), error, error.__traceback__)))

    return on_failure
