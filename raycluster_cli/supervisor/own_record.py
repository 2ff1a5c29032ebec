"""How a node opens its job's record, or works without one, and what it reports first."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from ..model.errors import RayclusterError, UsageError
from ..model.record import NodeReport
from ..model.status import NodePhase
from ..state.record import Record
from ..system.proctree import identify
from .context import Context


async def open_record(
    context: Context, on_record: Callable[..., Awaitable[Record]], warn: Callable[[str], None]
) -> Record | None:
    """The job's record; None where it cannot be kept and the cluster works without one.

    ``on_record`` makes a call on a file system with a deadline.  Raises RayclusterError where the record is
    needed.
    """
    arguments = (context.state_dir, context.slurm_cluster, context.key, context.settings.name)
    try:
        record = await on_record(Record.create, *arguments)
        record.hide(context.own_token)
        return record
    except RayclusterError as error:
        if context.settings.state_dir:
            raise
        if context.needs_record:
            raise UsageError(
                f"no record can be kept, and workers cannot join without one: {error.message}",
                "Give a directory that all nodes share with --state-dir, or export "
                "RAYCLUSTER_TOKEN=$(openssl rand -hex 32) in the batch script.",
            ) from error
        warn(
            f"no record can be kept: {error.message} `raycluster status` and other commands will not "
            f"find this cluster. {error.hint}"
        )
        return None


def first_report(context: Context) -> NodeReport:
    """What a node reports of itself before it has done anything."""
    me, allocation = identify(os.getpid()), context.allocation
    return NodeReport(
        host=context.host,
        role=context.role.value,
        phase=NodePhase.LAUNCHED.value,
        phases={"process started": context.launched},
        pid=os.getpid(),
        create_time=me.start_ticks if me else 0,
        het_group=allocation.het_component if allocation else None,
        step=(allocation.step_id or "") if allocation else "",
        launcher_ip=allocation.launcher_ip if allocation else "",
        launcher_port=allocation.launcher_port if allocation else None,
    )


def report_rest_s(nodes: int) -> float:
    """Between a node's reports: none up to 50 nodes, 2 s at 1,000; then 500 reports a second in all.

    >>> report_rest_s(50), report_rest_s(1000)
    (0.0, 2.0)
    """
    return nodes / 500 if nodes > 50 else 0.0
