"""The six functions for programs that are a rank of the job themselves.

Each of them works through a `raycluster head` or `worker` of its own, started as a child
with a socket between them: the calling program keeps its signal handlers, its children
and its memory to itself, and when it dies, however it dies, the child sees the socket
close and ends Ray on this node.  Names, parameters and defaults are those of datatrove's
``pipeline/inference/distributed/ray.py``, so that programs written for those work here.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from ..model.errors import (
    ClusterUnhealthyError,
    ExitCode,
    HeadStartError,
    RayclusterError,
    UsageError,
    WorkersMissingError,
)
from ..rayproc.adopted import adopt, restore
from ..rayproc.boot import raycluster_command
from ..supervisor.parent_link import ParentLink
from ..system.waiting import done_within, in_thread

T = TypeVar("T")

WORKER_CHECK_INTERVAL_S = 2.0
ENDED_POLL_S = 0.25
STOP_TIMEOUT_S = 30.0


@dataclass
class _Node:
    """The child that runs Ray on this node for the calling program."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    address: str = ""
    replaced: dict[str, str | None] = field(default_factory=dict)
    """Values that variables of this process had before; None: they were not set."""


_node: _Node | None = None


def _forget() -> None:
    """In a process that this one forks: the node is not that process's to end.

    With its copy of the socket, raycluster would not see the end of the program that started the node.
    """
    global _node
    if _node is not None:
        _node.link.close()
        _node = None


os.register_at_fork(after_in_child=_forget)


def calculate_object_store_memory() -> int:
    """Bytes for the object store: min(30 % of the memory granted, size of /dev/shm, 200 GB)."""
    from ..node.grants import read_host
    from ..node.resources import object_store_size
    from ..slurm.allocation import Allocation

    env = dict(os.environ)
    facts = read_host(env, Allocation.from_environ(env))
    return object_store_size(facts.memory_bytes.value, facts.shm_bytes.value)


async def init_ray_master(master_port: int, expected_workers: int) -> None:
    """Start the head here, wait for ``expected_workers`` workers (nodes besides the head), connect.

    In a Slurm step of N nodes, N workers cannot be meant: then the caller counts the head too, as
    datatrove does, and N - 1 are waited for.

    Returns with this process connected to the cluster (``ray.init``).  Raises HeadStartError,
    WorkersMissingError or UsageError; nothing is left running then.
    """
    workers = _besides_the_head(expected_workers)
    node = await _start(["head", "--master-port", str(master_port), "--expected-workers", str(workers)])
    try:
        import ray

        await asyncio.to_thread(ray.init, address=node.address, ignore_reinit_error=True)
    except BaseException:
        cleanup_ray()
        raise


async def init_ray_worker(
    master_ip: str, master_port: int, max_retries: int = 5, retry_delay: float = 10.0
) -> None:
    """Join this node to the head at ``master_ip:master_port``.

    Up to ``max_retries`` attempts, ``retry_delay`` seconds apart.  Raises WorkersMissingError,
    which names the address and why each attempt failed.
    """
    await _start(
        [
            "worker",
            *("--master-ip", master_ip),
            *("--master-port", str(master_port)),
            *("--max-retries", str(max_retries)),
            *("--retry-delay", str(retry_delay)),
        ]
    )


async def monitor_ray_cluster_health(check_interval: float = 30.0) -> None:
    """Ask the GCS for its health every ``check_interval`` seconds; return when the cluster is lost.

    It asks what `ray health-check --skip-version-check` asks, without starting a Python for it.  The GCS
    counts as lost as it does for every node: when it is gone, or when two checks in a row were not answered.
    Returns at once when this node's raycluster ends.
    """
    from ..rayproc.gcs_monitor import gcs_lost
    from ..rayproc.tls import client_context, files_in

    address = _node.address if _node else os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    files = files_in(os.environ)
    context = client_context(files) if files else None
    lost = asyncio.ensure_future(
        gcs_lost(host.strip("[]"), int(port), interval_s=check_interval, context=context)
    )
    try:
        while not await done_within(lost, ENDED_POLL_S):
            if _node is not None and _node.process.poll() is not None:
                return
    finally:
        lost.cancel()


async def monitor_ray_workers(expected_workers: int) -> None:
    """Watch the number of workers; raise ClusterUnhealthyError when it drops below ``expected_workers``.

    Counted as in :func:`init_ray_master`.
    """
    import ray

    needed = _besides_the_head(expected_workers)
    while True:
        try:
            nodes: list[dict[str, Any]] = await _unless_it_ends(ray.nodes)
        except ClusterUnhealthyError:
            raise
        except Exception as error:
            raise ClusterUnhealthyError(f"the workers could not be counted: {error}") from error
        alive = sum(1 for node in nodes if node["Alive"]) - 1
        if alive < needed:
            lost = ", ".join(str(node["NodeName"]) for node in nodes if not node["Alive"]) or "unknown"
            raise ClusterUnhealthyError(
                f"{alive} workers are alive, {needed} are needed; lost: {lost}.",
            )
        await _unless_it_ends(partial(time.sleep, WORKER_CHECK_INTERVAL_S))


