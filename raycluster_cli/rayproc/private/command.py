"""A Ray node started by `ray start`: the public way, where the quick one does not work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import site
import subprocess
import traceback
from pathlib import Path
from typing import Any

from ray._private import services as ray_services

from ..failure import StartFailure
from ..plan import NodePlan, start_command
from ..requirements import has_dashboard
from .gcs import Cluster, apply_settings, probe
from .known import NOT_AS_KNOWN, RAY_VERSION, TRIED, release
from .spawn import Phases, Report, log_ends, raylet_command

_PLAN = "RAYCLUSTER_PLAN"  # for start_hook, which takes it out of the environment of what `ray start` starts
_RAY = "import sys; sys.path = [part for part in sys.path if part]; import ray.scripts.scripts as s; s.main()"


def start_by_command(plan: NodePlan, report: Report, clock: Phases) -> dict[str, Any]:
    if not plan.is_head:
        probe(plan.gcs_address)
    env = dict(os.environ)
    env.setdefault("RAY_START_HOOK", "raycluster_cli.rayproc.private.start_hook")
    env[_PLAN] = json.dumps(plan.as_json())
    # The hook's module must be found also where raycluster runs from a checkout.
    package = str(Path(__file__).resolve().parents[3])
    if package not in site.getsitepackages():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), package)))
    # As `python -m ray.scripts.scripts`, without the working directory in front of all modules.
    python, _, _, *arguments = start_command(plan)
    with Path(plan.log_path).open("ab") as log:
        offset = log.tell()
        done = subprocess.run(
            [python, "-c", _RAY, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            check=False,
        )
    clock.mark("ray start ended")
    processes = daemons_of(plan.temp_dir)
    if done.returncode != 0:
        for one in processes:
            with contextlib.suppress(OSError):
                os.kill(one["pid"], signal.SIGKILL)
        printed = Path(plan.log_path).read_bytes()[offset:].decode("utf-8", "replace")
        raise StartFailure.from_text(
            f"{printed}\n{log_ends(plan)}",
            default=("ray", f"`ray start` ended with code {done.returncode}."),
            log=plan.log_path,
        )
    for one in processes:
        report({"event": "spawned", **one})
    return _started_by_command(plan, processes, clock)


def _started_by_command(plan: NodePlan, processes: list[dict[str, Any]], clock: Phases) -> dict[str, Any]:
    session_dir = str((Path(plan.temp_dir) / "session_latest").resolve())
    clock.mark("registered")
    if plan.is_head and plan.identity:
        try:
            apply_settings(os.environ)
            cluster = Cluster(plan.gcs_address)
            cluster.put_identity(plan.identity)
            if plan.dashboard_address:
                cluster.put_dashboard(plan.dashboard_address)
        except NOT_AS_KNOWN as e:
            # Workers with the same Ray cannot look for it either.
            print(f"raycluster: the cluster's identity is not written: {e!r}", flush=True)
    raylet = next((one["pid"] for one in processes if one["name"] == "raylet"), 0)
    return {
        "how": "ray-start",
        "processes": processes,
        "session": Path(session_dir).name,
        "session_dir": session_dir,
        "node_id": _argument(raylet, "--node_id"),
        "cluster_id": _argument(raylet, "--cluster-id"),
        "gcs_address": plan.gcs_address,
        "has_dashboard": has_dashboard(),
        # Not on a Ray whose `ray start` was left as it is.
        "agents_wait": plan.runtime_env_gate in _argument(raylet, "--runtime_env_agent_command"),
        "phases": clock.times,
    }


def _argument(pid: int, flag: str) -> str:
    """The value of ``flag=value`` on a process's command line; empty when there is none."""
    with contextlib.suppress(OSError):
        for part in Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0"):
            if part.startswith(f"{flag}="):
                return part.partition("=")[2]
    return ""


def daemons_of(temp_dir: str) -> list[dict[str, Any]]:
    """gcs_server and raylet processes whose arguments name this directory (one cluster's own)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().decode("utf-8", "replace").split("\0")
            name = Path(arguments[0]).name
            if len(arguments) > 1 and arguments[1].endswith("dashboard/dashboard.py"):
                name = "dashboard"
            ours = any(f"={temp_dir}/" in part for part in arguments)
            if ours and name in ("gcs_server", "raylet", "dashboard"):
                found.append({"name": name, "pid": int(path.parent.name)})
    return sorted(found, key=lambda one: str(one["name"]))


def start_hook(parameters: Any, head: bool) -> None:
    """Called inside `ray start` (RAY_START_HOOK): what its options cannot say."""
    text = os.environ.pop(_PLAN, "")
    if not text:  # some other `ray start` with our hook in its environment
        return
    try:
        plan = NodePlan.from_json(json.loads(text))
        if not plan.client_server:
            parameters.ray_client_server_port = None
        if not head and parameters.temp_dir is None:
            # Before 2.55 a worker's --temp-dir is ignored in favour of the head's path, on another machine.
            parameters.temp_dir = plan.temp_dir
        if release(RAY_VERSION) in TRIED:
            _tell_raylets_their_ports(plan)
    except Exception:  # the start goes on without; its log says why
        traceback.print_exc()


def _tell_raylets_their_ports(plan: NodePlan) -> None:
    """As the quick way does; else a raylet aborts when its agents take more than 15 s to be imported."""
    original = ray_services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "raylet":
            try:
                command = raylet_command(command, plan)
            except Exception:  # the raylet starts more slowly without
                traceback.print_exc()
        return original(command, process_type, *args, **kwargs)

    ray_services.start_ray_process = start_ray_process
