"""The head's own file in the record: which process is head and where; rewritten whenever that changes."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..model.errors import RayclusterError
from ..model.record import HeadInfo
from ..system.waiting import done_within

#: How long the first entry may take once Ray is up: it was begun before Ray was.
NAMED_S = 1.0


class HeadEntry:
    """What `head.json` says."""

    def __init__(self, write: Callable[[HeadInfo], Future[Any] | None]) -> None:
        """``write`` puts it into the record, in the background; where there is none it does nothing.

        What it returns has the failure, or None.
        """
        self._write = write
        self.info: HeadInfo
        self.named = False
        """Whether the record names this head: from then on workers look for the end there."""
        self._naming: Future[Any] | None = None

    def create(self, info: HeadInfo) -> None:
        """Name the head for the first time."""
        self.info = info
        self.named = True
        self._naming = self._write(info)

    async def refusal(self) -> RayclusterError | None:
        """Why the record does not name this head; None also where that is not known within a second."""
        if self._naming is None or not await done_within(self._naming, NAMED_S) or self._naming.cancelled():
            return None
        error = self._naming.result()
        return error if isinstance(error, RayclusterError) else None

    def update(self, **changes: Any) -> None:
        """Write what has changed."""
        self.info = replace(self.info, **changes)
        self._write(self.info)
