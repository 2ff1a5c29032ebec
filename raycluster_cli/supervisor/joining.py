"""A worker's run: find the head, make sure that it is ours, join, watch, end with the cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ..model.errors import ExitCode, RayclusterError, WorkersMissingError
from ..model.record import EndReport, HeadInfo
from ..model.status import HeadState, NodePhase
from ..node.ray_node import RayNode
from ..policy.values import End
from ..policy.worker import end_of_cluster
from ..rayproc.address import join_host_port
from ..rayproc.failure import StartFailure
from ..rayproc.health import Outcome, tcp_probe
from ..slurm.task_probe import TASK_ENDED_HINT, TASK_PROBE_S, TaskProbe, hosts_without_task
from ..state.catalogue import list_records
from ..state.record import Record
from ..system.ports import derived_gcs_ports
from .run import Finished, NodeRun

#: How long a worker looks for the reason of its head's end before it calls it a loss.
REASON_WAIT_S = 3.0

#: The same where there is another sign, or little hope.
LOOK_AGAIN_S = 0.5

#: How long one connect to the head's port may take before the next is tried.
PROBE_TIMEOUT_S = 3.0

#: After this long without a head in the record, it may be that the record's directory is not shared.
UNSHARED_AFTER_S = 5.0

#: How long one look into the record may take where the work must go on without it.
RECORD_LOOK_S = 2.0

#: How long a head with --head-recovery gets to come back.  Less than Ray's raylets wait for it
#: (ray_start: 60 s), so that it is we who end the node, in order.
RECOVERY_WAIT_S = 50.0

#: Rest before a raylet is started again: this, doubled each time, up to the maximum.
RESTART_DELAY_S, MAX_RESTART_DELAY_S = 0.5, 30.0

#: Failures that the next attempt would only meet again.
STRANGERS = ("wrong cluster", "auth")
FINAL_KINDS = ("version mismatch", "wrong cluster", "auth")

#: Reasons of a cluster's end that are a loss of its head, for everybody.
HEAD_LOST = ("head-lost", "supervisor-killed", "keeper-killed")


@dataclass(frozen=True)
class Target:
    """Where the head is, and how we know that it is the right one."""

    ip: str
    port: int
    head: HeadInfo | None = None
    """From the job's record; None where no record is shared."""

    @property
    def address(self) -> str:
        return join_host_port(self.ip, self.port)


@dataclass
class Pace:
    """How often a worker looks for its head: often at first, and the more seldom the more of them there are.

    A knock costs the head's kernel some 20 microseconds, a look some four opens on a file server.  At 1,000
    workers that is some 2,000 knocks and 500 looks a second, more in the first (benchmarks/scale.py counts).
    """

    probe_s: float
    slowest_probe_s: float
    poll_s: float
    slowest_poll_s: float
    jitter: Callable[[], float] = field(default=lambda: random.uniform(0.7, 1.3))

    @classmethod
    def of(cls, nodes: int) -> Pace:
        """For a job of so many nodes."""
        return cls(0.02 + nodes / 10_000, 0.04 + nodes / 2_000, 0.02 + nodes / 4_000, 0.25 + nodes / 500)

    def next_probe_s(self) -> float:
        now, self.probe_s = self.probe_s, min(self.probe_s * 1.3, self.slowest_probe_s)
        return now * self.jitter()

    def next_poll_s(self, *, known: bool) -> float:
        """Once the record has named a head, it is only looked into for an end, or for another head."""
        if known:
            return (1.0 + 4 * self.slowest_probe_s) * self.jitter()
        now, self.poll_s = self.poll_s, min(self.poll_s * 1.3, self.slowest_poll_s)
        return now * self.jitter()


class AttemptFailed(Exception):
    """One attempt to join failed: where, of which kind, and why."""

    def __init__(self, where: str, kind: str, message: str = "", log: str = "") -> None:
        super().__init__(message)
        self.where = where
        self.kind = kind
        self.message = message
        self.log = log

    def __str__(self) -> str:
        return f"{self.kind} ({self.message.rstrip('.')})" if self.message else self.kind


