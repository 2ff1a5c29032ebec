"""How a worker joins its head: attempts, the cluster's token and certificate, the start of Ray against it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import field
from typing import Any, Protocol

from ..model.dataclass import dataclass
from ..model.errors import ExitCode, WorkersMissingError
from ..model.record import HeadInfo
from ..model.settings import Settings
from ..model.status import NodePhase
from ..model.value import Value
from ..model.wording import duration
from ..node.start_spec import StartSpec
from ..policy.values import End
from ..policy.worker import end_of_cluster
from ..rayproc.failure import StartFailure
from ..rayproc.plan import TlsFiles
from ..rayproc.started import Started
from ..rayproc.template import Template
from ..state.record import Record
from ..system.network import NodeAddress
from ..system.report import Report
from .discovery import AttemptFailed, Discovery, NextAttempt, Target, wrong_cluster
from .report_writer import RECORD_LOOK_S, ReportWriter
from .run import Finished
from .template_wait import Installed, TemplateWait

#: Kinds of failed starts that every further attempt would end with.
FINAL_KINDS = ("version mismatch", "wrong cluster", "auth")

#: How long the files of a head that answers may take to be seen here: the token comes before the address.
NO_TOKEN_S = 15.0

#: After this long without a head in the record, a task of the head's own step says what may be the cause.
NO_HEAD_S = 9.0

#: In larger steps only the second node says so: the cause is the same on all.
FEW_NODES = 8

#: What to do next when no head was found.
ADVICE = (
    "Is the head running in this job? --master-ip and --master-port say where it is, "
    "--state-dir where its record is. Where the nodes share no directory, export the same "
    "RAYCLUSTER_TOKEN on all of them."
)

#: How long a worker's raylet survives without its GCS where the head recovers (--head-recovery).
GCS_RECONNECT_S = 60


class JoiningNode(Protocol):
    """What is needed of this machine's Ray node (node.RayNode)."""

    token: str
    tls: TlsFiles | None

    @property
    def address(self) -> NodeAddress: ...
    @property
    def templates(self) -> Installed: ...

    def begin_import(self) -> None: ...
    async def measure(self, *, route_to: str | None) -> None: ...
    def claim_ports(self, given: dict[str, int]) -> None: ...
    def port_map(self) -> dict[str, Any]: ...
    async def make_common_path(self, head_root: str) -> None: ...
    async def certify(self, authority: str) -> None: ...
    async def start(self, timeout_s: float, spec: StartSpec, template: Template | None = None) -> Started: ...


class Joined(Value):
    """A worker that has joined: its head, and the cluster's record where there is one."""

    target: Target
    record: Record | None


