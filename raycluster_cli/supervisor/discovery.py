"""Where is the head?  A worker reads the cluster's record, or has the head prove itself.

A worker sends the cluster's token to an address only if a record of the user's names it, or if the head
there has proved that it has RAYCLUSTER_TOKEN (head_proof).  --master-ip and --master-port say where to look;
they do not say that the right one listens there.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Protocol

from ..model.address import join_host_port
from ..model.dataclass import dataclass
from ..model.record import HeadInfo
from ..model.status import HeadState
from ..model.value import Value
from ..rayproc.health import Outcome, Probe, tcp_probe
from ..slurm.allocation import Allocation
from ..state.catalogue import list_records
from ..state.record import Record
from ..system.jitter import between
from ..system.network import RESOLVE_S, plain_host
from ..system.waiting import in_thread, within
from .head_proof import ProvenHead, find_proven_head
from .head_record import HeadRecord
from .report_writer import RECORD_LOOK_S, ReportWriter

#: How long one connect to the head's port may take before the next is tried.
PROBE_TIMEOUT_S = 3.0

#: After this long without a head in the record, it may be that the record's directory is not shared.
UNSHARED_AFTER_S = 5.0


class NextAttempt(enum.Enum):
    """What a failed attempt to join means for the next one."""

    USUAL = "usual"
    """It may succeed: attempts go on until the deadline."""
    NO_HEAD = "no head"
    """The same; the record names no head, which may be because it is not shared."""
    NO_TOKEN = "no token"
    """Something listens at the address; the record that would give the token is not visible here yet."""
    AT_ONCE = "at once"
    """The record names another head by now: there is nothing to wait for."""
    USELESS = "useless"
    """It would fail in the same way."""


class AttemptFailed(Exception):
    """One attempt to join failed: where, of which kind, and why."""

    def __init__(
        self,
        where: str,
        kind: str,
        message: str = "",
        log: str = "",
        *,
        next_attempt: NextAttempt = NextAttempt.USUAL,
    ) -> None:
        """``kind`` and ``message`` are for people; ``next_attempt`` is what a worker decides by."""
        super().__init__(message)
        self.where = where
        self.kind = kind
        self.message = message
        self.log = log
        self.next_attempt = next_attempt

    def __str__(self) -> str:
        return f"{self.kind} ({self.message.rstrip('.')})" if self.message else self.kind


def wrong_cluster(where: str, message: str) -> AttemptFailed:
    """The failure of an attempt to join the head of another cluster."""
    return AttemptFailed(where, "wrong cluster", message, next_attempt=NextAttempt.USELESS)


class Target(Value):
    """Where the head is, and how we know that it is the right one."""

    ip: str
    port: int
    head: HeadInfo | None = None
    """From the record, or from the head's proof; None for an address that was only given by hand."""
    proven: bool = False
    """The head has proved that it has RAYCLUSTER_TOKEN."""
    unfit: str = ""
    """Why another cluster's head must be there."""

    @property
    def address(self) -> str:
        return join_host_port(self.ip, self.port)

    @property
    def is_starting(self) -> bool:
        """Whether the head says that it is starting."""
        return self.head is not None and self.head.state == HeadState.STARTING.value


class Missed(Value):
    """Why a probed target is not the head, or not yet."""

    text: str
    no_token: bool = False
    """Something listens there, and the token for it is not known here."""


@dataclass
class Pace:
    """How often a worker looks for its head: often at first, later less, and less in large jobs.

    A probe costs the head's kernel some 20 microseconds, a read of the record some four opens on a file
    server.  At 1,000 workers that is some 2,000 probes and 500 reads a second, more in the first
    (benchmarks/scale.py counts).
    """

    probe_s: float
    slowest_probe_s: float
    poll_s: float
    slowest_poll_s: float
    jitter: Callable[[], float] = field(default=lambda: between(0.7, 1.3))

    @classmethod
    def of(cls, nodes: int) -> Pace:
        """For a job of this many nodes."""
        return cls(0.02 + nodes / 10_000, 0.04 + nodes / 2_000, 0.02 + nodes / 4_000, 0.25 + nodes / 500)

    def next_probe_s(self) -> float:
        now, self.probe_s = self.probe_s, min(self.probe_s * 1.3, self.slowest_probe_s)
        return now * self.jitter()

    def next_poll_s(self, *, known: bool) -> float:
        """Once the record has named a head, it is only read for an end, or for another head."""
        if known:
            return (1.0 + 4 * self.slowest_probe_s) * self.jitter()
        now, self.poll_s = self.poll_s, min(self.poll_s * 1.3, self.slowest_poll_s)
        return now * self.jitter()


