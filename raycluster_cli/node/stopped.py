"""Processes that were stopped (SIGSTOP) while Ray starts here, and forgotten: they are continued.

Nobody else would notice: the GCS checks raylets that have registered, and the start would wait for this one
until its deadline.  Once Ray runs, a raylet that is stopped is a loss, as any that does not respond.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping

from ..system.proctree import ProcessRef, Stat, identify, let_go_on, tree_of

#: How often it is looked for stopped processes, and how often in a row one must be.  Counted, since Slurm may
#: suspend all processes of a job: this one is continued a moment before the others.
LOOK_S, LOOKS = 2.0, 3


def look(
    seen: Mapping[ProcessRef, int], tree: Iterable[Stat]
) -> tuple[dict[ProcessRef, int], tuple[Stat, ...]]:
    """How often in a row each process was stopped by now, and those that are to be continued.

    ``seen``: the same before this look.

    >>> raylet = Stat(7, "raylet", "T", 1, 991)
    >>> look({raylet.ref: 1}, [raylet])
    ({ProcessRef(pid=7, start_ticks=991): 2}, ())
    """
    counts = {stat: seen.get(stat.ref, 0) + 1 for stat in tree if stat.state == "T"}
    due = tuple(stat for stat, count in counts.items() if count >= LOOKS)
    return {stat.ref: count for stat, count in counts.items() if count < LOOKS}, due


async def continue_stopped(tell: Callable[[Stat], None], *, look_s: float = LOOK_S) -> None:
    """Look for stopped processes below this one until cancelled; ``tell`` is called with each continued."""
    root = identify(os.getpid())
    assert root is not None
    seen: dict[ProcessRef, int] = {}
    while True:
        await asyncio.sleep(look_s)
        seen, due = look(seen, tree_of(root))
        for stat in due:
            if let_go_on(stat.ref):
                tell(stat)
