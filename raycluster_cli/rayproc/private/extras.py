"""What is started beside the driver or when asked for: a node's log monitor, the head's dashboard."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private import services as ray_services

from ..environment import start_environment
from ..failure import StartFailure
from ..plan import NodePlan
from .gcs import Cluster, apply_settings
from .known import NOT_AS_KNOWN
from .spawn import Phases, Report, end_all, patched_spawn, set_flag


def start_extra(what: str, plan: NodePlan, started: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Start the log monitor of a node, in this process as in :func:`start`: {processes}.

    Of a head's dashboard only the argument list is made: {command}.  Whoever holds its port starts it.
    """
    env = start_environment(plan, os.environ)
    os.environ.clear()
    os.environ.update(env)
    spawned: list[tuple[str, Any]] = []
    logs = f"{started['session_dir']}/logs"
    common = {
        "gcs_address": plan.gcs_address,
        "session_dir": started["session_dir"],
        "fate_share": False,
        "max_bytes": int(env.get("RAY_ROTATION_MAX_BYTES", 512 << 20)),
        "backup_count": int(env.get("RAY_ROTATION_BACKUP_COUNT", 5)),
        "node_ip_address": plan.node_ip,
    }
    try:
        apply_settings(env)
        with patched_spawn(plan, spawned, report, Phases()):
            if what == "log_monitor":
                _call(
                    ray_services.start_log_monitor,
                    **common,
                    logs_dir=logs,
                    stdout_filepath=f"{logs}/log_monitor.out",
                    stderr_filepath=f"{logs}/log_monitor.err",
                )
            else:
                return {"command": _dashboard_command(plan, started, logs, common)}
    except NOT_AS_KNOWN as e:
        end_all([info.process for _, info in spawned])
        raise StartFailure("ray", f"{type(e).__name__}: {e}", plan.log_path) from e
    except StartFailure:
        end_all([info.process for _, info in spawned])
        raise
    return {"processes": [{"name": name, "pid": info.process.pid} for name, info in spawned]}


class _Made(BaseException):
    """Carries an argument list out of a function of Ray's that would run it."""

    def __init__(self, command: list[str]) -> None:
        self.command = command


def _dashboard_command(
    plan: NodePlan, started: Mapping[str, Any], logs: str, common: Mapping[str, Any]
) -> list[str]:
    """The argument list with which Ray starts its dashboard.  Raises StartFailure without ray[default]."""
    if missing := ray._private.utils.get_dashboard_dependency_error():
        raise StartFailure("ray", f"the dashboard needs `pip install 'ray[default]'` ({missing})")

    def made(command: list[str], *_: Any, **__: Any) -> None:
        raise _Made(command)

    original, ray_services.start_ray_process = ray_services.start_ray_process, made
    try:
        _call(
            ray_services.start_api_server,
            **common,
            include_dashboard=True,
            raise_on_failure=True,
            host=plan.dashboard_host,
            port=None,  # with a port it refuses one that is in use, as this one is
            cluster_id_hex=started["cluster_id"],
            temp_dir=plan.temp_dir,
            logdir=logs,
            stdout_filepath=f"{logs}/dashboard.out",
            stderr_filepath=f"{logs}/dashboard.err",
        )
    except _Made as seen:
        command = [set_flag(part, "--port", str(plan.ports["dashboard"])) for part in seen.command]
        command = [set_flag(part, "--port-retries", "0") for part in command]
    finally:
        ray_services.start_ray_process = original
    Cluster(plan.gcs_address).put_dashboard(plan.dashboard_address, shown=True)
    return command


def _call(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call with those of the arguments that this version of the function takes."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})
