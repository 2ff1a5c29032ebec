"""What a node needs before Ray starts: its directory, address, share of the machine, ports, keys.

File systems and name servers may hang: whatever asks one runs in a thread, with a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..model.address import join_host_port
from ..model.errors import RayclusterError
from ..model.settings import Settings
from ..model.status import Role
from ..rayproc.client import write_client
from ..rayproc.environment import SCRUBBED, client_environment, uses_proxy
from ..rayproc.plan import NodePlan, TlsFiles, ports_for_restart
from ..rayproc.serve_ports import ports_with_server, variables_with_server
from ..rayproc.tls import make_authority, make_certificate
from ..rayproc.worker_process import MARK as WORKER_MARK
from ..slurm.allocation import Allocation
from ..system.network import InterfacesDownError, addresses_of
from ..system.ports import PortClaim, claim_ports
from ..system.process import Reaper
from ..system.proctree import ProcessRef
from ..system.report import Report
from ..system.waiting import done_within, in_thread
from .common_path import make_common_path, restore_common_path
from .directory import ENV_MARK, NodeRoot, make_node_root
from .handover import Handover
from .measure import Measured, measure_node
from .places import TMP_DIR, has_tmpdir
from .start_spec import StartSpec

#: How long a small file of the node's directory may take to be read or written.
FILE_S = 5.0

#: How long making the node's directory, or writing a file in it, may take: 2 ms on a disk that works.
DIRECTORY_S = 30.0

#: How long a start that is cancelled waits for a directory that is being made, so that it can be removed.
ABANDONED_S = 2.0

#: How long it may take to find the node's address and grants; a name server that is down costs 20 s and more.
MEASURE_S = 60.0

#: How long a node whose interfaces are all down waits for one to come up, and how often it looks.
LINK_WAIT_S, LINK_POLL_S = 30.0, 0.5

#: How long removing the node's directory may take, and how long when a second signal asks for a quick end.
REMOVE_S, HURRIED_REMOVE_S = 60.0, 2.0

#: Nodes whose addresses are looked up for no_proxy, and how long that may take.
RESOLVED_NODES, RESOLVE_S = 128, 3.0


NOTHING: Mapping[str, str] = MappingProxyType({})


class NodeSetup:
    """The parts of a node, each made once or again: make_directory, measure, claim_ports, certify.

    ``measured`` and ``root`` are there from the step that makes them on.
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
        report: Report,
        ray_env: Mapping[str, str] = NOTHING,
    ) -> None:
        """``ray_env``: variables for Ray's processes on this node."""
        self.role = role
        self.settings = settings
        self.allocation = allocation
        self.host = host
        self.key = key
        self.env = dict(env)
        """The environment of this node's processes, with the mark of the directory once there is one."""
        self.root: NodeRoot | None = None
        self.measured: Measured | None = None
        self.ports: PortClaim | None = None
        self.tls: TlsFiles | None = None
        self._token = ""
        self.common_path: Path | None = None
        """The path of this node's directory that is the same on all nodes (common_path), once known."""
        self.worker_hosts: Sequence[str] = ()
        """Of a head: the hosts on which worker jobs may run, where they are known."""
        self._node_ip = node_ip
        self._report = report
        self._ray_env = ray_env

    # -- the steps -------------------------------------------------------------------------------

    async def make_directory(
        self,
        keeper: ProcessRef | None = None,
        *,
        timeout_s: float = DIRECTORY_S,
        make_root: Callable[..., NodeRoot] = make_node_root,
    ) -> NodeRoot:
        """Make and lock the node's directory.  Raises RayclusterError, also at the deadline.

        ``keeper`` clears it if this process is killed.
        """
        base = Path(self.settings.temp_dir) if self.settings.temp_dir else None
        make = partial(make_root, self.key, env=self.env, base=base, role=self.role.value, keeper=keeper)
        handover = Handover()
        making = in_thread(lambda: handover.give(make()))
        try:
            if not await done_within(making, timeout_s):
                raise RayclusterError(
                    f"the directory for Ray's files on {self.host} was not made within {timeout_s:g} s: "
                    f"a file system does not answer ({base or 'RAY_TMPDIR, TMPDIR or /tmp'}).",
                    "Give a local directory by --temp-dir.",
                )
            root = making.result()
        except BaseException as error:
            handover.refuse()
            if isinstance(error, asyncio.CancelledError):  # the process ends soon, and the thread with it
                await done_within(making, ABANDONED_S)
            raise
        self.root = root
        self.env[ENV_MARK] = str(root.path)
        self._warn(root.warnings)
        return root

    async def make_common_path(self, head_root: str, timeout_s: float = DIRECTORY_S) -> None:
        """Make this node's directory reachable under the path of the head's.  Never raises.

        Without it the cluster works, except for copied environments: so a failure is only reported.
        """
        own = self.directory.path
        making = in_thread(make_common_path, own, head_root)
        if await done_within(making, timeout_s):
            self.common_path, why = making.result()
        else:
            self.common_path, why = own, "the file system does not answer"
        if why:
            self._report.warn(
                f"{self.host}: this node's files cannot also be reached as {head_root}, as they are on the "
                f"head ({why}). Tasks that get a copy of the driver's whole environment "
                "(env_vars=dict(os.environ)) do not start on this node."
            )

    def _in_common(self, path: str) -> str:
        """A path in this node's directory as Ray and environments are to name it."""
        own = str(self.directory.path)
        return str(self.common_path or own) + path[len(own) :] if path.startswith(own + "/") else path

    async def measure(
        self,
        route_to: str | None,
        *,
        timeout_s: float = MEASURE_S,
        find: Callable[..., Measured] = measure_node,
        link_wait_s: float = LINK_WAIT_S,
    ) -> None:
        """Find the node's address and grants.  Raises RayclusterError, also at the deadline.

        A network interface that is down gets ``link_wait_s`` to come up.
        """
        started = time.monotonic()
        warned = False
        while True:
            try:
                self.measured = await self._measured_once(route_to, timeout_s, find)
                break
            except InterfacesDownError as error:
                if time.monotonic() - started >= link_wait_s:
                    raise
                if not warned:
                    self._warn([f"{error.message} Waiting up to {link_wait_s:g} s for it."])
                    warned = True
            await asyncio.sleep(LINK_POLL_S)
        self._warn(self.measured.warnings)

    async def _measured_once(
        self, route_to: str | None, timeout_s: float, find: Callable[..., Measured]
    ) -> Measured:
        measuring = in_thread(
            partial(
                find,
                settings=self.settings,
                role=self.role,
                env=self.env,
                allocation=self.allocation,
                node_ip=self._node_ip,
                directory=self.directory.path,
                route_to=route_to,
            )
        )
        if not await done_within(measuring, timeout_s):
            raise RayclusterError(
                f"the address of {self.host} was not found within {timeout_s:g} s: "
                "a name server does not answer.",
                f"`getent hosts {route_to or self.host}` on {self.host} shows whether names are resolved.",
            )
        return measuring.result()

    def claim_ports(self, given: Mapping[str, int]) -> None:
        """Take a block of ports on this node, for as long as this process lives.  Again: another one."""
        if self.ports is not None:
            self.ports.close()
        self.ports = claim_ports(
            self.key, address=self.found.address.ip, head=self.role is Role.HEAD, given=given
        )
        self._warn(self.ports.warnings)

    async def write_client(self, plan: NodePlan) -> str:
        """Write what attach and exec need.  Returns why that could not be."""
        own = {*client_environment(plan, {}), "no_proxy", "NO_PROXY"}
        env = client_environment(plan, self.env)
        writing = in_thread(write_client, self.directory.path, env, own, plan.unset)
        try:
            if not await done_within(writing, FILE_S):
                return "the file system does not answer"
            writing.result()
        except OSError as error:
            return str(error)
        return ""

    async def make_authority(self, reaper: Reaper) -> str:
        """A new authority for the cluster's certificates (--tls).  Raises RayclusterError."""
        return await make_authority(self.directory.path / "tls", self.env, reaper)

    async def certify(self, authority: str, reaper: Reaper) -> None:
        """Make a certificate for this node's address.  Raises RayclusterError."""
        self.tls = await make_certificate(
            authority,
            self.directory.path / "tls",
            host=self.host,
            ip=self.found.address.ip,
            env=self.env,
            reaper=reaper,
        )

    async def write_token(self, token: str, timeout_s: float = DIRECTORY_S) -> str:
        """Put the cluster's token into the node's directory; returns its path, '' for no token."""
        self._token = token
        if not token:
            return ""
        writing = in_thread(self.directory.write_token, token)
        if not await done_within(writing, timeout_s):
            raise RayclusterError(f"{self.directory.path} on {self.host} does not answer.")
        return str(writing.result())

    @property
    def keys(self) -> tuple[str, ...]:
        """The files of the node's key and certificates, with --tls."""
        return (self.tls.cert, self.tls.key, self.tls.ca) if self.tls is not None else ()

    def restore_files(self) -> None:
        """Make again what a program that cleans /tmp has removed and is known here.  Never raises.

        Without the token and the path to it Ray's worker processes abort, and start again without end.
        """
        if self.common_path is not None:
            restore_common_path(self.directory.path, self.common_path)
        if self._token:
            self.directory.restore_token(self._token)

    async def hosts_without_proxy(self) -> tuple[str, ...]:
        """The nodes, by name and address, for which no proxy must be used where one is set.

        Those of the job, and of the head those on which worker jobs may run.
        """
        if self.allocation is None or not uses_proxy(self.env):
            return ()
        names = tuple(dict.fromkeys((*self.allocation.job_nodes, *self.worker_hosts)))
        if len(names) > RESOLVED_NODES:  # a thousand nodes that each resolve a thousand names are too many
            return names
        found = in_thread(addresses_of, names)
        return (*names, *(found.result() if await done_within(found, RESOLVE_S) else ()))

    async def remove_directory(self, hurry: asyncio.Event) -> None:
        """Remove the node's directory, if there is one; what is left of it is reported."""
        if self.root is None:
            return
        removal = in_thread(self.root.remove)
        hurried = asyncio.ensure_future(hurry.wait())
        first: set[asyncio.Future[Any]] = {removal, hurried}
        try:
            await asyncio.wait(first, timeout=REMOVE_S, return_when=asyncio.FIRST_COMPLETED)
            if hurry.is_set():
                await done_within(removal, HURRIED_REMOVE_S)
        finally:
            hurried.cancel()
        if not removal.done():
            self._report.warn(
                f"{self.host}: {self.root.path} was not removed in time; the next start here removes it"
            )
            return
        for left in removal.result():
            self._report.warn(f"{self.host}: could not remove {left}")

    # -- what they give --------------------------------------------------------------------------

    @property
    def directory(self) -> NodeRoot:
        """The node's directory, once made."""
        assert self.root is not None, "make_directory comes first"
        return self.root

    @property
    def found(self) -> Measured:
        """Address and grants, once measured."""
        assert self.measured is not None, "measure comes first"
        return self.measured

    @property
    def gcs_port(self) -> int:
        """The port of the head's GCS, which the head's claim holds."""
        assert self.ports is not None, "claim_ports comes first"
        return self.ports.ports.gcs

    def port_map(self, restarts: int) -> dict[str, object]:
        """The ports of this node by name, for a raylet that was started again ``restarts`` times."""
        return ports_for_restart(self.ports.ports.as_dict(), restarts) if self.ports else {}

    def plan(self, spec: StartSpec, *, no_proxy: Sequence[str], token_path: str, restarts: int) -> NodePlan:
        """What Ray is started with on this node; ``restarts`` counts the starts before this one."""
        settings, grant, address = self.settings, self.found.grant, self.found.address
        own = address.environment(self.env)
        if "VLLM_HOST_IP" in own:
            own[WORKER_MARK] = own["VLLM_HOST_IP"]
        ports = self.port_map(restarts)
        if settings.service:
            ports = ports_with_server(ports)
            status = str(self.directory.serve_status) if self.role is Role.HEAD else ""
            own |= variables_with_server(
                settings.service_host, self.env, own_port=not settings.service_port, status=status
            )
        return NodePlan(
            role=self.role,
            node_ip=address.ip,
            node_name=self.host,
            gcs_address=spec.gcs_address or join_host_port(address.ip, self.gcs_port),
            ports=ports,
            # Of the same name on all nodes: RayDP sends sockets' paths of one node to another.
            temp_dir=self._in_common(str(self.directory.ray_dir)),
            num_cpus=grant.num_cpus,
            num_gpus=grant.num_gpus,
            memory_bytes=grant.memory_bytes,
            object_store_bytes=grant.object_store_bytes,
            resources=grant.resources,
            labels=grant.labels,
            system_config=grant.system_config,
            identity=spec.identity,
            agent_at_once=spec.agent_at_once,
            client_server=settings.client_server,
            dashboard_host=settings.dashboard_host,
            auth_token_path=self._in_common(token_path) or None,
            tls=self.tls
            and TlsFiles(*(self._in_common(path) for path in (self.tls.cert, self.tls.key, self.tls.ca))),
            tmp_dir=None if has_tmpdir(self.env) else self._in_common(str(self.directory.path / TMP_DIR)),
            spill_dir=settings.spill_dir or None,
            gcs_storage_path=str(spec.storage) if spec.storage else None,
            session_name=spec.session_name,
            expected_nodes=spec.expected_nodes,
            gcs_reconnect_s=spec.gcs_reconnect_s,
            no_proxy=tuple(no_proxy),
            unset=("RAYCLUSTER_TOKEN", *grant.unset),
            scrub=SCRUBBED if settings.scrub_env else (),
            quick=settings.quick,  # type: ignore[arg-type]  # checked by Settings
            env={**grant.environment, **own, **self._ray_env, ENV_MARK: str(self.directory.path)},
        )

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._report.warn(f"{self.host}: {warning}")
