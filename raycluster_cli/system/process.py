"""Children of the supervisor: spawned, watched, ended; and the signals it gets, recorded.

The supervisor is a child subreaper: besides the children that it spawns, it becomes the
parent of Ray's daemons (their starter exits) and of every orphan below them.  asyncio's
own child watchers wait for single processes and would leave those as zombies, so one
:class:`Reaper` collects every child on SIGCHLD, and nothing here uses asyncio's
subprocesses.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import IO, Any

from ..model.dataclass import dataclass
from .keeper_link import FOR_THE_DRIVER, RELAYED, Keeper
from .proctree import ProcessRef, Stat, TreeEnd, identify, send_signal
from .waiting import done_within


def code_of(status: int) -> int:
    """A wait status as subprocess gives it: the exit code, or minus the signal's number."""
    return os.waitstatus_to_exitcode(status)


def _ref_of(pid: int) -> ProcessRef:
    """The process that has this number now; one that has ended already is never running."""
    return identify(pid) or ProcessRef(pid, -1)


#: Orphans whose codes are kept for somebody who asks later; those that nobody asks for must not pile up.
REMEMBERED = 1000


class Reaper:
    """Collects every child that ends and tells who waits for it."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._strangers: dict[int, int] = {}
        self._popen: dict[int, subprocess.Popen[bytes]] = {}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Collect on every SIGCHLD of this loop's process."""
        loop.add_signal_handler(signal.SIGCHLD, self.collect)

    def collect(self) -> None:
        """Collect all children that have ended by now."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = code_of(status)
            if popen := self._popen.pop(pid, None):
                popen.returncode = code  # so that Popen never waits for it by itself
            future = self._waiting.pop(pid, None)
            if future is None:
                self._strangers[pid] = code
                while len(self._strangers) > REMEMBERED:
                    del self._strangers[next(iter(self._strangers))]  # the oldest
            elif not future.done():
                future.set_result(code)

    def expect(self, pid: int) -> asyncio.Future[int]:
        """A future of the return code of a child: one that we spawned or that became ours."""
        if pid in self._waiting:
            return self._waiting[pid]
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if pid in self._strangers:
            future.set_result(self._strangers.pop(pid))
        else:
            self._waiting[pid] = future
        return future

    def spawn(self, argv: Sequence[str], name: str, **popen: Any) -> Child:
        """Start a child.  Raises OSError (FileNotFoundError, PermissionError) as Popen does."""
        process = subprocess.Popen(list(argv), **popen)
        # An orphan of ours may have had this number before; the new process cannot have been collected yet.
        self._strangers.pop(process.pid, None)
        self._popen[process.pid] = process
        return Child(name, _ref_of(process.pid), self.expect(process.pid), process.stdin, process.stdout)

    def take(self, pid: int, name: str, stdin: int, stdout: int) -> Child:
        """Watch a child that this process spawned before the reaper was there, by its pipes' descriptors."""
        child = Child(
            name, _ref_of(pid), self.expect(pid), os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)
        )
        self.collect()  # it may have ended before anybody listened for SIGCHLD
        return child

    def adopt(self, name: str, pid: int) -> Child:
        """Watch a process that has become, or is about to become, our child."""
        return Child(name, _ref_of(pid), self.expect(pid))


@dataclass
class Child:
    """A process that this supervisor is the parent of."""

    name: str
    ref: ProcessRef
    exited: asyncio.Future[int]
    """Return code as subprocess gives it: negative for a death by signal."""
    stdin: IO[bytes] | None = None
    stdout: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        return self.ref.pid

    @property
    def running(self) -> bool:
        return not self.exited.done()

    def send(self, number: int) -> bool:
        """Send a signal; False when it has ended."""
        return self.running and send_signal(self.ref, number)

    async def stop(
        self, grace_s: float, *, ask: int = signal.SIGTERM, kill_wait_s: float = 5.0
    ) -> int | None:
        """A signal that asks (0: it has been asked), wait, SIGKILL, wait.

        Returns its code, or None when not even SIGKILL ended it.
        """
        for number, wait_s in ((ask, grace_s), (signal.SIGKILL, kill_wait_s)):
            if wait_s > 0 or number == signal.SIGKILL:
                if number:
                    self.send(number)
                if await done_within(self.exited, wait_s):
                    return self.exited.result()
        return None


async def end_tree(
    root: int, *, skip: Sequence[int] = (), grace_s: float = 0.5, poll_s: float = 0.01
) -> list[Stat]:
    """End every process below ``root`` but those in ``skip``; returns what could not be ended."""
    end = TreeEnd(root, grace_s=grace_s, skip=skip)
    while not end.step():
        await asyncio.sleep(poll_s)
    return end.left


