"""A Ray node started in this very process, by Ray's own Node class: the quick way."""

from __future__ import annotations

import contextlib
import inspect
import os
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from ray._private import node as ray_node
from ray._private import services as ray_services
from ray._private.parameter import RayParams

from .. import worker_process
from ..environment import start_environment
from ..failure import StartFailure
from ..plan import NodePlan, worker_port_list
from ..requirements import has_dashboard
from ..spill_directory import make_spill_directory, mode_kept
from .command import start_by_command
from .gcs import Cluster, apply_settings, growing_pauses
from .known import NOT_AS_KNOWN, RAY_VERSION, TRIED, WITH_STORAGE, PrivateMissing, release
from .spawn import Phases, Report, died, end_all, log_ends, one_line, patched_spawn


def start(plan: NodePlan, report: Report) -> dict[str, Any]:
    """Start the node in this process, which must be single-threaded and end right after.

    Its children, Ray's daemons, then belong to the nearest subreaper.  Reports each as it is spawned.
    Raises StartFailure; what had been started is ended before that.
    """
    if plan.gcs_storage_path and release(RAY_VERSION) < WITH_STORAGE:
        raise StartFailure(
            "ray", f"A head that can come back needs Ray 2.58 or newer; this is {RAY_VERSION}."
        )
    make_spill_directory(plan.spill_dir)
    with mode_kept(plan.spill_dir):
        return _start(plan, report)


