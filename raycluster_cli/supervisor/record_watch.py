"""The head's guard over its record, where others leave requests to stop and reports of lost raylets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ..policy import events as on
from ..policy.head_state import HeadState
from ..state.catalogue import prune
from ..state.lease import HEARTBEAT_S
from ..state.record import Record
from .parts import Parts
from .report_writer import RECORD_LOOK_S

#: How often the head looks into the record for what others leave there: a stop, a lost raylet.
RECORD_POLL_S = 0.5


async def watch_record(parts: Parts, record: Record, state: Callable[[], HeadState]) -> None:
    """Post requests to stop, and raylets whose workers report their death.  Returns after a request to stop.

    The head's lease is renewed here too.
    """
    reports = parts.reports
    beat_at = 0.0
    while True:
        lost: list[str] = await reports.look(record.lost_node_ids, timeout_s=RECORD_LOOK_S, default=[])
        for node_id in lost:
            if (worker := state().members.get(node_id)) is not None:  # the GCS has not noticed it yet
                parts.post(on.WorkerLeft(worker))
        stop = await reports.look(record.stop_requested, timeout_s=RECORD_LOOK_S, default=None)
        if stop is not None:
            parts.post(on.StopRequested(stop.by))
            return
        if time.monotonic() >= beat_at:
            beat_at = time.monotonic() + HEARTBEAT_S
            reports.quietly(record.leases.beat)
        await asyncio.sleep(RECORD_POLL_S)


async def remove_old_records(parts: Parts, record: Record) -> None:
    """Remove records of clusters that ended long ago, and what an earlier cluster of this key has left."""
    await asyncio.wait({parts.reports.quietly(prune, parts.context.state_dir)})
    await asyncio.wait({parts.reports.quietly(record.remove_earlier)})
