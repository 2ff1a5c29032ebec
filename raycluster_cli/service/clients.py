"""Who is or was connected to a server of this node, as the kernel says (/proc/net/tcp, tcp6)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from ..system.proctree import PROC

#: ESTABLISHED, and CLOSE_WAIT: a client that has sent all that it has to say and may wait for an answer.
_AT_WORK = ("01", "08")

#: TIME_WAIT: the kernel of the side that closed first keeps the connection for a minute.
_OVER = "06"


class Clients:
    """The connections to one port.  Also those that came and went between two looks, where their end is
    recorded here: those that the server closed, or a client on this node."""

    def __init__(self, port: int, own: Callable[[], Collection[int]], proc: Path = PROC) -> None:
        """``own``: the client's ports of connections that do not count."""
        self._port = port
        self._own = own
        self._proc = proc
        self._over: frozenset[str] | None = None

    def count(self) -> int:
        """How many there are, and were since the last call."""
        lines = [*_lines(self._proc)]
        over = frozenset(ended(lines, self._port, self._own()))
        new = over - self._over if self._over is not None else ()
        self._over = over
        return count_clients(lines, self._port, self._own()) + len(new)


def _lines(proc: Path) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        if (proc / "net" / name).exists():
            yield from (proc / "net" / name).read_text().splitlines()


def count_clients(lines: Iterable[str], port: int, own: Collection[int] = ()) -> int:
    """How many connections to this port the kernel's table has.

    >>> row = "0: 0100007F:500B 0100007F:{:04X} {} 00000000:00000000 00:00000000 00000000 0 0 1 1"
    >>> rows = [row.format(40000, "01"), row.format(40001, "01"), row.format(40002, "06")]
    >>> count_clients(rows, 20491, own=[40001])
    1
    """
    rows = _rows(lines)
    return sum(
        state in _AT_WORK and _port_of(local) == port and _port_of(remote) not in own
        for local, remote, state in rows
    )


def ended(lines: Iterable[str], port: int, own: Collection[int] = ()) -> Iterator[str]:
    """The connections to this port that are over, as "server client", by the row of either side.

    >>> row = "0: {} {} 06 00000000:00000000 00:00000000 00000000 0 0 1 1"
    >>> by_server = row.format("0100007F:500B", "0100007F:9C40")
    >>> by_client = row.format("0100007F:9C41", "0100007F:500B")
    >>> list(ended([by_server, by_client], 20491))
    ['0100007F:500B 0100007F:9C40', '0100007F:500B 0100007F:9C41']
    """
    for local, remote, state in _rows(lines):
        for server, client in ((local, remote), (remote, local)):
            if state == _OVER and _port_of(server) == port and _port_of(client) not in own:
                yield f"{server} {client}"


def _rows(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(local address, remote address, state) of each row."""
    for line in lines:
        words = line.split(maxsplit=4)
        if len(words) == 5 and ":" in words[1] and ":" in words[2]:
            yield words[1], words[2], words[3]


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