async def _unless_it_ends(call: Callable[[], T]) -> T:
    """The result of a call that blocks; ClusterUnhealthyError when this node's raycluster ends meanwhile.

    Ray's calls block for a minute when the GCS is gone.
    """
    answer = in_thread(call)
    while not await done_within(answer, ENDED_POLL_S):
        if _node is not None and _node.process.poll() is not None:
            raise ClusterUnhealthyError(f"the cluster has ended: {_end_of(_node)}")
    return answer.result()


def _end_of(node: _Node) -> str:
    """What the child reported of its end, else its code."""
    text = b""
    with contextlib.suppress(OSError):
        while chunk := node.link.recv(65536):
            text += chunk
    for line in reversed(text.splitlines()):
        with contextlib.suppress(ValueError):
            if message := json.loads(line).get("message"):
                return str(message)
    return f"raycluster ended with code {node.process.returncode}"


def cleanup_ray() -> None:
    """Disconnect, then end this cluster's processes on this node.  Never raises.

    Variables that the start set in this process (RAY_ADDRESS and the like) get their earlier values back.
    """
    global _node
    with contextlib.suppress(Exception):
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    node, _node = _node, None
    if node is None:
        return
    restore(node.replaced, os.environ)
    with contextlib.suppress(Exception):
        try:
            node.link.setblocking(True)
            node.link.sendall(ParentLink.DONE)  # an end in order: not one of a program that died
        except OSError:
            node.process.send_signal(signal.SIGTERM)
        try:
            node.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            node.process.kill()  # the keeper; its supervisor sees that and ends all
            node.process.wait(STOP_TIMEOUT_S)
        node.link.close()


def _besides_the_head(expected_workers: int) -> int:
    """The number of workers without the head, also where the caller counts all nodes of its step."""
    from ..slurm.allocation import Allocation

    allocation = Allocation.from_environ(dict(os.environ))
    nodes = (allocation.step_nodes or allocation.job_nodes) if allocation else ()
    return expected_workers - 1 if nodes and expected_workers == len(nodes) else expected_workers


async def _start(arguments: list[str]) -> _Node:
    """Start the child and wait until its node is in the cluster; raises what it says went wrong."""
    global _node
    if _node is not None and _node.process.poll() is None:
        raise UsageError("this process has started a Ray node already.", "Call cleanup_ray() first.")
    ours, theirs = socket.socketpair()
    theirs.set_inheritable(True)
    process = subprocess.Popen(  # noqa: ASYNC220  # a fork and exec: milliseconds
        raycluster_command(*arguments),
        env={**os.environ, ParentLink.VARIABLE: str(theirs.fileno())},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    _node = _Node(process, ours)
    atexit.register(cleanup_ray)
    try:
        said = await _until_ready(ours)
    except BaseException:
        await asyncio.to_thread(cleanup_ray)
        raise
    if said.get("event") != "ready":
        code = await asyncio.to_thread(process.wait)
        _node = None
        raise _error(code)(str(said.get("message") or f"raycluster {arguments[0]} ended with code {code}"))
    _node.address = str(said["address"])
    try:
        _node.replaced = adopt(said["environment"], os.environ)
    except BaseException:
        await asyncio.to_thread(cleanup_ray)
        raise
    return _node


async def _until_ready(link: socket.socket) -> dict[str, Any]:
    """What the child says last: that it is ready, or how it ended."""
    link.setblocking(False)
    loop = asyncio.get_running_loop()
    text = b""
    while True:
        while b"\n" in text:
            line, _, text = text.partition(b"\n")
            said: dict[str, Any] = json.loads(line)
            if said["event"] in ("ready", "ended"):
                return said
        chunk = await loop.sock_recv(link, 65536)
        if not chunk:
            return {}
        text += chunk


def _error(code: int) -> Callable[[str], RayclusterError]:
    """The error that goes with a command's exit code."""
    kinds: dict[int, type[RayclusterError]] = {
        ExitCode.USAGE: UsageError,
        ExitCode.HEAD_FAILED: HeadStartError,
        ExitCode.WORKERS_MISSING: WorkersMissingError,
        ExitCode.UNHEALTHY: ClusterUnhealthyError,
    }
    return kinds.get(code, RayclusterError)
