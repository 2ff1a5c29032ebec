"""The ports of one Ray node: a block that nobody else on this machine uses, held by a lock.

Every port that Ray opens is chosen here.  The range from 10240 up to the ephemeral ports
is cut into units of 128.  A claim is a run of units side by side: the first 16 ports for
Ray's fixed services, the rest for worker processes.

**The lock** of a unit is an abstract unix socket, bound and held for as long as the claim
lives.  Its scope is the network namespace, which is exactly that of TCP ports (also with a
private /tmp, in containers, and between users); there is no file, no mode and no owner, and
the kernel drops it with its holder, however that dies.  Why this and not a lock file:
docs/decisions/0002.  Where the kernel refuses abstract sockets (a seccomp or Landlock
profile), the last port of each unit is bound on TCP instead, never listening, which locks
in the same way and costs one port per unit.

**The test.**  Others know nothing of our locks, so every port of a block is bound once on
all addresses of both families, with SO_REUSEADDR as Ray's servers do it: that fails exactly when
Ray's bind would (somebody listens on any address, or an outgoing connection uses the
port), not for what a finished connection left in TIME_WAIT.  It never listens, so nobody
can connect by mistake.  About 10 ms for 1,024 ports.

**Where.**  The first block to try follows from the cluster's key, so that a worker can find
its head's GCS without a shared file system (:func:`derived_gcs_ports`).  Blocks from 20000
up come first, since Ray's own default worker ports are 10002-19999.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import pwd
import random
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..model.errors import RayclusterError, UsageError
from .proctree import PROC, read_stat

UNIT = 128
"""Ports in a unit, the smallest thing that is locked."""
FIXED = 16
"""Ports at the start of a block that are not for worker processes."""
LOWEST = 10240
PREFERRED = 20000
HIGHEST = 32768
"""The first port that is not ours even where the ephemeral range begins later."""
LOCK_NAME = "raycluster/ports"

_HEAD_ONLY = ("gcs", "dashboard", "ray_client_server", "autoscaler_metrics", "dashboard_metrics")
# The order is the layout: `gcs` must stay first, since workers derive it from the key.
_LAYOUT = (
    "gcs",
    "node_manager",
    "object_manager",
    "dashboard",
    "dashboard_agent_listen",
    "dashboard_agent_grpc",
    "runtime_env_agent",
    "metrics_export",
    "ray_client_server",
    "autoscaler_metrics",
    "dashboard_metrics",
)


@dataclass(frozen=True)
class PortMap:
    """Every port of a Ray node.  The head's own are 0 on a worker."""

    node_manager: int
    object_manager: int
    dashboard_agent_listen: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    worker_low: int
    worker_high: int
    """The last port for worker processes, itself included."""
    worker_list: tuple[int, ...] | None = None
    """The ports for worker processes where the block has holes; low and high then are its ends."""
    gcs: int = 0
    dashboard: int = 0
    ray_client_server: int = 0
    autoscaler_metrics: int = 0
    dashboard_metrics: int = 0

    @property
    def worker_count(self) -> int:
        return self.worker_high - self.worker_low + 1 if self.worker_list is None else len(self.worker_list)

    def as_dict(self) -> dict[str, int | list[int]]:
        """For the record and the screen: without what this node does not have."""
        found: dict[str, int | list[int]] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found


