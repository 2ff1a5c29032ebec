"""The head's own file in the record: which process is head and where; rewritten whenever that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..model.record import HeadInfo


class HeadEntry:
    """What `head.json` says."""

    def __init__(self, write: Callable[[HeadInfo], object]) -> None:
        """``write`` puts it into the record, in the background; where there is none it does nothing."""
        self._write = write
        self.info: HeadInfo
        self.named = False
        """Whether the record names this head: from then on workers look for the end there."""

    def create(self, info: HeadInfo) -> None:
        """Name the head for the first time."""
        self.info = info
        self.named = True
        self._write(info)

    def update(self, **changes: Any) -> None:
        """Write what has changed."""
        self.info = replace(self.info, **changes)
        self._write(self.info)
