"""Port claims: the ports of one Ray node, chosen, tested and locked.

Every port that Ray opens is chosen here.  The range from 10240 up to the ephemeral ports is divided into
units of 128 ports.  A block is a run of adjacent units: its first 16 ports are for Ray's fixed services, the
rest for worker processes.  Each unit is locked against other raycluster processes (:mod:`.port_locks`).

**The test.**  Other programs do not know these locks, so every port of a block is bound once on all
addresses of both families, with SO_REUSEADDR as Ray's servers do it.  That fails exactly when Ray's own bind
would (a server listens on any address, or an outgoing connection uses the port), and not for a finished
connection in TIME_WAIT. The test never listens, so nobody can connect by mistake.  It takes about 10 ms for
1,024 ports.

**The order.**  The first block to try follows from the cluster's key (:func:`derived_gcs_ports`), so that
clusters on one node seldom try the same block at once.  Blocks from 20000 up come first, since Ray's
own default worker ports are 10002-19999.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from ..model.errors import RayclusterError, UsageError
from ..model.wording import count
from .jitter import between
from .port_locks import UNIT, PortLocks
from .port_map import HEAD_ONLY, LAYOUT, PortMap
from .port_probe import first_ephemeral_port, port_error, port_holder
from .proctree import PROC

FIXED = 16
"""Ports at the start of a block that are not for worker processes."""
LOWEST = 10240
PREFERRED = 20000
HIGHEST = 32768
"""No port from this one up is chosen, even where the ephemeral range begins later."""
LOCK_NAME = "raycluster/ports"


class PortClaim:
    """A block of ports that is locked until :meth:`close`, or until every process that holds it has ended.

    The locks are file descriptors.  A forked child holds them too: if the keeper was forked after the claim,
    the block stays locked after a supervisor is killed, until the keeper ends.  A program started by exec
    does not hold them.
    """

    def __init__(self, ports: PortMap, locks: Sequence[socket.socket], warnings: Sequence[str]) -> None:
        self.ports = ports
        self.warnings = tuple(warnings)
        self._locks = list(locks)

    def close(self) -> None:
        """Release the block.  May be called again."""
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

    ``key`` is the cluster's; the same key gives the same first choice.  ``address`` is the node's IP
    address, as Ray will use it.  ``given`` are ports set by the user, by field name of PortMap.  When the
    node is full, fewer than ``worker_ports`` are claimed, with a warning.

    Raises UsageError for a given port that cannot be used and for an address of another node; RayclusterError
    when no unit is free.  Takes tens of milliseconds of system calls and sleeps for up to 0.5 s when the node
    is full: call it in a thread.
    """
    warnings: list[str] = []
    given = {name: port for name, port in (given or {}).items() if port}
    _check_address(address)
    first_ephemeral = first_ephemeral_port(proc)
    if highest is None:
        highest = min(first_ephemeral, HIGHEST)
        if highest - lowest < UNIT * _units(worker_ports):
            highest = HIGHEST
            warnings.append(
                f"outgoing connections of this node use ports from {first_ephemeral} up "
                "(net.ipv4.ip_local_port_range), so one of them may take a port before Ray opens it."
            )
    locks = PortLocks(lock_name, abstract)
    _check_given(given, first_ephemeral, locks, warnings, proc)
    avoid = {port // UNIT for port in given.values()}
    if "worker_low" in given:
        worker_ports = 0
        avoid.update(range(given["worker_low"] // UNIT, given["worker_high"] // UNIT + 1))
    try:
        run, free = _find_run(key, head, worker_ports, lowest, highest, avoid, locks)
        names = [name for name in LAYOUT if name not in given and (head or name not in HEAD_ONLY)]
        # On a clean block each service has its place; on one with holes they take the first free ports.
        clean = len(free) == len(run) * UNIT - (0 if locks.abstract else len(run))
        if clean:
            fixed = {name: free[LAYOUT.index(name)] for name in names}
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
            f"only {len(rest)} ports are free for worker processes, {worker_ports} were wanted: the rest of "
            f"{lowest}-{highest - 1} is in use on this node. Ray can run at most {len(rest)} worker "
            "processes at once here."
        )
    low, high = (rest[0], rest[-1]) if rest else (given["worker_low"], given["worker_high"])
    whole = high - low + 1 == len(rest) or not rest
    values = {name: given.get(name, fixed.get(name, 0)) for name in LAYOUT}
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
    """The ports on which the head of this cluster may have its GCS, the most likely first.

    The head has another one only where all of these blocks were taken before it started.
    """
    if highest is None:
        highest = min(first_ephemeral_port(proc), HIGHEST)
        if highest - lowest < UNIT * _units(worker_ports):
            highest = HIGHEST
    starts = _starts(key, _units(worker_ports), lowest, highest)
    return [start * UNIT for start in starts[:count]]


# --------------------------------------------------------------------------- which block


def _units(worker_ports: int) -> int:
    return max(1, -(-(FIXED + worker_ports) // UNIT))


def _starts(key: str, size: int, lowest: int, highest: int) -> list[int]:
    """The first units of all blocks of ``size`` units, in the order in which this key tries them."""
    first, end = -(-lowest // UNIT), highest // UNIT
    middle = min(-(-max(PREFERRED, lowest) // UNIT), end)
    digest = int.from_bytes(_sha256(key.encode())[:8], "big")
    order: list[int] = []
    for low, high in ((middle, end), (first, middle)):
        blocks = list(range(low, high - size + 1, size))
        turn = digest % len(blocks) if blocks else 0
        order += blocks[turn:] + blocks[:turn]
    return order


def _sha256(data: bytes) -> bytes:
    """As hashlib has it, which would load OpenSSL on every node."""
    for name in ("_sha2", "_sha256"):  # Python 3.12 and newer; before that
        with contextlib.suppress(ImportError):
            return bytes(__import__(name).sha256(data).digest())
    import hashlib

    return hashlib.sha256(data).digest()


def _find_run(
    key: str, head: bool, worker_ports: int, lowest: int, highest: int, avoid: set[int], locks: PortLocks
) -> tuple[list[int], list[int]]:
    """A locked run of units, and its free ports in ascending order.

    A block in which every port is free; else the block with the fewest ports in use; else the longest run of
    units that can be locked.
    """
    size = _units(worker_ports)
    starts = _starts(key, size, lowest, highest)
    if not head:
        # On one host head and workers start together: workers leave the head's first blocks to it.
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
        # Another claim may hold a unit for a moment while it tests it: try again before giving up.
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
        time.sleep(between(0.01, 0.03) * (attempt + 1))
    raise RayclusterError(
        f"no free ports on this node: every unit of {UNIT} ports between {lowest} and {highest - 1} is "
        "locked by another raycluster or used by other servers; at least one is needed.",
        "Stop clusters that you no longer need (`raycluster status`), or ask Slurm for whole nodes "
        "(--exclusive).",
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


def _free_ports(run: Sequence[int], locks: PortLocks) -> list[int]:
    guards = () if locks.abstract else {unit * UNIT + UNIT - 1 for unit in run}
    ports = range(run[0] * UNIT, (run[-1] + 1) * UNIT)
    return [port for port in ports if port not in guards and port_error(port) is None]


# -- ports given by hand -----------------


def _check_address(address: str) -> None:
    """Raise UsageError unless the address is one of this node's."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(
            address.encode(), 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )[0]
        with socket.socket(family, kind) as sock:
            sock.bind(where)
    except OSError as error:
        raise UsageError(
            f"{address} is not an address of this node ({error.strerror or error}).",
            "Choose one of this node's addresses with --interface or --network.",
        ) from error


def _check_given(
    given: Mapping[str, int], first_ephemeral: int, locks: PortLocks, warnings: list[str], proc: Path
) -> None:
    """Check ports set by the user: known, distinct, free.  Lock their units where possible, or warn."""
    workers = [name for name in ("worker_low", "worker_high") if name in given]
    if len(workers) == 1:
        raise UsageError("the first and the last port for worker processes must be given together.")
    low, high = given.get("worker_low", 1), given.get("worker_high", 0)
    if workers and not 0 < low <= high < 65536:
        raise UsageError(
            f"the worker ports are {low}-{high}; they must be a range within 1-65535, lowest first."
        )
    seen: dict[int, str] = {}
    single = {name: port for name, port in given.items() if name not in workers}
    for name, port in single.items():
        if name not in LAYOUT:
            raise UsageError(f"{name!r} is not one of Ray's ports, which are {', '.join(LAYOUT)}.")
        if not 0 < port < 65536:
            raise UsageError(f"the {_port_name(name)} is {port}; a port is a number from 1 to 65535.")
        if port in seen:
            raise UsageError(
                f"port {port} is given as both the {_port_name(seen[port])} and the {_port_name(name)}."
            )
        if low <= port <= high:
            raise UsageError(
                f"port {port}, given as the {_port_name(name)}, is among the worker ports {low}-{high}."
            )
        seen[port] = name
        error = port_error(port)
        if error is not None:
            holder = port_holder(port, proc)
            why = f"is in use by {holder}" if holder else f"cannot be used: {error.strerror}"
            if error.errno == errno.EACCES:
                why = "cannot be used: ports below 1024 need root"
            raise UsageError(
                f"port {port}, given as the {_port_name(name)}, {why}.",
                "Give another port, or leave the option out: raycluster then chooses a free one.",
            )
        if port >= first_ephemeral:
            warnings.append(
                f"port {port}, given as the {_port_name(name)}, is in the range of outgoing connections "
                f"(from {first_ephemeral} up), so one of them may take it before Ray opens it."
            )
    if workers:
        taken = [port for port in range(low, high + 1) if port_error(port) is not None]
        if taken:
            warnings.append(
                f"{count(len(taken), 'port')} of the worker ports {low}-{high} cannot be used, the first "
                f"({taken[0]}) because {port_holder(taken[0], proc) or 'another process'} has it: worker "
                "processes that are given one of them fail to start."
            )
    units = {port: port // UNIT for port in [*single.values(), *range(low, high + 1, UNIT), high]}
    for unit in sorted({unit for unit in units.values() if LOWEST <= unit * UNIT < HIGHEST}):
        # A guard port could be the very port that was given, so only abstract sockets lock here.
        if locks.abstract and not locks.take([unit]):
            mine = [port for port in units if port // UNIT == unit]
            warnings.append(
                f"port {mine[0]} is in a block that another raycluster on this node has locked; "
                f"a port below {LOWEST} is never in such a block."
            )


def _port_name(name: str) -> str:
    return f"{name.replace('_', ' ').replace('gcs', 'GCS')} port"
