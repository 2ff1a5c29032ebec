"""A worker's raylet executed directly, with what the head's template says: Ray is not imported (template.py).

When this fails for any reason, the node starts in one of the other ways.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..rayproc.daemon_signals import ignore_user_signals
from ..rayproc.environment import start_environment
from ..rayproc.failure import StartFailure
from ..rayproc.installation import ray_variables
from ..rayproc.plan import NodePlan
from ..rayproc.raylet_log import is_registered
from ..rayproc.spill_directory import make_spill_directory
from ..rayproc.started import Started
from ..rayproc.template import File, Template, fill, free_bytes
from ..system.process import Child, Reaper
from ..system.removal import remove_tree
from ..system.waiting import done_within, in_thread
from .accelerators import special_devices

#: How long making Ray's directories may take: 1 ms on a disk that works.
FILES_S = 30.0

#: How long the raylet gets to register, of the time for the whole start at most half.
REGISTER_S = 40.0


async def start_by_template(
    template: Template,
    plan: NodePlan,
    *,
    installation: str,
    gpus: str,
    given: Mapping[str, str],
    reaper: Reaper,
    timeout_s: float,
) -> tuple[Started, Child]:
    """Start this worker's raylet and wait until it is registered.

    ``installation``, ``gpus``: of this node, as the template has them; ``given``: the environment of this
    process.  Raises StartFailure, with nothing left of the start.
    """
    facts = in_thread(lambda: (special_devices(), free_bytes()))
    if not await done_within(facts, FILES_S):
        raise StartFailure("ray", "/dev does not answer")
    devices, shm_bytes = facts.result()
    reason = devices or template.refusal(
        plan, installation=installation, variables=ray_variables(given), gpus=gpus, shm_bytes=shm_bytes
    )
    if reason:
        raise StartFailure("ray", reason)
    clock = {"begun": time.time(), "checked": time.time()}
    node_id = os.urandom(template.node_id_bytes).hex()
    session_dir = f"{plan.temp_dir}/{template.session}"
    child: Child | None = None
    try:
        launch = fill(template.launch, plan, node_id, os.cpu_count() or 1, template.accelerator_type)
        making = in_thread(make_files, Path(plan.temp_dir), launch.files, plan.spill_dir)
        if not await done_within(making, FILES_S):
            raise StartFailure("ray", f"{plan.temp_dir} does not answer")
        making.result()
        child = _spawn(launch.argv, start_environment(plan, given) | dict(launch.variables), reaper)
        clock["raylet spawned"] = time.time()
        await _registered(child, f"{session_dir}/logs", node_id, min(REGISTER_S, timeout_s / 2))
    except BaseException as error:
        if child is not None:
            await child.stop(0.0)
        clearing = in_thread(_clear, Path(plan.temp_dir), template.session)
        await done_within(clearing, FILES_S)
        if isinstance(error, (OSError, KeyError)):
            raise StartFailure("ray", f"{type(error).__name__}: {error}") from error
        raise
    clock["registered"] = time.time()
    started = {
        "how": "template",
        "session": template.session,
        "session_dir": session_dir,
        "node_id": node_id,
        "cluster_id": template.cluster_id,
        "gcs_address": template.gcs_address,
        "phases": clock,
    }
    return Started(processes={"raylet": child.pid}, raw=started, **started), child  # type: ignore[arg-type]


def make_files(root: Path, files: Sequence[File], spill_dir: str | None = None) -> None:
    """What Ray makes in its directory of the node, and the one for spilled objects.

    Raises OSError, StartFailure.
    """
    root.mkdir(exist_ok=True)
    make_spill_directory(spill_dir)
    for file in files:
        path = root / file.path
        if file.kind == "link":
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            path.symlink_to(file.text)
            continue
        if file.kind == "directory":
            path.mkdir(exist_ok=True)
        else:
            path.write_text(file.text)
        path.chmod(file.mode)


def _spawn(argv: Sequence[str], env: Mapping[str, str], reaper: Reaper) -> Child:
    return reaper.spawn(
        argv,
        "raylet",
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=ignore_user_signals,
    )


async def _registered(child: Child, logs: str, node_id: str, timeout_s: float) -> None:
    """Wait until the raylet's log says that it is registered with the GCS.  Raises StartFailure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    pause_s = 0.01
    while not is_registered(f"{logs}/raylet.out", node_id):
        if not child.running:
            code = child.exited.result()
            how = f"code {code}" if code >= 0 else signal.Signals(-code).name
            raise StartFailure.from_text(
                _end_of(f"{logs}/raylet.err") + _end_of(f"{logs}/raylet.out"),
                default=("ray", f"the raylet ended during its start ({how})."),
            )
        if loop.time() > deadline:
            raise StartFailure(
                "timed out", f"the raylet's log does not say within {timeout_s:g} s that it is registered"
            )
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.2, 0.2)


def _end_of(path: str) -> str:
    try:
        return Path(path).read_bytes()[-8000:].decode("utf-8", "replace")
    except OSError:
        return ""


def _clear(root: Path, session: str) -> None:
    """Remove the files of a failed start, so that the next one does not find them."""
    with contextlib.suppress(OSError):
        (root / "session_latest").unlink()
    remove_tree(root / session)