#: A signal that comes again so soon is the same request: at the time limit and at preemption Slurm sends
#: SIGTERM twice within milliseconds, once for the step and once for the job (seen on 22.05).
SAME_REQUEST_S: dict[int, float] = {signal.SIGTERM: 2.0, **dict.fromkeys(FOR_THE_DRIVER, 0.2)}

#: What keeper and supervisor get within this time belongs to one request.
PAIR_S = 1.0

#: How many requests are remembered.
REQUESTS_KEPT = 16

#: A request that only the keeper has got for this long was sent to it alone: Slurm signals it last, so
#: this process has its copy by then.  One that only this process has got waits for PAIR_S: on a busy machine
#: slurmstepd, which looks through /proc for each process, comes to the keeper late.
SETTLE_S = 0.2


@dataclass
class Request:
    """One signal that somebody sent: to the keeper, to this process, or to both."""

    number: int
    at: float
    """By the clock of :class:`Signals`."""
    direct: bool = False
    """This process got it."""
    relayed: bool = False
    """The keeper got it."""

    @property
    def to_both(self) -> bool:
        """Sent by Slurm to every process of the step, or by a terminal to its foreground group."""
        return self.direct and self.relayed


@dataclass
class Signals:
    """The signals that this process, or its keeper, got.  Handlers only record.

    Slurm signals every process of a step (proctrack/linuxproc) or the keeper alone (proctrack/cgroup), a
    terminal the foreground group, `kill` the keeper, whose process id the shell knows.  What both got is
    one request.
    """

    direct: dict[int, int] = field(default_factory=dict)
    relayed: dict[int, int] = field(default_factory=dict)
    keeper_gone: bool = False
    _listeners: list[Callable[[int, int], None]] = field(default_factory=list)
    _counts: dict[int, int] = field(default_factory=dict)
    _requests: list[Request] = field(default_factory=list)
    _last: dict[tuple[str, int], float] = field(default_factory=dict)
    kept: bool = False
    """There is a keeper, which gets signals too."""
    clock: Callable[[], float] = time.monotonic

    def got(self, number: int) -> bool:
        """Whether this process or its keeper got a signal."""
        return number in self.direct or number in self.relayed

    def attach(self, loop: asyncio.AbstractEventLoop, keeper: Keeper | None) -> None:
        """Record from now on; signals that came before (blocked by the keeper) arrive now."""
        for number in RELAYED:
            loop.add_signal_handler(number, self.record, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, RELAYED)
        if keeper is not None:
            self.kept = True
            loop.add_reader(keeper.relay_fd, self._read, loop, keeper.relay_fd)

    def _read(self, loop: asyncio.AbstractEventLoop, fd: int) -> None:
        numbers = os.read(fd, 64)
        if not numbers:
            loop.remove_reader(fd)
            self.keeper_gone = True
            self.record(signal.SIGTERM, relayed=True)
        for number in numbers:
            self.record(number, relayed=True)

    def record(self, number: int, relayed: bool = False) -> None:
        """This process got a signal, or the keeper did and relayed it."""
        now, side = self.clock(), "relayed" if relayed else "direct"
        if now - self._last.get((side, number), -math.inf) < SAME_REQUEST_S.get(number, 0.0):
            return
        self._last[side, number] = now
        log = self.relayed if relayed else self.direct
        log[number] = log.get(number, 0) + 1
        for request in self._requests:  # the oldest first
            if request.number == number and not getattr(request, side) and now - request.at <= PAIR_S:
                setattr(request, side, True)
                return
        request = Request(number, now)
        setattr(request, side, True)
        self._requests = [*self._requests[-REQUESTS_KEPT:], request]
        count = self._counts[number] = self.count(number) + 1
        for listener in self._listeners:
            listener(number, count)

    def count(self, number: int) -> int:
        """How often this signal was sent to us."""
        return self._counts.get(number, 0)

    def listen(self, listener: Callable[[int, int], None]) -> None:
        """Call ``listener(number, count)`` on each signal, also for those that have come already."""
        self._listeners.append(listener)
        for number, count in list(self._counts.items()):
            listener(number, count)

    def latest(self, number: int, since: float) -> Request | None:
        """The latest request of this number, if it came after ``since`` (by the clock)."""
        found = [one for one in self._requests if one.number == number and one.at >= since]
        return found[-1] if found else None

    def undecided_s(self, request: Request) -> float:
        """For how long it is not known yet whether both got it; 0.0 when it is."""
        if request.to_both or not self.kept or self.keeper_gone:
            return 0.0
        known_after_s = PAIR_S if request.direct else SETTLE_S
        return max(0.0, request.at + known_after_s - self.clock())
