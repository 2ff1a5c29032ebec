"""The pipes between the keeper and its supervisor; the keeper itself is supervisor.keeper."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import MutableMapping

from ..model.value import Value

#: Signals that mean nothing to raycluster and Ray, and may mean something to the driver: sbatch's `--signal`
#: and `scancel --signal` may name any of them, and SIGQUIT is Ctrl-\\ in a terminal.
FOR_THE_DRIVER = (
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT),
    *(signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGXCPU),
)

#: Those that Ray's daemons, and with them worker processes, ignore.  Timers keep their default action there:
#: programs in tasks rely on it.
IGNORED_BY_RAY = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGXCPU)

#: Signals that reach the keeper and are told to the supervisor.
RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *FOR_THE_DRIVER)


class Keeper(Value):
    """The supervisor's end of the two pipes that it shares with its keeper."""

    relay_fd: int
    """One byte for each signal that the keeper got; end of file when the keeper is gone."""
    notes_fd: int
    """JSON lines: what the keeper must clear when the supervisor is killed."""

    def note(self, **facts: object) -> None:
        """Tell the keeper what to clear; later lines add to earlier ones."""
        os.write(self.notes_fd, json.dumps(facts).encode() + b"\n")


#: The variable by which a supervisor hands over to one that runs from a copy of the environment (staging).
HANDED_OVER = "RAYCLUSTER_HANDED_OVER"


class Handover(Value):
    """What the second supervisor, the same process, has from the first."""

    pid: int
    relay_fd: int
    notes_fd: int
    lock_fd: int
    """Keeps the copy from being removed, as long as it is open."""
    copy: str
    """The directory of the copy."""

    def as_text(self) -> str:
        """One word for each, the directory last."""
        return f"{self.pid} {self.relay_fd} {self.notes_fd} {self.lock_fd} {self.copy}"

    @classmethod
    def taken(cls, env: MutableMapping[str, str]) -> Handover | None:
        """What this process was handed over, if anything; taken out of ``env``."""
        words = env.pop(HANDED_OVER, "").split(" ", 4)
        if words[0] != str(os.getpid()) or len(words) != 5:
            return None  # left by a parent
        pid, relay, notes, lock = map(int, words[:4])
        found = cls(pid, relay, notes, lock, words[4])
        for fd in (found.relay_fd, found.notes_fd, found.lock_fd):
            os.set_inheritable(fd, False)
        return found

    @property
    def keeper(self) -> Keeper:
        return Keeper(self.relay_fd, self.notes_fd)
