"""The start of a head, step by step: lease, directory, token, ports, keys, GCS and raylet."""

from __future__ import annotations

import contextlib
import os
from asyncio import Future
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..model.address import is_loopback
from ..model.errors import HeadStartError, RayclusterError, UsageError
from ..model.hostlist import format_hostlist
from ..model.record import HeadInfo
from ..model.status import HeadState, NodePhase
from ..model.text import without_secrets
from ..model.variables import unknown_variables
from ..node.ray_node import RayNode
from ..node.start_spec import StartSpec
from ..policy.head_state import HeadRules
from ..rayproc.environment import uses_proxy
from ..rayproc.failure import StartFailure
from ..rayproc.requirements import refuse_recovery
from ..rayproc.started import Started
from ..slurm.allocation import Allocation
from ..state.record import Record
from .driver import find_driver, find_driver_within
from .head_entry import HeadEntry
from .head_proof import HeadProof, identity_of
from .head_template import HeadTemplate, wants_template
from .parts import Parts
from .report_writer import RECORD_LOOK_S
from .versions import python_version

if TYPE_CHECKING:
    from ..model.worker_group import WorkerGroup

#: How long Slurm may take to name the hosts of worker jobs, while the companion imports Ray.
WORKER_HOSTS_S = 3.0


class HeadStart:
    """Brings the head's Ray up, and remembers how far it came: the end depends on it.

    Used in this order: take_lease, read_groups, find_driver, ray_up; ray_up_again after a loss; close.
    """

    def __init__(self, parts: Parts, rules: HeadRules) -> None:
        """Raises UsageError where the driver is not there."""
        self._parts = parts
        self._context = parts.context
        self._settings = parts.settings
        self._rules = rules
        self.entry = HeadEntry(self._write_head)
        token, nonce = self._context.own_token, os.urandom(16).hex()
        self.identity = identity_of(token, nonce) if token else nonce
        self._proof = (
            HeadProof(token, self._context.cluster_key, nonce, lambda: self.entry.info)
            if token and rules.expected
            else None
        )
        self._template = HeadTemplate(parts, self.entry, self.identity)
        self._installation = self._gpus = ""
        self.claimed = False
        """Whether the record is ours: until then it may be another head's, whose end is not ours to write."""
        self.refused_by: Record | None = None
        """The record that is another head's."""
        self.groups: tuple[WorkerGroup, ...] = ()
        """The worker groups, once they were read; none in a cluster of a fixed size."""
        self.program = ""
        """The file that the driver's first word names, once found."""
        if self._context.driver and self._context.allocation is None:
            self.program = find_driver(self._context.driver, self._context.env)

    async def take_lease(self) -> Record | None:
        """Become the head of the record, or leave it alone: it is another head's then.

        Returns the record, where there is one.  Raises RayclusterError.
        """
        record = self._parts.reports.record
        if record is None:
            return None

        def take() -> None:
            record.take_lease(host=self._context.host)
            self.claimed = True  # here, since a signal can end the wait below before it returns

        try:
            await self._parts.on_record(take)
        except RayclusterError:
            self.refused_by = record
            self._parts.reports.use(None)
            raise
        return record

    async def read_groups(self) -> None:
        """Find out the worker groups, and write them into the record.  Raises RayclusterError."""
        parts, settings, record = self._parts, self._settings, self._parts.reports.record
        if settings.config or settings.max_nodes is not None:
            from .worker_groups import groups_of, write_groups  # other runs do not pay for it

            nodes = self._rules.expected + 1
            self.groups = await parts.on_record(groups_of, settings, nodes, self._context.env)
            if self.groups and record is None:
                raise UsageError(
                    "worker groups need a record, which tells their workers where the head is; "
                    "none can be kept.",
                    "Give a directory that all nodes share by --state-dir.",
                )
            if record is not None:
                allocation = self._context.allocation
                restart = allocation.restart_count if allocation else 0
                await parts.on_record(write_groups, record.path, self.groups, restart)
        if record is not None and record.restart:
            parts.tasks.start("the cluster before the requeue", self._end_earlier_restarts(record))

    def ray_variables(self) -> Mapping[str, str]:
        """Variables for Ray's processes, once the groups are known."""
        if not self.groups:
            return {}
        # The GCS tells drivers, log monitors and `ray status` of it, each of which looks once.
        return {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": "head"}

    async def find_driver(self) -> None:
        """Find the driver's program.  Raises RayclusterError.

        In a job not earlier: other tasks wait for this one, and learn of its failure from the record.
        """
        if self._context.driver and not self.program:
            self.program = await find_driver_within(self._context.driver, self._context.env)

    async def ray_up(self, node: RayNode) -> None:
        """From a node with a directory to a GCS that answers.  Raises RayclusterError."""
        parts, settings, record = self._parts, self._settings, self._parts.reports.record
        node.templates.on_starting = partial(self._template.begin, node)
        node.dashboard.on_up = lambda address: self.entry.update(dashboard=address)
        node.begin_import()
        await self._find_worker_hosts(node)
        node.token = await self._make_token()
        if unknown := unknown_variables(self._context.env):
            parts.report.warn(unknown)
        self._warn_of_open_dashboard()
        self._warn_of_unused_nodes()
        hosts = self._context.worker_hosts
        # The route to another host of the job tells which of our addresses is the right one.
        await node.measure(route_to=hosts[0] if hosts else None)
        given = {"gcs": settings.master_port, "service": settings.service_port}
        node.claim_ports({name: port for name, port in given.items() if port})
        if settings.tls:
            await self._make_keys(node)
        has_workers = bool(self._rules.expected or self.groups)
        if wants_template(settings, has_record=record is not None, has_workers=has_workers):
            self._installation = await node.templates.installation()
            self._gpus = (await node.templates.accelerators()).gpus
        # Written before Ray is up: workers then probe the port itself and do not ask the file server.
        self.entry.create(self._head_info(node))
        await self._prove()
        parts.reports.phase(NodePhase.STARTING, ip=node.address.ip, node_root=str(node.root.path))
        parts.report.on_event = self._to_event_log
        try:
            if settings.head_recovery:
                refuse_recovery(await node.version(settings.start_timeout))
            started = await self._start_ray(node)
        except StartFailure as failed:
            raise HeadStartError(
                f"the head did not start on {self._context.host}: {failed.message}",
                self._where_the_logs_are(),
            ) from failed
        if has_workers and (refusal := await self.entry.refusal()):
            # What follows is written again; by this workers find the head.
            raise refusal
        self.entry.update(
            session=started.session,
            cluster_id=started.cluster_id,
            ray_version=node.ray_version,
            state=HeadState.UP.value,
            dashboard_port_at=node.dashboard.address,
            without_dashboard=not started.raw.get("has_dashboard", True),
        )
        parts.tasks.start("the template for workers", self._template.publish(node))
        parts.reports.stamp(node.steps)
        parts.reports.phase(NodePhase.JOINED, node_id=started.node_id)

    async def ray_up_again(self, node: RayNode) -> None:
        """All of the head's Ray again, at the same address; the driver was ended before.

        Raises RayclusterError and StartFailure.
        """
        reports = self._parts.reports
        assert node.started is not None
        session = node.started.session
        await node.reset()
        with contextlib.suppress(OSError):
            (node.root.ray_dir / "ray_current_cluster").unlink()
        node.begin_import()
        if reports.record is not None:
            await reports.look(reports.record.remove_template, timeout_s=RECORD_LOOK_S, default=None)
        started = await self._start_ray(node, session)
        self.entry.update(session=started.session, cluster_id=started.cluster_id)
        await self._template.publish(node)

    async def _start_ray(self, node: RayNode, session_name: str | None = None) -> Started:
        """The head's GCS and raylet; again, after they died, with the session that they had."""
        settings = self._settings
        spec = StartSpec(
            self.identity,
            expected_nodes=self._rules.expected + 1,
            storage=node.root.path / "gcs" if settings.head_recovery else None,
            agent_at_once=settings.dashboard,
            session_name=session_name,
        )
        return await node.start(settings.start_timeout, spec)

    async def _prove(self) -> None:
        """With RAYCLUSTER_TOKEN workers may not see the record; they then ask for a proof instead."""
        if self._proof is not None and not await self._proof.listen():
            self._parts.report.warn(
                "no port is free for workers that cannot read the record; they will not find this head."
            )

    def close(self) -> None:
        """No further worker finds this head."""
        if self._proof is not None:
            self._proof.close()

    async def _find_worker_hosts(self, node: RayNode) -> None:
        """Where a proxy is set, it must not be used for the hosts of worker jobs, which are not known yet."""
        if not self.groups or not uses_proxy(self._context.env):
            return
        from ..slurm.partition_hosts import hosts_of_groups  # other runs do not pay for it

        options = [group.sbatch for group in self.groups]
        node.setup.worker_hosts = await hosts_of_groups(
            options, self._context.env, self._parts.reaper, timeout_s=WORKER_HOSTS_S
        )
        if not node.setup.worker_hosts:
            self._parts.report.warn(
                "a proxy is set, and the hosts on which worker jobs may run are not known, or too many: "
                "programs that speak HTTP to them use the proxy unless no_proxy names them."
            )

    async def _end_earlier_restarts(self, record: Record) -> None:
        """The cluster that this job had before its requeue is over; none of its workers is ours."""
        from .worker_job_ends import end_earlier_restarts  # other runs do not pay for it

        try:
            await end_earlier_restarts(self._parts, record)
        except (RayclusterError, OSError) as error:
            self._parts.report.warn(f"worker jobs of the cluster before the requeue may be left: {error}")

    async def _make_token(self) -> str:
        """The cluster's token: the user's own (RAYCLUSTER_TOKEN), or a new one in the record."""
        parts = self._parts
        if not self._settings.auth:
            parts.report.warn(
                "--no-auth: anyone who can connect to this cluster's ports can run code as you. Leave it out "
                "unless a client cannot send a token."
            )
            return ""
        own = self._context.own_token
        if own or parts.reports.record is None:
            return own or os.urandom(32).hex()
        return await parts.on_record(parts.reports.record.make_token)

    def _warn_of_open_dashboard(self) -> None:
        settings = self._settings
        if settings.dashboard and not is_loopback(settings.dashboard_host):
            guard = "only the token protects it" if settings.auth else "nothing protects it (--no-auth)"
            self._parts.report.warn(
                f"--dashboard-host {settings.dashboard_host}: others can connect to the dashboard, which "
                f"runs code as you; {guard}. `raycluster dashboard` needs only the default, 127.0.0.1."
            )

    def _warn_of_unused_nodes(self) -> None:
        """A step that is smaller than its job, unless the options say that it is meant to be."""
        settings, allocation = self._settings, self._context.allocation
        if not self._context.symmetric or settings.name or settings.expected_workers is not None:
            return
        if allocation is not None and (text := unused_nodes(allocation)):
            self._parts.report.warn(text)

    async def _make_keys(self, node: RayNode) -> None:
        """The cluster's authority, into the record for the workers; and this node's certificate."""
        parts, record = self._parts, self._parts.reports.record
        if record is None and self._rules.expected:
            raise UsageError(
                "--tls needs a record, from which workers take the cluster's authority; none can be kept.",
                "Give a directory that all nodes share by --state-dir.",
            )
        authority = await node.make_authority()
        if record is not None:
            await parts.on_record(record.write_authority, authority)
        await node.certify(authority)

    def _head_info(self, node: RayNode) -> HeadInfo:
        reports, context, settings = self._parts.reports, self._context, self._settings
        allocation = context.allocation
        return HeadInfo(
            host=context.host,
            address_ip=node.address.ip,
            port=node.gcs_port,
            identity=self.identity,
            python_version=python_version(),
            raycluster_version=__version__,
            auth=settings.auth,
            tls=settings.tls,
            started=context.launched,
            pid=reports.now.pid,
            create_time=reports.now.create_time,
            expected_workers=self._rules.expected,
            driver=tuple(without_secrets(context.driver)),
            ports=node.port_map(),
            aliases=context.aliases,
            node_root=str(node.root.path),
            end_time=(allocation.end_time or 0.0) if allocation else 0.0,
            state=HeadState.STARTING.value,
            step=context.step or "",
            launch=context.launch,
            on_worker_loss=settings.on_worker_loss,
            installation=self._installation,
            gpus=self._gpus,
            head_recovery=settings.head_recovery,
            with_dashboard=settings.dashboard,
            worker_hosts=format_hostlist(context.worker_hosts),
            min_workers=self._rules.quorum,
            grace_s=settings.grace,
            service=settings.service,
            worker_groups=bool(self.groups),
        )

    def _write_head(self, info: HeadInfo) -> Future[Any] | None:
        reports = self._parts.reports
        return reports.quietly(reports.record.write_head, info) if reports.record is not None else None

    def _to_event_log(self, when: float, text: str) -> None:
        reports = self._parts.reports
        if reports.record is not None:
            reports.submit(reports.record.append_event, text, when)

    def _where_the_logs_are(self) -> str:
        """The node's directory goes with the node; what was kept of it is in the record."""
        record = self._parts.reports.record
        if record is None or self._settings.keep_logs == "never":
            return ""
        return f"`raycluster why {self._context.key}` shows the logs, which are in {record.path}/logs."


def unused_nodes(allocation: Allocation) -> str:
    """The warning about nodes of the job that this step does not have; empty when it has all.

    >>> job = Allocation("7", ("n1", "n2", "n3"), step_id="0", step_nodes=("n1", "n2"))
    >>> unused_nodes(job)[:68]
    'this step has 2 of the 3 nodes of job 7: the cluster does not use n3'
    """
    unused = allocation.nodes_without_task
    if not unused:
        return ""
    size = len(allocation.job_nodes)
    used = size - len(unused)
    text = (
        f"this step has {used} of the {size} nodes of job {allocation.job_id}: the cluster does not use "
        f"{format_hostlist(unused)}. "
    )
    if allocation.het_size > 1:
        # Since Slurm 24.11 srun applies the first component's SLURM_NTASKS to each.
        components = ",".join(str(number) for number in range(allocation.het_size))
        remedy = f"env -u SLURM_NTASKS -u SLURM_NPROCS srun --het-group={components} --ntasks-per-node=1"
    else:
        remedy = f"srun --nodes={size} --ntasks={size}"
    return f"{text}`{remedy} …` takes all; --name or --expected-workers says that it is meant so"
