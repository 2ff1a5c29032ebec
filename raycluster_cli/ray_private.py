"""The private parts of Ray that raycluster uses, all of them, each with a public fallback.

Runs in the companion only (and in `ray start`, by RAY_START_HOOK).  What is used, why, and
what takes its place when it is missing stands in docs/decisions/0001-how-ray-is-started.md.
Importing this module imports Ray: 0.4 to 0.6 s on a local disk.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import platform
import random
import runpy
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# `ray` first: its submodules rely on what its import sets up.
import ray
from ray._private import node as ray_node
from ray._private import services as ray_services
from ray._private.parameter import RayParams

from .ray_start import (
    NodePlan,
    StartFailure,
    start_command,
    start_environment,
    wake,
    worker_port_list,
)

RAY_VERSION: str = ray.__version__
PYTHON_VERSION: str = platform.python_version()

_NAMESPACE = b"raycluster"
_IDENTITY_KEY = b"identity"
_PROBE_TIMEOUT_S = 5.0
_RPC_TIMEOUT_S = 10.0

Report = Callable[[Mapping[str, Any]], None]


class Releases:
    """A range of Ray's releases, both ends included."""

    def __init__(self, first: tuple[int, int], last: tuple[int, int]) -> None:
        self.first = first
        self.last = last

    def __contains__(self, release: object) -> bool:
        return isinstance(release, tuple) and self.first <= release <= self.last


#: What the quick way was tried with: the oldest, one between and the newest, see tests/ray.
TRIED = Releases((2, 52), (2, 60))

#: The first release whose GCS can keep its state without a server.
WITH_STORAGE = (2, 58)


def _release(version: str) -> tuple[int, int]:
    """Major and minor number.

    >>> _release("3.0.0.dev0")
    (3, 0)
    """
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


class PrivateMissing(Exception):
    """A private part of Ray is not as it was in the versions that this was made for."""


#: What another version of Ray, whose private parts differ, can be expected to raise.
NOT_AS_KNOWN = (PrivateMissing, AttributeError, TypeError, ImportError, NameError, KeyError)


# ---------------------------------------------------------------- asking the GCS


def apply_settings(env: Mapping[str, str]) -> None:
    """Give Ray's C++ part of *this* process the settings of an environment.

    It has read its RAY_* variables when Ray was imported, which in the companion is long before the
    plan is known; the time-outs of its GCS client would be 40 s and more.  The token's path and the TLS
    files it reads from the variables, later; without them it ends the process.
    """
    os.environ.update((name, value) for name, value in env.items() if name.startswith("RAY_"))
    settings: dict[str, Any] = {
        "AUTH_MODE": env.get("RAY_AUTH_MODE", "disabled"),
        "py_gcs_connect_timeout_s": int(_RPC_TIMEOUT_S),
        "gcs_rpc_server_connect_timeout_s": 2,
        "raylet_start_wait_time_s": 2,
    }
    if env.get("RAY_USE_TLS") == "1":
        settings |= {
            "USE_TLS": True,
            "TLS_SERVER_CERT": env["RAY_TLS_SERVER_CERT"],
            "TLS_SERVER_KEY": env["RAY_TLS_SERVER_KEY"],
            "TLS_CA_CERT": env["RAY_TLS_CA_CERT"],
        }
    try:
        ray._raylet.Config.initialize(json.dumps(settings))
    except (AttributeError, TypeError) as e:
        raise PrivateMissing(f"ray._raylet.Config.initialize: {e}") from e


def probe(address: str, timeout_s: float = _PROBE_TIMEOUT_S) -> None:
    """Connect to host:port once.  Raises StartFailure with the kind: refused, no route, timed out."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except ConnectionRefusedError as e:
        raise StartFailure("refused", f"Nothing listens at {address} (connection refused).") from e
    except TimeoutError as e:
        raise StartFailure("timed out", f"No answer from {address} within {timeout_s:g} s.") from e
    except OSError as e:
        raise StartFailure("no route", f"No way to {address}: {e.strerror or e}.") from e


def _pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Short pauses at first, longer ones soon: a thousand workers may ask the same GCS."""
    pause_s = first_s
    while True:
        yield pause_s * random.uniform(0.7, 1.3)
        pause_s = min(pause_s * 1.4, longest_s)


