"""The main loop of a run on one node: events come in, the policy decides, its actions are executed.

All events go through one queue: signals, processes that ended, what guards have seen.  The loop gives each
event to the policy (policy.head or policy.worker) and executes the actions that come back.  What takes time
is a background task (tasks.Tasks), whose result is another event in the queue.  How a head and a worker
execute their own actions is in head.py and worker.py.  Typer, Rich and Ray are not imported here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NoReturn, TypeVar

from ..model.errors import ExitCode, RayclusterError, error_text
from ..model.record import ProcessDeath
from ..model.settings import Settings
from ..model.status import EndReason, NodePhase
from ..model.text import hide
from ..node.files_watch import removed_file, running
from ..node.log_archive import copy_logs
from ..node.ray_node import RayNode
from ..node.staged_copy import remove_own_copy
from ..policy import actions as do
from ..policy import events as on
from ..policy.values import End
from ..rayproc.boot import orphaned_command
from ..state.record import Record
from ..system.cgroups import oom_kills
from ..system.heap import settle, use_one_heap
from ..system.keeper_link import KeeperNotes
from ..system.module_bundle import forget_code
from ..system.process import Child, Reaper, Signals
from ..system.proctree import become_subreaper, identify, let_go_on
from ..system.report import Report
from ..system.waiting import done_within, in_thread
from .context import Context
from .own_record import first_report, open_record, report_rest_s
from .parent_link import ParentLink
from .parts import Parts
from .report_writer import ReportWriter
from .tasks import Tasks

T = TypeVar("T")

#: How long copying the logs into the record may take.
COPY_TIMEOUT_S = 5.0

#: The file in the node's directory that has the traceback of every error in raycluster itself.
LOG_NAME = "raycluster.log"


class Finished(Exception):
    """Raised out of a start when there is nothing left to do: the end is known."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


