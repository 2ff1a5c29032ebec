"""This machine's Ray node: its directory, its ports, its share of the machine, its processes."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError
from ..model.settings import Settings
from ..model.status import ANSWERED, IMPORTED, RAYLET, Role
from ..rayproc.client import remove_client, write_client
from ..rayproc.companion_client import CompanionClient, Started
from ..rayproc.health import Outcome, tcp_probe
from ..rayproc.plan import (
    SCRUBBED,
    NodePlan,
    StartFailure,
    TlsFiles,
    client_environment,
    ports_for_restart,
    uses_proxy,
    wake,
)
from ..rayproc.tls import client_context, make_authority, make_certificate
from ..rayproc.warm import WarmCompanion
from ..slurm.allocation import Allocation
from ..system.limits import raise_limits
from ..system.network import NodeAddress, addresses_of, node_address
from ..system.ports import PortClaim, claim_ports
from ..system.process import Child, Reaper, describe_code, end_tree
from ..system.proctree import identify
from ..system.report import Report
from .directory import ENV_MARK, NodeRoot, make_node_root
from .grants import HostFacts, is_in_memory, read_host
from .resources import ResourcePlan, plan_from_settings
from .sweep import sweep_stale

#: Processes without which the node is not a node.
ESSENTIAL = ("gcs_server", "raylet")

#: A raylet that is told to end takes some 50 ms and its worker processes along; one that does not is killed.
RAYLET_GRACE_S = 1.0

#: Nodes whose addresses are looked up for no_proxy, and how long that may take.
RESOLVED_NODES, RESOLVE_S = 128, 3.0

#: How long the end of a short run waits for the sweep that its start began.
SWEEP_WAIT_S = 5.0

#: How long the rest (agents, orphans of the driver) get between SIGTERM and SIGKILL.
REST_GRACE_S = 0.5

#: How long a GCS that was started again may take to listen.
GCS_START_S = 20.0


@dataclass(frozen=True)
class Launch:
    """How a running process was started, read from /proc, so that it can be started again."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    output: str
    error: str

    @classmethod
    def of(cls, pid: int) -> Launch:
        """Raises OSError when the process has ended."""
        proc = Path(f"/proc/{pid}")
        argv = (proc / "cmdline").read_bytes().split(b"\0")[:-1]
        pairs = [pair.partition(b"=") for pair in (proc / "environ").read_bytes().split(b"\0") if pair]
        return cls(
            argv=tuple(os.fsdecode(word) for word in argv),
            env={os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs},
            cwd=os.readlink(proc / "cwd"),
            output=os.readlink(proc / "fd/1"),
            error=os.readlink(proc / "fd/2"),
        )