#: How long a worker waits for a head that listens already to say whose it is.
_IDENTITY_WAIT_S = 10.0


class Cluster:
    """A kept connection to a cluster's GCS (private: ray._raylet.GcsClient)."""

    def __init__(self, address: str) -> None:
        probe(address)
        self.address = address
        try:
            self.gcs = ray._raylet.GcsClient(address=address)
        except NOT_AS_KNOWN:
            raise
        except Exception as e:
            raise StartFailure.from_text(str(e), default=("timed out", f"The GCS at {address}: {e}")) from e

    @property
    def cluster_id(self) -> str:
        return str(self.gcs.cluster_id.hex())

    def put_identity(self, value: str) -> None:
        self.gcs.internal_kv_put(_IDENTITY_KEY, value.encode(), True, _NAMESPACE, timeout=_RPC_TIMEOUT_S)

    def found(self) -> dict[str, str]:
        """Identity and versions of the cluster; what it does not tell is an empty text."""
        identity = self.gcs.internal_kv_get(_IDENTITY_KEY, _NAMESPACE, timeout=_RPC_TIMEOUT_S)
        metadata = self.gcs.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=_RPC_TIMEOUT_S)
        facts = json.loads(metadata) if metadata else {}
        return {
            "identity": identity.decode() if identity else "",
            "ray_version": str(facts.get("ray_version", "")),
            "python_version": str(facts.get("python_version", "")),
        }

    def check(self, identity: str) -> None:
        """Raise StartFailure unless this is the cluster meant, with our Ray and Python."""
        deadline = time.monotonic() + _IDENTITY_WAIT_S
        pauses = _pauses(0.02, 0.3)
        while True:
            try:
                found = self.found()
            except NOT_AS_KNOWN:
                raise
            except Exception as e:
                raise StartFailure.from_text(
                    str(e), default=("timed out", f"The GCS at {self.address}: {e}")
                ) from e
            # A head leaves its identity some milliseconds after its GCS listens.
            if found["identity"] or not identity or time.monotonic() > deadline:
                break
            time.sleep(next(pauses))
        if identity and found["identity"] != identity:
            whose = "a cluster of another raycluster" if found["identity"] else "a cluster not of raycluster"
            raise StartFailure("wrong cluster", f"At {self.address} answers {whose}: not joined.")
        ours = (RAY_VERSION, _minor(PYTHON_VERSION))
        theirs = (found["ray_version"] or ours[0], _minor(found["python_version"] or PYTHON_VERSION))
        if ours != theirs:
            raise StartFailure(
                "version mismatch",
                f"The head has Ray {theirs[0]} on Python {theirs[1]}, "
                f"this node Ray {ours[0]} on Python {ours[1]}.",
            )

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, dead ones too, in the order of their start."""
        infos = self.gcs.get_all_node_info(timeout=_RPC_TIMEOUT_S)
        return [_node(info) for info in sorted(infos.values(), key=lambda info: info.start_time_ms)]

    def has_node(self, node_id: str) -> bool:
        """Whether the raylet of this id is registered, asked in a way that is cheap in large clusters."""
        key = ray.NodeID.from_hex(node_id)
        try:
            selector = ray_node.GetAllNodeInfoRequest.NodeSelector(node_id=key.binary())
            infos = self.gcs.get_all_node_info(timeout=_RPC_TIMEOUT_S, node_selectors=[selector])
        except (AttributeError, TypeError):  # before 2.55
            infos = self.gcs.get_all_node_info(timeout=_RPC_TIMEOUT_S)
        return key in infos

    def usage(self) -> dict[str, Any]:
        """Total and available resources of each node, and how many tasks wait for some (3 ms)."""
        from ray.core.generated import autoscaler_pb2

        reply = autoscaler_pb2.GetClusterResourceStateReply()
        reply.ParseFromString(self.gcs.get_cluster_resource_state(timeout_s=_RPC_TIMEOUT_S))
        nodes = [
            {
                "node_id": state.node_id.hex(),
                "ip": state.node_ip_address,
                "status": autoscaler_pb2.NodeStatus.Name(state.status).lower(),
                "total": dict(state.total_resources),
                "available": dict(state.available_resources),
                "idle_s": state.idle_duration_ms / 1000,
                "activity": list(state.node_activity),
            }
            for state in reply.cluster_resource_state.node_states
        ]
        pending = sum(each.count for each in reply.cluster_resource_state.pending_resource_requests)
        return {"nodes": nodes, "pending": pending}

    def drain(self, node_id: str, reason: str, message: str, deadline_s: float) -> tuple[bool, str]:
        """Tell a node to leave: ``idle`` may be refused by a busy node, ``preemption`` not."""
        from ray.core.generated import autoscaler_pb2

        number = autoscaler_pb2.DrainNodeReason.Value(
            "DRAIN_NODE_REASON_IDLE_TERMINATION" if reason == "idle" else "DRAIN_NODE_REASON_PREEMPTION"
        )
        deadline_ms = int((time.time() + deadline_s) * 1000) if deadline_s > 0 else 0
        accepted, refusal = self.gcs.drain_node(node_id, number, message, deadline_ms)
        return bool(accepted), refusal.decode() if isinstance(refusal, bytes) else str(refusal)


class PublicCluster:
    """What of :class:`Cluster` Ray's public API can do, for a Ray whose private parts are not as known.

    It is a driver: it needs a raylet on this node, and a process whose environment had the settings when
    Ray was imported.
    """

    def __init__(self, address: str) -> None:
        probe(address)
        self.address = address
        try:
            ray.init(address=address, namespace="raycluster", log_to_driver=False, configure_logging=False)
        except Exception as e:
            raise StartFailure.from_text(
                str(e), default=("timed out", f"The cluster at {address}: {e}")
            ) from e

    def put_identity(self, value: str) -> None:
        ray.experimental.internal_kv._internal_kv_put(_IDENTITY_KEY, value.encode(), namespace=_NAMESPACE)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "node_id": node["NodeID"],
                "ip": node["NodeManagerAddress"],
                "host": node["NodeManagerHostname"],
                "name": node.get("NodeName", ""),
                "alive": node["Alive"],
                "is_head": "node:__internal_head__" in node["Resources"],
                "resources": node["Resources"],
                "labels": node.get("Labels", {}),
                "started": 0.0,
                "death": None
                if node["Alive"]
                else {
                    "reason": str(node.get("DeathReason", "")),
                    "message": node.get("DeathReasonMessage") or "",
                    "when": 0.0,
                },
            }
            for node in ray.nodes()
        ]

    def usage(self) -> dict[str, Any]:
        raise StartFailure("ray", "this version of Ray tells the use of nodes in another way")

    def drain(self, node_id: str, reason: str, message: str, deadline_s: float) -> tuple[bool, str]:
        return False, "this version of Ray is told in another way to drain a node"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _node(info: Any) -> dict[str, Any]:
    death = info.death_info
    return {
        "node_id": info.node_id.hex(),
        "ip": info.node_manager_address,
        "host": info.node_manager_hostname,
        "name": info.node_name,
        "alive": info.state == info.ALIVE,
        "is_head": info.is_head_node,
        "resources": dict(info.resources_total),
        "labels": dict(info.labels),
        "started": info.start_time_ms / 1000,
        "death": None
        if info.state == info.ALIVE
        else {
            "reason": type(death).Reason.Name(death.reason).lower(),
            "message": death.reason_message,
            "when": info.end_time_ms / 1000,
        },
    }


# ---------------------------------------------------------------- starting a node


def start(plan: NodePlan, report: Report) -> dict[str, Any]:
    """Start the node in this process, which must be single-threaded and end right after.

    Its children, Ray's daemons, then belong to the nearest subreaper.  Reports each as it is spawned.
    Raises StartFailure; what had been started is ended before that.
    """
    if plan.gcs_storage_path and _release(RAY_VERSION) < WITH_STORAGE:
        raise StartFailure(
            "ray", f"A head that can come back needs Ray 2.58 or newer; this is {RAY_VERSION}."
        )
    clock = _Phases()
    env = start_environment(plan, os.environ)
    os.environ.clear()
    os.environ.update(env)
    try:
        apply_settings(env)
        if not plan.is_head:
            Cluster(plan.gcs_address).check(plan.identity)
            clock.mark("checked")
        if not plan.extra_args and plan.quick != "ray-start":
            return _start_by_node(plan, report, clock)
    except NOT_AS_KNOWN as e:
        if plan.quick == "node":
            raise StartFailure("ray", f"Ray's Node class: {type(e).__name__}: {e}", plan.log_path) from e
        print(f"raycluster: private parts of Ray are not as known: {e!r}; now `ray start`", flush=True)
    except StartFailure as e:
        # On a Ray that nobody has tried, a raylet that will not start may be our doing.
        if e.kind != "ray" or plan.quick == "node" or _release(RAY_VERSION) in TRIED:
            raise
        print(
            f"raycluster: Ray {RAY_VERSION} did not start in the quick way: {e}; now `ray start`", flush=True
        )
    return _start_by_command(plan, report, clock)


class _Phases:
    """Unix times at which steps of a start were done."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {"begun": time.time()}

    def mark(self, name: str) -> None:
        self.times.setdefault(name, time.time())


