"""The async core of one node: startup, main, shutdown, whatever happens in between.

:class:`NodeRun` is what head and worker have in common: signals, the record's word of
this node, the Ray node itself, and an end that always runs to its last line.  What a
head and a worker *do* stands in head.py and worker.py.  No Typer, no Rich, no Ray here.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .._version import __version__
from ..model.errors import ExitCode, RayclusterError, UsageError
from ..model.record import NodeReport, ProcessDeath
from ..model.settings import Settings
from ..model.status import NodePhase, Role
from ..model.text import hide
from ..node.log_archive import copy_logs
from ..node.ray_node import RayNode
from ..rayproc.warm import WarmCompanion
from ..slurm.allocation import Allocation
from ..state.record import Record
from ..system.cgroups import oom_kills
from ..system.keeper_link import Keeper
from ..system.process import ENDING, Child, Reaper, Signals
from ..system.proctree import become_subreaper, identify
from ..system.report import Report

T = TypeVar("T")

#: After a signal that asks for the end everything is over within this time (or --grace and RESERVE_S, if
#: that is more): Slurm's KillWait is 30 s by default, and what it kills cannot clean up.
SIGNAL_CEILING_S = 24.0

#: How long copying the logs into the record may take.
COPY_TIMEOUT_S = 5.0

#: What the end takes after the driver has ended: drain, logs, Ray, the last words.
RESERVE_S = 10.0

#: How long a record that does not answer can hold up a step of the start.
RECORD_WAIT_S = 30.0


@dataclass(frozen=True)
class Context:
    """All that a run is given from outside; the command line alone reads os.environ."""

    settings: Settings
    env: Mapping[str, str]
    allocation: Allocation | None
    role: Role
    key: str
    """The cluster's key in the record: job id and restart count, or one made for a local cluster."""
    slurm_cluster: str
    host: str
    """This node's name, as Slurm and the user know it."""
    state_dir: Path
    driver: tuple[str, ...] = ()
    keeper: Keeper | None = None
    launched: float = field(default_factory=time.time)
    """Unix seconds at which this command's process started."""
    node_ip: str = ""
    """Address of this node, where it is not to be found out: in a cluster of one machine."""
    key_given: bool = False
    """The key was given by hand: head and worker meet in the record without Slurm."""
    symmetric: bool = False
    """Started by `run`: head and workers are tasks of one step and start together."""
    warm: WarmCompanion | None = None
    """A companion that imports Ray already, for the first start of Ray here."""

    @property
    def cluster_key(self) -> str:
        """What names this cluster among all: ports are derived from it where no record is shared."""
        return f"{self.slurm_cluster}/{self.key}+{self.settings.name}"

    @property
    def step(self) -> str | None:
        """The step that this task belongs to: a record's head of another step is not ours."""
        return self.allocation.step_id if self.allocation else None

    @property
    def own_token(self) -> str:
        """The token that the user brought along (RAYCLUSTER_TOKEN), or ''."""
        return self.env.get("RAYCLUSTER_TOKEN", "")

    @property
    def own_identity(self) -> str:
        """The cluster's identity where head and workers were given the same token, else ''."""
        if not self.own_token:
            return ""
        return hashlib.sha256(f"{self.cluster_key} {self.own_token}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class End:
    """How a run ended: its exit code, and who or what was the reason."""

    code: int
    message: str = ""
    reason: str = ""
    """One word for programs: driver, signal, stop, worker-lost, head-lost, error, time-limit."""
    failed_host: str = ""
    """Host that caused it."""
    log: str = ""
    """A log file worth reading."""

    @property
    def on_purpose(self) -> bool:
        return self.code == ExitCode.OK


class Finished(Exception):
    """Raised out of startup when there is nothing left to do: the end is known."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


class ReportWriter:
    """This node's word in the record, written in a thread so that a hanging file system hangs nobody.

    Words are written in order, and a word that a newer one has overtaken is left out.  In large jobs
    a node writes no more than one in ``rest_s`` seconds: the file server hears all of them.
    """

    def __init__(self, record: Record | None, first: NodeReport, rest_s: float = 0.0) -> None:
        self._record = record
        self._rest_s = rest_s
        self._next_at = 0.0
        self._later: asyncio.TimerHandle | None = None
        self.now = first
        self.deaths: list[ProcessDeath] = []
        """Processes of this node that ended though nobody wanted them to: for the post-mortem."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="record")
        self._written = 0
        self._number = 0

    def phase(self, phase: NodePhase, message: str = "", **facts: Any) -> None:
        """Enter a phase (or say more about the one that we are in)."""
        phases = dict(self.now.phases)
        phases.setdefault(phase.value, time.time())
        self.now = replace(
            self.now, phase=phase.value, phases=phases, message=message, updated=time.time(), **facts
        )
        self._number += 1
        loop = asyncio.get_running_loop()
        if self._later is None and loop.time() >= self._next_at:
            self._write_soon()
        elif self._later is None:
            self._later = loop.call_at(self._next_at, self._write_soon)

    def _write_soon(self) -> None:
        self._later = None
        self._next_at = asyncio.get_running_loop().time() + self._rest_s
        self.submit(self._write, self._number, self.now)

    def stamp(self, steps: Mapping[str, float]) -> None:
        """Steps within phases, told with the next word; the first time of each counts."""
        self.now = replace(self.now, phases={**steps, **self.now.phases})

    def _write(self, number: int, word: NodeReport) -> None:
        if self._record is not None and number == self._number:
            with contextlib.suppress(RayclusterError, OSError):
                self._record.write_node(word)

    def submit(self, call: Any, *args: Any) -> asyncio.Future[Any]:
        """Run a call on the record after those already given."""
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def say(self, message: str, **facts: Any) -> None:
        """Say more about the phase that we are in."""
        self.phase(NodePhase(self.now.phase), message, **facts)

    async def ask(self, call: Callable[..., T], *args: Any, timeout_s: float, default: T) -> T:
        """The answer of a call on the record, or ``default`` when the file system hangs."""
        try:
            answer: T = await asyncio.wait_for(self.submit(call, *args), timeout_s)
        except asyncio.TimeoutError:
            return default
        return answer

    def use(self, record: Record | None) -> None:
        """Write to this record from now on; to none when it is somebody else's."""
        self._record = record

    async def close(self, timeout_s: float = 3.0) -> None:
        """Wait for the last word to be written, but not for ever."""
        if self._later is not None:
            self._later.cancel()
            self._write_soon()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.submit(lambda: None), timeout_s)
        self._thread.shutdown(wait=False, cancel_futures=True)


