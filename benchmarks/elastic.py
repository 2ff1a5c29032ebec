"""How fast a cluster grows and shrinks, and what its autoscaler costs: real Slurm and real Ray on a bed.

    python -m benchmarks.elastic [--workers 1 8 32] [--idle 10] [--work 60] [--hosts 33] [--side-by-side 5]

For each number of worker jobs the driver of a cluster of a head alone makes so many actors and one more, and
kills them a minute after all have a node.  With --burst N it asks Ray for the nodes alone
(request_resources), N more at a time: no worker processes start, so more nodes fit on a machine.  Measured:

demand to sbatch    from the actors' creation, or the first request, until sbatch is called
start to joined     from a worker job's first process until its node is in the cluster, by its report
idle to gone        from the end of the demand until Slurm has no worker job, less the idle time-out (with
                    --burst all of it: the nodes were idle before)
squeue              calls from the first sbatch until all have joined, and in a minute of work after that
engine              the CPU and the memory (Pss) of the autoscaler's process, while all have work
load                that of the machine when all have joined

--hosts N           a bed of N hosts that have room for one job each; else three that have room for all
--side-by-side N    instead: from a worker's first process until it has joined, N times of a worker of the
                    head's own job, which srun starts on a second node, and of a worker job on the same
                    node, by turns; the head is up before

Slurm's commands are called through a shim that writes down when.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
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
number, work_s, burst = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])

@ray.remote(num_cpus=1)
class Busy:
    def node(self):
        return ray.get_runtime_context().get_node_id()

ray.init(log_to_driver=False)
told = lambda **facts: print("TOLD", json.dumps({"when": time.time(), **facts}), flush=True)
alive = lambda: sum(node["Alive"] for node in ray.nodes())
told(what="demand")
if burst:
    from ray.autoscaler.sdk import request_resources
    for wanted in [*range(burst, number, burst), number]:
        request_resources(bundles=[{"CPU": 1}] * (wanted + 1))
        while alive() <= wanted:
            time.sleep(0.1)
        told(what="burst", nodes=alive())
else:
    actors = [Busy.remote() for _ in range(number + 1)]
    ray.get([one.node.remote() for one in actors])
told(what="all", nodes=alive())
time.sleep(work_s)
told(what="idle")
if burst:
    request_resources(bundles=[])
else:
    for one in actors:
        ray.kill(one)
while alive() > 1:
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
    others_working: int
    """Calls of sinfo and scontrol."""
    load: float
    engine_cpu_percent: float
    engine_bytes: int


def measure(bed: Bed, workers: int, idle_s: float, work_s: float = WORK_S, burst: int = 0) -> Result:
    """Run one cluster of so many workers.  ``burst``: how many are asked for at a time; 0: all, by actors."""
    there = f"{HOME}/elastic-{time.time_ns():x}"
    here = bed.path(LOGIN, there)
    (here / "bin").mkdir(parents=True)
    (here / "driver.py").write_text(_DRIVER)
    for name in ("sbatch", "squeue", "sinfo", "scontrol"):
        places = [Path(each, name) for each in ("/usr/bin", "/usr/local/bin")]
        program = next(place for place in places if place.exists())
        shim = here / "bin" / name
        shim.write_text(_SHIM.format(log=f"{there}/calls", program=program))
        shim.chmod(0o755)
    words = [
        *("raycluster", "submit", "-N", "1", "-c", "1", "--mem=1000", "--time=30", f"--output={there}/out"),
        *(f"--max-nodes={workers + 1}", f"--worker-idle-timeout={idle_s:g}", "--"),
        *("python", f"{there}/driver.py", str(workers), str(work_s), str(burst)),
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
    load = os.getloadavg()[0]
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
    rest = [float(when) for when, name in calls if name in ("sinfo", "scontrol")]
    bed.run(LOGIN, ["raycluster", "stop", job], check=True)
    return Result(
        workers=workers,
        demand_to_sbatch_s=sbatch[0] - demand,
        sbatch_calls=len(sbatch),
        start_to_joined_s=statistics.median(starts),
        # Nodes that were only asked for have been idle all the time.
        idle_to_gone_s=gone - idle - (0.0 if burst else idle_s),
        squeue_growing=sum(sbatch[0] <= one <= everyone for one in squeue),
        squeue_working=sum(everyone + 6 < one < idle for one in squeue),
        others_working=sum(everyone + 6 < one < idle for one in rest),
        load=load,
        engine_cpu_percent=percent,
        engine_bytes=memory,
    )


def engine(bed: Bed, job: str) -> int:
    """The autoscaler's process: the one with monitor.log open, among those of this bed."""
    inits = [bed.path(host, "/").parts[2] for host in bed.spec.nodes]
    networks = {os.readlink(f"/proc/{pid}/ns/net") for pid in inits}
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            ours = os.readlink(path).endswith("/monitor.log")
            ours = ours and os.readlink(f"/proc/{path.parts[2]}/ns/net") in networks
        except OSError:
            continue
        if ours:
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
        "| squeue until all have joined | squeue in a minute of work | sinfo, scontrol | Engine: CPU "
        "| Engine: memory | Load |"
    )
    rows = [
        f"| {one.workers} | {one.demand_to_sbatch_s:.1f} s | {one.sbatch_calls} "
        f"| {one.start_to_joined_s:.1f} s | {one.idle_to_gone_s:.1f} s "
        f"| {one.squeue_growing} | {one.squeue_working} | {one.others_working} "
        f"| {one.engine_cpu_percent:.1f} % | {one.engine_bytes / 1e6:.0f} MB | {one.load:.1f} |"
        for one in results
    ]
    return [head, "|---:" * 11 + "|", *rows]


