"""The processes that Ray spawns for a node: seen, changed where the start would wait, and ended."""

from __future__ import annotations

import contextlib
import inspect
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray._private import services as ray_services

from ..boot import gate_command, stand_in_command
from ..failure import StartFailure
from ..plan import NodePlan
from ..requirements import has_dashboard
from .known import PrivateMissing

Report = Callable[[Mapping[str, Any]], None]


class Phases:
    """Unix times at which steps of a start were done."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {"begun": time.time()}

    def mark(self, name: str) -> None:
        self.times.setdefault(name, time.time())


@contextlib.contextmanager
def patched_spawn(
    plan: NodePlan, spawned: list[tuple[str, Any]], report: Report, clock: Phases
) -> Iterator[None]:
    """See every process that Node spawns, and give the raylet what services.py does not."""
    original = ray_services.start_ray_process
    names = list(inspect.signature(original).parameters)
    if names[:2] != ["command", "process_type"]:
        raise PrivateMissing(f"services.start_ray_process{tuple(names)}")

    def start_ray_process(command: list[str], process_type: str, *args: Any, **kwargs: Any) -> Any:
        if process_type == "raylet":
            command = raylet_command(command, plan)
        if process_type == "gcs_server":
            command = gcs_command(command, plan)
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
        report({"event": "spawned", "name": process_type, "pid": info.process.pid, **_cluster_of(command)})
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
    agents themselves, 2 s of CPU, start when a client needs them (lazy_agent.py).
    """
    port = plan.ports.get("dashboard_agent_listen")
    # The flag came with the port files; an older raylet refuses it.
    if port and hasattr(ray._raylet, "persist_port") and not _has(command, "--dashboard_agent_listen_port"):
        command = [*command, f"--dashboard_agent_listen_port={port}"]
    gate = [] if plan.agent_at_once else gate_command(plan.agent_gate)
    wrappers = {"--dashboard_agent_command": [*gate, *stand_in_command("now")]}
    if port := plan.ports.get("runtime_env_agent"):
        waits = stand_in_command("port", plan.node_ip, str(port), plan.runtime_env_socket)
        wrappers["--runtime_env_agent_command"] = [*gate_command(plan.runtime_env_gate), *waits]
    if _agent_is_missing(plan):
        command = [set_flag(part, "--metrics-agent-port", "-1") for part in command]
    return [_wrap(part, wrappers) for part in command]


def _cluster_of(raylet: list[str]) -> dict[str, str]:
    """Session and cluster id, which the raylet is told; empty for another process."""
    given = dict(part.partition("=")[::2] for part in raylet)
    names = {"session": "--session-name", "cluster_id": "--cluster-id"}
    return {name: given[flag] for name, flag in names.items()} if given.keys() >= set(names.values()) else {}


def gcs_command(command: list[str], plan: NodePlan) -> list[str]:
    """The GCS's argument list, changed so that it sends no metrics to an agent that is not there.

    GCS, raylet and worker processes try for 30 s to reach the agent, then print an error that the log
    monitor shows in the driver's output.  They do not try when the raylet was told the port -1, which is
    what an agent without ray[default] reports.  The GCS takes the raylet's port when its own is 0.
    """
    if not _agent_is_missing(plan):
        return command
    return [set_flag(part, "--metrics-agent-port", "0") for part in command]


def _agent_is_missing(plan: NodePlan) -> bool:
    """Whether no agent takes metrics soon, and this Ray can be told so (it has port files)."""
    serves = plan.agent_at_once and has_dashboard()
    return not serves and hasattr(ray._raylet, "persist_port")


def _has(command: list[str], flag: str) -> bool:
    return any(part.startswith(flag) for part in command)


def set_flag(part: str, flag: str, value: str) -> str:
    """The argument, with another value if it is this flag's."""
    return f"{flag}={value}" if part.startswith(f"{flag}=") else part


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


def _wait_listening(plan: NodePlan, process: Any) -> None:
    """Until the GCS itself, and not another process on its port, listens."""
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
                    "ports", f"Another process listens on the GCS's port {port}.", plan.log_path
                )
        if process.poll() is not None:
            raise died(plan, "gcs_server", process.returncode)
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


def died(plan: NodePlan, name: str, code: int) -> StartFailure:
    how = f"code {code}" if code >= 0 else signal.Signals(-code).name
    return StartFailure.from_text(
        log_ends(plan), default=("ray", f"{name} ended during its start ({how})."), log=plan.log_path
    )


def log_ends(plan: NodePlan) -> str:
    """The ends of the logs that may say why a start failed."""
    texts = []
    for name in ("gcs_server.err", "gcs_server.out", "raylet.err", "raylet.out"):
        for path in Path(plan.temp_dir).glob(f"session_latest/logs/{name}"):
            with contextlib.suppress(OSError):
                texts.append(path.read_bytes()[-8000:].decode("utf-8", "replace"))
    return "\n".join(texts)


def one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:400]


def end_all(processes: list[Any]) -> None:
    """Kill and reap what was started; a start that failed leaves nothing."""
    for process in processes:
        with contextlib.suppress(OSError):
            process.kill()
    for process in processes:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            process.wait(5)
