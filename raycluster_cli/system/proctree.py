"""Processes as /proc shows them: identity, parents, state, and the end of a whole tree.

A process is identified by its process id *and* its start time, so that an id which the kernel has reused is
never signalled.  Nothing here uses asyncio or psutil: the keeper, which has to stay small, needs only this
module.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..model.value import Value

PROC = Path("/proc")

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>, since Linux 3.4


class ProcessRef(Value):
    """A process: its id, and its start in clock ticks since boot (/proc/PID/stat, field 22)."""

    pid: int
    start_ticks: int


class Stat(Value):
    """The fields of /proc/PID/stat that this module uses."""

    pid: int
    name: str
    state: str
    parent: int
    start_ticks: int
    group: int = 0
    """Process group."""
    session: int = 0
    terminal: int = 0
    """Device number of the controlling terminal; 0 without one."""

    @property
    def ref(self) -> ProcessRef:
        return ProcessRef(self.pid, self.start_ticks)


def parse_stat(text: str) -> Stat:
    """Read the line of /proc/PID/stat; the name can contain spaces and parentheses.

    >>> parse_stat("7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 991 0 0").start_ticks
    991
    """
    pid, _, rest = text.partition(" (")
    name, _, rest = rest.rpartition(") ")
    parts = rest.split()
    parent, group, session, terminal = map(int, parts[1:5])
    return Stat(int(pid), name, parts[0], parent, int(parts[19]), group, session, terminal)


def read_stat(pid: int) -> Stat | None:
    """The stat of a process; None when there is no such process."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError, IndexError):
        return None


def identify(pid: int) -> ProcessRef | None:
    """The identity of the process that has this id now; None when there is none."""
    stat = read_stat(pid)
    return stat.ref if stat else None


def is_running(ref: ProcessRef) -> bool:
    """Whether exactly this process runs.  A zombie does not."""
    stat = read_stat(ref.pid)
    return stat is not None and stat.start_ticks == ref.start_ticks and stat.state not in "ZX"


def has_terminal() -> bool:
    """Whether this process has a controlling terminal: Ctrl-C then signals the whole foreground group."""
    stat = read_stat(os.getpid())
    return stat is not None and stat.terminal != 0


def handles_signal(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, or blocks it to wait for it (SigCgt, SigBlk: proc(5))."""
    try:
        text = (PROC / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in text.splitlines() if line.startswith(("SigCgt", "SigBlk"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def kernel_identity() -> dict[str, str]:
    """``boot_id`` and ``pid_namespace``: where both are equal, a ProcessRef means the same process.

    The texts are only for comparison; they are empty when they cannot be read.
    """
    found = {"boot_id": "", "pid_namespace": ""}
    with contextlib.suppress(OSError):
        found["boot_id"] = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        found["pid_namespace"] = os.readlink(PROC / "self/ns/pid")
    return found


def send_signal(ref: ProcessRef, number: int) -> bool:
    """Signal exactly this process; False when it has ended or cannot be signalled."""
    if not is_running(ref):
        return False
    try:
        os.kill(ref.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def let_go_on(ref: ProcessRef) -> bool:
    """Continue exactly this process; False when it is not stopped (SIGSTOP), or cannot be signalled.

    One that a debugger holds (state t) is left alone.
    """
    stat = read_stat(ref.pid)
    return stat is not None and stat.ref == ref and stat.state == "T" and send_signal(ref, signal.SIGCONT)


def tree_of(root: ProcessRef) -> Iterator[Stat]:
    """A process, its children and their children; not those that have ended.

    It costs some reads, however many processes the host has.  Only the children of main threads are found,
    and none where the kernel has no /proc/PID/task/TID/children.
    """
    todo = [root]
    while todo:
        ref = todo.pop()
        stat = read_stat(ref.pid)
        if stat is None or stat.ref != ref or stat.state in "ZX":
            continue  # another process may have its id by now
        yield stat
        with contextlib.suppress(OSError):
            children = (PROC / f"{ref.pid}/task/{ref.pid}/children").read_text().split()
            todo += [child for each in children if (child := identify(int(each))) is not None]


def let_tree_go_on(root: ProcessRef) -> list[int]:
    """Continue what is stopped of a process, its children and their children; returns the ids of those."""
    return [stat.pid for stat in tree_of(root) if let_go_on(stat.ref)]


def has_unreaped_child(pid: int) -> bool:
    """Whether a child of this process has ended and was not collected."""
    return any(stat.parent == pid and stat.state == "Z" for stat in all_stats())


def all_stats() -> Iterator[Stat]:
    """All processes that /proc shows."""
    for entry in os.listdir(PROC):
        if entry.isdigit() and (stat := read_stat(int(entry))):
            yield stat


def descendants(root: int, skip: Iterable[int] = ()) -> list[Stat]:
    """All running descendants of ``root``, parents first, without those in ``skip`` and their descendants."""
    below: dict[int, list[Stat]] = {}
    for stat in all_stats():
        below.setdefault(stat.parent, []).append(stat)
    skipped = set(skip)
    found: list[Stat] = []
    todo = [root]
    while todo:
        for stat in below.get(todo.pop(), []):
            if stat.pid not in skipped:
                todo.append(stat.pid)
                if stat.state not in "ZX":
                    found.append(stat)
    return found


def become_subreaper() -> None:
    """Make this process the parent of its orphaned descendants (prctl(2), PR_SET_CHILD_SUBREAPER).

    With this, exactly the processes that it started can be ended: a daemon that forks twice and starts its
    own session is still a descendant.  Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")


class TreeEnd:
    """Ends all descendants of a process, step by step: SIGTERM once, then SIGKILL.

    Each :meth:`step` looks for processes again, so that one that forks meanwhile is ended too.  Keeper and
    supervisor wait between the steps in their own ways.
    """

    def __init__(
        self,
        root: int,
        *,
        grace_s: float,
        kill_wait_s: float = 5.0,
        skip: Iterable[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._skip = tuple(skip)
        self._clock = clock
        self._kill_at = clock() + grace_s
        self._give_up_at = self._kill_at + kill_wait_s
        self._told: set[ProcessRef] = set()
        self.left: list[Stat] = []
        """What still runs; at the end, what SIGKILL did not end, as in a call on a hung file system."""

    def step(self) -> bool:
        """Signal what runs.  True when nothing is left, or the time has passed."""
        self.left = descendants(self._root, self._skip)
        now = self._clock()
        if not self.left or now > self._give_up_at:
            return True
        for stat in self.left:
            if now >= self._kill_at:
                send_signal(stat.ref, signal.SIGKILL)
            elif stat.ref not in self._told:
                self._told.add(stat.ref)
                send_signal(stat.ref, signal.SIGTERM)
        return False


def end_descendants_of_this_process(grace_s: float = 0.5) -> list[Stat]:
    """End all descendants of this process and reap them; for the keeper, which has no event loop."""
    end = TreeEnd(os.getpid(), grace_s=grace_s)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if end.step():
            return end.left
        time.sleep(0.01)
