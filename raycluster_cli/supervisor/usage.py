"""What is in use in a running cluster, written into the record only while somebody watches.

`raycluster monitor` touches the file ``watching`` in the record every few seconds.  The nodes of
the cluster check that file (the head each second, a worker less often the more of them there
are) and measure only when it has changed:

================  ===========================================================================
``usage.json``    by the head, every two seconds: what Ray's GCS says of each node (3 ms)
``usage/HOST``    by each node, every five: its worker processes and memory, which only it sees
================  ===========================================================================

While nobody watches, the head opens one file a second (8 µs), and nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..model.errors import RayclusterError
from ..model.record import ClusterUsage, NodeUsage
from ..model.status import Role
from ..node.ray_node import RayNode
from ..rayproc.failure import StartFailure
from ..state.record import Record
from ..system.jitter import between
from ..system.proctree import PROC, descendants
from .parts import Parts

#: How often the head measures while it is watched, and how often it looks whether it is.
MEASURE_S, LOOK_S = 2.0, 1.0

#: How often a node checks, and how often it measures; both less often where there are many.
NODE_S = 1.5
MEASURE_NODE_S = 5.0
NODES_A_SECOND = 20.0

#: A watcher that has not touched its file for this long has gone.
WATCHED_S = 15.0


class Watchers:
    """Whether somebody watches, by changes of a file's time stamp.

    The stamp is the file server's; it is compared with itself only, never with this node's clock.
    """

    def __init__(self, read_stamp: Callable[[], int | None], clock: Callable[[], float] = time.monotonic):
        self._read_stamp = read_stamp
        self._clock = clock
        self._stamp: int | None = read_stamp()
        self._until = 0.0

    def is_there(self) -> bool:
        stamp = self._read_stamp()
        if stamp is not None and stamp != self._stamp:
            self._until = self._clock() + WATCHED_S
        self._stamp = stamp
        return self._clock() < self._until


async def tell_usage(parts: Parts, node: RayNode, nodes: int) -> None:
    """Measure what this node has in use, and on the head the GCS's view too, until cancelled.

    ``nodes`` is how many do so: the more there are, the less often each of them measures.
    """
    record = parts.reports.record
    if record is None:
        return
    tasks = [_tell_node_usage(parts, node, record, max(NODE_S, nodes / NODES_A_SECOND))]
    if parts.context.role is Role.HEAD:
        tasks.append(_tell_cluster_usage(parts, node, record))
    await asyncio.gather(*tasks)


async def _tell_cluster_usage(parts: Parts, node: RayNode, record: Record) -> None:
    watchers = await parts.reports.submit(Watchers, record.watching_stamp)
    while True:
        watched = await parts.reports.submit(watchers.is_there)
        if watched and node.companion is not None:
            with contextlib.suppress(StartFailure, RayclusterError, OSError):
                said = await node.companion.usage()
                await parts.reports.submit(record.write_usage, cluster_usage(said, time.time()))
        await asyncio.sleep(MEASURE_S if watched else LOOK_S)


async def _tell_node_usage(parts: Parts, node: RayNode, record: Record, pause_s: float) -> None:
    watchers = await parts.reports.submit(Watchers, record.watching_stamp)
    watched = False
    while True:
        # Measuring reads all of /proc, so it is done less often than the check.
        wait_s = max(pause_s, MEASURE_NODE_S) if watched else pause_s
        await asyncio.sleep(wait_s * between(0.8, 1.2))
        watched = False
        with contextlib.suppress(RayclusterError, OSError):
            watched = await parts.reports.submit(watchers.is_there)
            if watched:
                usage = await asyncio.to_thread(measure_processes, os.getpid(), _granted_bytes(parts, node))
                await parts.reports.submit(record.write_node_usage, parts.context.host, usage)


def _granted_bytes(parts: Parts, node: RayNode) -> int:
    """The memory that this node's processes may use: Slurm's grant; outside Slurm what Ray was told."""
    if parts.context.allocation is not None:
        return node.facts.memory_bytes.value
    return node.grant.memory_bytes + node.grant.object_store_bytes


def cluster_usage(said: Mapping[str, Any], when: float) -> ClusterUsage:
    """The companion's answer as it goes into the record.

    >>> said = {"pending": 2, "nodes": [{"node_id": "ab", "status": "running",
    ...         "total": {"CPU": 4.0, "node:10.0.0.1": 1.0}, "available": {"CPU": 1.0}}]}
    >>> cluster_usage(said, 5.0).nodes
    {'ab': {'total': {'CPU': 4.0}, 'used': {'CPU': 3.0}}}
    """
    nodes = {}
    for node in said["nodes"]:
        if node.get("status") == "dead":
            continue
        available = node["available"]
        total = {name: float(size) for name, size in node["total"].items() if not name.startswith("node:")}
        used = {name: round(size - float(available.get(name, 0.0)), 4) for name, size in total.items()}
        nodes[str(node["node_id"])] = {
            "total": total,
            "used": {name: size for name, size in used.items() if size > 0},
        }
    return ClusterUsage(when, nodes, int(said.get("pending", 0)))


def measure_processes(root: int, granted_memory_bytes: int, now: float | None = None) -> NodeUsage:
    """Worker processes and memory of everything below a process.

    Memory is what a process has for itself (RssAnon) of all of them, and once what they share
    in /dev/shm, which is the object store: the largest RssShmem.
    """
    workers = private = shared = 0
    for stat in descendants(root):
        # Ray calls them ray::IDLE, ray::task; the agents are python, the daemons have names of their own.
        workers += stat.name.startswith("ray::")
        anon, shmem = _resident(stat.pid)
        private += anon
        shared = max(shared, shmem)
    when = time.time() if now is None else now
    return NodeUsage(when, workers, private + shared, granted_memory_bytes)


def _resident(pid: int) -> tuple[int, int]:
    """(RssAnon, RssShmem) of a process in bytes; zeros when it has gone."""
    found = {"RssAnon": 0, "RssShmem": 0}
    for name, value in _status_lines(pid):
        if name in found:
            found[name] = int(value.split()[0]) * 1024
    return found["RssAnon"], found["RssShmem"]


def _status_lines(pid: int) -> Iterator[tuple[str, str]]:
    with contextlib.suppress(OSError):
        for line in (PROC / str(pid) / "status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            yield name, value