@dataclass
class Attempts:
    """What has been tried, for the message at the end."""

    reasons: list[str] = field(default_factory=list)

    def failed(self, where: str, why: str) -> None:
        self.reasons.append(f"{where}: {why}")

    def __str__(self) -> str:
        """Equal reasons in a row are mentioned once."""
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
    """Joins this machine's node to its head, and joins it again after its raylet was ended."""

    def __init__(
        self,
        discovery: Discovery,
        node: JoiningNode,
        *,
        settings: Settings,
        host: str,
        symmetric: bool,
        own_token: str,
        reports: ReportWriter,
        report: Report,
        deadline: float,
        speaks: bool = True,
        advice: str = ADVICE,
    ) -> None:
        """``own_token`` is RAYCLUSTER_TOKEN, or ''.

        ``speaks``: this worker prints what concerns all workers alike; the others do not.

        ``deadline``: when the first join must be done, by the loop's clock.

        ``advice``: what to do next when no head was found.
        """
        self._discovery = discovery
        self._node = node
        self._settings = settings
        self._host = host
        self._symmetric = symmetric
        self._own_token = own_token
        self._reports = reports
        self._report = report
        self._deadline = deadline
        self._speaks = speaks
        self._advice = advice
        self._ready_for = ""
        self._templates = TemplateWait(discovery, settings=settings, reports=reports)

    async def join(self) -> Joined:
        """Find the head and join it, in attempts.

        Within an attempt the head's port is probed again and again, so that a head that comes up
        is joined at once; --retry-delay is how long one attempt lasts, not how long it sleeps.
        Raises WorkersMissingError, other RayclusterErrors of this node, and Finished when the cluster has
        ended before.
        """
        settings, node = self._settings, self._node
        loop = asyncio.get_running_loop()
        attempts = Attempts()
        first, no_token_since = loop.time(), math.inf
        # Tasks of one step start together: they wait for their head as long as it waits for them.
        tries = math.inf if self._symmetric else settings.max_retries
        attempt = 0
        while True:
            began = loop.time()
            attempt += 1
            try:
                target = await self._discovery.find_head(
                    min(began + settings.retry_delay, no_token_since + NO_TOKEN_S),
                    self._deadline,
                    self._get_ready_for,
                )
                await self._start(target, self._deadline)
                return Joined(target, self._discovery.record)
            except AttemptFailed as failed:
                if failed.next_attempt is NextAttempt.AT_ONCE and loop.time() < self._deadline:
                    self._report.note(f"{failed.where} is not joined: {failed}")
                    attempt -= 1
                    continue
                attempts.failed(failed.where, str(failed))
                no_token = failed.next_attempt is NextAttempt.NO_TOKEN
                no_token_since = min(no_token_since, began) if no_token else math.inf
                give_up = min(self._deadline, no_token_since + NO_TOKEN_S)
                useless = failed.next_attempt is NextAttempt.USELESS
                if useless or loop.time() >= give_up or attempt >= tries:
                    break
                if failed.next_attempt is NextAttempt.NO_HEAD and began <= first + NO_HEAD_S <= loop.time():
                    self._say_that_no_head_is_seen(loop.time() - first)
                self._reports.phase(NodePhase.WAITING, f"attempt {attempt}: {failed}")
                self._report.note(f"attempt {attempt} to join {failed.where} failed: {failed}")
                node.begin_import()
                await self._rest(min(began + settings.retry_delay, give_up))
        if self._discovery.head_record.came_late:
            raise Finished(
                End(ExitCode.OK, "the job's cluster had ended before this worker came", reason="ended")
            )
        raise WorkersMissingError(
            f"{self._host} did not join a head: {attempts}.",
            self._advice,
        )

    def _say_that_no_head_is_seen(self, after_s: float) -> None:
        """Warn: a shared record has the head's first file a moment after the head starts."""
        if self._symmetric and self._speaks:
            self._report.warn(
                f"{self._host} sees no head in {self._discovery.where}, {duration(after_s)} after its start. "
                "If that is not the same directory on all nodes, workers do not find the head: set "
                "--state-dir to one that they share, or export the same RAYCLUSTER_TOKEN on all nodes"
            )

    async def start_again(self, target: Target) -> None:
        """One more start against the head that this worker had joined.

        Raises AttemptFailed, RayclusterErrors of this node, and Finished when the cluster ends meanwhile.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.start_timeout
        await self._start(target, deadline, again=True)

    async def _rest(self, until: float) -> None:
        """Wait for the next attempt, unless the cluster ends before it (Finished)."""
        loop = asyncio.get_running_loop()
        head_record = self._discovery.head_record
        while (left_s := until - loop.time()) > 0:
            await asyncio.sleep(min(left_s, 1.0 + head_record.nodes / 500))
            await head_record.read_head()

    async def _get_ready_for(self, target: Target) -> None:
        """Measure this node and take its ports while the head comes up, once for an attempt.

        Ray is imported meanwhile unless this node can probably start by the head's template.
        """
        if not await self._templates.is_promised(target, self._node.templates):
            self._node.begin_import()
        if self._ready_for != target.ip:
            await self._node.measure(route_to=target.ip)
            self._node.claim_ports({})
            self._ready_for = target.ip

    async def _start(self, target: Target, deadline: float, *, again: bool = False) -> None:
        """One start of Ray on this node, against the target.

        ``again``: after a raylet that has died; then Ray's own code starts it, whatever the template says.
        """
        node, head = self._node, target.head
        self._reports.phase(NodePhase.FOUND, f"head at {target.address}")
        if not again:
            await self._check_that_head_runs(target)
        node.token = await self._token(target)
        await self._get_ready_for(target)
        self._ready_for = ""  # another attempt takes other ports: these may be why this one failed
        if head is not None and head.node_root:
            await node.make_common_path(head.node_root)
        await self._certify(target)
        template = None if again else await self._templates.read(target, node.templates)
        if template is None and not again:
            self._report.note(
                f"{self._host} starts its raylet by Ray's own code: no template is used "
                f"({self._templates.why})"
            )
        self._reports.phase(NodePhase.STARTING, ip=node.address.ip, ports=node.port_map())
        left_s = max(deadline - asyncio.get_running_loop().time(), 1.0)
        spec = StartSpec(
            head.identity if head else "",
            gcs_address=target.address,
            expected_nodes=head.expected_workers + 1 if head else 1,
            gcs_reconnect_s=GCS_RECONNECT_S if head is not None and head.head_recovery else None,
            agent_at_once=head is not None and head.with_dashboard,
        )
        start = node.start(min(self._settings.start_timeout, left_s), spec, template)
        try:
            await self._unless_it_ends(start)
        except StartFailure as failed:
            if failed.kind == "auth" and head is not None:
                raise wrong_cluster(
                    target.address,
                    f"it refuses this cluster's token; the record has this cluster's head at {head.address}",
                ) from failed
            raise AttemptFailed(
                target.address,
                failed.kind,
                failed.message,
                failed.log,
                next_attempt=NextAttempt.USELESS if failed.kind in FINAL_KINDS else NextAttempt.USUAL,
            ) from failed

    async def _unless_it_ends(self, start: Coroutine[Any, Any, Any]) -> None:
        """Wait for a start.  Raises Finished when the cluster ends meanwhile: Ray would go on for minutes."""
        starting = asyncio.ensure_future(start)
        ending = asyncio.ensure_future(self._discovery.head_record.until_ended(self._discovery.record))
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

    async def _certify(self, target: Target) -> None:
        """With --tls: a certificate for this node, signed by the cluster's authority from the record."""
        head, record = target.head, self._discovery.record
        if not (head.tls if head else self._settings.tls):
            self._node.tls = None
            return
        authority = None
        if record is not None:
            authority = await self._reports.ask(record.read_authority, timeout_s=RECORD_LOOK_S, default=None)
        if not authority:
            raise AttemptFailed(
                target.address,
                "no keys",
                "the cluster's authority for --tls is in the job's record, which is not visible here; set "
                "--state-dir to a directory that all nodes share",
            )
        await self._node.certify(authority)

    async def _check_that_head_runs(self, target: Target) -> None:
        """Raise AttemptFailed for the head of a cluster that was killed as a whole, which leaves no end.

        Its address follows from the job's id, and ids come again.  By now another user may listen there, who
        would be sent the token; or our own head, which has another identity.  The tasks of a `run` know their
        head by its launch.
        """
        head, record = target.head, self._discovery.record
        if self._symmetric or head is None or target.proven or record is None:
            return
        unknown: HeadInfo | None = head
        now = await self._reports.look(record.read_head, timeout_s=RECORD_LOOK_S, default=unknown)
        if now is None or now.identity != head.identity:
            raise AttemptFailed(
                target.address, "another head", "the record has changed", next_attempt=NextAttempt.AT_ONCE
            )
        if await self._reports.look(record.leases.has_expired, timeout_s=RECORD_LOOK_S, default=False):
            raise AttemptFailed(
                target.address,
                "no head",
                "something listens there; the head that the record names has gone",
            )

    async def _token(self, target: Target) -> str:
        """The cluster's token, from the record or from RAYCLUSTER_TOKEN; '' when there is none by choice."""
        head, record = target.head, self._discovery.record
        if head is None or not head.auth:  # discovery gives no head only with --no-auth
            return ""
        token: str | None = None
        if record is not None and not target.proven:
            token = await self._reports.need(record.read_token, where=record.path)
        if token := token or self._own_token:
            return token
        raise AttemptFailed(
            target.address,
            "no token",
            "the record names this head, but has no token: export the RAYCLUSTER_TOKEN that the head has",
            next_attempt=NextAttempt.NO_TOKEN,
        )
