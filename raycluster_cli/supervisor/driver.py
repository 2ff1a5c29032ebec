"""The driver: the user's program and all that it starts, run beside the head with the cluster's address set.

docs/decisions/0013-signals-and-the-driver.md says who gets which signal, and when.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..model.errors import UsageError
from ..policy.stopping import ENDING
from ..system.process import SETTLE_S, Child, Reaper, Request, Signals
from ..system.proctree import (
    PROC,
    ProcessRef,
    Stat,
    all_stats,
    handles_signal,
    has_terminal,
    identify,
    send_signal,
)
from ..system.programs import find_program, missing_interpreter
from ..system.report import command_text
from ..system.waiting import FIND_S, call_within, set_within

#: In the environment of the driver's processes: which supervisor started it.
MARK = "RAYCLUSTER_DRIVER_OF"

#: In the environment of a driver that was started again: how often.
RESTARTS = "RAYCLUSTER_DRIVER_RESTARTS"

#: How long after SIGKILL the processes may take to end.
KILL_WAIT_S = 5.0

#: In the command line of a process of Python's multiprocessing, which ends by itself just after the driver.
RESOURCE_TRACKER = "multiprocessing.resource_tracker"

#: Between two looks at the processes that are left.
FIRST_POLL_S = 0.01
LAST_POLL_S = 0.1


def find_driver(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The file that the driver's first word names.

    Looked up before anything is started: a misspelt driver must not cost the start of a
    cluster.  Raises UsageError.
    """
    program = argv[0]
    found = find_program(program, env)
    if found and (interpreter := missing_interpreter(found)):
        hint = "Correct the first line of the script, or run it by an interpreter: -- bash SCRIPT."
        if interpreter.endswith("\r"):
            hint = f"It has Windows line endings; remove them: sed -i 's/\\r$//' {shlex.quote(program)}"
        raise UsageError(f"the driver {program!r} needs {interpreter!r}, which does not exist.", hint)
    if found:
        return found
    if os.path.isfile(program):
        raise UsageError(
            f"the driver {program!r} is a file but is not executable.",
            f"Make it executable, or run it by its interpreter: -- python {program}.",
        )
    if "/" in program and os.path.isdir(program):
        raise UsageError(
            f"the driver {program!r} is a directory.",
            "Give the program after `--`, as in: -- python train.py.",
        )
    words = program.split()
    if len(words) > 1 and find_program(words[0], env):
        raise UsageError(
            f"the driver {program!r} was not found: it is one word, with a space in it.",
            f"Give program and arguments as words of their own: -- {program}.",
        )
    if "/" in program:
        raise UsageError(
            f"the driver {program!r} does not exist (looked from {os.getcwd()}).",
            "Give a path that exists on the head's node.",
        )
    if "PATH" not in env or env.get("SLURM_EXPORT_ENV", "").upper().startswith("NONE"):
        raise UsageError(
            f"the driver {program!r} was not found: this step did not get the batch script's environment "
            "(SLURM_EXPORT_ENV=NONE, by sbatch --export=NONE or the site's SBATCH_EXPORT).",
            "Start raycluster by `srun --export=ALL`.",
        )
    raise UsageError(
        f"the driver {program!r} was not found in PATH.",
        "Is its environment active? Give the program after `--`, as in: -- python train.py.",
    )