def _start(plan: NodePlan, report: Report) -> dict[str, Any]:
    clock = Phases()
    env = start_environment(plan, os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        apply_settings(env)
        if not plan.is_head:
            Cluster(plan.gcs_address).check(plan.identity)
            clock.mark("checked")
        if plan.quick != "ray-start":
            return _start_by_node(plan, report, clock)
    except NOT_AS_KNOWN as e:
        if plan.quick == "node":
            raise StartFailure("ray", f"Ray's Node class: {type(e).__name__}: {e}", plan.log_path) from e
        print(f"raycluster: private parts of Ray have changed: {e!r}; using `ray start` instead", flush=True)
    except StartFailure as e:
        # On a Ray that raycluster was not tested with, our own changes may keep a raylet from starting.
        if e.kind != "ray" or plan.quick == "node" or release(RAY_VERSION) in TRIED:
            raise
        print(
            f"raycluster: Ray {RAY_VERSION} did not start quickly: {e}; using `ray start` instead",
            flush=True,
        )
    return start_by_command(plan, report, clock)


def _start_by_node(plan: NodePlan, report: Report, clock: Phases) -> dict[str, Any]:
    parameters = ray_params(plan)
    spawned: list[tuple[str, Any]] = []
    with (
        patched_spawn(plan, spawned, report, clock),
        _patched_wait(plan, spawned),
        _patched_spilling(plan),
    ):
        try:
            node = QuickNode(parameters, head=plan.is_head, shutdown_at_exit=False, spawn_reaper=False)
            clock.mark("registered")
            if plan.is_head and plan.identity:
                # Only now: a worker that comes before the head's raylet is there sleeps for 2 s (2.55+).
                cluster = Cluster(plan.gcs_address)
                cluster.put_identity(plan.identity)
                if plan.dashboard_address:
                    cluster.put_dashboard(plan.dashboard_address)
            return {
                "how": "node",
                "processes": [{"name": name, "pid": info.process.pid} for name, info in spawned],
                "session": node.session_name,
                "session_dir": node.get_session_dir_path(),
                "node_id": node.node_id if hasattr(node, "node_id") else node._node_id,
                "cluster_id": node.cluster_id.hex(),
                "gcs_address": node.gcs_address,
                "has_dashboard": has_dashboard(),
                "agents_wait": True,
                "phases": clock.times,
            }
        except BaseException as e:
            end_all([info.process for _, info in spawned])
            if isinstance(e, (*NOT_AS_KNOWN, StartFailure)):
                raise
            raise StartFailure.from_text(
                f"{e}\n{log_ends(plan)}", default=("ray", one_line(e)), log=plan.log_path
            ) from e


class QuickNode(ray_node.Node):  # type: ignore[misc]
    """Node without the API server, which Ray starts (2 to 4 s) even when no dashboard is wanted."""

    def start_api_server(self, **_: Any) -> None:
        """Started later, beside the driver, when asked for."""


def ray_params(plan: NodePlan) -> Any:
    """The plan as Ray's own parameters.  Raises PrivateMissing when they do not take it."""
    ports = plan.ports
    wanted = {
        "node_ip_address": plan.node_ip,
        "node_name": plan.node_name or plan.node_ip,
        "num_cpus": plan.num_cpus,
        "num_gpus": plan.num_gpus,
        "memory": plan.memory_bytes,
        "object_store_memory": plan.object_store_bytes,
        "resources": dict(plan.resources),
        "labels": dict(plan.labels),
        "temp_dir": plan.temp_dir,
        "node_manager_port": ports.get("node_manager"),
        "object_manager_port": ports.get("object_manager"),
        "metrics_agent_port": ports.get("dashboard_agent_grpc"),
        "metrics_export_port": ports.get("metrics_export"),
        "dashboard_agent_listen_port": ports.get("dashboard_agent_listen"),
        "runtime_env_agent_port": ports.get("runtime_env_agent"),
        "min_worker_port": ports.get("worker_low"),
        "max_worker_port": ports.get("worker_high"),
        "worker_port_list": worker_port_list(ports),
        "object_spilling_directory": plan.spill_dir,
        "worker_path": worker_process.__file__,
        "include_log_monitor": False,
        "no_monitor": True,
    }
    if plan.is_head:
        wanted |= {
            "gcs_server_port": int(plan.gcs_address.rpartition(":")[2]),
            "dashboard_host": plan.dashboard_host,
            "dashboard_port": ports.get("dashboard"),
            "ray_client_server_port": ports.get("ray_client_server") if plan.client_server else None,
            "session_name": plan.session_name,
            "_system_config": dict(plan.system_config),
        }
    else:
        wanted["gcs_address"] = plan.gcs_address
    wanted = {name: value for name, value in wanted.items() if value is not None}
    unknown = set(wanted) - set(inspect.signature(RayParams.__init__).parameters)
    if unknown:
        raise PrivateMissing(f"RayParams does not take {', '.join(sorted(unknown))}")
    parameters = RayParams(**wanted)
    if hook := os.environ.get("RAY_START_HOOK"):  # as `ray start` calls it
        from ray._common.utils import load_class

        load_class(hook)(parameters, plan.is_head)
    return parameters


@contextlib.contextmanager
def _patched_spilling(plan: NodePlan) -> Iterator[None]:
    """The directory for spilled objects, which is there, is never opened to all users."""
    original = getattr(ray_node, "try_to_create_directory", None)
    if original is None or not plan.spill_dir:
        yield
        return

    def create(path: str) -> None:
        if path != plan.spill_dir:
            original(path)

    ray_node.try_to_create_directory = create
    try:
        yield
    finally:
        ray_node.try_to_create_directory = original


@contextlib.contextmanager
def _patched_wait(plan: NodePlan, spawned: list[tuple[str, Any]]) -> Iterator[None]:
    """Wait for the registration in steps of milliseconds, and end when the raylet has died.

    Ray itself sleeps 0.1 s and then asks in calls that last up to 30 s, even when the raylet has died.
    """
    original_get, original_time = ray_services.get_node, ray_node.time

    def get_node(gcs_address: str, node_id: str) -> Any:
        cluster = Cluster(gcs_address)
        pauses = growing_pauses(0.005, 0.1)
        while not cluster.has_node(node_id):
            for name, info in spawned:
                if info.process.poll() is not None:
                    raise died(plan, name, info.process.returncode)
            time.sleep(next(pauses))
        return original_get(gcs_address, node_id)

    ray_services.get_node = get_node
    ray_node.time = SimpleNamespace(
        sleep=lambda s: time.sleep(min(s, 0.005)),
        **{name: getattr(time, name) for name in dir(time) if name[0] != "_" and name != "sleep"},
    )
    try:
        yield
    finally:
        ray_services.get_node, ray_node.time = original_get, original_time
