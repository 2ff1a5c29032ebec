"""How fast a cluster grows and shrinks, and what its autoscaler costs: real Slurm and real Ray on a bed.

    python -m benchmarks.elastic [--workers 1 8] [--idle 10]

For each number of worker jobs the driver of a cluster of a head alone makes so many actors and one more, and
kills them a minute after all have a node.  Measured:

demand to sbatch    from the actors' creation until sbatch is called
start to joined     from a worker job's first process until its node is in the cluster, by its report
idle to gone        from the end of the actors until Slurm has no worker job, less the idle time-out
squeue              calls from the first sbatch until all have joined, and in a minute of work after that
engine              the CPU and the memory (Pss) of the autoscaler's process, while all have work

sbatch and squeue are called through a shim that writes down when.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bed.bed import Bed
from tests.bed.spec import LOGIN, BedSpec
from tests.waiting import wait_until

#: How long the tasks run once the nodes are there: squeue's calls and the engine's CPU are counted meanwhile.
WORK_S = 60.0

DEADLINE_S = 300.0

HOME = "/home/admin"

_DRIVER = """
import json, sys, time
import ray
number, work_s = int(sys.argv[1]), float(sys.argv[2])

@ray.remote(num_cpus=1)
class Busy:
    def node(self):
        return ray.get_runtime_context().get_node_id()

ray.init(log_to_driver=False)
told = lambda **facts: print("TOLD", json.dumps({"when": time.time(), **facts}), flush=True)
told(what="demand")
actors = [Busy.remote() for _ in range(number + 1)]
nodes = ray.get([one.node.remote() for one in actors])
told(what="all", nodes=len(set(nodes)))
time.sleep(work_s)
told(what="idle")
for one in actors:
    ray.kill(one)
while sum(node["Alive"] for node in ray.nodes()) > 1:
    time.sleep(0.1)
told(what="alone")
time.sleep(600)
"""

_SHIM = """#!/bin/sh
echo "$(date +%s.%N) $(basename "$0")" >> {log}
exec {program} "$@"
"""


@dataclass(frozen=True)
class Result:
    """One cluster.  Seconds, bytes."""

    workers: int
    demand_to_sbatch_s: float
    sbatch_calls: int
    start_to_joined_s: float
    idle_to_gone_s: float
    squeue_growing: int
    squeue_working: int
    engine_cpu_percent: float
    engine_bytes: int


def measure(bed: Bed, workers: int, idle_s: float) -> Result:
    """Run one cluster of so many workers."""
    there = f"{HOME}/elastic-{time.time_ns():x}"
    here = bed.path(LOGIN, there)
    (here / "bin").mkdir(parents=True)
    (here / "driver.py").write_text(_DRIVER)
    for name in ("sbatch", "squeue"):
        places = [Path(each, name) for each in ("/usr/bin", "/usr/local/bin")]
        program = next(place for place in places if place.exists())
        shim = here / "bin" / name
        shim.write_text(_SHIM.format(log=f"{there}/calls", program=program))
        shim.chmod(0o755)
    words = [
        *("raycluster", "submit", "-N", "1", "-c", "1", "--mem=1000", "--time=30", f"--output={there}/out"),
        *(f"--max-nodes={workers + 1}", f"--worker-idle-timeout={idle_s:g}", "--"),
        *("python", f"{there}/driver.py", str(workers), str(WORK_S)),
    ]
    path = f"{there}/bin:{os.path.dirname(sys.executable)}:/usr/bin:/bin"
    done = bed.run(LOGIN, ["env", f"PATH={path}", *words], wd=there, check=True)
    job = done.stdout.strip().rpartition(" ")[2]

    def told(what: str) -> float | None:
        text = (here / "out").read_text() if (here / "out").exists() else ""
        facts = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("TOLD ")]
        return next((one["when"] for one in facts if one["what"] == what), None)

    def moment(what: str) -> float:
        return wait_until(lambda: told(what), timeout_s=DEADLINE_S, what=what)

    def others() -> list[str]:
        listed = bed.run(LOGIN, ["/usr/bin/squeue", "-h", "-r", "-o", "%i"], check=True).stdout.split()
        return [one for one in listed if one != job]

    demand, everyone = moment("demand"), moment("all")
    record = bed.path(LOGIN, f"{HOME}/.raycluster/bed/{job}")
    pid = engine(bed, job)
    cpu, began = cpu_s(pid), time.monotonic()
    idle = moment("idle")
    percent = 100 * (cpu_s(pid) - cpu) / (time.monotonic() - began)
    memory = pss_bytes(pid)
    wait_until(lambda: not others(), timeout_s=DEADLINE_S, what="no worker job", interval_s=0.2)
    gone = time.time()
    reports = [json.loads(each.read_text()) for each in (record / "nodes").glob("*.json")]
    starts = [one["phases"]["joined"] - min(one["phases"].values()) for one in reports if one.get("job")]
    calls = [line.split() for line in (here / "calls").read_text().splitlines()]
    sbatch = [float(when) for when, name in calls if name == "sbatch" and float(when) > demand]
    squeue = [float(when) for when, name in calls if name == "squeue"]
    bed.run(LOGIN, ["raycluster", "stop", job], check=True)
    return Result(
        workers=workers,
        demand_to_sbatch_s=sbatch[0] - demand,
        sbatch_calls=len(sbatch),
        start_to_joined_s=statistics.median(starts),
        idle_to_gone_s=gone - idle - idle_s,
        squeue_growing=sum(sbatch[0] <= one <= everyone for one in squeue),
        squeue_working=sum(everyone + 6 < one < idle for one in squeue),
        engine_cpu_percent=percent,
        engine_bytes=memory,
    )


def engine(bed: Bed, job: str) -> int:
    """The autoscaler's process: the one with monitor.log open."""
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if target.endswith("/monitor.log"):
            return int(path.parts[2])
    raise RuntimeError(f"no autoscaler of cluster {job} on {bed.spec.nodes}")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def lines(results: Sequence[Result]) -> list[str]:
    """The table of docs/performance.md."""
    head = (
        "| Worker jobs | Demand to sbatch | sbatch calls | Job's start to joined | Idle time-out to gone "
        "| squeue until all have joined | squeue in a minute of work | Engine: CPU | Engine: memory |"
    )
    rows = [
        f"| {one.workers} | {one.demand_to_sbatch_s:.1f} s | {one.sbatch_calls} "
        f"| {one.start_to_joined_s:.1f} s | {one.idle_to_gone_s:.1f} s "
        f"| {one.squeue_growing} | {one.squeue_working} "
        f"| {one.engine_cpu_percent:.1f} % | {one.engine_bytes / 1e6:.0f} MB |"
        for one in results
    ]
    return [head, "|---:" * 9 + "|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--idle", type=float, default=10.0)
    options = parser.parse_args()
    bed = Bed.up(f"elastic-{os.getpid()}", BedSpec(cpus=(64,), memory_mib=(64000,)))
    try:
        results = [measure(bed, number, options.idle) for number in options.workers]
    finally:
        bed.down()
    print("\n".join(lines(results)))


if __name__ == "__main__":
    main()