class PortClaim:
    """A block of ports that is ours until :meth:`close`, or until no process holds it any more.

    The locks are file descriptors: a forked child holds them too (so the block outlives a
    killed supervisor as long as its keeper lives, if that forked after the claim), an exec'ed
    one does not.
    """

    def __init__(self, ports: PortMap, locks: Sequence[socket.socket], warnings: Sequence[str]) -> None:
        self.ports = ports
        self.warnings = tuple(warnings)
        self._locks = list(locks)

    def close(self) -> None:
        """Give the block back.  May be called again."""
        while self._locks:
            self._locks.pop().close()

    def __enter__(self) -> PortClaim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def claim_ports(
    key: str,
    *,
    address: str,
    head: bool,
    given: Mapping[str, int] | None = None,
    worker_ports: int = 1000,
    lowest: int = LOWEST,
    highest: int | None = None,
    lock_name: str = LOCK_NAME,
    abstract: bool = True,
    proc: Path = PROC,
) -> PortClaim:
    """Choose, test and lock this node's ports.

    ``key`` is the cluster's; the same key gives the same first choice.  ``address`` is the node's, as Ray
    will use it.  ``given`` are ports set by the user, by field name of PortMap;
    one that is taken is a UsageError.  When the machine is full, fewer than ``worker_ports`` are
    claimed, with a warning; RayclusterError when there is not one unit left.
    """
    warnings: list[str] = []
    given = {name: port for name, port in (given or {}).items() if port}
    _check_address(address)
    first_ephemeral = _first_ephemeral(proc)
    if highest is None:
        highest = min(first_ephemeral, HIGHEST)
        if highest - lowest < UNIT * _units(worker_ports):
            highest = HIGHEST
            warnings.append(
                f"this node's outgoing connections use ports from {first_ephemeral} up "
                "(net.ipv4.ip_local_port_range), so one of them may take a port of Ray's before Ray does."
            )
    locks = _Locks(lock_name, abstract)
    _check_given(given, address, head, first_ephemeral, locks, warnings, proc)
    avoid = {port // UNIT for port in given.values()}
    if "worker_low" in given:
        worker_ports = 0
        avoid.update(range(given["worker_low"] // UNIT, given["worker_high"] // UNIT + 1))
    try:
        run, free = _find_run(key, head, worker_ports, lowest, highest, avoid, locks)
        names = [name for name in _LAYOUT if name not in given and (head or name not in _HEAD_ONLY)]
        # On a clean block each service has its place; on one with holes they take the first free ports.
        clean = len(free) == len(run) * UNIT - (0 if locks.abstract else len(run))
        if clean:
            fixed = {name: free[_LAYOUT.index(name)] for name in names}
        else:
            fixed = dict(zip(names, free, strict=False))
        rest = free[FIXED:]
        if "worker_low" in given:
            rest = []
    except BaseException:
        locks.release_all()
        raise
    if rest and len(rest) < worker_ports:
        warnings.append(
            f"only {len(rest)} ports for worker processes, {worker_ports} wanted: others use the rest of "
            f"{lowest}-{highest - 1} on this node. Ray can have that many worker processes at once."
        )
    low, high = (rest[0], rest[-1]) if rest else (given["worker_low"], given["worker_high"])
    whole = high - low + 1 == len(rest) or not rest
    values = {name: given.get(name, fixed.get(name, 0)) for name in _LAYOUT}
    ports = PortMap(**values, worker_low=low, worker_high=high, worker_list=None if whole else tuple(rest))
    return PortClaim(ports, locks.held(), warnings)


def derived_gcs_ports(
    key: str,
    *,
    count: int = 4,
    worker_ports: int = 1000,
    lowest: int = LOWEST,
    highest: int | None = None,
    proc: Path = PROC,
) -> list[int]:
    """Where a head of this key has its GCS unless others were there first: most likely first."""
    if highest is None:
        highest = min(_first_ephemeral(proc), HIGHEST)
        if highest - lowest < UNIT * _units(worker_ports):
            highest = HIGHEST
    starts = _starts(key, _units(worker_ports), lowest, highest)
    return [start * UNIT for start in starts[:count]]


# --------------------------------------------------------------------------- which block


def _units(worker_ports: int) -> int:
    return max(1, -(-(FIXED + worker_ports) // UNIT))


def _starts(key: str, size: int, lowest: int, highest: int) -> list[int]:
    """First units of all blocks of ``size`` units, in the order in which this key tries them."""
    first, end = -(-lowest // UNIT), highest // UNIT
    middle = min(-(-max(PREFERRED, lowest) // UNIT), end)
    digest = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    order: list[int] = []
    for low, high in ((middle, end), (first, middle)):
        blocks = list(range(low, high - size + 1, size))
        turn = digest % len(blocks) if blocks else 0
        order += blocks[turn:] + blocks[:turn]
    return order


def _find_run(
    key: str, head: bool, worker_ports: int, lowest: int, highest: int, avoid: set[int], locks: _Locks
) -> tuple[list[int], list[int]]:
    """A run of units, locked, and its free ports in order.

    A whole clean block; else the whole block with the fewest ports taken; else the longest run of units.
    """
    size = _units(worker_ports)
    starts = _starts(key, size, lowest, highest)
    if not head:
        # The places where workers look for the head are left to it: on one host they start together.
        others = _starts(f"{key}/worker", size, lowest, highest)
        starts = [start for start in others if start not in starts[:4]] + starts[:4]
    holed: list[tuple[int, int]] = []
    for start in starts:
        run = list(range(start, start + size))
        if avoid.isdisjoint(run) and locks.take(run):
            free = _free_ports(run, locks)
            wanted = size * UNIT - (0 if locks.abstract else size)
            if len(free) == wanted:
                return run, free
            locks.release(run)
            holed.append((wanted - len(free), start))
    for _, start in sorted(holed, key=lambda pair: pair[0]):
        run = list(range(start, start + size))
        if locks.take(run):
            free = _free_ports(run, locks)
            if len(free) > FIXED:
                return run, free
            locks.release(run)
    for attempt in range(5):
        # Another claim may hold for a moment what it only looks at: look again before giving up.
        units = [u for u in range(-(-lowest // UNIT), highest // UNIT) if u not in avoid]
        got = [unit for unit in units if locks.take([unit])]
        runs = sorted(_neighbours(got), key=len, reverse=True)
        for run in runs:
            run = run[:size]
            free = _free_ports(run, locks)
            if len(free) > FIXED:
                locks.release(set(got) - set(run))
                return run, free
        locks.release(got)
        time.sleep(random.uniform(0.01, 0.03) * (attempt + 1))
    raise RayclusterError(
        f"no free ports on this node: every unit of {UNIT} ports between {lowest} and {highest - 1} is held "
        "by another raycluster or taken by servers; at least one is needed.",
        "End clusters that are not needed (`raycluster status`), or ask for whole nodes (--exclusive).",
    )


def _neighbours(units: Iterable[int]) -> Iterator[list[int]]:
    """Ascending numbers as runs without gaps: 1 2 5 → [1 2] [5]."""
    run: list[int] = []
    for unit in units:
        if run and unit != run[-1] + 1:
            yield run
            run = []
        run.append(unit)
    if run:
        yield run


def _free_ports(run: Sequence[int], locks: _Locks) -> list[int]:
    guards = () if locks.abstract else {unit * UNIT + UNIT - 1 for unit in run}
    ports = range(run[0] * UNIT, (run[-1] + 1) * UNIT)
    return [port for port in ports if port not in guards and port_error(port) is None]


# --------------------------------------------------------------------------- locks


class _Locks:
    """The locks that this claim holds, by unit."""

    def __init__(self, name: str, abstract: bool) -> None:
        self.name = name
        self._held: dict[int, socket.socket] = {}
        self.abstract = abstract and self._abstract_possible()

    @staticmethod
    def _abstract_possible() -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.bind("")  # the kernel chooses a free abstract name
            return True
        except OSError:
            return False

    def take(self, units: Sequence[int]) -> bool:
        """Lock all of these, upwards, or none."""
        taken: list[int] = []
        for unit in units:
            lock = self._bind(unit)
            if lock is None:
                self.release(taken)
                return False
            self._held[unit] = lock
            taken.append(unit)
        return True

    def _bind(self, unit: int) -> socket.socket | None:
        if self.abstract:
            lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            where: str | tuple[str, int] = f"\0{self.name}/{unit}"
        else:
            # Without SO_REUSEADDR, so that no other bind of this port succeeds while it is held.
            lock = _tcp_socket()
            where = (_anywhere(lock), unit * UNIT + UNIT - 1)
        try:
            lock.bind(where)
            return lock
        except OSError:
            lock.close()
            return None

    def release(self, units: Iterable[int]) -> None:
        for unit in units:
            lock = self._held.pop(unit, None)
            if lock is not None:
                lock.close()

    def release_all(self) -> None:
        self.release(list(self._held))

    def held(self) -> list[socket.socket]:
        return list(self._held.values())


# --------------------------------------------------------------------------- single ports


def _tcp_socket() -> socket.socket:
    """A TCP socket whose wildcard address covers both families, where there are both."""
    if socket.has_ipv6:
        try:
            both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            return both
        except OSError:
            pass
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def _anywhere(sock: socket.socket) -> str:
    return "::" if sock.family == socket.AF_INET6 else "0.0.0.0"


def port_error(port: int) -> OSError | None:
    """Why a server could not take this port on this node; None when it could."""
    sock = _tcp_socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_anywhere(sock), port))
        return None
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) or sock.family == socket.AF_INET:
            return error
    finally:
        sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as plain:  # IPv6 is switched off
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            plain.bind(("0.0.0.0", port))
            return None
        except OSError as error:
            return error


def port_holder(port: int, proc: Path = PROC) -> str:
    """Who holds a TCP port, as well as can be seen from here: a process, else its user.

    From /proc/net/tcp and tcp6 (local port, uid, inode), then the descriptors of the processes that this
    user may look at.  Empty when nothing is known.
    """
    inodes: dict[str, int] = {}
    for table in ("net/tcp", "net/tcp6"):
        try:
            lines = (proc / "self" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            parts = line.split()
            if int(parts[1].rpartition(":")[2], 16) == port and parts[9] != "0":
                inodes[f"socket:[{parts[9]}]"] = int(parts[7])
    for pid in (entry for entry in proc.iterdir() if inodes and entry.name.isdigit()):
        try:
            if any(os.readlink(fd) in inodes for fd in (pid / "fd").iterdir()):
                stat = read_stat(int(pid.name))
                return f"{stat.name if stat else 'a process'} (pid {pid.name})"
        except OSError:
            continue
    for uid in inodes.values():
        try:
            return f"a process of user {pwd.getpwuid(uid).pw_name}"
        except KeyError:
            return f"a process of uid {uid}"
    return ""


def _first_ephemeral(proc: Path) -> int:
    """The first port that the kernel gives to outgoing connections."""
    try:
        return int((proc / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _check_address(address: str) -> None:
    """UsageError when the address is none of this node's."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            address, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as sock:
            sock.bind(where)
    except OSError as error:
        raise UsageError(
            f"{address} is not an address of this node ({error.strerror or error}); one that is, is needed.",
            "Give the node's own by --interface or --network.",
        ) from error


def _check_given(
    given: Mapping[str, int],
    address: str,
    head: bool,
    first_ephemeral: int,
    locks: _Locks,
    warnings: list[str],
    proc: Path,
) -> None:
    """Ports set by hand: known, different, free.  Their units are locked, if nobody holds them."""
    workers = [name for name in ("worker_low", "worker_high") if name in given]
    if len(workers) == 1:
        raise UsageError("the first and the last port for worker processes must be given together.")
    low, high = given.get("worker_low", 1), given.get("worker_high", 0)
    if workers and not 0 < low <= high < 65536:
        raise UsageError(f"worker ports {low}-{high}: two numbers of 1 to 65535 are needed, upwards.")
    seen: dict[int, str] = {}
    single = {name: port for name, port in given.items() if name not in workers}
    for name, port in single.items():
        if name not in _LAYOUT:
            raise UsageError(f"{name!r} is no port of Ray's; there are {', '.join(_LAYOUT)}.")
        if not 0 < port < 65536:
            raise UsageError(f"port {port} given for {_words(name)}; 1 to 65535 is possible.")
        if port in seen:
            raise UsageError(f"port {port} is given for both {_words(seen[port])} and {_words(name)}.")
        if low <= port <= high:
            raise UsageError(
                f"port {port} given for {_words(name)} lies among the worker ports {low}-{high}."
            )
        seen[port] = name
        error = port_error(port)
        if error is not None:
            holder = port_holder(port, proc)
            why = f"is taken by {holder}" if holder else f"cannot be used: {error.strerror}"
            if error.errno == errno.EACCES:
                why = "is below 1024, which needs root"
            raise UsageError(
                f"port {port} given for {_words(name)} {why}.",
                "Give another, or leave it out: a free one is chosen and recorded.",
            )
        if port >= first_ephemeral:
            warnings.append(
                f"port {port} given for {_words(name)} is among those of outgoing connections "
                f"(from {first_ephemeral} up), so one of them may take it before Ray does."
            )
    if workers:
        taken = [port for port in range(low, high + 1) if port_error(port) is not None]
        if taken:
            warnings.append(
                f"{len(taken)} of the worker ports {low}-{high} are taken, the first by "
                f"{port_holder(taken[0], proc) or 'something'} ({taken[0]}): worker processes that get "
                "one of them fail to start."
            )
    units = {port: port // UNIT for port in [*single.values(), *range(low, high + 1, UNIT), high]}
    for unit in sorted({unit for unit in units.values() if LOWEST <= unit * UNIT < HIGHEST}):
        # A guard port could be the very port that was given, so only sockets lock here.
        if locks.abstract and not locks.take([unit]):
            mine = [port for port in units if port // UNIT == unit]
            warnings.append(
                f"port {mine[0]} lies in a block that another raycluster on this node holds; "
                f"a port below {LOWEST} cannot meet with one."
            )


def _words(name: str) -> str:
    return f"{name.replace('_', ' ')} port"
