"""The pipes between the keeper and its supervisor; the keeper itself is supervisor.keeper."""

from __future__ import annotations

import json
import os
import signal

from ..model.value import Value

#: Signals that reach the keeper and are told to the supervisor.
RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Keeper(Value):
    """The supervisor's end of the two pipes that it shares with its keeper."""

    relay_fd: int
    """One byte for each signal that the keeper got; end of file when the keeper is gone."""
    notes_fd: int
    """JSON lines: what the keeper must clear when the supervisor is killed."""

    def note(self, **facts: object) -> None:
        """Tell the keeper what to clear; later lines add to earlier ones."""
        os.write(self.notes_fd, json.dumps(facts).encode() + b"\n")