def side_by_side(bed: Bed, rounds: int) -> list[str]:
    """Workers of the head's own job and worker jobs, on the same node, by turns; seconds."""
    share = ("-c1", "--mem=1500")
    script = "#!/bin/sh\nexec raycluster head --expected-workers 0 --on-worker-loss continue -- sleep 3600\n"
    head = ["sbatch", "--parsable", "-N2", "--ntasks-per-node=1", *share, "--nodelist=n1,n2", "--time=60"]
    job = bed.run(LOGIN, head, stdin=script, check=True).stdout.strip()
    nodes = bed.path(LOGIN, f"{HOME}/.raycluster/bed/{job}/nodes")
    wait_until((nodes.parent / "head.json").exists, timeout_s=DEADLINE_S, what="the head")
    found: dict[str, list[float]] = {"own": [], "job": []}
    for _ in range(rounds + 1):
        for kind, times in found.items():
            began = time.time()
            if kind == "own":
                step = ["srun", f"--jobid={job}", "--overlap", "-N1", "-n1", "-wn2", "--mem=0"]
                command = [*step, "raycluster", "worker"]
            else:
                command = ["sbatch", "--wait", *share, "-N1", "-wn2", "--output=/dev/null"]
                command += ["--wrap", f"exec raycluster worker --cluster {job}"]

            def joined(since: float = began) -> dict[str, float] | None:
                for path in nodes.glob("n2*.json"):
                    report = json.loads(path.read_text())
                    phases: dict[str, float] = report["phases"]
                    if report["phase"] == "joined" and phases["joined"] > since:
                        return {"pid": report["pid"], "s": phases["joined"] - min(phases.values())}
                return None

            with subprocess.Popen(bed.command(LOGIN, command), stderr=subprocess.DEVNULL) as waiting:
                one = wait_until(joined, timeout_s=DEADLINE_S, what=f"a worker ({kind})")
                times.append(one["s"])
                bed.run("n2", ["kill", "-TERM", str(int(one["pid"]))], check=True)
                waiting.wait(DEADLINE_S)
    bed.run(LOGIN, ["scancel", job], check=True)
    table = ["| Worker | First process to joined: median | Range |", "|---|---:|---:|"]
    for kind, name in (("own", "of the head's own job (srun)"), ("job", "worker job (sbatch)")):
        times = found[kind][1:]  # the first fills the page cache
        table.append(
            f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f} to {max(times):.2f} s |"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--idle", type=float, default=10.0)
    parser.add_argument("--work", type=float, default=WORK_S)
    parser.add_argument("--hosts", type=int, default=0)
    parser.add_argument("--burst", type=int, default=0)
    parser.add_argument("--side-by-side", type=int, default=0)
    options = parser.parse_args()
    spec = BedSpec(cpus=(64,), memory_mib=(64000,))
    if options.hosts:
        spec = BedSpec(hosts=options.hosts, cpus=(1,), memory_mib=(1500,), shm_mib=512)
    bed = Bed.up(f"elastic-{os.getpid()}", spec)
    try:
        if options.side_by_side:
            table = side_by_side(bed, options.side_by_side)
        else:
            results = [
                measure(bed, number, options.idle, options.work, options.burst) for number in options.workers
            ]
            table = lines(results)
    finally:
        bed.down()
    print("\n".join(table), f"\nload {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
