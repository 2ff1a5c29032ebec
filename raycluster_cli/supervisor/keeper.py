"""The keeper: a second, very small process that outlives the supervisor's death.

The supervisor is the parent of everything on a node; if it is killed with SIGKILL it
cannot clean up.  So `raycluster head`, `worker` and `run` fork first of all: the child
becomes the supervisor, and the parent stays as its keeper.  The keeper is a child
subreaper, so whatever the supervisor leaves behind becomes the keeper's, which ends it,
reports to the record what happened and removes the node's directory.  It does the same
when the supervisor exits without having removed the directory (an error in raycluster).
If the keeper is killed instead, the supervisor sees the end of their pipe and exits cleanly.

Weighed: PR_SET_PDEATHSIG (follows the *thread* that forked, is lost by setuid programs
and by daemons that fork twice), a cgroup of its own (not ours to make under Slurm), and
a watchdog beside the supervisor (which would have to find the orphans by their looks).
"""

from __future__ import annotations

import contextlib
import dataclasses  # noqa: F401  # before the fork: the supervisor needs it and then shares its pages
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from ..model.errors import ExitCode
from ..system.heap import give_back
from ..system.keeper_link import RELAYED, Keeper, KeeperNotes
from ..system.module_bundle import forget_code
from ..system.proctree import (
    ProcessRef,
    become_subreaper,
    end_descendants_of_this_process,
    has_terminal,
    has_unreaped_child,
    identify,
    let_go_on,
    read_stat,
    send_signal,
)

if TYPE_CHECKING:
    import socket

#: How long the record may take in which the keeper reports a crash.
RECORD_WAIT_S = 5.0

#: How long the removal of the environment's copy may take (--stage-env).
REMOVE_COPY_S = 60.0

#: How often the keeper looks whether its supervisor is stopped, and how often in a row it must be.
LOOK_S, LOOKS = 10.0, 3

#: In a container, a signal that comes again so soon is the copy of the keeper outside.
HANDED_ON_S = 0.2

#: By these words in its command line a process is raycluster's.
_PROGRAMS = (b"raycluster", b"raycluster_cli")

#: Added to the OOM score of all but the keeper: as if they used a tenth of the memory more than they do.
OOM_SCORE = 100


def guard(  # noqa: RET503  # _keep never returns
    record_wait_s: float = RECORD_WAIT_S, *, held: socket.socket | None = None
) -> Keeper:
    """Fork.  Returns in the child, which goes on as the supervisor; the parent never returns.

    ``held`` stays open in the parent alone: who is connected to it sees the parent's end.
    """
    relay_read, relay_write = os.pipe()
    notes_read, notes_write = os.pipe()
    keeper_pid = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, RELAYED)
    child = os.fork()
    if child == 0:
        os.close(relay_write)
        os.close(notes_read)
        if held is not None:
            held.close()
        if os.getppid() != keeper_pid:
            os._exit(int(ExitCode.FAILURE))
        os.set_blocking(relay_read, False)
        _be_killed_before_the_keeper()
        if not has_terminal():
            # A signal that both get was then sent to every process, not to one process group.
            os.setpgid(0, 0)
        # Signals stay blocked until the supervisor has its handlers; see process.Signals.
        return Keeper(relay_read, notes_write)
    os.close(relay_read)
    os.close(notes_write)
    _keep(child, relay_write, notes_read, record_wait_s)


def _be_killed_before_the_keeper() -> None:
    """Makes the kernel, where memory is short, kill any process of this node rather than the keeper.

    All that this process starts inherits it.  A process may only make itself more likely to be killed.
    """
    path = "/proc/self/oom_score_adj"
    with contextlib.suppress(OSError, ValueError), open(path, "r+", encoding="ascii") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(min(score + OOM_SCORE, 1000)))


def _keep(child: int, relay_write: int, notes_read: int, record_wait_s: float) -> NoReturn:
    forget_code()
    give_back()
    become_subreaper()
    os.set_blocking(relay_write, False)
    supervisor = identify(child)
    in_container = _outer_keeper() is not None
    relayed: dict[int, float] = {}

    def relay(number: int, _frame: object) -> None:
        now = time.monotonic()
        if in_container and now - relayed.get(number, -HANDED_ON_S) < HANDED_ON_S:
            return  # what Slurm sends to all processes is handed on by the keeper outside as well
        relayed[number] = now
        try:
            os.write(relay_write, bytes([number]))
        except BrokenPipeError:
            if supervisor is not None:  # it is a container now, with a keeper of its own; or it has ended
                send_signal(supervisor, number)
        except OSError:
            pass  # its pipe is full of signals that it has not read yet
        if supervisor is not None:  # its id may be another process's once it was collected
            let_go_on(supervisor)

    for number in RELAYED:
        signal.signal(number, relay)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
    code = os.waitstatus_to_exitcode(_status_of(child))
    left = end_descendants_of_this_process()
    notes = _read_notes(notes_read)
    if code < 0 or os.path.isdir(notes.node_root):
        _clear(notes, child, code, record_wait_s)
    if notes.staged or notes.stage_note:
        in_child(lambda: _clear_copy(notes), REMOVE_COPY_S)
    if left:
        names = ", ".join(f"{stat.name} ({stat.pid})" for stat in left[:5])
        _say(f"could not end {names}: not even SIGKILL ended them.")
    sys.stdout.flush()
    _continue_outer_keeper()
    os._exit(128 - code if code < 0 else code)