class RayNode:
    """The Ray node that this supervisor owns.

    Used in this order: prepare, begin_import, measure, claim_ports, start (again after a failure
    or a loss, with begin_import before it), stop.
    """

    def __init__(
        self,
        *,
        role: Role,
        settings: Settings,
        env: Mapping[str, str],
        allocation: Allocation | None,
        host: str,
        node_ip: str,
        key: str,
        reaper: Reaper,
        report: Report,
        on_death: Callable[[Child, int], None],
        warm: WarmCompanion | None = None,
        kept: bool = False,
    ) -> None:
        self.role = role
        self.settings = settings
        self.allocation = allocation
        self.host = host
        self.node_ip = node_ip
        self.key = key
        self.reaper = reaper
        self.report = report
        self.on_death = on_death
        """Called when a process that the node cannot do without has ended, with its return code."""
        self.on_dashboard: Callable[[str], None] = lambda url: None
        """Called with host:port once the dashboard listens.  Head only."""
        self.token = ""
        self.tls: TlsFiles | None = None
        self.root: NodeRoot
        self.facts: HostFacts
        self.grant: ResourcePlan
        self.address: NodeAddress
        self.plan: NodePlan
        self.ports: PortClaim | None = None
        self.companion: CompanionClient | None = None
        self.children: dict[str, Child] = {}
        self.started: Started | None = None
        self._gcs_launch: Launch | None = None
        self.ray_version = ""
        self.steps: Mapping[str, float] = {}
        """Unix seconds at which steps of the start were done (status.IMPORTED and the like)."""
        self.kept = kept
        """Whether our parent is our keeper, who clears the directory if we are killed."""
        self._env = dict(env)
        self._warm = warm
        self._stopping = False
        self._resets = 0
        self._extras: asyncio.Task[None] | None = None
        self._sweep: asyncio.Task[None] | None = None

    # -- before the start ------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the node's directory; clear what crashed clusters of this user left on the node."""
        base = Path(self.settings.temp_dir) if self.settings.temp_dir else None
        self.root = make_node_root(
            self.key,
            env=self._env,
            base=base,
            role=self.role.value,
            keeper=identify(os.getppid()) if self.kept else None,
        )
        for warning in self.root.warnings:
            self.report.warn(warning)
        self._env[ENV_MARK] = str(self.root.path)
        self._sweep = asyncio.ensure_future(self.sweep())

    def begin_import(self) -> None:
        """Start the companion, which imports Ray while we do the rest; the first may import it already."""
        if self._warm is not None:
            warm, self._warm = self._warm, None
            child = self.reaper.take(warm.pid, "companion", warm.stdin, warm.stdout)
            self.companion = CompanionClient(child)
            self.companion.log_to(self.root.path / "companion.log", warm.log)
            self._note("companion", child.pid)
            return
        log = os.open(self.root.path / "companion.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self.companion = CompanionClient.spawn(self.reaper.spawn, self._env, stderr=log)
        finally:
            os.close(log)
        self._note("companion", self.companion.child.pid)

    async def sweep(self) -> None:
        """Clear what crashed clusters of this user left on this node, beside our own start."""
        extra = [Path(self.settings.temp_dir)] if self.settings.temp_dir else []
        for swept in await asyncio.to_thread(sweep_stale, self._env, extra=extra):
            ended = f", {len(swept.ended)} processes ended" if swept.ended else ""
            self.report.say(f"cleared {swept.path}, left by cluster {swept.key} on {self.host}{ended}")
            for left in swept.left:
                self.report.warn(f"could not clear {left} of cluster {swept.key}")

    def measure(self, *, route_to: str | None) -> None:
        """Find out what this node grants and which address it is known by."""
        settings = self.settings
        if self.node_ip:
            self.address = NodeAddress(self.node_ip, "lo", "a cluster on this machine")
        else:
            self.address = node_address(
                interface=settings.interface or None,
                network=settings.network or None,
                route_to=route_to,
                env=self._env,
                local=is_loopback(settings.master_ip),
            )
        self.facts = read_host(self._env, self.allocation)
        self.grant = plan_from_settings(
            self.facts,
            settings,
            head=self.role is Role.HEAD,
            # Where the directory is in memory, spilled objects are charged to the job twice.
            spill_in_memory=is_in_memory(Path(settings.spill_dir) if settings.spill_dir else self.root.path),
        )
        limits = raise_limits(num_cpus=self.grant.num_cpus)
        for warning in (*self.grant.warnings, *limits.warnings):
            self.report.warn(f"{self.host}: {warning}")

    def claim_ports(self, given: Mapping[str, int]) -> None:
        """Take a block of ports on this node, for as long as this process lives."""
        if self.ports is not None:
            self.ports.close()
        self.ports = claim_ports(self.key, address=self.address.ip, head=self.role is Role.HEAD, given=given)
        for warning in self.ports.warnings:
            self.report.warn(f"{self.host}: {warning}")

    async def make_authority(self) -> str:
        """A new authority for the cluster's certificates (--tls).  Raises RayclusterError."""
        return await make_authority(self.root.path / "tls", self._env, self.reaper)

    async def certify(self, authority: str) -> None:
        """Get a certificate for this node, whose address is known by now.  Raises RayclusterError."""
        self.tls = await make_certificate(
            authority,
            self.root.path / "tls",
            host=self.host,
            ip=self.address.ip,
            env=self._env,
            reaper=self.reaper,
        )

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """For connections of this process to the cluster's gRPC ports."""
        return client_context(self.tls) if self.tls else None

    def port_map(self) -> dict[str, Any]:
        """The ports of this node by name, for the record and for Ray."""
        return ports_for_restart(self.ports.ports.as_dict(), self._resets) if self.ports else {}

    @property
    def gcs_port(self) -> int:
        """The port of the head's GCS, which the head's claim holds."""
        assert self.ports is not None
        return self.ports.ports.gcs

    async def version(self, timeout_s: float) -> str:
        """Ray's version, once it is imported.  Raises StartFailure."""
        if self.companion is None:
            self.begin_import()
        assert self.companion is not None
        return str((await self.companion.ready(timeout_s))["ray_version"])

    # -- the start -------------------------------------------------------------------------------

    async def start(
        self,
        timeout_s: float,
        *,
        identity: str,
        gcs_address: str = "",
        expected_nodes: int = 1,
        storage: Path | None = None,
        gcs_reconnect_s: int | None = None,
        session_name: str | None = None,
    ) -> Started:
        """Start Ray here and wait until the node is registered with its GCS.

        Raises ray_start.StartFailure; nothing of the failed start is left then.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        if self.companion is None:
            self.begin_import()
        companion = self.companion
        assert companion is not None
        self.plan = replace(
            self._plan(identity, gcs_address, expected_nodes, await self._without_proxy(), storage),
            gcs_reconnect_s=gcs_reconnect_s,
            session_name=session_name,
        )
        try:
            ready = await companion.ready(timeout_s)
            self.ray_version = str(ready["ray_version"])
            self.started = await companion.start(self.plan, max(deadline - loop.time(), 1.0))
        except StartFailure:
            await self._drop_companion()
            raise
        self.steps = _steps(ready, self.started)
        for name, pid in self.started.processes.items():
            self._adopt(name, pid)
        self._tell_clients()
        if self.role is Role.WORKER and not self.settings.log_monitor:
            await self._drop_companion()
        return self.started

    async def _without_proxy(self) -> tuple[str, ...]:
        """The job's nodes, by name and address: where a proxy is set, it is not for them."""
        if self.allocation is None or not uses_proxy(self._env):
            return ()
        names = self.allocation.job_nodes
        if len(names) > RESOLVED_NODES:  # a thousand nodes that ask for a thousand names would be a storm
            return names
        found = asyncio.ensure_future(asyncio.to_thread(addresses_of, names))
        await asyncio.wait({found}, timeout=RESOLVE_S)
        return (*names, *(found.result() if found.done() else ()))

    def _plan(
        self,
        identity: str,
        gcs_address: str,
        expected_nodes: int,
        no_proxy: Sequence[str],
        storage: Path | None,
    ) -> NodePlan:
        settings, grant = self.settings, self.grant
        token_path = str(self.root.write_token(self.token)) if self.token else None
        return NodePlan(
            role=self.role,
            node_ip=self.address.ip,
            node_name=self.host,
            gcs_address=gcs_address or join_host_port(self.address.ip, self.gcs_port),
            ports=self.port_map(),
            temp_dir=str(self.root.ray_dir),
            num_cpus=grant.num_cpus,
            num_gpus=grant.num_gpus,
            memory_bytes=grant.memory_bytes,
            object_store_bytes=grant.object_store_bytes,
            resources=grant.resources,
            labels=grant.labels,
            system_config=grant.system_config,
            identity=identity,
            client_server=settings.client_server,
            dashboard_host=settings.dashboard_host,
            auth_token_path=token_path,
            tls=self.tls,
            spill_dir=settings.spill_dir or None,
            gcs_storage_path=str(storage) if storage else None,
            expected_nodes=expected_nodes,
            no_proxy=tuple(no_proxy),
            unset=("RAYCLUSTER_TOKEN", *grant.unset, *(SCRUBBED if settings.scrub_env else ())),
            quick=settings.quick,  # type: ignore[arg-type]  # checked by Settings
            env={**grant.environment, **self.address.environment(self._env), ENV_MARK: str(self.root.path)},
        )

    def _tell_clients(self) -> None:
        """Leave what attach and exec need; without it the cluster works all the same."""
        own = {*client_environment(self.plan, {}), *self.plan.env, "no_proxy", "NO_PROXY"}
        try:
            write_client(self.root.path, self.client_environment(), own, self.grant.unset)
        except OSError as error:
            self.report.note(f"nobody can attach to {self.host}: {error}")

    def _adopt(self, name: str, pid: int) -> None:
        """Watch a daemon that has become our child when its starter ended."""
        child = self.reaper.adopt(name, pid)
        self.children[name] = child
        self._note(name, pid)
        if name == "gcs_server":
            with contextlib.suppress(OSError):
                self._gcs_launch = Launch.of(pid)
        self._mind(child)

    def _mind(self, child: Child) -> None:
        child.exited.add_done_callback(lambda code: self._died(child, code.result()))

    def _died(self, child: Child, code: int) -> None:
        if self._stopping or self.children.get(child.name) is not child:
            return
        self.report.note(f"{child.name} on {self.host} {describe_code(code)}")
        if child.name in ESSENTIAL:
            self.on_death(child, code)
        else:
            self.report.warn(
                f"{child.name} on {self.host} {describe_code(code)}; the cluster goes on without"
            )

    def _note(self, name: str, pid: int) -> None:
        """Write a process down, so that a later start can end it if we and our keeper are killed."""
        self.root.journal(name, pid)

    def start_extras(self) -> None:
        """Start, beside the driver, what the driver's start need not wait for."""
        if self._extras is None:
            self._extras = asyncio.ensure_future(self._start_extras())

    async def _start_extras(self) -> None:
        wanted = ["log_monitor"] if self.settings.log_monitor else []
        if self.role is Role.HEAD and self.settings.dashboard:
            wanted.insert(0, "dashboard")
        for what in wanted:
            assert self.companion is not None and self.started is not None
            try:
                done = await self.companion.start_extra(what, self.plan, self.started, 120.0)
            except StartFailure as failed:
                self.report.warn(
                    f"the {what.replace('_', ' ')} did not start on {self.host}: {failed.message}"
                )
                continue
            for one in done.get("processes", []):
                self._adopt(one["name"], one["pid"])
            if done.get("url"):
                self.report.say(f"dashboard: http://{done['url']}")
                self.on_dashboard(str(done["url"]))
        if self.role is Role.WORKER:
            await self._drop_companion()

    def wake_agent(self) -> None:
        """Start this node's dashboard agent, which waits until somebody wants what it tells."""
        wake(self.plan.agent_gate)

    async def _drop_companion(self) -> None:
        """A worker needs its companion no longer once Ray runs: it is most of our memory."""
        companion, self.companion = self.companion, None
        if companion is not None:
            await companion.close()

    # -- while it runs ---------------------------------------------------------------------------

    async def watch(
        self, listener: Callable[[list[Mapping[str, Any]]], None], expected_nodes: int
    ) -> asyncio.Future[None]:
        """Call ``listener`` with the nodes that changed, now and at every change.  Head only.

        Returns when it watches, with a future that is done when it no longer does (the companion
        or its watcher was killed).  Raises RayclusterError.
        """
        if self.companion is None or self.companion.child.exited.done():
            self.begin_import()
        companion = self.companion
        assert companion is not None
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard(event: Mapping[str, Any]) -> None:
            if event["event"] == "nodes":
                listener(event["changed"])
            elif event["event"] == "watcher_ended" and not over.done():
                over.set_result(None)

        def ended(_: object) -> None:
            if not over.done():
                over.set_result(None)

        companion.child.exited.add_done_callback(ended)
        companion.listen(heard)
        try:
            await companion.ready(self.settings.start_timeout)
            await companion.watch(self.plan.gcs_address, self.client_environment(), expected=expected_nodes)
        except StartFailure as failed:
            raise RayclusterError(f"the nodes of the cluster cannot be watched: {failed.message}") from failed
        return over

    async def restart_gcs(self) -> None:
        """Start the GCS again as it was started first: same port, same storage.

        The raylets and drivers that were connected to it find it again by themselves.
        Raises RayclusterError when it does not come up.
        """
        launch = self._gcs_launch
        if launch is None:
            raise RayclusterError("how the GCS was started is not known.")
        outputs = [
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            for path in (launch.output, launch.error)
        ]
        try:
            child = self.reaper.spawn(
                launch.argv,
                "gcs_server",
                env=dict(launch.env),
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                start_new_session=True,
            )
        finally:
            for fd in outputs:
                os.close(fd)
        self.children["gcs_server"] = child
        self._note("gcs_server", child.pid)
        host, _, port = self.plan.gcs_address.rpartition(":")
        deadline = asyncio.get_running_loop().time() + GCS_START_S
        while (await tcp_probe(host.strip("[]"), int(port), timeout_s=1.0)).outcome is not Outcome.REACHED:
            if not child.running or asyncio.get_running_loop().time() > deadline:
                await child.stop(0.0)
                raise RayclusterError("the GCS did not come up again.", f"Its log is {launch.error}.")
            await asyncio.sleep(0.02)
        self._mind(child)

    async def drain(self, node_ids: Sequence[str], message: str, deadline_s: float) -> None:
        """Tell nodes to leave, with the reason.  Failures are of no account: they will be ended anyhow."""
        if self.companion is None:
            return
        with contextlib.suppress(StartFailure):
            await self.companion.drain(node_ids, message=message, deadline_s=deadline_s, timeout_s=deadline_s)
            # More nodes expected than there are: the watcher looks every 50 ms, and sees them leave.
            await self.companion.watch(
                self.plan.gcs_address, self.client_environment(), expected=1_000_000, timeout_s=deadline_s
            )

    def client_environment(self) -> dict[str, str]:
        """The environment of a driver on this node."""
        base = {name: value for name, value in self._env.items() if name not in self.grant.unset}
        base.pop("RAYCLUSTER_TOKEN", None)
        return client_environment(self.plan, base) | dict(self.plan.env)

    def client_variables(self) -> dict[str, str]:
        """Only those variables of :meth:`client_environment` that differ from what we were given."""
        return {
            name: value for name, value in self.client_environment().items() if self._env.get(name) != value
        }

    def log_of(self, name: str) -> str:
        """The log in which the end of one of Ray's processes may be explained."""
        if self.started is None:
            return ""
        return f"{self.started.session_dir}/logs/{name}.err"

    def drain_message(self) -> str | None:
        """Why the head told our raylet to go, in its log; None when it did not, or Ray words it otherwise."""
        if self.started is None:
            return None
        try:
            with open(f"{self.started.session_dir}/logs/raylet.out", "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - 65536, 0))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return None
        match = re.search(r"Drain raylet RPC.*Drain reason message: (.*)", text)
        return match[1].strip() if match else None

    # -- the end ---------------------------------------------------------------------------------

    async def reset(self) -> None:
        """End what is left of a node whose raylet has died, so that it can be started again."""
        self._stopping = True
        remove_client(self.root.path)
        await self._end_processes(asyncio.Event())
        self.children.clear()
        self.started = None
        self._resets += 1
        self._stopping = False

    async def stop(self, hurry: asyncio.Event) -> None:
        """End every process of this node, then remove its directory and free its ports."""
        self._stopping = True
        await self._end_processes(hurry)
        if self.ports is not None:
            self.ports.close()
        if self._sweep is not None:
            await asyncio.wait({self._sweep}, timeout=0 if hurry.is_set() else SWEEP_WAIT_S)
        if not hasattr(self, "root"):
            return
        for left in await asyncio.to_thread(self.root.remove):
            self.report.warn(f"{self.host}: could not remove {left}")

    async def _end_processes(self, hurry: asyncio.Event) -> None:
        """The raylet first: it takes its worker processes along and says good-bye to the GCS.

        The GCS last, by SIGKILL: on SIGTERM it waits a minute for raylets that are still connected.
        """
        if self._extras is not None:
            self._extras.cancel()
            self._extras = None
        if self.companion is not None:
            self.companion.kill()
            self.companion = None
        raylet, gcs = self.children.get("raylet"), self.children.get("gcs_server")
        if raylet is not None and raylet.running:
            await raylet.stop(0.0 if hurry.is_set() else RAYLET_GRACE_S)
        skip = [gcs.pid] if gcs is not None and gcs.running else []
        left = await end_tree(os.getpid(), skip=skip, grace_s=0.0 if hurry.is_set() else REST_GRACE_S)
        if gcs is not None and gcs.running:
            gcs.send(signal.SIGKILL)
            left += await end_tree(os.getpid(), grace_s=0.0)
        for stat in left:
            self.report.warn(
                f"{self.host}: {stat.name} (process {stat.pid}) could not be ended, not even by SIGKILL"
            )


def _steps(ready: Mapping[str, Any], started: Started) -> dict[str, float]:
    """The stamps of a start: the companion's own, as far as its way of starting has them."""
    phases = started.phases
    found = {
        IMPORTED: ready.get("imported"),
        ANSWERED: phases.get("gcs listening") or phases.get("checked"),
        RAYLET: phases.get("raylet spawned"),
    }
    return {name: float(when) for name, when in found.items() if when}


def join_host_port(host: str, port: int) -> str:
    """host:port as Ray writes it.

    >>> join_host_port("fd00::1", 6379)
    '[fd00::1]:6379'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
