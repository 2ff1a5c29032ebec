"""The keeper: a second, very small process that outlives the supervisor's death.

The supervisor is the parent of everything on a node; if it is killed with SIGKILL it
cannot clean up.  So `raycluster head`, `worker` and `run` fork first of all: the child
becomes the supervisor, and the parent stays as its keeper.  The keeper is a child
subreaper, so whatever the supervisor leaves behind becomes the keeper's, which ends it,
removes the node's directory and writes the node's last word.  If the keeper is killed
instead, the supervisor sees the end of their pipe and ends in order.

Weighed: PR_SET_PDEATHSIG (follows the *thread* that forked, is lost by setuid programs
and by daemons that fork twice), a cgroup of its own (not ours to make under Slurm), and
a watchdog beside the supervisor (which would have to find the orphans by their looks).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NoReturn

from ..model.errors import ExitCode
from ..system.keeper_link import RELAYED, Keeper
from ..system.proctree import become_subreaper, end_descendants_of_this_process, has_terminal


def guard() -> Keeper:  # noqa: RET503  # _keep never returns
    """Fork.  Returns in the child, which goes on as the supervisor; the parent never returns."""
    relay_read, relay_write = os.pipe()
    notes_read, notes_write = os.pipe()
    keeper_pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)
    child = os.fork()
    if child == 0:
        os.close(relay_write)
        os.close(notes_read)
        if os.getppid() != keeper_pid:
            os._exit(int(ExitCode.FAILURE))
        os.set_blocking(relay_read, False)
        if not has_terminal():
            # A signal that both get was then sent to every process, not to one process group.
            os.setpgid(0, 0)
        # Signals stay blocked until the supervisor has its handlers; see process.Signals.
        return Keeper(relay_read, notes_write)
    os.close(relay_read)
    os.close(notes_write)
    _keep(child, relay_write, notes_read)


def _keep(child: int, relay_write: int, notes_read: int) -> NoReturn:
    become_subreaper()
    os.set_blocking(relay_write, False)

    def relay(number: int, _frame: object) -> None:
        try:
            os.write(relay_write, bytes([number]))
        except OSError:
            pass  # the supervisor is gone or floods; either way it has been told

    for number in RELAYED:
        signal.signal(number, relay)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
    _, status = os.waitpid(child, 0)
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    left = end_descendants_of_this_process()
    if killed_by:
        _clear(_read_notes(notes_read), child, killed_by)
    if left:
        names = ", ".join(f"{stat.name} ({stat.pid})" for stat in left[:5])
        print(f"raycluster: could not end {names}: not even SIGKILL ended them.", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + killed_by if killed_by else os.WEXITSTATUS(status))


def _read_notes(fd: int) -> dict[str, str]:
    os.set_blocking(fd, False)
    text = b""
    try:
        while chunk := os.read(fd, 65536):
            text += chunk
    except BlockingIOError:
        pass
    notes: dict[str, str] = {}
    for line in text.splitlines():
        notes.update(json.loads(line))
    return notes


def _clear(notes: dict[str, str], supervisor_pid: int, killed_by: int) -> None:
    """Remove what the killed supervisor left, and say so on the screen and in the record."""
    name = signal.Signals(killed_by).name
    message = (
        f"raycluster on {notes.get('host', 'this node')} (process {supervisor_pid}) was killed by {name}"
    )
    print(f"raycluster: {message}; its processes on this node have been ended.", file=sys.stderr)
    # Imported only now: in a good run the keeper never needs them.
    from .crash_cleanup import record_killed_supervisor

    record_killed_supervisor(notes, message, 128 + killed_by)
