"""Clears what earlier clusters of this user left on this node, while a new one starts, and reports it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..model.wording import count
from ..system.report import Report
from ..system.waiting import in_thread
from .setup import NodeSetup
from .staged_copy import sweep_copies
from .sweep import bases, sweep_stale


async def clear_leftovers(setup: NodeSetup, report: Report) -> None:
    """Clear what crashed clusters left: processes, directories, copies of the environment."""
    settings, env = setup.settings, setup.env
    extra = [Path(settings.temp_dir)] if settings.temp_dir else []
    for swept in await in_thread(partial(sweep_stale, env, extra=extra)):
        ended = f", {count(len(swept.ended), 'process', 'processes')} ended" if swept.ended else ""
        report.say(f"cleared {swept.path}, left by cluster {swept.key} on {setup.host}{ended}")
        for left in swept.left:
            report.warn(f"could not clear {left} of cluster {swept.key}")
    if settings.stage_env.startswith("/"):
        extra.append(Path(settings.stage_env))
    job = setup.key.rpartition("+")[0]
    for copy in await in_thread(partial(sweep_copies, bases(env, extra), job=job)):
        report.say(f"removed {copy.path}, an unused copy of an environment on {setup.host}")
        for left in copy.left:
            report.warn(f"could not remove {left}")