def _start_by_node(plan: NodePlan, report: Report, clock: _Phases) -> dict[str, Any]:
    parameters = _ray_params(plan)
    spawned: list[tuple[str, Any]] = []
    with _patched_spawn(plan, spawned, report, clock), _patched_wait(plan, spawned):
        try:
            node = _QuickNode(parameters, head=plan.is_head, shutdown_at_exit=False, spawn_reaper=False)
            clock.mark("registered")
            if plan.is_head and plan.identity:
                # Only now: a worker that comes before the head's raylet is there sleeps for 2 s (2.55+).
                Cluster(plan.gcs_address).put_identity(plan.identity)
            if plan.is_head and plan.dashboard:
                ray_node.Node.start_api_server(node, include_dashboard=True, raise_on_failure=True)
            return {
                "how": "node",
                "processes": [{"name": name, "pid": info.process.pid} for name, info in spawned],
                "session": node.session_name,
                "session_dir": node.get_session_dir_path(),
                "node_id": node.node_id if hasattr(node, "node_id") else node._node_id,
                "cluster_id": node.cluster_id.hex(),
                "gcs_address": node.gcs_address,
                "phases": clock.times,
            }
        except BaseException as e:
            _end([info.process for _, info in spawned])
            if isinstance(e, (*NOT_AS_KNOWN, StartFailure)):
                raise
            raise StartFailure.from_text(
                f"{e}\n{_last_words(plan)}", default=("ray", _one_line(e)), log=plan.log_path
            ) from e


