"""Who is connected to a server of this node, as the kernel says (/proc/net/tcp, tcp6)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from ..system.proctree import PROC

#: ESTABLISHED, and CLOSE_WAIT: a client that has sent all that it has to say and may wait for an answer.
_AT_WORK = ("01", "08")


def connected_clients(port: int, own: Collection[int] = (), proc: Path = PROC) -> int:
    """How many connections to this port there are; ``own``: the client's ports of those that do not count."""
    return sum(
        count_clients((proc / "net" / name).read_text().splitlines(), port, own)
        for name in ("tcp", "tcp6")
        if (proc / "net" / name).exists()
    )


def count_clients(lines: Iterable[str], port: int, own: Collection[int] = ()) -> int:
    """The same of the kernel's table.

    >>> row = "0: 0100007F:500B 0100007F:{:04X} {} 00000000:00000000 00:00000000 00000000 0 0 1 1"
    >>> rows = [row.format(40000, "01"), row.format(40001, "01"), row.format(40002, "06")]
    >>> count_clients(rows, 20491, own=[40001])
    1
    """
    found = 0
    for line in lines:
        words = line.split(maxsplit=4)
        if len(words) < 5 or words[3] not in _AT_WORK:
            continue
        _, _, local = words[1].rpartition(":")
        _, _, remote = words[2].rpartition(":")
        found += int(local, 16) == port and int(remote, 16) not in own
    return found
