"""The head's run: start Ray's head, wait for the workers, run the driver, end everything."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import __version__
from .config import parse_worker_loss
from .driver import Driver, find_program
from .errors import (
    ExitCode,
    HeadStartError,
    RayclusterError,
    UsageError,
    WorkersMissingError,
)
from .evidence import keep_evidence
from .lifecycle import Context, End, NodeRun, python_version, quietly
from .node import RayNode
from .process import Child, describe_code, shell_code
from .ray_start import StartFailure
from .record import EndWord, HeadInfo, NodeWord
from .report import count, duration
from .slurm import format_hostlist
from .status import NodePhase, Role
from .usage import tell_usage

#: How often the head looks into the record while it waits: for words of workers, and for a stop.
RECORD_POLL_S = 0.5

#: What a drained raylet is given to leave before its supervisor or ours ends it.
DRAIN_S = 2.0


@dataclass
class Members:
    """The workers as the GCS sees them."""

    alive: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By node id."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def update(
        self, nodes: list[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Take in the nodes that have changed; returns (joined, lost) workers."""
        joined, lost = [], []
        for node in nodes:
            node_id = str(node["node_id"])
            if node["is_head"]:
                continue
            if node["alive"] and node_id not in self.alive:
                self.alive[node_id] = node
                joined.append(node)
            elif not node["alive"] and self.alive.pop(node_id, None) is not None:
                lost.append(node)
        if joined or lost:
            self.changed.set()
        return joined, lost