class NodeRun:
    """One run of `raycluster head` or `worker` on this node."""

    def __init__(self, context: Context) -> None:
        verbose, token = context.settings.verbose, context.own_token
        self.report = Report(verbose=verbose, mask=lambda text: hide(text, token))
        self.reaper = Reaper()
        self.signals = Signals()
        self.tasks = Tasks(self._task_failed, self._guard_restarts)
        rest_s = report_rest_s(context.nodes_in_job)
        self.reports = ReportWriter(None, first_report(context), rest_s, note=self.report.note)
        self.hurry = asyncio.Event()
        self.parts = Parts(
            context=context,
            report=self.report,
            reports=self.reports,
            reaper=self.reaper,
            signals=self.signals,
            tasks=self.tasks,
            post=self.post,
            hurry=self.hurry,
        )
        self.parent = ParentLink.from_environment(context.env)
        self._node: RayNode | None = None
        self._events: asyncio.Queue[object] = asyncio.Queue()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._leaving: asyncio.Future[None] | None = None
        self._exit_code = int(ExitCode.FAILURE)
        self._bug: BaseException | None = None
        self._execute: Mapping[type, Callable[[Any], object]] = {}

    # -- what HeadRun and WorkerRun implement ----------------------------------------------------

    def step(self, event: object, now: float) -> list[do.Action]:
        """Let the policy decide, keep its state, and return what there is to do."""
        raise NotImplementedError

    def own_actions(self) -> dict[type, Callable[[Any], object]]:
        """How the actions of this role are executed."""
        raise NotImplementedError

    async def startup(self) -> None:
        """Bring this node's Ray up, then post the event that says so.  Raises RayclusterError or Finished."""
        raise NotImplementedError

    async def shutdown(self, leave: do.Leave) -> None:
        """End Ray and leave nothing behind."""
        raise NotImplementedError

    @property
    def end(self) -> End | None:
        """How the run ends, once the policy knows."""
        raise NotImplementedError

    # -- the frame -------------------------------------------------------------------------------

    async def run(self) -> int:
        """From the first signal handler to the last report; returns the exit code."""
        loop = asyncio.get_running_loop()
        become_subreaper()
        use_one_heap()
        self.reaper.attach(loop)
        self.signals.attach(loop, self.context.keeper)
        self.parent.attach(loop, lambda orderly: self.post(on.ParentEnded(orderly)))
        self._execute = {
            do.Say: lambda action: self.report.say(action.text),
            do.Warn: lambda action: self.report.warn(action.text),
            do.Note: lambda action: self.report.note(action.text),
            do.Arm: self._arm,
            do.EnterPhase: lambda action: self.enter_phase(action.phase, action.message),
            do.Hurry: lambda _: self.hurry.set(),
            do.Leave: self._leave,
            **self.own_actions(),
        }
        self.signals.listen(self._on_signal)
        self.tasks.start("start", self._start())
        while self._leaving is None or not self._leaving.done():
            self._take(await self._events.get())
        self._leaving.result()
        if self._bug is not None:
            raise self._bug
        return self._exit_code

    def post(self, event: object) -> None:
        """Something has happened."""
        self._events.put_nowait(event)

    def _take(self, event: object) -> None:
        if event is None:  # the run has left: see _leave
            return
        try:
            for action in self.step(event, asyncio.get_running_loop().time()):
                self._execute[type(action)](action)
        except Exception as error:
            self._task_failed(f"on {type(event).__name__}", error)
            if isinstance(event, on.GuardFailed):  # the failure itself could not be handled: end the run here
                self._leave(
                    do.Leave(End(ExitCode.FAILURE, f"error in raycluster: {error_text(error)}", "bug"))
                )

    def _arm(self, action: do.Arm) -> None:
        if action.name in self._timers:
            self._timers.pop(action.name).cancel()
        loop = asyncio.get_running_loop()
        self._timers[action.name] = loop.call_at(action.at, self.post, on.TimerFired(action.name))

    def _on_signal(self, number: int, count: int) -> None:
        if self.signals.keeper_gone and number == signal.SIGTERM and not self.signals.direct.get(number):
            self.post(on.KeeperEnded())
        else:
            self.post(on.SignalReceived(number, count))

    async def _start(self) -> None:
        try:
            await self.open_record()
            self.reports.phase(NodePhase.LAUNCHED)
            await self.startup()
        except Finished as finished:
            self.post(on.StartEnded(finished.end))
        except RayclusterError as error:
            self.post(on.StartEnded(self.end_of_error(error)))

    def end_of_error(self, error: RayclusterError) -> End:
        """The end of a run because of an error that the user can correct."""
        return End(error.exit_code, str(error), EndReason.ERROR.value, failed_host=self.context.host)

    # -- the end ---------------------------------------------------------------------------------

    def _leave(self, action: do.Leave) -> None:
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._end(action))
            self._leaving.add_done_callback(lambda _: self.post(None))

    async def _end(self, action: do.Leave) -> None:
        end = action.end
        for name in await self.tasks.close():
            self.report.warn(f"{name} did not end when it was cancelled")
        await self.shutdown(action)
        self.parent.tell(event="ended", code=end.code, message=end.message)
        self.enter_phase(
            NodePhase.FAILED if end.failed else NodePhase.GONE,
            end.message,
            exit_code=int(end.code),
            reason=end.reason,
            log=end.log,
            oom_kills=oom_kills(),
        )
        await self.reports.close()
        self._exit_code = int(end.code)

    async def try_to(self, what: str, work: Coroutine[Any, Any, T]) -> T | None:
        """One step of the shutdown: a failure is reported, and the next step runs all the same."""
        try:
            return await work
        except Exception as error:
            self.log_traceback(what, error)
            self.report.warn(f"{what} failed: {error_text(error)}")
            return None

    # -- errors in raycluster itself -------------------------------------------------------------

    def _task_failed(self, name: str, error: Exception) -> None:
        self.log_traceback(name, error)
        self._bug = self._bug or error
        self.post(on.GuardFailed(name, error_text(error)))

    def _guard_restarts(self, name: str, error: Exception) -> None:
        self.log_traceback(name, error)
        self.report.note(f"{name}: {error_text(error)}; starting it again")

    def _node_failed(self, what: str, error: BaseException) -> None:
        """Report a failed background task of the node that the cluster does not need."""
        self.log_traceback(what, error)
        self.report.warn(f"{what} failed on {self.context.host}: {error_text(error)}")

    def log_traceback(self, name: str, error: BaseException) -> None:
        """Write an error into the node's log, which --keep-logs keeps."""
        root = self._node.setup.root if self._node is not None else None
        if root is None:
            return
        when = time.strftime("%Y-%m-%d %H:%M:%S")
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        with contextlib.suppress(OSError), open(root.path / LOG_NAME, "a", encoding="utf-8") as file:
            file.write(f"{when} {name}\n{text}")

    # -- what head and worker share --------------------------------------------------------------

    @property
    def context(self) -> Context:
        return self.parts.context

    @property
    def settings(self) -> Settings:
        return self.parts.context.settings

    @property
    def record(self) -> Record | None:
        return self.reports.record

    @property
    def node(self) -> RayNode:
        """This machine's Ray node; only once it was made."""
        assert self._node is not None
        return self._node

    @property
    def has_node(self) -> bool:
        return self._node is not None

    async def make_node(self) -> RayNode:
        """This machine's Ray node, with its directory made, of which the keeper is told.

        Raises RayclusterError.
        """
        context = self.context
        node = RayNode(
            context.node_setup(self.report, self.ray_variables()),
            reaper=self.reaper,
            report=self.report,
            on_death=self._process_died,
            warm=context.warm,
            kept=context.keeper is not None,
        )
        node.on_failure = self._node_failed
        node.got_signal = self.signals.got
        await node.prepare()
        self._node = node  # not earlier: without its directory there is nothing to end
        self.tell_keeper()
        return node

    def ray_variables(self) -> Mapping[str, str]:
        """More variables for Ray's processes on this node."""
        return self.context.ray_env

    def process_died(self, child: Child, code: int) -> None:
        """A process that the node needs has ended, and this process did not end it."""
        raise NotImplementedError

    def _process_died(self, child: Child, code: int) -> None:
        death = ProcessDeath(child.name, child.pid, code, time.time())
        self.reports.add(deaths=(*self.reports.now.deaths, death))  # for `raycluster why`
        self.process_died(child, code)

    async def watch_files(self) -> None:
        """Post, as long as it is so, that a file was removed that Ray needs on this node."""
        node = self.node
        while True:  # while the head is recovered it is no reason to end, and may be one later
            removed = await removed_file(
                lambda: running(node.children, node.started), node.setup.restore_files, node.setup.keys
            )
            self.post(on.FilesGone(removed))

    def enter_phase(self, phase: NodePhase, message: str = "", **facts: Any) -> None:
        """Report a phase, with what is known of the end."""
        if phase is NodePhase.STOPPING and self.end is not None:
            facts.setdefault("reason", self.end.reason)
        self.reports.phase(phase, message, **facts)

    async def open_record(self) -> None:
        """Open the job's record, unless the node has to work without one.  Raises RayclusterError."""
        self.reports.use(await open_record(self.context, self.parts.on_record, self.report.warn))

    def tell_keeper(self) -> None:
        """Tell the keeper what to clear if this process is killed.

        The same goes into the node's directory, for the process that clears the node if both are killed.
        """
        if self.context.keeper is None:
            return
        root = self._node.setup.root if self._node is not None else None
        notes = self.keeper_notes().but(node_root=str(root.path) if root is not None else "")
        self.context.keeper.note(notes)
        if root is not None:
            with contextlib.suppress(OSError):  # needed only after a crash, which is rare
                root.write_orphaned(orphaned_command(str(root.path)), notes.known)

    def keeper_notes(self) -> KeeperNotes:
        """What the keeper is told, apart from the node's directory."""
        return KeeperNotes(
            host=self.context.host,
            role=self.context.role.value,
            record=str(self.record.path) if self.record else "",
            keep_logs=self.settings.keep_logs,
            step=self.context.launch if self.context.symmetric else "",
        )

    async def archive_logs(self, end: End) -> None:
        """Copy this node's logs to the record when --keep-logs says so."""
        keep = self.settings.keep_logs
        if self.record is None or keep == "never" or (keep == "on-failure" and not end.keeps_logs):
            return
        if self._node is None or self._node.setup.root is None:
            return  # its directory could not be made: there are no logs
        record, host, source = self.record, self.context.host, self._node.setup.root.path

        def copy() -> str:
            target = record.log_dir(host)
            return str(target) if copy_logs(source, target) else ""

        copying = in_thread(copy)
        if not await done_within(copying, COPY_TIMEOUT_S):
            self.report.warn(f"logs of {host} were not all kept: {record.path} was too slow")
        elif target := copying.result():
            self.reports.add(log_path=target)


def run_and_exit(run: NodeRun) -> NoReturn:
    """Run a node to its end and end the process with its code, at once.

    Threads are not joined: one may hang in a call on a file system that does not answer.
    """
    forget_code()
    settle()

    async def work() -> NoReturn:
        try:
            code = await run.run()
        except Exception:
            traceback.print_exc()
            code = int(ExitCode.FAILURE)
        if run.signals.keeper_gone:
            remove_own_copy(sys.prefix)
        elif run.context.keeper is not None and (keeper := identify(os.getppid())) and let_go_on(keeper):
            said = f"the keeper of {run.context.host} was stopped (SIGSTOP): it is continued"
            print(f"raycluster: {said}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    asyncio.run(work())
    raise AssertionError("not reached")
