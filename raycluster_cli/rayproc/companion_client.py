"""The supervisor's side of the companion: spawn it, send it commands, end it.  Imports no Ray.

Every wait has a deadline, also for a companion that is stopped and reads nothing.  At the deadline of a start
everything that the start had begun is killed, the companion included, and the next start spawns a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from ..model.unmet_demand import UnmetDemand
from ..system.proctree import ProcessRef
from ..system.waiting import done_within
from .boot import companion_command
from .failure import StartFailure
from .plan import NodePlan
from .protocol import ONGOING, Event, Lines, encode
from .started import Started


class CompanionChild(Protocol):
    """What the client needs of a spawned child (process.Child is one)."""

    ref: ProcessRef

    @property
    def pid(self) -> int: ...
    @property
    def exited(self) -> asyncio.Future[int]: ...
    @property
    def stdin(self) -> IO[bytes] | None: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...


#: How long a killed companion may take to end; one in a hung system call never does.
KILL_WAIT_S = 5.0

#: What the answer to `clear` may take beside the work itself: the connection to the GCS.
CLEAR_ANSWER_S = 15.0

Spawn = Callable[..., CompanionChild]
"""As process.Reaper.spawn: spawn(argv, name, **arguments of Popen)."""


class CompanionClient:
    """One companion process and the conversation with it."""

    def __init__(self, child: CompanionChild) -> None:
        assert child.stdin is not None and child.stdout is not None
        self.child = child
        self.spawned: dict[str, int] = {}
        """Every process that its starts have spawned so far, by name; the newest of a name."""
        self.nodes: dict[str, Event] = {}
        """The nodes of the watched cluster, by id."""
        self._commands: int | None = child.stdin.fileno()
        self._unsent = bytearray()
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self.cluster: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        """Of a head's first start: {session, cluster_id}, known when its raylet is spawned."""
        self._early: tuple[Path, int] | None = None
        self._starting: dict[int, int] = {}
        """Process (and process group) of each start that is under way, by request."""
        self._listeners: list[Callable[[Event], None]] = []
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Event] = self._loop.create_future()
        self._lines = Lines()
        self._fd = child.stdout.fileno()
        os.set_blocking(self._fd, False)
        os.set_blocking(child.stdin.fileno(), False)
        self._loop.add_reader(self._fd, self._read)

    @classmethod
    def spawn(
        cls,
        spawn: Spawn,
        env: Mapping[str, str],
        *,
        python: str = sys.executable,
        stderr: int | IO[bytes] = subprocess.DEVNULL,
    ) -> CompanionClient:
        """Start a companion; it begins to import Ray at once.  Raises OSError.

        ``stderr``: a file for what Ray prints while it is imported (never the terminal).
        """
        child = spawn(
            companion_command(python),
            "companion",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,  # the supervisor alone decides what a Ctrl-C in the terminal means
        )
        return cls(child)

    # -- commands and events

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call with every event, answers included."""
        self._listeners.append(listener)

    def log_to(self, path: Path, so_far: int) -> None:
        """Send what the companion prints to a file, after what it has printed so far (a descriptor).

        It obeys only when Ray is imported; if it ends before that, :meth:`ready` writes what it printed.
        """
        self._early = (path, so_far)
        self._send({"do": "log", "path": str(path)})

    def _end_early_log(self, *, write: bool) -> None:
        if self._early is not None:
            (path, fd), self._early = self._early, None
            if write and (printed := os.pread(fd, 1 << 20, 0)):
                with contextlib.suppress(OSError), open(path, "ab", opener=_private) as file:
                    file.write(printed)
            os.close(fd)

    def _send(self, command: Mapping[str, Any]) -> None:
        """Send a command; what the pipe does not take at once goes as soon as the companion reads."""
        waits = bool(self._unsent)
        self._unsent += encode(command)
        if not waits:
            self._send_rest()

    def _send_rest(self) -> None:
        if self._commands is None:
            return
        try:
            del self._unsent[: os.write(self._commands, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:  # it has ended: `_closed` answers every request
            self._unsent.clear()
        if self._unsent:
            self._loop.add_writer(self._commands, self._send_rest)
        else:
            self._loop.remove_writer(self._commands)

    async def ready(self, timeout_s: float) -> Event:
        """Wait until Ray is imported: {ray_version, python_version, import_s}.  Raises StartFailure."""
        try:
            event = await self._within(self._ready, timeout_s, "importing Ray")
        except StartFailure:
            self._end_early_log(write=True)
            raise
        self._end_early_log(write=False)
        return event

    async def request(self, do: str, timeout_s: float, **fields: Any) -> Event:
        """Send a command and wait for its answer.  Raises StartFailure: failed, timed out, ended."""
        return await self._answer(*self._ask(do, fields), timeout_s, do)

    def _ask(self, do: str, fields: Mapping[str, Any]) -> tuple[int, asyncio.Future[Event]]:
        number = next(self._ids)
        future: asyncio.Future[Event] = self._loop.create_future()
        if self.child.exited.done() or self._fd < 0:
            raise StartFailure("ray", "The companion has ended.")
        self._waiting[number] = future
        self._send({"do": do, "id": number, **fields})
        return number, future

    async def _answer(self, number: int, future: asyncio.Future[Event], timeout_s: float, what: str) -> Event:
        try:
            return await self._within(future, timeout_s, what)
        finally:
            self._waiting.pop(number, None)

    @staticmethod
    async def _within(future: asyncio.Future[Event], timeout_s: float, what: str) -> Event:
        if not await done_within(future, timeout_s):
            raise StartFailure("timed out", f"No answer within {timeout_s:g} s: {what}.")
        event = future.result()
        if event["event"] == "failed":
            raise StartFailure(event["kind"], event["message"], event.get("log", ""))
        return event

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 1 << 20)
        except BlockingIOError:
            return
        if not data:
            self._closed()
            return
        for event in self._lines.feed(data):
            self._take(event)

    def _closed(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        gone = {"event": "failed", "kind": "ray", "message": "The companion ended."}
        for future in (*self._waiting.values(), self._ready):
            if not future.done():
                future.set_result(gone)

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "starting":
            self._starting[event["id"]] = event["pid"]
        elif kind == "spawned":
            self.spawned[event["name"]] = event["pid"]
            if event.get("cluster_id") and not self.cluster.done():
                self.cluster.set_result(event)
        elif kind == "nodes":
            self.nodes.update((node["node_id"], node) for node in event["changed"])
        elif (kind == "ready" or (kind == "failed" and "id" not in event)) and not self._ready.done():
            self._ready.set_result(event)
        if kind not in ONGOING:
            future = self._waiting.get(event.get("id") or 0)
            if future is not None and not future.done():
                future.set_result(event)
        if kind == "watcher_ended":
            self._fail_waiting("The connection to the GCS ended.")
        for listener in self._listeners:
            listener(event)

    def _fail_waiting(self, message: str) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_result({"event": "failed", "kind": "ray", "message": message})

    # -- the commands

    async def start(self, plan: NodePlan, deadline_s: float) -> Started:
        """Start a Ray node and wait until it is registered.

        Raises StartFailure; nothing of the start is left then.  At the deadline the companion
        itself is killed too: spawn another for the next try.
        """
        before = dict(self.spawned)
        number, future = self._ask("start", {"plan": plan.as_json()})
        try:
            event = await self._answer(number, future, deadline_s, "starting Ray")
        except BaseException as e:
            if not (isinstance(e, StartFailure) and future.done()):  # not the companion's own answer
                self._kill_start(self._starting.get(number), before)
            if isinstance(e, StartFailure) and not e.log:
                e.log = plan.log_path
            raise
        finally:
            self._starting.pop(number, None)
        if not self.cluster.done():  # `ray start` does not tell it earlier
            self.cluster.set_result(event)
        return Started(
            how=event["how"],
            processes={one["name"]: one["pid"] for one in event["processes"]},
            session=event["session"],
            session_dir=event["session_dir"],
            node_id=event["node_id"],
            cluster_id=event["cluster_id"],
            gcs_address=event["gcs_address"],
            phases=event["phases"],
            raw={name: value for name, value in event.items() if name not in ("event", "id")},
        )

    def _kill_start(self, group: int | None, before: Mapping[str, int]) -> None:
        """Kill what a start has begun: the companion first, so that it begins no more."""
        self.kill()
        if group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        for name, pid in self.spawned.items():
            if before.get(name) != pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    async def start_extra(self, what: str, plan: NodePlan, started: Started, timeout_s: float) -> Event:
        """Start this node's log monitor: {processes}; or make its dashboard's argument list: {command}."""
        return await self.request(
            "start_extra", timeout_s, what=what, plan=plan.as_json(), started=dict(started.raw)
        )

    async def template(self, plan: NodePlan, timeout_s: float = 30.0, *, early: bool = False) -> Event:
        """What the raylets of this head's workers are executed with (private.template).

        ``early``: before the head's GCS runs; session and cluster id are then names in it.
        """
        return await self.request("template", timeout_s, plan=plan.as_json(), early=early)

    async def watch(
        self, address: str, env: Mapping[str, str], *, expected: int = 0, timeout_s: float = 15.0
    ) -> None:
        """Watch the cluster's nodes: :attr:`nodes` is kept current, listeners get each `nodes` event.

        Until there are ``expected`` live nodes the list is polled every 50 ms, after that every 0.5 s.
        """
        await self.request("watch", timeout_s, address=address, env=_ray_part(env), expected=expected)

    async def usage(self, timeout_s: float = 5.0) -> Event:
        """{nodes: resources of each, pending: tasks that wait for some}; needs :meth:`watch` first."""
        return await self.request("usage", timeout_s)

    async def unplaceable(self, timeout_s: float = 5.0) -> tuple[UnmetDemand, ...]:
        """Tasks, actors and placement groups that fit on no node; needs :meth:`watch` first."""
        answer = await self.request("demand", timeout_s)
        return tuple(UnmetDemand(*one) for one in answer["unplaceable"])

    async def had_driver(self, timeout_s: float = 5.0) -> bool:
        """Whether a driver has connected to the cluster; needs :meth:`watch` first."""
        return bool((await self.request("driver", timeout_s))["connected"])

    async def drain(
        self,
        nodes: Sequence[str],
        *,
        reason: str = "preemption",
        message: str = "",
        deadline_s: float = 0,
        timeout_s: float = 5.0,
    ) -> Mapping[str, Event]:
        """Drain nodes; {node_id: {answered, accepted, refusal}}: the GCS may not have answered."""
        event = await self.request(
            "drain", timeout_s, nodes=list(nodes), reason=reason, message=message, deadline_s=deadline_s
        )
        results: Mapping[str, Event] = event["results"]
        return results

    async def clear(self, address: str, env: Mapping[str, str], deadline_s: float) -> list[str]:
        """End what drivers have left whose processes are gone: jobs, actors, placement groups.

        Returns what is left after ``deadline_s``, for people.
        """
        answered_s = deadline_s + CLEAR_ANSWER_S
        event = await self.request(
            "clear", answered_s, address=address, env=_ray_part(env), deadline_s=deadline_s
        )
        return list(event["left"])

    def serve(
        self, module: str, log: Path, heard: Callable[[Event], None], **fields: Any
    ) -> tuple[int, asyncio.Future[Event]]:
        """Run ``main`` of a module in a fork of the companion, for as long as it takes.

        ``heard`` is called with what it says meanwhile.  Returns a number for :meth:`end`, and how it ended:
        `served` or `failed`.  Raises StartFailure when the companion has ended.
        """
        number, over = self._ask("serve", {"module": module, "log": str(log), **fields})

        def listener(event: Event) -> None:
            if event.get("id") == number and event["event"] == "said":
                heard(event)

        def forget(_: object) -> None:
            self._waiting.pop(number, None)
            self._listeners.remove(listener)

        self.listen(listener)
        over.add_done_callback(forget)
        return number, over

    def end(self, number: int) -> None:
        """Kill what :meth:`serve` has begun, if it still runs."""
        if self._fd >= 0:
            self._send({"do": "end", "which": number})

    # -- the end

    def kill(self) -> None:
        """SIGKILL, at once; its starts and its watcher die with it (PR_SET_PDEATHSIG)."""
        if not self.child.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, signal.SIGKILL)

    async def close(self, grace_s: float = 0.5) -> None:
        """End the companion: its stdin is closed, and it is killed after the grace.  May be called again."""
        if self._commands is not None:
            self._loop.remove_writer(self._commands)
            self._commands = None
        if self.child.stdin is not None:
            with contextlib.suppress(OSError):
                self.child.stdin.close()
        if not await done_within(self.child.exited, grace_s):
            self.kill()
            await done_within(self.child.exited, KILL_WAIT_S)
        self._closed()
        if self.child.stdout is not None:
            self.child.stdout.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ray_part(env: Mapping[str, str]) -> dict[str, str]:
    """The variables that Ray's client reads; the rest stays here."""
    return {name: value for name, value in env.items() if name.startswith("RAY_")}