def uv_note(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """What a user of `uv run` must know about worker processes; empty for other drivers.

    >>> uv_note(["uv", "run", "train.py"], {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"})
    ''
    """
    if (
        os.path.basename(argv[0]) != "uv"
        or "run" not in argv
        or env.get("RAY_ENABLE_UV_RUN_RUNTIME_ENV") != "0"
    ):
        return ""
    return (
        "the driver runs in the environment of `uv run`, Ray's tasks and actors in that of raycluster "
        f"({sys.prefix}). RAY_ENABLE_UV_RUN_RUNTIME_ENV=1 makes Ray start each worker process by `uv run`, "
        "which needs a package index or a full cache of uv on every node."
    )


def left_running_warning(commands: Sequence[str]) -> str:
    """What a user must know of programs that the driver's command has left running, by their command lines.

    >>> left_running_warning(["sleep 300", "true"]).partition(". ")[0]
    "the driver's command has ended, but 2 programs that it started still ran: sleep 300 and 1 more"
    """
    if len(commands) == 1:
        what, it, is_ended = f"a program that it started still ran: {commands[0]}", "it", "It is"
    else:
        what = (
            f"{len(commands)} programs that it started still ran: {commands[0]} and {len(commands) - 1} more"
        )
        it, is_ended = "them", "They are"
    return (
        f"the driver's command has ended, but {what}. {is_ended} ended with the cluster. For the cluster "
        f"to wait for {it}, start {it} in the foreground, or end the script with `wait`."
    )


def with_restarts(env: Mapping[str, str], restarts: int) -> dict[str, str]:
    """The environment of a driver that was started again ``restarts`` times; 0: without the variable.

    A value that is there is that of --driver-restarts, whose variable has the same name.

    >>> with_restarts({"RAYCLUSTER_DRIVER_RESTARTS": "3"}, 0)
    {}
    >>> with_restarts({"RAYCLUSTER_DRIVER_RESTARTS": "3"}, 1)
    {'RAYCLUSTER_DRIVER_RESTARTS': '1'}
    """
    others = {name: value for name, value in env.items() if name != RESTARTS}
    return {**others, RESTARTS: str(restarts)} if restarts else others


async def find_driver_within(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    timeout_s: float = FIND_S,
    find: Callable[[Sequence[str], Mapping[str, str]], str] = find_driver,
) -> str:
    """:func:`find_driver` off the event loop.  Raises UsageError also when a file system does not respond."""
    try:
        return await call_within(timeout_s, find, argv, env)
    except asyncio.TimeoutError:
        raise UsageError(
            f"the driver {argv[0]!r} was not found within {timeout_s:g} s: a file system does not respond.",
            "`ls` of its directory and of those in PATH shows which one.",
        ) from None


class Driver:
    """A running driver: its process, and every process that it started.

    Without a controlling terminal the driver gets a session of its own: ``kill 0`` in a driver's script then
    ends the script's programs and not the cluster.  With one it stays in the terminal's foreground group, so
    that it can read from the terminal and gets Ctrl-C.

    What has left the group, the session or the tree is still found: the supervisor is a child subreaper, so
    an orphan of the driver becomes the supervisor's child.  It differs from Ray's daemons by its session, by
    the mark in its environment, or because it was seen below the driver before.
    """

    def __init__(self, child: Child, signals: Signals, *, mark: str = "", own_session: bool = False) -> None:
        self.child = child
        self.started = time.time()
        self.on_left_running: Callable[[Sequence[str]], None] = lambda commands: None
        """Called with the command lines of what still runs after the driver has ended with code 0."""
        self._signals = signals
        self._since = signals.clock()
        self._mark = f"{MARK}={mark}".encode() if mark else b""
        self._own_session = own_session
        self._seen: set[ProcessRef] = set()
        self._end: asyncio.Task[None] | None = None
        self._told_last = 0
        self._kill_at = 0.0
        self._sooner = asyncio.Event()
        """Set when the time at which the driver is killed has changed."""

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        reaper: Reaper,
        signals: Signals,
        *,
        own_session: bool | None = None,
    ) -> Driver:
        """Start it with this process's stdin, stdout and stderr.  Raises OSError.

        ``argv`` begins with the file that :func:`find_driver` has found.
        ``own_session``: None for what the class's docstring says.
        """
        if own_session is None:
            own_session = not has_terminal()
        me = identify(os.getpid())
        mark = f"{me.pid}-{me.start_ticks}" if me else os.urandom(8).hex()
        child = reaper.spawn(argv, "driver", env={**env, MARK: mark}, start_new_session=own_session)
        return cls(child, signals, mark=mark, own_session=own_session)

    # -- its processes ---------------------------------------------------------------------------

    def processes(self) -> list[Stat]:
        """All of its processes that run now, parents first."""
        below: dict[int, list[Stat]] = {}
        for stat in all_stats():
            below.setdefault(stat.parent, []).append(stat)
        todo = [stat for stat in below.get(os.getpid(), ()) if self._is_own(stat)]
        found = []
        while todo:
            stat = todo.pop(0)
            todo += below.get(stat.pid, ())
            if stat.state not in "ZX":
                found.append(stat)
        self._seen.update(stat.ref for stat in found)
        return found

    def _is_own(self, stat: Stat) -> bool:
        """Whether a child of this process is the driver, or an orphan of it."""
        if stat.ref == self.child.ref or stat.ref in self._seen:
            return True
        if self._own_session and stat.session == self.child.pid:
            return True
        return bool(self._mark) and self._mark in _environment_of(stat.pid)

    # -- signals ---------------------------------------------------------------------------------

    def tell(self, number: int) -> None:
        """Send a signal to all of its processes, but not to those that have got it already.

        scancel and a terminal's Ctrl-C can reach the driver directly; a second SIGINT would make many
        programs break off their own clean end.  Whether a signal did reach it is known a moment
        after it came (Signals.undecided_s): until then nothing is sent.

        A signal that does not ask for the end (SIGUSR1, SIGQUIT) goes to those processes that handle it: it
        kills all others, such as the shell that runs the program.  When none does it goes to the driver's own
        process, as Slurm would send it.
        """
        request = self._signals.latest(number, self._since)
        wait_s = self._signals.undecided_s(request) if request else 0.0
        if wait_s:
            asyncio.get_running_loop().call_later(wait_s, self._send, number, request)
        else:
            self._send(number, request)

    def _send(self, number: int, request: Request | None) -> None:
        reached_group = 0
        if request is not None and request.to_both:
            if self._own_session:  # this process has a group of its own too: all of the step got it
                return
            reached_group = os.getpgrp()
        began_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        told: set[ProcessRef] = set()
        for _ in range(2):  # once more for what was forked meanwhile
            found = [stat for stat in self.processes() if stat.start_ticks <= began_ticks]
            if number not in ENDING:
                found = [stat for stat in found if handles_signal(stat.pid, number)] or [
                    stat for stat in found if stat.ref == self.child.ref
                ]
            for stat in found:
                if stat.ref not in told and stat.group != reached_group:
                    told.add(stat.ref)
                    send_signal(stat.ref, number)

    # -- the end ---------------------------------------------------------------------------------

    async def stop(self, number: int, grace_s: float) -> int | None:
        """Tell all of its processes to end, give the last of them ``grace_s`` seconds, and kill what is left.

        Returns the code of the driver's own process, or None when not even SIGKILL ended it.

        When the caller is cancelled the end goes on.  A later call joins it, with the shorter grace of the
        two, and sends its signal only if that is another one.
        """
        if self._end is not None and not self._end.done():
            if number != self._told_last:
                self._told_last = number
                self.tell(number)
            return await self._join(min(self._kill_at, self._now() + grace_s))
        if self.child.running or self.processes():
            self._told_last = number
            self.tell(number)
            self._kill_at = self._now() + grace_s
            self._end = asyncio.ensure_future(self._see_end())
            return await self._join(self._kill_at)
        return self._code()

    async def stop_left_running(self, grace_s: float) -> int | None:
        """After the driver's own process has ended: SIGTERM and the grace for programs that it left running.

        Returns as :meth:`stop`; at once when there are none.
        """
        if self.processes():
            # A signal to the whole step that has ended the driver may not have been handled here yet.
            await set_within(self._sooner, SETTLE_S)
            self._tell_of_left_running()
            return await self.stop(signal.SIGTERM, grace_s)
        return self._code()

    def _tell_of_left_running(self) -> None:
        if self._code() or any(self._signals.latest(number, self._since) for number in ENDING):
            return  # the driver has failed, or they were told to end as it was
        lines = [_command_line(stat.pid) for stat in self.processes()]
        if commands := [line for line in lines if line and RESOURCE_TRACKER not in line]:
            self.on_left_running(commands)

    async def kill(self) -> int | None:
        """Kill all of its processes now.  Returns as :meth:`stop`, which returns too if it was waiting."""
        if self._end is None or self._end.done():
            self._end = asyncio.ensure_future(self._see_end())
        return await self._join(self._now())

    async def _join(self, kill_at: float) -> int | None:
        self._kill_at = kill_at
        self._sooner.set()
        assert self._end is not None
        await asyncio.shield(self._end)
        return self._code()

    async def _see_end(self) -> None:
        """Wait for the last process, kill from ``_kill_at`` on, and give up KILL_WAIT_S later."""
        poll_s = FIRST_POLL_S
        while True:
            self._sooner.clear()
            left_s = self._kill_at - self._now()
            if left_s <= -KILL_WAIT_S:
                return
            if self.child.running and left_s > 0:
                await self._wait_for_child(left_s)
                continue
            left = self.processes()
            if not left and not self.child.running:
                return
            if left_s <= 0:
                poll_s = FIRST_POLL_S
                for stat in left:
                    send_signal(stat.ref, signal.SIGKILL)
            await set_within(self._sooner, poll_s)
            poll_s = min(poll_s * 2, LAST_POLL_S)

    async def _wait_for_child(self, wait_s: float) -> None:
        """Until the driver's own process has ended, the time is over, or the time to kill has changed."""
        sooner = asyncio.ensure_future(self._sooner.wait())
        try:
            both: set[asyncio.Future[Any]] = {self.child.exited, sooner}
            await asyncio.wait(both, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sooner.cancel()

    def _code(self) -> int | None:
        return self.child.exited.result() if self.child.exited.done() else None

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _environment_of(pid: int) -> list[bytes]:
    """NAME=VALUE as the process was started with; empty when it cannot be read."""
    try:
        return (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _command_line(pid: int) -> str:
    """As `ps` shows it; empty when it cannot be read."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return command_text(words[:-1]) if words[:-1] else ""