class _QuickNode(ray_node.Node):  # type: ignore[misc]
    """Node without the API server, which Ray starts (2 to 4 s) even when no dashboard is wanted."""

    def start_api_server(self, **_: Any) -> None:
        """Started later, beside the driver, when asked for."""


def _ray_params(plan: NodePlan) -> Any:
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
        "plasma_directory": plan.plasma_dir,
        "object_spilling_directory": plan.spill_dir,
        "include_log_monitor": plan.log_monitor,
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
def _patched_spawn(
    plan: NodePlan, spawned: list[tuple[str, Any]], report: Report, clock: _Phases
) -> Iterator[None]:
    """See every process that Node spawns, and give the raylet what services.py does not."""
    original = ray_services.start_ray_process
    names = list(inspect.signature(original).parameters)
    if names[:2] != ["command", "process_type"]:
        raise PrivateMissing(f"services.start_ray_process{tuple(names)}")

    def start_ray_process(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "raylet":
            command = raylet_command(command, plan)
        if process_type == "ray_client_server":
            # It starts a process for each driver, by fork from among gRPC's threads; gRPC's own handlers
            # of forks now and then end that child before it is another program (Ray's issue 63202).
            kwargs["env_updates"] = {**(kwargs.get("env_updates") or {}), "GRPC_ENABLE_FORK_SUPPORT": "0"}
        if process_type == "log_monitor" and plan.quick != "ray-start":
            info = SimpleNamespace(process=_ForkedScript(command))
        else:
            info = original(command, process_type, *args, **kwargs)
        spawned.append((process_type, info))
        clock.mark(f"{process_type} spawned")
        report({"event": "spawned", "name": process_type, "pid": info.process.pid})
        if process_type == "gcs_server":
            # A gRPC client that comes before the port is open waits for its next attempt.
            _wait_listening(plan, info.process)
            clock.mark("gcs listening")
        return info

    ray_services.start_ray_process = start_ray_process
    try:
        yield
    finally:
        ray_services.start_ray_process = original


def raylet_command(command: list[str], plan: NodePlan) -> list[str]:
    """The raylet's argument list, changed so that the start waits for no agent.

    Since 2.53 a raylet registers when its agents have written their port files, unless it was told their
    ports.  services.py passes three of the four; the raylet's own flag for the fourth exists.  And the
    agents themselves, 2 s of CPU, start when they are wanted (lazy_agent.py).
    """
    port = plan.ports.get("dashboard_agent_listen")
    # The flag came with the port files; an older raylet refuses it.
    if port and hasattr(ray._raylet, "persist_port") and not _has(command, "--dashboard_agent_listen_port"):
        command = [*command, f"--dashboard_agent_listen_port={port}"]
    if plan.agents == "idle":
        port = plan.ports.get("runtime_env_agent")
        wrappers = {"--dashboard_agent_command": _lazy("gate", plan.agent_gate)}
        if port:
            wrappers["--runtime_env_agent_command"] = _lazy("port", plan.node_ip, str(port))
        command = [_wrap(part, wrappers) for part in command]
    return command


def _lazy(*how: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("lazy_agent.py")), *how, "--"]