def _outer_keeper() -> ProcessRef | None:
    """In a container (--container) this keeper's parent is the one outside; None elsewhere."""
    parent = os.getppid()
    with contextlib.suppress(OSError), open(f"/proc/{parent}/cmdline", "rb") as file:
        names = {os.path.basename(word) for word in file.read().split(b"\0")[:3]}
        if not names.isdisjoint(_PROGRAMS):
            return identify(parent)
    return None


def _continue_outer_keeper() -> None:
    """The keeper outside of a container may have been stopped."""
    if (outer := _outer_keeper()) is not None:
        let_go_on(outer)


def _status_of(supervisor: int) -> int:
    """Wait for the supervisor's end; returns its status as os.waitpid gives it.

    One that was stopped (SIGSTOP) and forgotten would never notice that its driver or its Ray has ended, and
    the job would go on until its time limit.  It is continued when a child of its waits to be collected.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    seen = 0
    try:
        while True:
            pid, status = os.waitpid(supervisor, os.WNOHANG)
            if pid:
                return status
            if signal.sigtimedwait({signal.SIGCHLD}, LOOK_S) is not None:
                continue  # it has ended, or was stopped just now
            stat = read_stat(supervisor)
            stopped = stat is not None and stat.state == "T" and has_unreaped_child(supervisor)
            seen = seen + 1 if stopped else 0
            if stat is not None and seen >= LOOKS and let_go_on(stat.ref):
                _say(
                    f"raycluster (process {supervisor}) was stopped (SIGSTOP), and a process that it started "
                    "has ended: it is continued."
                )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _say(text: str) -> None:
    print(f"raycluster: {text}", file=sys.stderr, flush=True)


def _read_notes(fd: int) -> KeeperNotes:
    os.set_blocking(fd, False)
    text = b""
    try:
        while chunk := os.read(fd, 65536):
            text += chunk
    except BlockingIOError:
        pass
    return KeeperNotes.from_known(*map(json.loads, text.splitlines()))


def _clear(notes: KeeperNotes, supervisor_pid: int, code: int, record_wait_s: float) -> None:
    """Report on the screen and in the record what happened, and remove what the supervisor left.

    The record may be on a file server that does not respond.  So a child of this process writes it, and is
    left to itself after ``record_wait_s``.
    """
    message = f"raycluster on {notes.host or 'this node'} (process {supervisor_pid}) "
    if code < 0:
        message += f"was killed by {signal.Signals(-code).name}"
    else:
        message += f"exited with code {code} without clearing up"
    _say(f"{message}; its processes on this node have been ended.")

    def report() -> None:
        # Imported only now: normally the keeper never needs it.
        from .crash_cleanup import report_crash

        report_crash(notes, message, code)

    if notes.record and not in_child(report, record_wait_s):
        _say(f"{notes.record} does not hold all of this: it did not respond within {record_wait_s:g} s.")
    # raycluster's own files may be on that file server, too: this process would hang, and its task not end.
    if not in_child(_import_cleanup, record_wait_s):
        _say(f"{notes.node_root} is left to the next start here: raycluster's modules could not be read.")
        return
    _import_cleanup()(notes)


def _import_cleanup() -> Callable[[KeeperNotes], None]:
    from .crash_cleanup import clear_node

    return clear_node


def _clear_copy(notes: KeeperNotes) -> None:
    from ..staging.removal import clear_copy  # only with --stage-env, and where it may hang

    clear_copy(notes)


def in_child(call: Callable[[], object], wait_s: float) -> bool:
    """Run a call in a child process; False when it did not return in time.

    A process and not a thread: one that hangs in the kernel would keep the keeper from exiting.  It continues
    this process if that was stopped (SIGSTOP) meanwhile: nobody else would, once the supervisor has ended.
    """
    me = identify(os.getpid())
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:
            traceback.print_exc()
        if me is not None:
            let_go_on(me)
        os._exit(0)
    deadline = time.monotonic() + wait_s
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            return False
        time.sleep(0.01)
    return True
