"""Waiting until a cluster is ready for a program that connects to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..model.errors import RayclusterError
from ..model.record import NodeReport
from ..state.record import Record
from .inside import choose_live_node

#: Phases of the head in which all workers have joined that it waits for.
_READY = ("ready", "driver running")

POLL_S = 0.5


def wait_until_ready(
    find: Callable[[], Record],
    host: str,
    wait_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Record:
    """The record of a cluster whose head has all its workers, and Ray on node ``host`` (default: the head's).

    ``find`` gives the record, and raises RayclusterError as long as there is none.  A cluster that had ended
    at the first look may be the one before; one that ends later is waited for no longer.
    Raises RayclusterError, after ``wait_s`` seconds or at the end of the cluster.
    """
    deadline = clock() + wait_s
    looks = 0
    earlier: float | None = None
    while True:
        ended: float | None = None
        try:
            record = find()
            end = record.read_end()
            ended = end.when if end is not None else None
            choose_live_node(record, host)
            head = choose_live_node(record)
            if head.phase in _READY:
                return record
            why = _not_ready(record, head)
        except RayclusterError as error:
            why = error
        if looks == 0:
            earlier = ended
        looks += 1
        if ended not in (None, earlier) or clock() >= deadline:
            raise why
        sleep(min(POLL_S, max(deadline - clock(), 0.0)))


def _not_ready(record: Record, head: NodeReport) -> RayclusterError:
    name = record.path.name
    return RayclusterError(
        f"cluster {name} is not ready: {head.message.rstrip('.') or 'not all of its workers have joined'}.",
        f"`raycluster status {name}` shows each node.",
    )
