"""Writes the modules that a head's start has imported into one file, for later starts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping

from ..system.waiting import done_within, in_thread

#: How long a bundle that is being written may delay the end; one is written once for an installation.
END_S = 2.0


class BundleRefresh:
    """Writes the bundle of modules again if it is out of date."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._writing: asyncio.Future[str] | None = None

    async def run(self, env: Mapping[str, str]) -> None:
        from ..system.bundle_writer import refresh_bundle  # workers do not need it

        self._writing = in_thread(refresh_bundle, env, sys.modules)
        try:
            await asyncio.shield(self._writing)
        except OSError as error:
            self._note(f"later starts have no bundle of modules: {error}")

    async def over(self) -> None:
        """Returns when nothing is being written, or after a while."""
        if self._writing is not None:
            await done_within(self._writing, END_S)
