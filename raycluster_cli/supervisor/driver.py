"""The driver: the user's program, run beside the head with the cluster's address set."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence

from ..model.errors import UsageError
from ..system.process import Child, Reaper, Signals


def find_program(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The file that the driver's first word names.

    Looked up before anything is started: a misspelt driver must not cost the start of a
    cluster.  Raises UsageError.
    """
    program = argv[0]
    found = shutil.which(program, path=env.get("PATH"))
    if found:
        return found
    if os.path.isfile(program):
        raise UsageError(
            f"the driver {program!r} is a file but is not executable.",
            f"Make it executable, or run it by its interpreter: -- python {program}.",
        )
    if "/" in program:
        raise UsageError(
            f"the driver {program!r} does not exist (looked from {os.getcwd()}).",
            "Give a path that exists on the head's node.",
        )
    raise UsageError(
        f"the driver {program!r} was not found in PATH.",
        "Is its environment active? Give the program after `--`, as in: -- python train.py.",
    )


class Driver:
    """A running driver."""

    def __init__(self, child: Child, signals: Signals) -> None:
        self.child = child
        self.started = time.time()
        self._signals = signals

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str], reaper: Reaper, signals: Signals) -> Driver:
        """Start it with this process's stdin, stdout and stderr."""
        program = find_program(argv, env)
        return cls(reaper.spawn([program, *argv[1:]], "driver", env=dict(env)), signals)

    def tell(self, number: int) -> None:
        """Send a signal, unless the driver has had it already.

        scancel and a terminal's Ctrl-C reach the driver by themselves; a second SIGINT
        would make many programs give up their own orderly end.
        """
        if not self._signals.sent_to_all(number):
            self.child.send(number)

    async def stop(self, number: int, grace_s: float) -> int | None:
        """Ask it to end by a signal (unless it has had it) and see that it does; returns its code."""
        asked = self._signals.sent_to_all(number)
        return await self.child.stop(grace_s, ask=0 if asked else number)
