"""A start with --stage-env: which cluster the copy belongs to, and how nodes learn of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence

from ..model.errors import RayclusterError
from ..model.settings import Settings
from ..node.staged_copy import copy_of
from ..rayproc.warm import WarmCompanion
from ..slurm.allocation import Allocation
from ..slurm.cluster_name import slurm_cluster_name
from ..staging.handover import hand_over
from ..staging.note import SHARED, NoteWriter, note_path
from ..staging.stage import Request
from ..state.location import state_dir
from ..system.keeper_link import Keeper, KeeperNotes
from ..system.programs import find_program
from ..system.report import Report


def start_from_copy(
    command: str,
    settings: Settings,
    driver: tuple[str, ...],
    *,
    env: Mapping[str, str],
    keeper: Keeper,
    warm: WarmCompanion | None,
    arguments: Sequence[str],
) -> WarmCompanion | None:
    """Go on as a process that runs from a copy of the environment.

    Returns where there is none, or where this process runs from one already: the companion, if it still runs.
    ``arguments``: of the command line.
    """
    if copy_of(sys.prefix):  # the driver of a cluster starts another one
        return warm
    if warm is not None:  # --stage-env is from a configuration file
        _end_companion(warm)
    allocation = Allocation.from_environ(env)
    host = (allocation.node_name if allocation else None) or socket.gethostname().partition(".")[0]
    key = env.get("RAYCLUSTER_KEY", "") or (allocation.key if allocation else "")
    cluster = slurm_cluster_name(allocation, env)
    symmetric = command == "run"
    is_head = command == "head" or (symmetric and (settings.local is not None or not _rank(allocation)))
    alone = settings.local is not None or not key or bool(settings.cluster)
    if allocation is not None:
        alone = alone or len((symmetric and allocation.step_nodes) or allocation.job_nodes) == 1
    note = None
    if not alone:
        launch = f"{allocation.launch if allocation and symmetric else 'head'}+{settings.name}"
        note = note_path(state_dir(settings, env), cluster, key, launch)
    request = Request(
        value=settings.stage_env,
        env=env,
        host=host,
        job=f"{cluster}/{key}" if key else f"local/{host}-{os.getpid()}",
        note=note,
        is_head=is_head,
        same_step=symmetric,
        keep=settings.keep_env,
    )
    if is_head and driver and not find_program(driver[0], env):
        with contextlib.suppress(RayclusterError, OSError):
            NoteWriter(note).write(state=SHARED, why="the head's driver was not found")
        return None  # the usual start refuses the driver; a copy would be useless
    keeper.note(KeeperNotes(keep_env=settings.keep_env, host=host))
    report = Report(verbose=settings.verbose)
    hand_over(request, arguments, driver, keeper, report)
    return None


def _rank(allocation: Allocation | None) -> int:
    return (allocation.procid or 0) if allocation else 0


def _end_companion(warm: WarmCompanion) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(warm.pid, signal.SIGKILL)
    os.waitpid(warm.pid, 0)
    for fd in (warm.stdin, warm.stdout, warm.log):
        os.close(fd)
