"""This machine's Ray node: prepared, started, watched and ended through one object.

Its parts: NodeSetup (directory, address, share of the machine, ports, keys), NodeCompanion (the process in
which Ray is imported), NodeProcesses (what Ray runs here).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..model.errors import RayclusterError
from ..model.status import Role
from ..rayproc.client import remove_client
from ..rayproc.companion_client import CompanionClient
from ..rayproc.environment import client_environment, driver_environment
from ..rayproc.failure import StartFailure
from ..rayproc.gcs_monitor import while_gcs_answers
from ..rayproc.listed_node import NodesListener
from ..rayproc.plan import NodePlan, TlsFiles
from ..rayproc.raylet_log import read_drain_reason
from ..rayproc.started import Started
from ..rayproc.template import Template
from ..rayproc.tls import client_context
from ..rayproc.warm import WarmCompanion
from ..system.network import NodeAddress
from ..system.ports import PortClaim
from ..system.process import Child, Reaper
from ..system.proctree import identify
from ..system.report import Report
from ..system.waiting import done_within, in_thread
from .background import OnFailure, in_background, reported
from .clearing import clear_leftovers
from .companion import NodeCompanion
from .dashboard import BESIDE_DRIVER_NICE, Dashboard
from .directory import NodeRoot
from .extras import LogMonitor
from .gcs_launch import GcsLaunch
from .grants import HostFacts
from .processes import NodeProcesses
from .resources import ResourcePlan
from .setup import FILE_S, NodeSetup
from .stand_ins import AgentStandIns
from .start_spec import StartSpec
from .templates import NodeTemplates

if TYPE_CHECKING:
    import ssl

#: How long the end of a short run waits for the sweep that its start began.
SWEEP_WAIT_S = 5.0


class RayNode:
    """The Ray node that this supervisor owns.

    Used in this order: prepare, begin_import, measure, claim_ports, start (again after a failure
    or a loss, with begin_import before it), stop.
    """

    def __init__(
        self,
        setup: NodeSetup,
        *,
        reaper: Reaper,
        report: Report,
        on_death: Callable[[Child, int], None],
        warm: WarmCompanion | None = None,
        kept: bool = False,
    ) -> None:
        """``on_death`` is called with a process that the node cannot do without and its return code.

        ``kept``: our parent is our keeper, which clears the directory if we are killed.
        """
        self.others: Callable[[], list[int]] = list
        """Children of this process that are no part of this node (`run --local`): a reset spares them."""
        self.got_signal: Callable[[int], bool] = lambda number: False
        """Whether this process got a signal."""
        self.setup = setup
        self.role, self.settings, self.host = setup.role, setup.settings, setup.host
        self.reaper = reaper
        self.report = report
        self.on_failure: OnFailure = reported(report, self.host)
        """Called when something in the background fails."""
        self.token = ""
        self.plan: NodePlan
        """Of the latest start."""
        self.started: Started | None = None
        self.ray_version = ""
        self.steps: Mapping[str, float] = {}
        """Unix seconds at which steps of the start were done (status.IMPORTED and the like)."""
        self._companion = NodeCompanion(setup=setup, reaper=reaper, report=report, warm=warm)
        self._processes = NodeProcesses(
            host=self.host,
            reaper=reaper,
            report=report,
            note=lambda name, pid: self.root.journal(name, pid),
            on_death=on_death,
            got_signal=lambda number: self.got_signal(number),
        )
        self._on_failure: OnFailure = lambda what, error: self.on_failure(what, error)
        self.dashboard = Dashboard(
            host=self.host,
            companion=self._companion,
            processes=self._processes,
            reaper=reaper,
            report=report,
            on_failure=self._on_failure,
        )
        """Head only."""
        self._stand_ins = AgentStandIns()
        self.log_monitor = LogMonitor(
            host=self.host,
            companion=self._companion,
            processes=self._processes,
            report=report,
            on_failure=self._on_failure,
        )
        self.templates = NodeTemplates(setup=setup, companion=self._companion, reaper=reaper, report=report)
        self._kept = kept
        self._resets = 0
        self._gcs_launch: GcsLaunch | None = None
        self._sweep: asyncio.Task[None] | None = None

    # -- before the start ------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Make the node's directory; begin to clear what crashed clusters of this user left on the node.

        Raises RayclusterError, also when a file system does not answer.
        """
        await self.setup.make_directory(identify(os.getppid()) if self._kept else None)
        self._sweep = in_background("clearing what crashed clusters left", self.sweep(), self._on_failure)

    def begin_import(self) -> None:
        """Start the companion, which imports Ray in the background, unless there is one."""
        self._companion.there()

    async def sweep(self) -> None:
        """Clear what crashed clusters of this user left on this node, while our own cluster starts."""
        await clear_leftovers(self.setup, self.report)

    async def measure(self, *, route_to: str | None) -> None:
        """Find out what this node grants and its address.  Raises RayclusterError."""
        await self.setup.measure(route_to)

    def claim_ports(self, given: Mapping[str, int]) -> None:
        """Take a block of ports on this node, for as long as this process lives."""
        self.setup.claim_ports(given)

    async def make_common_path(self, head_root: str) -> None:
        """Make this node's directory reachable under the path of the head's.  Never raises."""
        await self.setup.make_common_path(head_root)

    async def make_authority(self) -> str:
        """A new authority for the cluster's certificates (--tls).  Raises RayclusterError."""
        return await self.setup.make_authority(self.reaper)

    async def certify(self, authority: str) -> None:
        """Make a certificate for this node, whose address is known by now.  Raises RayclusterError."""
        await self.setup.certify(authority, self.reaper)

    async def version(self, timeout_s: float) -> str:
        """Ray's version, once it is imported.  Raises StartFailure."""
        return str((await self._companion.there().ready(timeout_s))["ray_version"])

    # -- what is known of it ---------------------------------------------------------------------

    @property
    def root(self) -> NodeRoot:
        """The node's directory; there from prepare on."""
        return self.setup.directory

    @property
    def address(self) -> NodeAddress:
        return self.setup.found.address

    @property
    def facts(self) -> HostFacts:
        return self.setup.found.facts

    @property
    def grant(self) -> ResourcePlan:
        return self.setup.found.grant

    @property
    def ports(self) -> PortClaim | None:
        return self.setup.ports

    @property
    def gcs_port(self) -> int:
        """The port of the head's GCS, which the head's claim holds."""
        return self.setup.gcs_port

    def port_map(self) -> dict[str, Any]:
        """The ports of this node by name, for the record and for Ray."""
        return self.setup.port_map(self._resets)

    @property
    def children(self) -> dict[str, Child]:
        """Ray's processes by name: raylet, on the head also gcs_server, log_monitor, dashboard."""
        return self._processes.children

    @property
    def companion(self) -> CompanionClient | None:
        """The companion, where there is one: a worker's ends when Ray runs."""
        return self._companion.client

    @property
    def tls(self) -> TlsFiles | None:
        return self.setup.tls

    @tls.setter
    def tls(self, files: TlsFiles | None) -> None:
        self.setup.tls = files

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """For connections of this process to the cluster's gRPC ports."""
        return client_context(self.tls) if self.tls else None

    def client_environment(self) -> dict[str, str]:
        """The environment of a program on this node that uses the cluster (rayproc.environment)."""
        return client_environment(self.plan, self.setup.env)

    def driver_environment(self) -> dict[str, str]:
        """The environment of a driver on this node (rayproc.environment)."""
        return driver_environment(self.plan, self.setup.env)

    def client_variables(self) -> dict[str, str]:
        """Only those variables of :meth:`client_environment` that differ from what we were given."""
        env, given = self.client_environment(), self.setup.env
        return {name: value for name, value in env.items() if given.get(name) != value}

    def log_of(self, name: str) -> str:
        """The log in which the end of one of Ray's processes may be explained."""
        return f"{self.started.session_dir}/logs/{name}.err" if self.started else ""

    async def drain_message(self) -> str | None:
        """Why the head drained our raylet, from its log; None when it did not, or the log cannot be read."""
        where = f"{self.started.session_dir}/logs/raylet.out" if self.started else ""
        reading = in_thread(read_drain_reason, where)
        return reading.result() if await done_within(reading, FILE_S) else None

    # -- the start -------------------------------------------------------------------------------

    async def start(self, timeout_s: float, spec: StartSpec, template: Template | None = None) -> Started:
        """Start Ray here and wait until the node is registered with its GCS.

        By the ``template`` where there is one and it describes this node, else by the companion.
        Raises StartFailure; nothing of the failed start is left then.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        self.plan = self.setup.plan(
            spec,
            no_proxy=await self.setup.hosts_without_proxy(),
            token_path=await self.setup.write_token(self.token),
            restarts=self._resets,
        )
        self.dashboard.hold(self.plan)
        await self._stand_ins.hold(self.plan)
        async with self._processes.continued():
            started = await self._start_by_template(template, timeout_s) if template else None
            self.started = started or await self._start_by_companion(deadline)
        if self.settings.head_recovery and (gcs := self.children.get("gcs_server")):
            with contextlib.suppress(OSError):  # it has ended already, which is reported
                self._gcs_launch = GcsLaunch.of(gcs.pid)
        self.dashboard.open(self.started, self.setup.env)
        # What attach and exec need; the cluster itself works without it.
        if why := await self.setup.write_client(self.plan):
            self.report.note(f"`raycluster attach` and `exec` do not work on {self.host}: {why}")
        if self.role is Role.WORKER and not self.settings.log_monitor:
            await self._companion.drop()
        return self.started

    async def _start_by_template(self, template: Template, timeout_s: float) -> Started | None:
        """None where the node has to start in another way."""
        self._stand_ins.listen()  # a raylet that joins may need its agent at once
        if (done := await self.templates.start(template, self.plan, timeout_s)) is None:
            await self._stand_ins.hold(self.plan)  # anew: shells of the raylet that failed end
            return None
        started, raylet = done
        self.ray_version, self.steps = template.ray_version, started.steps({})
        self._processes.add(raylet)
        self._processes.watch(raylet)
        return started

    async def _start_by_companion(self, deadline: float) -> Started:
        loop, companion = asyncio.get_running_loop(), self._companion.there()
        try:
            ready = await companion.ready(deadline - loop.time())
            self.ray_version = str(ready["ray_version"])
            starting = companion.start(self.plan, max(deadline - loop.time(), 1.0))
            loop.call_soon(self.templates.on_starting)  # once it is waited for
            if self.role is Role.HEAD:
                starting = while_gcs_answers(
                    starting,
                    self.address.ip,
                    self.gcs_port,
                    interval_s=self.settings.check_interval,
                    context=self.tls_context,
                )
            started = await starting
        except StartFailure:
            await self._companion.drop()
            raise
        self.steps = started.steps(ready)
        for name, pid in started.processes.items():
            self._processes.adopt(name, pid)
        if started.agents_wait:
            self._stand_ins.listen()
        else:
            self._stand_ins.close()
        return started

    def start_extras(self) -> None:
        """Start what the driver does not need at its start: dashboard and log monitor."""
        if self.settings.dashboard:
            self.dashboard.start(BESIDE_DRIVER_NICE)
        if self.settings.log_monitor and self.started is not None:
            # Without a companion Ray would have to be imported for it.
            begin = self.log_monitor.start if self.companion else self.log_monitor.start_with_work
            begin(self.plan, self.started)

    # -- while it runs ---------------------------------------------------------------------------

    async def watch(self, listener: NodesListener, expected_nodes: int) -> asyncio.Future[None]:
        """Call ``listener`` with the nodes that changed, now and at every change.  Head only.

        Returns once the watch has begun: a future that is done when it has ended.  Raises RayclusterError.
        """
        return await self._companion.watch(
            self.plan.gcs_address,
            self.client_environment(),
            listener,
            expected_nodes=expected_nodes,
            import_s=self.settings.start_timeout,
        )

    async def restart_gcs(self) -> None:
        """Start the GCS again as it was started first: same port, same storage (--head-recovery).

        The raylets and drivers that were connected to it connect again by themselves.
        Raises RayclusterError when it does not start.
        """
        if self._gcs_launch is None:
            raise RayclusterError("how the GCS was started is not known.")
        child = self._gcs_launch.spawn(self.reaper)
        self._processes.add(child)
        await self._gcs_launch.listening(child, self.plan.gcs_address)
        self._processes.watch(child)

    async def drain(self, node_ids: Sequence[str], message: str, deadline_s: float) -> None:
        """Drain nodes, with the reason, and watch them leave.  Never raises for what a node does."""
        await self._companion.drain(
            self.plan.gcs_address, self.client_environment(), node_ids, message, deadline_s
        )

    # -- the end ---------------------------------------------------------------------------------

    async def reset(self) -> None:
        """End what is left of a node whose raylet has died, so that it can be started again."""
        self._processes.expect_end()
        await done_within(in_thread(remove_client, self.root.path), FILE_S)
        await self._end_processes(asyncio.Event(), self.others())
        self._processes.start_again()
        self.started = None
        self._resets += 1

    async def stop(self, hurry: asyncio.Event) -> None:
        """End every process of this node, then remove its directory and free its ports."""
        await self._end_processes(hurry)
        self.dashboard.close()
        if self.ports is not None:
            self.ports.close()
        if self._sweep is not None:
            await done_within(self._sweep, 0 if hurry.is_set() else SWEEP_WAIT_S)
        await self.setup.remove_directory(hurry)

    async def _end_processes(self, hurry: asyncio.Event, spare: Sequence[int] = ()) -> None:
        self.dashboard.pause()
        self._stand_ins.stop_listening()
        self.log_monitor.cancel()
        companion = self._companion.kill()
        await self._processes.end(hurry, spare)
        self._stand_ins.close()  # not earlier: agents would start for the raylet's last moments
        if companion is not None:
            await companion.close(0.0)