class ClusterKey(Value):
    """Which cluster a worker belongs to."""

    slurm_cluster: str
    key: str
    name: str = ""
    certain: bool = True
    """Slurm or the user gave the key; False: a worker outside Slurm that was only given an address."""

    @property
    def text(self) -> str:
        """As Context.cluster_key."""
        return f"{self.slurm_cluster}/{self.key}+{self.name}"


class Prove(Protocol):
    async def __call__(
        self, host: str, token: str, fits: Callable[[ProvenHead], bool]
    ) -> ProvenHead | None: ...


class TcpProbe(Protocol):
    async def __call__(self, host: str, port: int, *, timeout_s: float) -> Probe: ...


class Discovery:
    """Finds the head of one cluster, for one worker."""

    def __init__(
        self,
        head_record: HeadRecord,
        *,
        reports: ReportWriter,
        key: ClusterKey,
        allocation: Allocation | None,
        state_dir: Path,
        own_token: str = "",
        auth: bool = True,
        master_ip: str = "",
        master_port: int | None = None,
        probe: TcpProbe = tcp_probe,
        resolve: Callable[[str], Awaitable[str]] | None = None,
        prove: Prove = find_proven_head,
    ) -> None:
        """``own_token`` is RAYCLUSTER_TOKEN, or ''; without ``auth`` (--no-auth) the cluster has no token."""
        self.head_record = head_record
        self._reports = reports
        self._key = key
        self._allocation = allocation
        self._state_dir = state_dir
        self._own_token = own_token
        self._auth = auth
        self._master_ip = master_ip
        self._master_port = master_port
        self._probe = probe
        self._resolve = resolve or numeric_address
        self._prove = prove
        self._began = asyncio.get_running_loop().time()
        self._found_record: Record | None = None
        self.missed_since: float | None = None
        """Since when the head that the record names does not answer, by the loop's clock; None: it does."""

    @property
    def record(self) -> Record | None:
        """The record of the cluster, also where the head's address alone led to it."""
        return self._found_record or self.head_record.record

    @property
    def where(self) -> str:
        """What is looked for, for people."""
        if self._master_ip:
            return f"{self._master_ip}:{self._master_port or '?'}"
        return str(self.head_record.record.path) if self.head_record.record else "the head"

    async def find_head(
        self, until: float, deadline: float, known: Callable[[Target], Awaitable[None]] | None = None
    ) -> Target:
        """Probe where the head should be, until it answers or the attempt is over (AttemptFailed).

        The attempt is over at ``until``, or at ``deadline`` where the head says that it is starting (both by
        the loop's clock).  The head's port is probed more often than the record is read.  ``known`` is called
        with each target that is the right head, before its probe.
        """
        loop = asyncio.get_running_loop()
        pace = Pace.of(self.head_record.nodes)
        target: Target | None = None
        look_at = 0.0
        missed: dict[str, Missed] = {}
        while True:
            if loop.time() >= look_at:
                found = await self._look_up()
                # A read of the record that timed out does not take back the head that was found before.
                if target is None or target.head is None or (found is not None and found.head is not None):
                    target = found
                look_at = loop.time() + pace.next_poll_s(known=target is not None and target.head is not None)
            if target is not None:
                if target.head is not None and known is not None:
                    await known(target)
                if (miss := await self._try(target)) is None:
                    return target
                missed[target.address] = miss
            # A head that says that it is starting may import Ray for minutes: that is no failed attempt.
            starting = target is not None and target.is_starting
            if loop.time() >= (deadline if starting else min(until, deadline)):
                raise self._failure(missed)
            wait_s = look_at - loop.time()
            await asyncio.sleep(max(min(wait_s, pace.next_probe_s()) if target else wait_s, 0.001))

    async def _try(self, target: Target) -> Missed | None:
        """Probe a target once.  None: the head is there, and it is the right one.  Raises AttemptFailed."""
        began = asyncio.get_running_loop().time()
        probe = await self._probe(target.ip, target.port, timeout_s=PROBE_TIMEOUT_S)
        reached = probe.outcome is Outcome.REACHED
        if target.head is not None and target.head.state == HeadState.UP.value:
            self.missed_since = None if reached else (self.missed_since or began)
        if not reached:
            return Missed(f"{probe.outcome.value}: {probe.detail}" if probe.detail else probe.outcome.value)
        if target.unfit:
            raise wrong_cluster(target.address, target.unfit)
        if target.head is not None or not self._auth:
            return None
        return self._not_known()

    def _failure(self, missed: Mapping[str, Missed]) -> AttemptFailed:
        if not missed:
            return AttemptFailed(
                self.where, "no head", "the record names none", next_attempt=NextAttempt.NO_HEAD
            )
        texts = dict.fromkeys(miss.text for miss in missed.values())
        no_token = any(miss.no_token for miss in missed.values())
        return AttemptFailed(
            ", ".join(missed),
            " and ".join(texts),
            next_attempt=NextAttempt.NO_TOKEN if no_token else NextAttempt.USUAL,
        )

    async def _look_up(self) -> Target | None:
        """Where the head is, as the record says or the head itself proves; else the address given by hand."""
        ip, port = self._master_ip, self._master_port
        head = await self.head_record.read_head()
        if head is not None and (not port or port == head.port):
            self._found_record = None  # what was found before this head came is another cluster's
            return Target(head.address_ip, head.port, head)
        if not ip and self._allocation is not None and self._allocation.job_nodes:
            ip = self._allocation.head_node
        if not ip:
            return None
        if port:
            ip = await self._resolve(ip)
            if head is not None:
                return Target(ip, port, unfit=f"the record has this cluster's head at {head.address}")
            if (found := await self._head_at(ip, port)) is not None:
                return Target(found.address_ip, port, found)
            return await self._proven(ip) or Target(ip, port)
        waited_s = asyncio.get_running_loop().time() - self._began
        if not self._own_token or (self.head_record.record is not None and waited_s < UNSHARED_AFTER_S):
            return None  # the record will say
        return await self._proven(await self._resolve(ip))

    async def _proven(self, ip: str) -> Target | None:
        """The head that proves on ``ip`` that it is this cluster's.  It is at the address that it says."""
        if not self._own_token:
            return None
        found = await self._prove(ip, self._own_token, self._fits)
        return Target(found.head.address_ip, found.head.port, found.head, proven=True) if found else None

    def _fits(self, found: ProvenHead) -> bool:
        """Whether a head with our token is our cluster's: a user may have one token for all clusters."""
        return (
            (found.cluster_key == self._key.text or not self._key.certain)
            and self._master_port in (None, found.head.port)
            and self.head_record.is_of_our_step(found.head)
        )

    def _not_known(self) -> Missed:
        """Why an address at which somebody listens is not joined."""
        if self._own_token:
            return Missed(
                "no proof (something listens there, but no head on that host proved that it has this "
                "cluster's RAYCLUSTER_TOKEN; the token was not sent)"
            )
        return Missed(
            "no token (something listens there, but no record that can be read here names a head at this "
            "address: set --state-dir to a directory that all nodes share, or export the same "
            "RAYCLUSTER_TOKEN on all nodes)",
            no_token=True,
        )

    async def _head_at(self, ip: str, port: int) -> HeadInfo | None:
        """A head that some record of this user names at this address.

        Outside Slurm there is no key that could differ, so it is the right one.  In a job it has to be a head
        of the same job (one with another --name, for example); another job's head is refused (AttemptFailed).
        """

        def search() -> Record | None:
            for record in list_records(self._state_dir)[:20]:
                head = record.read_head()
                here = head is not None and port == head.port and ip in (head.address_ip, head.host)
                if here and record.read_end() is None and record.leases.is_held():
                    return record
            return None

        record = await self._reports.ask(search, timeout_s=RECORD_LOOK_S, default=None)
        if record is None:
            return None
        mine = self._key
        if mine.certain and (record.slurm_cluster, record.key) != (mine.slurm_cluster, mine.key):
            raise wrong_cluster(
                join_host_port(ip, port),
                f"the head of {record.key} answers there, and this worker belongs to {mine.key}",
            )
        self._found_record = record
        return await self._reports.ask(record.read_head, timeout_s=RECORD_LOOK_S, default=None)


async def numeric_address(host: str) -> str:
    """The address that a host name stands for, as Ray and the identity check need it; itself if unknown."""
    try:
        asking = in_thread(partial(socket.getaddrinfo, plain_host(host), None, type=socket.SOCK_STREAM))
        found = await within(asking, RESOLVE_S)
    except (OSError, asyncio.TimeoutError):
        return host  # the probe says why
    return str(found[0][4][0])