def _has(command: list[str], flag: str) -> bool:
    return any(part.startswith(flag) for part in command)


def _wrap(part: str, wrappers: Mapping[str, list[str]]) -> str:
    flag, _, value = part.partition("=")
    if flag in wrappers and value:
        return f"{flag}={subprocess.list2cmdline(wrappers[flag])} {value}"
    return part


class _ForkedScript:
    """A Python script of Ray's run in a fork of this warm Python: 20 ms instead of 0.6 s of imports.

    For scripts that import little more than Ray itself: the log monitor.
    """

    def __init__(self, command: list[str]) -> None:
        """``command``: interpreter, its options, script, arguments.  No GCS client may exist yet."""
        first = next(i for i, part in enumerate(command) if i and not part.startswith("-"))
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(command[first:])
            finally:
                os._exit(1)

    @staticmethod
    def _run(argv: list[str]) -> None:
        # The pipe to the companion above all: its end tells that the start is over.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).parent)
        with contextlib.suppress(AttributeError):
            ray._raylet.setproctitle(f"ray::{Path(argv[0]).stem}")
        runpy.run_path(argv[0], run_name="__main__")

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        return self._reap(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


@contextlib.contextmanager
def _patched_wait(plan: NodePlan, spawned: list[tuple[str, Any]]) -> Iterator[None]:
    """Wait for the registration in steps of milliseconds, and end when the raylet has died.

    Ray's own way sleeps 0.1 s and then asks in calls that last up to 30 s, dead raylet or not.
    """
    original_get, original_time = ray_services.get_node, ray_node.time

    def get_node(gcs_address: str, node_id: str) -> Any:
        cluster = Cluster(gcs_address)
        pauses = _pauses(0.005, 0.1)
        while not cluster.has_node(node_id):
            for name, info in spawned:
                if info.process.poll() is not None:
                    raise _died(plan, name, info.process.returncode)
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


def _wait_listening(plan: NodePlan, process: Any) -> None:
    """Until the GCS, and not somebody else who has taken its port, listens."""
    host, _, port = plan.gcs_address.rpartition(":")
    other_since: float | None = None
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), 1.0).close()
            if _listens(process.pid, int(port)):
                return
            # A GCS that cannot have its port tries for 15 s.
            other_since = other_since or time.monotonic()
            if time.monotonic() - other_since > 2.0:
                raise StartFailure(
                    "ports", f"The GCS's port {port} is taken by somebody else.", plan.log_path
                )
        if process.poll() is not None:
            raise _died(plan, "gcs_server", process.returncode)
        time.sleep(0.002)


def _listens(pid: int, port: int) -> bool:
    """Whether this process holds a socket that listens on the port; true where /proc does not tell."""
    try:
        held = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
        tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    except OSError:
        return True
    rows = [line.split() for line in "".join(tables).splitlines()]
    listening = [row[9] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]
    return any(f"socket:[{inode}]" in held for inode in listening)


def _died(plan: NodePlan, name: str, code: int) -> StartFailure:
    how = f"code {code}" if code >= 0 else signal.Signals(-code).name
    return StartFailure.from_text(
        _last_words(plan), default=("ray", f"{name} ended during its start ({how})."), log=plan.log_path
    )