class NodeRun:
    """One run of `raycluster head` or `worker` on this node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.settings = context.settings
        self.report = Report(
            verbose=context.settings.verbose, mask=lambda text: hide(text, context.own_token)
        )
        self.reaper = Reaper()
        self.signals = Signals()
        self.record: Record | None = None
        self.node: RayNode
        self.reports: ReportWriter
        self.ended: asyncio.Future[End]
        self.hurry = asyncio.Event()
        """Set when a second signal asks to end at once."""
        self._parent = ParentLink.from_environment(context.env)

    # -- to be written by head and worker ------------------------------------------------------

    async def startup(self) -> None:
        """Bring this node's Ray up.  Raises RayclusterError."""
        raise NotImplementedError

    async def main(self) -> End:
        """Do the work, until it ends by itself."""
        raise NotImplementedError

    async def shutdown(self, end: End) -> End:
        """Leave nothing behind.  May make the end worse, never better."""
        raise NotImplementedError

    # -- the frame -----------------------------------------------------------------------------

    async def run(self) -> int:
        """Startup, main, shutdown; returns the exit code."""
        loop = asyncio.get_running_loop()
        become_subreaper()
        self.ended = loop.create_future()
        self.reaper.attach(loop)
        self.signals.attach(loop, self.context.keeper)
        self._parent.attach(loop, self._parent_gone)
        self.reports = ReportWriter(None, self._first_report(), rest_s=self._report_rest_s())
        self.signals.listen(self.on_signal)
        work = asyncio.ensure_future(self._work())
        bug: BaseException | None = None
        try:
            await asyncio.wait({work, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            if self.ended.done() and not work.done():
                work.cancel()
                await asyncio.wait({work})
            end = self.ended.result() if self.ended.done() else work.result()
        except RayclusterError as error:
            end = End(error.exit_code, str(error), reason="error", failed_host=self.context.host)
            self.report.say(f"error: {error}")
        except Exception as error:
            bug = error
            end = End(ExitCode.FAILURE, f"bug: {error!r}", reason="bug", failed_host=self.context.host)
        self.reports.phase(NodePhase.STOPPING, end.message)
        end = await self.shutdown(end)
        self._parent.tell(event="ended", code=end.code, message=end.message)
        failed = end.reason == "raylet-lost" or (
            end.code != ExitCode.OK and end.reason not in ("driver", "signal", "stop")
        )
        self.reports.phase(
            NodePhase.FAILED if failed else NodePhase.GONE,
            end.message,
            exit_code=int(end.code),
            reason=end.reason,
            log=end.log,
            deaths=tuple(self.reports.deaths),
            oom_kills=oom_kills(),
        )
        await self.reports.close()
        if bug is not None:
            raise bug
        return int(end.code)

    async def _work(self) -> End:
        try:
            await self._open_record()
            self.reports.phase(NodePhase.LAUNCHED)
            await self.startup()
            return await self.main()
        except Finished as finished:
            return finished.end

    def end_with(self, end: End) -> None:
        """End the run from a callback; the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(end)

    def on_signal(self, number: int, count: int) -> None:
        """Decide what a signal means: the first asks for an orderly end, the second for a quick one."""
        if number not in ENDING:
            return
        name = signal.Signals(number).name
        if self.signals.keeper_gone and number == signal.SIGTERM and not self.signals.direct.get(number):
            text = f"raycluster's keeper on {self.context.host} was killed"
            self.end_with(
                End(128 + signal.SIGKILL, text, reason="keeper-killed", failed_host=self.context.host)
            )
            return
        # SIGTERM is repeated by Slurm itself (to the step, and through srun); only SIGINT says "now".
        if number == signal.SIGINT and (self.ended.done() or count > 1):
            if not self.hurry.is_set():
                self.report.say(f"{name} again: ending at once")
            self.hurry.set()
        # Also for an end that was under way: from here on Slurm counts.
        ceiling_s = max(SIGNAL_CEILING_S, self.settings.grace + RESERVE_S)
        asyncio.get_running_loop().call_later(ceiling_s, self.hurry.set)
        self.end_with(End(128 + number, f"ended by {name}", reason="signal", failed_host=self.context.host))

    def died(self, child: Child, code: int) -> None:
        """Keep for the post-mortem that a process ended which nobody wanted to end."""
        self.reports.deaths.append(ProcessDeath(child.name, child.pid, code, time.time()))

    def _parent_gone(self) -> None:
        self.end_with(End(ExitCode.SIGTERM, "the program that started this node has ended", reason="stop"))

    async def _open_record(self) -> None:
        """Open the job's record; without one the node still works, but nobody can see it."""
        context = self.context
        try:
            self.record = await self.on_record(
                Record.create,
                context.state_dir,
                context.slurm_cluster,
                context.key,
                context.settings.name,
            )
            self.record.hide(context.own_token)
        except RayclusterError as error:
            if context.settings.state_dir:
                raise
            self.report.warn(
                f"no record can be kept: {error.message} Workers must be given --master-ip, --master-port "
                f"and RAYCLUSTER_TOKEN. {error.hint}"
            )
        self.reports.use(self.record)

    def _report_rest_s(self) -> float:
        """Between the words of a node: none up to 50 nodes, 2 s at 1,000; then 500 words a second in all."""
        allocation = self.context.allocation
        nodes = len(allocation.job_nodes) if allocation else 1
        return nodes / 500 if nodes > 50 else 0.0

    def _first_report(self) -> NodeReport:
        me = identify(os.getpid())
        return NodeReport(
            host=self.context.host,
            role=self.context.role.value,
            phase=NodePhase.LAUNCHED.value,
            phases={"process started": self.context.launched},
            pid=os.getpid(),
            create_time=me.start_ticks if me else 0,
            het_group=self.context.allocation.het_component if self.context.allocation else None,
        )

    async def on_record(self, call: Callable[..., T], *args: Any) -> T:
        """A call on the record that the start cannot do without; RayclusterError when it does not return."""
        try:
            done: T = await asyncio.wait_for(self.reports.submit(call, *args), RECORD_WAIT_S)
        except asyncio.TimeoutError:
            raise UsageError(
                f"{self.context.state_dir} did not answer within {RECORD_WAIT_S:g} s.",
                "Is its file system well? Another shared directory can be given by --state-dir.",
            ) from None
        return done

    def make_node(self, on_death: Callable[[Child, int], None]) -> RayNode:
        """This machine's Ray node, with its directory made.  Raises RayclusterError."""
        context = self.context
        node = RayNode(
            role=context.role,
            settings=context.settings,
            env=context.env,
            allocation=context.allocation,
            host=context.host,
            node_ip=context.node_ip,
            key=context.cluster_key,
            reaper=self.reaper,
            report=self.report,
            on_death=on_death,
            warm=context.warm,
            kept=context.keeper is not None,
        )
        node.prepare()
        return node

    def keep(self, **notes: object) -> None:
        """Tell the keeper what it must clear if this process is killed."""
        if self.context.keeper is not None:
            self.context.keeper.note(
                host=self.context.host,
                role=self.context.role.value,
                record=str(self.record.path) if self.record else "",
                keep_logs=self.settings.keep_logs,
                step=(self.context.step or "") if self.context.symmetric else "",
                **notes,
            )


class ParentLink:
    """The socket to a Python program that started this node through the API, if one did.

    It is told what happens, a JSON object a line; its end of file means that the program is gone.
    """

    VARIABLE = "RAYCLUSTER_PARENT_FD"

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> ParentLink:
        text = env.get(cls.VARIABLE, "")
        if not text.isdigit():
            return cls(None)
        link = socket.socket(fileno=int(text))
        link.set_inheritable(False)
        link.setblocking(False)
        return cls(link)

    def attach(self, loop: asyncio.AbstractEventLoop, on_gone: Any) -> None:
        if self._link is None:
            return
        link = self._link

        def readable() -> None:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                try:
                    if link.recv(4096):
                        return
                except ConnectionError:
                    pass
                loop.remove_reader(link)
                on_gone()

        loop.add_reader(link, readable)

    def tell(self, **facts: object) -> None:
        """Say something to the program; a program that does not read loses it."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(json.dumps(facts).encode() + b"\n")


def python_version() -> str:
    """Of this interpreter: '3.11.7'.  All nodes of a Ray cluster need the same."""
    return ".".join(str(part) for part in sys.version_info[:3])


def versions() -> dict[str, str]:
    """Versions that are known without importing Ray."""
    return {"raycluster": __version__, "python": python_version()}


def run_and_exit(node: NodeRun) -> NoReturn:
    """Run a node to its end and end the process with its code.

    At once, without joining threads: one may hang in a call on a file system that does not answer.
    """

    async def work() -> NoReturn:
        code = await node.run()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    asyncio.run(work())
    raise AssertionError("not reached")


async def quietly(report: Report, what: str, step: Coroutine[Any, Any, T]) -> T | None:
    """One step of a shutdown: its failure is told and must not keep the next from running."""
    try:
        return await step
    except Exception as error:
        report.warn(f"{what}: {error!r}")
        return None


async def archive_logs(run: NodeRun, end: End) -> None:
    """Copy this node's logs to the record when --keep-logs says so."""
    keep = run.settings.keep_logs
    failed = end.reason == "raylet-lost" or (end.code != 0 and end.reason != "stop")
    if run.record is None or keep == "never" or (keep == "on-failure" and not failed):
        return
    record, host, source = run.record, run.context.host, run.node.root.path

    def copy() -> Path | None:
        target = record.log_dir(host)
        return target if copy_logs(source, target) else None

    try:
        target = await asyncio.wait_for(asyncio.to_thread(copy), COPY_TIMEOUT_S)
    except asyncio.TimeoutError:
        run.report.warn(f"logs of {host} were not all kept: {record.path} was too slow")
        return
    if target is not None:
        run.reports.now = replace(run.reports.now, log_path=str(target))
