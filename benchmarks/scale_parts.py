"""Whether what a head and `status` do grows faster than the number of nodes.

    python -m benchmarks.scale_parts [--nodes 100,1000,10000]

CPU time of each part for so many nodes, and the power of the number of nodes with which it grew last: 1 is
linear.  Real files, raycluster's own code, no Ray and no Slurm.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from raycluster_cli.cli.screen import View, live_screen, report
from raycluster_cli.model.hostlist import format_hostlist
from raycluster_cli.model.loss_policy import WorkerLossPolicy
from raycluster_cli.model.record import HeadInfo, NodeReport
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.status_json import cluster_json
from raycluster_cli.policy import events as on
from raycluster_cli.policy import head as policy
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.policy.values import Phase, Worker, WorkerReport
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.slurm.hostlist import parse_hostlist
from raycluster_cli.state.record import Record


def parts(nodes: int, place: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is measured, by name."""
    hosts = [f"rack{number // 64:03d}n{number % 64:02d}" for number in range(nodes)]
    uneven = [host for number, host in enumerate(hosts) if number % 7]
    listed = format_hostlist(uneven)
    yield "hostlist written", lambda: format_hostlist(uneven)
    yield "hostlist read", lambda: parse_hostlist(listed)
    whole = format_hostlist(hosts)
    env = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NODELIST": whole,
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_STEP_NODELIST": whole,
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{nodes})",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "1",
        "SLURMD_NODENAME": hosts[1],
    }
    yield "allocation of one task", lambda: Allocation.from_environ(env)

    rules = HeadRules(
        host=hosts[0],
        expected=nodes - 1,
        quorum=nodes - 1,
        loss=WorkerLossPolicy.parse("fail"),
        hosts=tuple(hosts[1:]),
    )
    workers = [
        Worker(f"{number:056x}", host, f"10.0.{number >> 8}.{number & 255}")
        for number, host in enumerate(hosts[1:])
    ]
    waiting = replace(policy.begin(rules, 0.0), phase=Phase.WAITING)
    states = {}

    def join() -> None:
        state = waiting
        for worker in workers:
            state, _ = policy.step(rules, state, on.WorkerJoined(worker), 1.0)
        states["joined"] = state

    yield "head: all workers join", join

    def leave() -> None:
        state = replace(states["joined"], phase=Phase.STOPPING)
        for worker in workers:
            state, _ = policy.step(rules, state, on.WorkerLeft(worker), 2.0)

    yield "head: all workers leave", leave
    told = {host: WorkerReport("waiting", "", 1.0) for host in hosts[1:]}
    yield (
        "head: reports read, all missing",
        lambda: policy.step(rules, waiting, on.ReportsRead(told, ()), 400.0),
    )

    record = Record.create(place / "state", "scale", "1")
    record.take_lease(host=hosts[0])
    record.write_head(
        HeadInfo(
            host=hosts[0], address_ip="10.0.0.1", port=6379, expected_workers=nodes - 1, identity="x" * 32
        )
    )

    def write() -> None:
        for number, host in enumerate(hosts):
            record.write_node(NodeReport(host, "worker" if number else "head", "joined"))

    yield "record: all report", write
    yield "record: reports read first", record.read_nodes
    yield "record: again, unchanged", record.read_nodes

    def status() -> None:
        states["status"] = read_cluster(record)  # type: ignore[assignment]

    yield "status: read", status
    yield "status: printed", lambda: report(states["status"], 120)  # type: ignore[arg-type]
    yield "status --json", lambda: json.dumps(cluster_json(states["status"]))  # type: ignore[arg-type]
    yield "monitor: one screen", lambda: live_screen(states["status"], 120, 50, View())  # type: ignore[arg-type]


def measure(nodes: int) -> dict[str, float]:
    """CPU seconds by part."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as place:
        for name, call in parts(nodes, Path(place)):
            began = time.process_time()
            call()
            found[name] = time.process_time() - began
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", default="100,1000,10000")
    sizes = [int(word) for word in parser.parse_args().nodes.split(",")]
    results = {nodes: measure(nodes) for nodes in sizes}
    heads = " | ".join(f"{nodes:,}" for nodes in sizes)
    print(f"| CPU (ms) for so many nodes | {heads} | grows with the power |")
    print("|---|" + "---|" * (len(sizes) + 1))
    for name in results[sizes[0]]:
        times = [results[nodes][name] for nodes in sizes]
        power = "–"
        if len(sizes) > 1 and times[-2] > 0.0005:
            power = f"{math.log(times[-1] / times[-2]) / math.log(sizes[-1] / sizes[-2]):.1f}"
        print(f"| {name} | {' | '.join(f'{1000 * one:.1f}' for one in times)} | {power} |")
    print(
        f"\nPeak memory of all of it: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
