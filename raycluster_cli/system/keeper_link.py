"""The pipes between the keeper and its supervisor; the keeper itself is supervisor.keeper."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, MutableMapping

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


class KeeperNotes(Value):
    """What a keeper has to know of its node to clean up after a crash; each field once it is known.

    The process that clears a node without a keeper (supervisor.orphaned) gets the same.
    """

    host: str = ""
    role: str = ""
    """Value of status.Role."""
    record: str = ""
    """The directory of the cluster's record; empty: there is none."""
    keep_logs: str = ""
    """The value of --keep-logs."""
    step: str = ""
    """The launch of the step whose tasks wait for this head (`raycluster run`)."""
    node_root: str = ""
    """The node's directory."""
    worker_jobs: str = ""
    """How the cluster's worker jobs are cancelled (supervisor.worker_job_ends)."""
    staged: str = ""
    """The directory of the environment's copy (--stage-env)."""
    stage_note: str = ""
    """The head's note to its workers about the copy."""
    keep_env: bool = False
    """The copy stays for the job's next cluster."""

    @property
    def known(self) -> dict[str, object]:
        """The fields that are known, by name.

        >>> KeeperNotes(host="n1").known
        {'host': 'n1'}
        """
        return {name: value for name, value in self.__dict__.items() if value}

    @classmethod
    def from_known(cls, *parts: Mapping[str, object]) -> KeeperNotes:
        """The inverse of :attr:`known`, of several parts together; later ones count.

        >>> KeeperNotes.from_known({"host": "n1"}, {"record": "/r", "of a newer version": 1}).known
        {'host': 'n1', 'record': '/r'}
        """
        return cls().but(
            **{name: value for part in parts for name, value in part.items() if name in cls._fields}
        )


class Keeper(Value):
    """The supervisor's end of the two pipes that it shares with its keeper."""

    relay_fd: int
    """One byte for each signal that the keeper got; end of file when the keeper is gone."""
    notes_fd: int
    """JSON lines: what the keeper must know to clean up when the supervisor is killed (KeeperNotes)."""

    def signals_not_read(self) -> bytes:
        """The signals that the keeper has relayed and that nobody has read yet."""
        try:
            return os.read(self.relay_fd, 64)
        except BlockingIOError:
            return b""

    def note(self, notes: KeeperNotes) -> None:
        """Tell the keeper what is known by now; it adds to what was told before."""
        os.write(self.notes_fd, json.dumps(notes.known).encode() + b"\n")


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