class HeadRun(NodeRun):
    """`raycluster head`, and rank 0 of `raycluster run`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.expected = _expected_workers(context)
        self.quorum = (
            context.settings.min_workers if context.settings.min_workers is not None else self.expected
        )
        self.loss = parse_worker_loss(context.settings.on_worker_loss)
        self.identity = secrets.token_hex(16)
        self.members = Members()
        self.driver: Driver | None = None
        self.head: HeadInfo
        self.node: RayNode
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self._tasks: list[asyncio.Task[Any]] = []
        if context.driver:
            find_program(context.driver, context.env)

    # -- startup ---------------------------------------------------------------------------------

    async def startup(self) -> None:
        context, settings = self.context, self.settings
        self._deadline = asyncio.get_running_loop().time() + settings.timeout
        if self.record is not None:
            self.record.claim_head(host=context.host)
        self.node = self.make_node(self._process_died)
        self.node.prepare()
        self.keep(node_root=str(self.node.root.path))
        self.node.token = self._make_token()
        self.node.begin_import()
        self.node.measure(route_to=_another_host(context))
        self.node.claim_ports({"gcs": settings.master_port} if settings.master_port else {})
        self.head = HeadInfo(
            host=context.host,
            address_ip=self.node.address.ip,
            port=self.node.gcs_port,
            identity=self.identity,
            python_version=python_version(),
            raycluster_version=__version__,
            auth=settings.auth,
            tls=settings.tls,
            started=context.launched,
            pid=self.word.now.pid,
            create_time=self.word.now.create_time,
            expected_workers=self.expected,
            driver=context.driver,
            ports=self.node.port_map(),
            node_root=str(self.node.root.path),
            end_time=(context.allocation.end_time or 0.0) if context.allocation else 0.0,
            extra={
                "state": "starting",
                "step": context.allocation.step_id if context.allocation else None,
                "on_worker_loss": settings.on_worker_loss,
                "worker_hosts": format_hostlist(_worker_hosts(context)),
                "min_workers": self.quorum,
            },
        )
        # Written before Ray is up: workers then knock at the port itself and not at the file server.
        self._write_head()
        self.word.phase(NodePhase.STARTING, ip=self.node.address.ip, node_root=str(self.node.root.path))
        self.report.on_event = self._to_event_log
        try:
            started = await self.node.start(
                settings.start_timeout, expected_nodes=self.expected + 1, identity=self.identity
            )
        except StartFailure as failed:
            raise HeadStartError(
                f"the head did not start on {context.host}: {failed.message}",
                f"The log is {failed.log}." if failed.log else "",
            ) from failed
        self.head = replace(
            self.head,
            session=started.session,
            cluster_id=started.cluster_id,
            ray_version=self.node.ray_version,
            extra={**self.head.extra, "state": "up"},
        )
        self._write_head()
        self.word.phase(NodePhase.JOINED, node_id=started.node_id)
        self._parent.tell(event="up", address=self.head.address)

    def _make_token(self) -> str:
        """The cluster's token: the user's own (RAYCLUSTER_TOKEN), or a new one in the record."""
        if not self.settings.auth:
            self.report.warn(
                "--no-auth: whoever reaches this cluster's ports runs code as you. Leave it out unless a "
                "client cannot send a token."
            )
            return ""
        own = self.context.env.get("RAYCLUSTER_TOKEN", "")
        if own or self.record is None:
            return own or secrets.token_hex(32)
        return self.record.make_token()

    def _write_head(self) -> None:
        if self.record is not None:
            self.word.submit(self._ignore_errors, self.record.write_head, self.head)

    def _ignore_errors(self, call: Any, *args: Any) -> None:
        """A record that cannot be written (a full disk) is no reason to end a cluster that works."""
        try:
            call(*args)
        except (RayclusterError, OSError) as error:
            self.report.note(f"the record could not be written: {error}")

    def _to_event_log(self, when: float, text: str) -> None:
        if self.record is not None:
            self.word.submit(self.record.append_event, text, when)

    # -- main ------------------------------------------------------------------------------------

    async def main(self) -> End:
        await self.node.watch(self._nodes_changed, self.expected + 1)
        if self.record is not None:
            self._tasks.append(asyncio.ensure_future(self._watch_for_stop()))
            self._tasks.append(asyncio.ensure_future(tell_usage(self, self.expected + 1)))
        await self._wait_for_workers()
        context = self.context
        self.word.phase(NodePhase.READY)
        nodes = count(len(self.members.alive) + 1, "node")
        took = duration(time.time() - context.launched)
        self._parent.tell(event="ready", address=self.head.address, environment=self.node.client_variables())
        if not context.driver:
            self.report.say(f"{nodes} ready at {self.head.address} after {took}. {self._how_to_stop()}")
            self.node.start_extras()
            await asyncio.Event().wait()
        self.report.say(
            f"{nodes} ready at {self.head.address} after {took}; driver: {' '.join(context.driver)}"
        )
        self.driver = Driver.start(context.driver, self.node.client_environment(), self.reaper, self.signals)
        self.word.phase(NodePhase.DRIVING)
        self.node.start_extras()
        code = await self.driver.child.exited
        ran = duration(time.time() - self.driver.started)
        self.report.note(f"the driver {describe_code(code)} after {ran}")
        return End(
            shell_code(code),
            f"the driver {describe_code(code)} after {ran}",
            reason="driver",
            culprit=context.host if code else "",
        )

    def _how_to_stop(self) -> str:
        if self.context.allocation is None:
            return "Stop it with Ctrl-C."
        return f"Stop it with `raycluster stop {self.context.key}`."

    async def _wait_for_workers(self) -> None:
        """Until every expected worker is in, or the quorum is and --settle has passed."""
        loop = asyncio.get_running_loop()
        quorum_since: float | None = None
        next_word = loop.time() + 10.0
        while len(self.members.alive) < self.expected:
            now = loop.time()
            if len(self.members.alive) >= self.quorum and self.quorum < self.expected:
                quorum_since = quorum_since if quorum_since is not None else now
                if now - quorum_since >= self.settings.settle:
                    missing = self._missing({})
                    self.report.warn(
                        f"starting with {len(self.members.alive)} of {count(self.expected, 'worker')}"
                        f" (--min-workers {self.quorum}); missing: {missing}. Late ones are let in."
                    )
                    return
            words = await self._words()
            failed = [word for word in words.values() if word.phase == NodePhase.FAILED.value]
            if failed and self.expected - len(failed) < self.quorum:
                raise WorkersMissingError(
                    f"{count(len(failed), 'worker')} of {self.expected} cannot join: "
                    + "; ".join(f"{word.host}: {word.message}" for word in failed[:3]),
                )
            if now >= self._deadline:
                raise WorkersMissingError(
                    f"{self.expected - len(self.members.alive)} of {count(self.expected, 'worker')} did not "
                    f"join within {self.settings.timeout:g} s: {self._missing(words)}.",
                    "Look at these hosts' lines above, or give more time with --timeout.",
                )
            if now >= next_word:
                next_word = now + 30.0
                self.report.say(
                    f"{len(self.members.alive)} of {count(self.expected, 'worker')} joined after "
                    f"{duration(time.time() - self.context.launched)}; waiting for {self._missing(words)}"
                )
            self.members.changed.clear()
            if len(self.members.alive) < self.expected:
                with contextlib.suppress(asyncio.TimeoutError):
                    wait_s = min(RECORD_POLL_S, max(self._deadline - now, 0.01))
                    await asyncio.wait_for(self.members.changed.wait(), wait_s)

    async def _words(self) -> dict[str, NodeWord]:
        if self.record is None:
            return {}
        words: dict[str, NodeWord] = await self.word.submit(self.record.read_nodes)
        return {
            host: word
            for host, word in words.items()
            if word.role == Role.WORKER.value and word.updated >= self.context.launched - 300
        }

    def _missing(self, words: Mapping[str, NodeWord]) -> str:
        """The hosts that have not joined, with the last word of each where there is one."""
        joined = {str(node["name"]) for node in self.members.alive.values()}
        hosts = [host for host in _worker_hosts(self.context) if host not in joined] or sorted(
            host for host in words if host not in joined
        )
        if not hosts:
            return f"{self.expected - len(self.members.alive)} more (their hosts are not known here)"
        told = []
        for host in hosts[:8]:
            word = words.get(host)
            if word is None:
                told.append(f"{host} (no word from it)")
            else:
                ago = duration(max(time.time() - word.updated, 0))
                told.append(f"{host} (last word {ago} ago: {word.message or word.phase})")
        if len(hosts) > 8:
            told.append(f"and {len(hosts) - 8} more: {format_hostlist(hosts[8:])}")
        return ", ".join(told)

    # -- what can happen meanwhile ---------------------------------------------------------------

    def _process_died(self, child: Child, code: int) -> None:
        """The GCS or the head's raylet has ended, and not because we wanted it to."""
        if self._stopping:
            return
        self.end_with(
            End(
                ExitCode.UNHEALTHY,
                f"the head's {child.name} on {self.context.host} {describe_code(code)}",
                reason="head-lost",
                culprit=self.context.host,
                log=self.node.log_of(child.name),
            )
        )

    def _nodes_changed(self, nodes: list[Mapping[str, Any]]) -> None:
        joined, lost = self.members.update(nodes)
        for node in joined:
            self.report.note(f"worker {node['name']} joined ({node['ip']})")
        if lost and not self._stopping:
            self._workers_lost(lost)

    def _workers_lost(self, lost: list[Mapping[str, Any]]) -> None:
        for node in lost:
            death = node.get("death") or {}
            why = death.get("message") or death.get("reason") or "no reason given"
            text = f"worker {node['name']} ({node['ip']}) is lost: {why}"
            if self.word.now.phase not in (NodePhase.READY.value, NodePhase.DRIVING.value):
                self.report.warn(text)
            elif self.loss.kind == "fail":
                self.end_with(End(ExitCode.UNHEALTHY, text, reason="worker-lost", culprit=str(node["name"])))
            else:
                self.report.warn(f"{text}; {len(self.members.alive)} of {self.expected} left")
                self._tasks.append(asyncio.ensure_future(self._outlast(text, str(node["name"]))))

    async def _outlast(self, text: str, host: str) -> None:
        """--on-worker-loss continue or wait: end only when too few are left for too long."""
        enough = self.quorum if self.loss.kind == "wait" else (self.settings.min_workers or 0)
        deadline = asyncio.get_running_loop().time() + self.loss.wait_s
        while len(self.members.alive) < enough:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                waited = f" and no other came within {self.loss.wait_s:g} s" if self.loss.wait_s else ""
                self.end_with(
                    End(
                        ExitCode.UNHEALTHY,
                        f"{text}{waited}; {len(self.members.alive)} left, {enough} needed",
                        reason="worker-lost",
                        culprit=host,
                    )
                )
                return
            self.members.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.members.changed.wait(), left_s)

    async def _watch_for_stop(self) -> None:
        """`raycluster stop` leaves a word in the record; and the head's claim is touched now and then."""
        assert self.record is not None
        beat_at = 0.0
        while True:
            stop = await self.word.submit(self.record.stop_requested)
            if stop is not None:
                self.end_with(
                    End(
                        ExitCode.SIGTERM if self.driver else ExitCode.OK,
                        f"stopped by `raycluster stop`{f' ({stop.by})' if stop.by else ''}",
                        reason="stop",
                    )
                )
                return
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + 30.0
                self.word.submit(self.record.beat)
            await asyncio.sleep(RECORD_POLL_S)

    def on_signal(self, number: int, count: int) -> None:
        if number in (signal.SIGUSR1, signal.SIGUSR2):
            if self.driver is not None:
                self.driver.tell(number)
            else:
                self.report.note(f"{signal.Signals(number).name} ignored: no driver is running")
            return
        super().on_signal(number, count)

    # -- shutdown --------------------------------------------------------------------------------

    async def shutdown(self, end: End) -> End:
        self._stopping = True
        began = time.time()
        for task in self._tasks:
            task.cancel()
        if self.driver is not None and self.driver.child.running:
            await quietly(self.report, "ending the driver", self._end_driver(end))
        if self.record is not None:
            # Before the first worker goes: a worker that sees its raylet end reads why.
            word = EndWord(time.time(), int(end.code), end.reason, end.culprit, end.message)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self.word.submit(self._ignore_errors, self.record.write_end, word), 3.0
                )
        if hasattr(self, "node"):
            if not self.hurry.is_set():
                await quietly(self.report, "draining the workers", self._drain(end))
                await quietly(self.report, "waiting for the workers", self.after_drain())
            await quietly(self.report, "keeping logs", keep_evidence(self, end))
            await quietly(self.report, "ending Ray", self.node.stop(self.hurry))
        if end.reason in ("driver",) and end.code == 0:
            self.report.say(f"{end.message}; ended {duration(time.time() - began)} later")
        elif end.reason != "error":
            self.report.say(f"{end.message}; exit code {int(end.code)}")
        return end

    async def _end_driver(self, end: End) -> None:
        assert self.driver is not None
        number = signal.SIGINT if end.code == ExitCode.SIGINT else signal.SIGTERM
        stop = asyncio.ensure_future(self.driver.stop(number, self.settings.grace))
        hurry = asyncio.ensure_future(self.hurry.wait())
        await asyncio.wait({stop, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not stop.done():
            self.driver.child.send(signal.SIGKILL)
            await stop

    async def after_drain(self) -> None:
        """A place to wait for workers that are this process's own children."""

    async def _drain(self, end: End) -> None:
        """Tell every worker to go, with the reason; idle ones leave within milliseconds."""
        if not self.members.alive:
            return
        await self.node.drain(list(self.members.alive), end.message, DRAIN_S)
        deadline = asyncio.get_running_loop().time() + DRAIN_S
        while self.members.alive and not self.hurry.is_set():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0 or not self.node.children["gcs_server"].running:
                return
            self.members.changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.members.changed.wait(), min(left_s, 0.1))


def _expected_workers(context: Context) -> int:
    """How many workers to wait for: as told, or the nodes that Slurm gave less the head's."""
    if context.settings.expected_workers is not None:
        return context.settings.expected_workers
    hosts = _worker_hosts(context)
    if context.allocation is None or not context.allocation.job_nodes:
        raise UsageError(
            "the number of workers is not known: there is no Slurm job here and no --expected-workers.",
            "Run it in an sbatch script or under srun, or give --expected-workers N.",
        )
    return len(hosts)


def _worker_hosts(context: Context) -> list[str]:
    """The hosts from which workers are expected, where Slurm tells."""
    allocation = context.allocation
    if allocation is None:
        return []
    nodes = allocation.job_nodes
    if context.symmetric and allocation.step_nodes:
        nodes = allocation.step_nodes
    return [node for node in nodes if node != (allocation.node_name or context.host)]


def _another_host(context: Context) -> str | None:
    """Some other host of the job: the route to it tells which of our addresses is the right one."""
    hosts = _worker_hosts(context)
    return hosts[0] if hosts else None