@dataclass
class Attempts:
    """What has been tried, for the message at the end."""

    reasons: list[str] = field(default_factory=list)

    def failed(self, where: str, why: str) -> None:
        self.reasons.append(f"{where}: {why}")

    def __str__(self) -> str:
        """Equal reasons, one after the other, are told once."""
        runs: list[tuple[str, int, int]] = []
        for number, reason in enumerate(self.reasons, 1):
            if runs and runs[-1][0] == reason:
                runs[-1] = (reason, runs[-1][1], number)
            else:
                runs.append((reason, number, number))
        return "; ".join(
            f"attempt {first} {reason}" if first == last else f"attempts {first} to {last} {reason}"
            for reason, first, last in runs
        )


class Joiner:
    """Finds the head and joins it."""

    def __init__(self, run: NodeRun) -> None:
        self.run = run
        self.context, self.settings, self.report, self.reaper = (
            run.context,
            run.settings,
            run.report,
            run.reaper,
        )
        self.reports = run.reports
        self.target: Target
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        self._deadline = self._began + self.settings.timeout
        self._stale: str | None = None
        self._stale_end: EndReport | None = None
        self._ask_for_refusal_at = 0.0
        self._task_probe = self._begin_task_probe()
        self._found_record: Record | None = None
        self._ready_for = ""
        self._guesses: set[str] = set()
        self._not_ours: set[str] = set()

    @property
    def record(self) -> Record | None:
        return self._found_record or self.run.record

    @property
    def node(self) -> RayNode:
        return self.run.node

    async def on_record(self, call: Any, *args: Any) -> Any:
        return await self.run.on_record(call, *args)

    async def join(self) -> None:
        try:
            await self._join()
        finally:
            if self._task_probe is not None:
                self._task_probe.close()

    async def start_again(self, timeout_s: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        await self._start()

    async def refuse_ended_cluster(self) -> None:
        """Remember an earlier cluster of this key that has ended: it is not the one we wait for.

        Unless it was our own step's: then we are late, and there is nothing left to do (Finished).
        """
        end = await self.on_record(self.record.read_end) if self.record is not None else None
        if self.record is None or end is None:
            return
        head = await self.on_record(self.record.read_head)
        if head is not None and self._is_of_our_step(head):
            raise Finished(end_of_cluster(end))
        self._stale = head.identity if head else None
        self._stale_end = end

    def _is_of_our_step(self, head: HeadInfo) -> bool:
        """Whether a head and we are tasks of one `srun raycluster run`."""
        return self.context.symmetric and head.step == (self.context.step or "")

    async def _join(self) -> None:
        """Find the head and join it, in attempts.

        Within an attempt the head's port is probed again and again, so that a head that comes up
        is joined at once; --retry-delay is how long one attempt lasts, not how long it sleeps.
        """
        settings = self.settings
        loop = asyncio.get_running_loop()
        attempts = Attempts()
        # Ranks of one step start together: they wait for their head as long as it waits for them.
        tries = settings.max_retries if not self.context.symmetric else 1_000_000
        for attempt in range(1, max(tries, 1) + 1):
            began = loop.time()
            try:
                self.target = await self._find_head(began + settings.retry_delay)
                await self._start()
                return
            except AttemptFailed as failed:
                attempts.failed(failed.where, str(failed))
                if failed.kind in STRANGERS and failed.where in self._guesses:
                    # Somebody else's cluster has the port that was only likely: ours has another.
                    self._not_ours.add(failed.where)
                    continue
                final = failed.kind in FINAL_KINDS or loop.time() >= self._deadline or attempt >= tries
                if final:
                    break
                self.reports.phase(NodePhase.WAITING, f"attempt {attempt}: {failed}")
                self.report.note(f"attempt {attempt} to join {failed.where} failed: {failed}")
                if self.node.companion is None:
                    self.node.begin_import()
                await self._rest(min(began + settings.retry_delay, self._deadline))
        if self._stale_end is not None:
            raise Finished(
                End(ExitCode.OK, "the job's cluster had ended before this worker came", reason="ended")
            )
        raise WorkersMissingError(
            f"{self.context.host} did not join a head: {attempts}.",
            "Is the head running in this job? --master-ip and --master-port say where it is, "
            "--state-dir where its record is.",
        )

    async def _rest(self, until: float) -> None:
        """Wait for the next attempt, unless the cluster ends before it (Finished)."""
        loop = asyncio.get_running_loop()
        while (left_s := until - loop.time()) > 0:
            await asyncio.sleep(min(left_s, 1.0 + self._nodes_in_job() / 500))
            await self._read_head()

    async def _find_head(self, until: float) -> Target:
        """Knock where the head should be, until it answers or the attempt is over (AttemptFailed).

        Where it is, the record says; it is looked into more seldom than the head's port is knocked at.
        """
        loop = asyncio.get_running_loop()
        pace = Pace.of(self._nodes_in_job())
        targets: list[Target] = []
        look_at = 0.0
        why: dict[str, str] = {}
        while True:
            if loop.time() >= look_at:
                named = await self._targets()
                # A look that was not answered in time takes nothing back.
                if not any(one.head for one in targets) or any(one.head for one in named):
                    targets = named
                look_at = loop.time() + pace.next_poll_s(known=any(one.head for one in targets))
            for target in targets:
                if target.head is not None:
                    await self._get_ready_for(target)
                probe = await tcp_probe(target.ip, target.port, timeout_s=PROBE_TIMEOUT_S)
                if probe.outcome is Outcome.REACHED:
                    return target
                why[target.address] = f"{probe.outcome.value}{f': {probe.detail}' if probe.detail else ''}"
            # A head that says that it is starting may import Ray for minutes: that is no failed attempt.
            starting = any(
                one.head is not None and one.head.state == HeadState.STARTING.value for one in targets
            )
            if loop.time() >= (self._deadline if starting else min(until, self._deadline)):
                if not why:
                    raise AttemptFailed(self._where(), "no head", "the record names none")
                raise AttemptFailed(", ".join(why), " and ".join(dict.fromkeys(why.values())))
            wait_s = look_at - loop.time()
            await asyncio.sleep(max(min(wait_s, pace.next_probe_s()) if targets else wait_s, 0.001))

    def _nodes_in_job(self) -> int:
        allocation = self.context.allocation
        return len(allocation.job_nodes) if allocation else 1

    async def _get_ready_for(self, target: Target) -> None:
        """Measure this node and take its ports while the head comes up, once for an attempt."""
        if self._ready_for != target.ip:
            await self.node.measure(route_to=target.ip)
            self.node.claim_ports({})
            self._ready_for = target.ip

    async def _targets(self) -> list[Target]:
        """Where the head may be: as told, else as the record says, else as Slurm's node list says."""
        settings, context = self.settings, self.context
        head = await self._read_head()
        if head is not None and (not settings.master_port or settings.master_port == head.port):
            return [Target(settings.master_ip or head.address_ip, head.port, head)]
        ip = settings.master_ip
        if not ip and context.allocation is not None and context.allocation.job_nodes:
            ip = context.allocation.head_node
        if not ip:
            return []
        if settings.master_port:
            ip = await _numeric(ip)
            return [Target(ip, settings.master_port, head or await self._head_at(ip, settings.master_port))]
        waited_s = asyncio.get_running_loop().time() - self._began
        if self.record is not None and waited_s < UNSHARED_AFTER_S:
            return []  # the record will say; a port that is only likely may be another cluster's
        ip = await _numeric(ip)  # not earlier: where names are slow to resolve it takes seconds
        targets = [Target(ip, port) for port in derived_gcs_ports(context.cluster_key)]
        self._guesses = {target.address for target in targets}
        return [target for target in targets if target.address not in self._not_ours]

    async def _read_head(self) -> HeadInfo | None:
        """The head as the record has it, unless it is an earlier one's or another step's."""
        if self.record is None:
            return None
        head = await self.reports.ask(self.record.read_head, timeout_s=RECORD_LOOK_S, default=None)
        ours = head is not None and (not self.context.symmetric or self._is_of_our_step(head))
        if head is None or not ours or head.identity == self._stale:
            await self._finish_when_refused(self.record)
            return None
        end = await self.reports.ask(self.record.read_end, timeout_s=RECORD_LOOK_S, default=None)
        if end is not None:
            raise Finished(end_of_cluster(end))
        return head

    async def _finish_when_refused(self, record: Record) -> None:
        """End (Finished) when our head came to nothing before the record could name it.

        Asked about once a second, since it is one more file that each waiting worker opens.
        """
        now = asyncio.get_running_loop().time()
        if now < self._ask_for_refusal_at:
            return
        self._ask_for_refusal_at = now + (1.0 + self._nodes_in_job() / 500) * random.uniform(0.8, 1.2)
        step = self.context.step
        if self.context.symmetric and step:
            end = await self.reports.ask(record.read_refusal, step, timeout_s=RECORD_LOOK_S, default=None)
        else:
            end = await self.reports.ask(record.read_end, timeout_s=RECORD_LOOK_S, default=None)
            end = None if end == self._stale_end else end
        if end is None and self._task_probe is not None:
            end = await self._end_of_silent_head(record, self._task_probe)
        if end is not None:
            raise Finished(End(ExitCode.OK, f"the cluster did not start: {end.message}", reason="ended"))

    def _begin_task_probe(self) -> TaskProbe | None:
        """To ask after the head's task: the second node of the step asks first, the third later."""
        allocation = self.context.allocation
        if not self.context.symmetric or allocation is None or not allocation.step_nodes:
            return None
        me = allocation.node_name or self.context.host
        turn = allocation.step_nodes.index(me) if me in allocation.step_nodes else 1
        env, reaper = self.context.env, self.reaper
        return TaskProbe(
            lambda hosts: hosts_without_task(hosts, allocation, env, reaper), first_s=turn * TASK_PROBE_S
        )

    async def _end_of_silent_head(self, record: Record, task_probe: TaskProbe) -> EndReport | None:
        """The end of a head whose task ended before it could say so; who knows first tells the others."""
        allocation = self.context.allocation
        assert allocation is not None and allocation.step_id is not None
        head = allocation.head_node
        if not task_probe.ended([head]):
            return None
        message = f"the head's task on {head} ended before raycluster ran in it"
        self.report.say(f"{message}. {TASK_ENDED_HINT}")
        end = EndReport(time.time(), int(ExitCode.HEAD_FAILED), "error", head, f"{message}.")
        with contextlib.suppress(RayclusterError):  # the others find out by themselves then
            await self.reports.ask(record.write_refusal, allocation.step_id, end, timeout_s=3.0, default=None)
        return end

    async def _head_at(self, ip: str, port: int) -> HeadInfo | None:
        """A head that some record of this user names at this address.

        Outside Slurm there is no key to go by, and it is the one meant.  In a job it has to be the job's
        own (of another --name, say): another job's is told and not joined (AttemptFailed).
        """

        def look() -> Record | None:
            for record in list_records(self.context.state_dir)[:20]:
                head = record.read_head()
                here = head is not None and port == head.port and ip in (head.address_ip, head.host)
                if here and record.read_end() is None:
                    return record
            return None

        record = await self.reports.ask(look, timeout_s=RECORD_LOOK_S, default=None)
        if record is None:
            return None
        context = self.context
        keyed = context.allocation is not None or context.key_given
        if keyed and (record.slurm_cluster, record.key) != (context.slurm_cluster, context.key):
            raise AttemptFailed(
                join_host_port(ip, port),
                "wrong cluster",
                f"there answers the head of {record.key}, and this worker belongs to {context.key}",
            )
        self._found_record = record
        return await self.reports.ask(record.read_head, timeout_s=RECORD_LOOK_S, default=None)

    def _where(self) -> str:
        """What we looked for, for people."""
        settings = self.settings
        if settings.master_ip:
            return f"{settings.master_ip}:{settings.master_port or '?'}"
        return str(self.record.path) if self.record else "the head"

    async def _start(self) -> None:
        """One start of Ray on this node, against the target."""
        target, settings, node = self.target, self.settings, self.node
        self.reports.phase(NodePhase.FOUND, f"head at {target.address}")
        head = target.head
        node.token = await self._token(head)
        await self._get_ready_for(target)
        self._ready_for = ""  # another attempt takes other ports: these may be why this one failed
        await self._certify(head)
        self.reports.phase(NodePhase.STARTING, ip=node.address.ip, ports=node.port_map())
        loop = asyncio.get_running_loop()
        left_s = max(self._deadline - loop.time(), 1.0)
        start = node.start(
            min(settings.start_timeout, left_s),
            gcs_address=target.address,
            identity=head.identity if head else self.context.own_identity,
            gcs_reconnect_s=60 if (head is not None and head.head_recovery) else None,
        )
        try:
            await self._unless_it_ends(start)
        except StartFailure as failed:
            if failed.kind == "auth" and head is not None:
                raise AttemptFailed(
                    target.address,
                    "wrong cluster",
                    f"it refuses this cluster's token; the record has this cluster's head at {head.address}",
                ) from failed
            raise AttemptFailed(target.address, failed.kind, failed.message, failed.log) from failed

    async def _unless_it_ends(self, start: Coroutine[Any, Any, Any]) -> None:
        """A start, given up when the cluster ends meanwhile (Finished): Ray itself would try for minutes."""
        starting = asyncio.ensure_future(start)
        ending = asyncio.ensure_future(self._told_of_the_end())
        try:
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                raise Finished(end_of_cluster(ending.result()))
            starting.result()
        finally:
            ending.cancel()
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})

    async def _told_of_the_end(self) -> EndReport:
        """Returns when the record says that the cluster has ended."""
        record = self.record
        while True:
            await asyncio.sleep((0.3 + self._nodes_in_job() / 500) * random.uniform(0.7, 1.3))
            if record is not None:
                end = await self.reports.ask(record.read_end, timeout_s=RECORD_LOOK_S, default=None)
                if end is not None:
                    return end

    async def _certify(self, head: HeadInfo | None) -> None:
        """With --tls: a certificate for this node, signed by the cluster's authority from the record."""
        if not (head.tls if head else self.settings.tls):
            self.node.tls = None
            return
        record = self.record
        authority = None
        if record is not None:
            authority = await self.reports.ask(record.read_authority, timeout_s=RECORD_LOOK_S, default=None)
        if not authority:
            raise AttemptFailed(
                self.target.address,
                "no keys",
                "the cluster's authority for --tls is in the job's record, which is not visible here; set "
                "--state-dir to a directory that all nodes share",
            )
        await self.node.certify(authority)

    async def _token(self, head: HeadInfo | None) -> str:
        """The cluster's token, from the record or from RAYCLUSTER_TOKEN; '' when there is none by choice."""
        if head is not None and not head.auth:
            return ""
        if head is None and not self.settings.auth:
            return ""
        own = self.context.own_token
        record = self.record
        token: str | None = own
        if not token and record is not None:
            token = await self.on_record(record.read_token)
        if token:
            return token
        raise AttemptFailed(
            self.target.address,
            "no token",
            "somebody listens there, but the job's record, which holds the token, names no head: if this is "
            "the right address, set --state-dir to a directory that all nodes share, or export "
            "RAYCLUSTER_TOKEN in the batch script",
        )


async def _numeric(host: str) -> str:
    """The address that a host name stands for, as Ray and our identity check need it; itself if unknown."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return host  # the probe says why
    return str(found[0][4][0])