def _last_words(plan: NodePlan) -> str:
    """The ends of the logs that may say why a start failed."""
    texts = []
    for name in ("gcs_server.err", "gcs_server.out", "raylet.err", "raylet.out"):
        for path in Path(plan.temp_dir).glob(f"session_latest/logs/{name}"):
            with contextlib.suppress(OSError):
                texts.append(path.read_bytes()[-8000:].decode("utf-8", "replace"))
    return "\n".join(texts)


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


def _end(processes: list[Any]) -> None:
    """Kill and reap what was started; a start that failed leaves nothing."""
    for process in processes:
        with contextlib.suppress(OSError):
            process.kill()
    for process in processes:
        with contextlib.suppress(Exception):
            process.wait(5)


# ---------------------------------------------------------------- the public way


_PLAN = "RAYCLUSTER_PLAN"  # for start_hook, which takes it out of the environment of what `ray start` starts
_RAY = "import sys; sys.path = [part for part in sys.path if part]; import ray.scripts.scripts as s; s.main()"


def _start_by_command(plan: NodePlan, report: Report, clock: _Phases) -> dict[str, Any]:
    if not plan.is_head:
        probe(plan.gcs_address)
    env = dict(os.environ)
    env.setdefault("RAY_START_HOOK", "raycluster_cli.ray_private.start_hook")
    env[_PLAN] = json.dumps(plan.as_json())
    # The hook's module must be found also where raycluster runs from a checkout.
    package = str(Path(__file__).resolve().parents[1])
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
        said = Path(plan.log_path).read_bytes()[offset:].decode("utf-8", "replace")
        raise StartFailure.from_text(
            f"{said}\n{_last_words(plan)}",
            default=("ray", f"`ray start` ended with code {done.returncode}."),
            log=plan.log_path,
        )
    for one in processes:
        report({"event": "spawned", **one})
    return _started_by_command(plan, processes, clock)


def _started_by_command(plan: NodePlan, processes: list[dict[str, Any]], clock: _Phases) -> dict[str, Any]:
    session_dir = str((Path(plan.temp_dir) / "session_latest").resolve())
    clock.mark("registered")
    if plan.is_head and plan.identity:
        try:
            apply_settings(os.environ)
            Cluster(plan.gcs_address).put_identity(plan.identity)
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
    with contextlib.suppress(Exception):
        plan = NodePlan.from_json(json.loads(os.environ.pop(_PLAN)))
        if not plan.client_server:
            parameters.ray_client_server_port = None
        if not head and parameters.temp_dir is None:
            # Before 2.55 a worker's --temp-dir is ignored in favour of the head's path, on another machine.
            parameters.temp_dir = plan.temp_dir
        if _release(RAY_VERSION) in TRIED:
            _tell_raylets_their_ports(plan)


def _tell_raylets_their_ports(plan: NodePlan) -> None:
    """As in the quick way; else a raylet aborts when its agents take more than 15 s to be imported."""
    original = ray_services.start_ray_process

    def start_ray_process(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "raylet":
            with contextlib.suppress(Exception):
                command = raylet_command(command, plan)
        return original(command, process_type, *args, **kwargs)

    ray_services.start_ray_process = start_ray_process


# ---------------------------------------------------------------- beside the driver


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
        with _patched_spawn(plan, spawned, report, _Phases()):
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
        _end([info.process for _, info in spawned])
        raise StartFailure("ray", f"{type(e).__name__}: {e}", plan.log_path) from e
    except StartFailure:
        _end([info.process for _, info in spawned])
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
        raise StartFailure.from_text(
            str(e), default=("ray", _one_line(e)), log=f"{logs}/dashboard.log"
        ) from e
    wake(plan.agent_gate)  # it shows what the agents tell; they look for it when they start
    Cluster(plan.gcs_address).gcs.internal_kv_put(
        b"webui:url", url.encode(), True, b"dashboard", timeout=_RPC_TIMEOUT_S
    )
    return str(url)


def _call(function: Callable[..., Any], **arguments: Any) -> Any:
    """Call with those of the arguments that this version of the function takes."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})


__all__ = ["PYTHON_VERSION", "RAY_VERSION", "Cluster", "start", "start_extra"]
