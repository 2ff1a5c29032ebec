"""What raycluster's own processes cost while a cluster runs and nothing happens."""

from __future__ import annotations

import os
import time

from benchmarks.meters import ProcessCost, raycluster_processes
from benchmarks.runs import host_inits
from benchmarks.ways import raycluster_command
from tests.bed.bed import Bed
from tests.bed.spec import LOGIN

#: Agents and log monitors have started by then.
SETTLE_S = 20.0


def measure_idle(bed: Bed, hosts: int, seconds: float) -> str:
    """Start a cluster, let it idle; CPU and memory of each of raycluster's processes, as markdown."""
    script = f"""#!/bin/bash
srun --nodes={hosts} --ntasks-per-node=1 {" ".join(raycluster_command())} run -- sleep 1000
"""
    options = ["--parsable", f"--nodes={hosts}", "--ntasks-per-node=1", "--output=/dev/null"]
    job = bed.run(LOGIN, ["sbatch", *options], stdin=script, check=True).stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while len(_own(bed)) < 2 * hosts and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(SETTLE_S)
        before = _own(bed)
        began = time.monotonic()
        time.sleep(seconds)
        after, took = _own(bed), time.monotonic() - began
    finally:
        bed.run(LOGIN, ["scancel", job])
    lines = [
        "| host | process | CPU (% of a core) | RSS (MB) | shared out (MB) | private (MB) | peak RSS (MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for pid, one in sorted(after.items(), key=lambda pair: (pair[1].host, pair[1].role, pair[0])):
        share = 100 * (one.cpu_s - before[pid].cpu_s) / took if pid in before else float("nan")
        sizes = (one.rss_bytes, one.pss_bytes, one.private_bytes, one.peak_rss_bytes)
        lines.append(
            f"| {one.host} | {one.role} | {share:.2f} | "
            + " | ".join(f"{size / 1e6:.1f}" for size in sizes)
            + " |"
        )
    tick = 100 / os.sysconf("SC_CLK_TCK") / took
    lines.append(f"\nOver {took:.0f} s; the kernel counts in steps of {tick:.3f} %.")
    return "\n".join(lines)


def _own(bed: Bed) -> dict[int, ProcessCost]:
    return {one.pid: one for one in raycluster_processes(host_inits(bed))}
