"""What is started beside the driver: the dashboard of a head, the log monitor of a node."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray._private import services as ray_services

from ..environment import start_environment
from ..failure import StartFailure
from ..lazy_agent import wake
from ..plan import NodePlan
from .gcs import RPC_TIMEOUT_S, Cluster, apply_settings
from .known import NOT_AS_KNOWN
from .spawn import Phases, Report, end_all, one_line, patched_spawn


def start_extra(what: str, plan: NodePlan, started: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Start the log monitor of a node or the dashboard of a head, in this process as in :func:`start`.

    The dashboard at a low priority: it imports for seconds while the driver and its first worker
    processes do.
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
                url = ""
            else:
                os.nice(10)
                url = _start_dashboard(plan, started, logs, common)
    except NOT_AS_KNOWN as e:
        end_all([info.process for _, info in spawned])
        raise StartFailure("ray", f"{type(e).__name__}: {e}", plan.log_path) from e
    except StartFailure:
        end_all([info.process for _, info in spawned])
        raise
    return {"processes": [{"name": name, "pid": info.process.pid} for name, info in spawned], "url": url}


def _start_dashboard(plan: NodePlan, started: Mapping[str, Any], logs: str, common: Mapping[str, Any]) -> str:
    if missing := ray._private.utils.get_dashboard_dependency_error():
        raise StartFailure("ray", f"the dashboard needs `pip install 'ray[default]'` ({missing})")
    os.environ["TMPDIR"] = plan.temp_dir  # the sockets of its processes go with the node's directory
    try:
        url, _ = _call(
            ray_services.start_api_server,
            **common,
            include_dashboard=True,
            raise_on_failure=True,
            host=plan.dashboard_host,
            port=plan.ports.get("dashboard"),
            cluster_id_hex=started["cluster_id"],
            temp_dir=plan.temp_dir,
            logdir=logs,
            stdout_filepath=f"{logs}/dashboard.out",
            stderr_filepath=f"{logs}/dashboard.err",
        )
    except NOT_AS_KNOWN:
        raise
    except Exception as e:
        raise StartFailure.from_text(str(e), default=("ray", one_line(e)), log=f"{logs}/dashboard.log") from e
    wake(plan.agent_gate)  # the dashboard shows what agents report; they look for it when they start
    Cluster(plan.gcs_address).gcs.internal_kv_put(
        b"webui:url", url.encode(), True, b"dashboard", timeout=RPC_TIMEOUT_S
    )
    return str(url)


def _call(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call with those of the arguments that this version of the function takes."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})
