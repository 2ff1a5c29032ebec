"""Which known causes a text names, and which of them explains an end.  Text in, values out."""

from __future__ import annotations

import signal
from collections.abc import Iterable

from .causes import CAUSES, Cause
from .dataclass import dataclass
from .log_lines import shortened, written_at


@dataclass(frozen=True)
class Found:
    """A cause and where its message was found."""

    cause: Cause
    where: str
    """Host and file, or the name of what was searched."""
    line: str
    when: float | None = None
    """Unix seconds at which the line was written; None when it does not say."""


#: The text of an end that came through Slurm, by the cause's name: Slurm, or the shell that ran srun, says
#: so in the job's output.
BY_SLURM = ("time limit", "preempted", "node failed", "srun killed")

#: A line written this long after the end is no cause; a longer time is another time zone's.
AFTER_S, OTHER_ZONE_S = 2.0, 900.0

#: Of which causes a process dies by a signal; by another signal it may die of any.
_DIES_BY: dict[int, tuple[str, ...]] = {
    signal.SIGKILL: ("out of memory", "CPU time limit", *BY_SLURM),
    signal.SIGBUS: ("out of memory", "shared memory full", "disk full"),
    signal.SIGSEGV: (),
    signal.SIGILL: (),
    signal.SIGFPE: (),
}


def find_causes(
    texts: Iterable[tuple[str, str]], *, host: str = "", ended: float | None = None
) -> list[Found]:
    """The causes whose messages are in these texts, given as (where, text): each once, the likeliest first.

    ``host``: the one that failed, whose texts explain more than those of others.  ``ended``: when the
    cluster ended, Unix seconds; what was written after that is a consequence.  Of the rest the earlier comes
    first, and where lines bear no time the table's order decides.

    >>> [found.cause.name for found in find_causes([("raylet.err", "bind: Address already in use")])]
    ['port taken']
    """
    first: dict[str, Found] = {}
    for where, text in texts:
        named: set[str] = set()
        for cause in CAUSES:
            line = cause.find(text)
            if line is None or line in named:  # a line counts for the first cause that it names
                continue
            named.add(line)
            if cause.name not in first:
                found = Found(cause, where, shortened(line), written_at(line))
                if not _came_after(found, ended):
                    first[cause.name] = found
    found_all = [first[cause.name] for cause in CAUSES if cause.name in first]
    primary = [one for one in found_all if not one.cause.secondary] or found_all
    last = max((one.when for one in primary if one.when is not None), default=0.0)

    def rank(one: Found) -> tuple[bool, float]:
        elsewhere = bool(host) and not one.where.startswith((f"{host}/", f"{host}'s ", "the record"))
        return elsewhere, one.when if one.when is not None else ended or last

    return sorted(primary, key=rank)


def explains(cause: Cause, *, died_by: int | None = None, loss: bool = False) -> bool:
    """Whether an end may come from this cause.

    ``died_by``: the signal by which the process died that ended the cluster.  ``loss``: whether a node
    was lost, or a worker process, which no exception of a program does.

    >>> by_name = {one.name: one for one in CAUSES}
    >>> explains(by_name["module missing"], died_by=9), explains(by_name["out of memory"], died_by=9)
    (False, True)
    """
    if loss and cause.of_program:
        return False
    return died_by is None or cause.name in _DIES_BY.get(died_by, (cause.name,))


def _came_after(found: Found, ended: float | None) -> bool:
    return ended is not None and found.when is not None and AFTER_S < found.when - ended < OTHER_ZONE_S
