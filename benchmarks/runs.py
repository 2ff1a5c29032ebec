"""One run of one way on a bed, measured from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.meters import CpuMeter, ProcessCost, raycluster_processes
from benchmarks.ways import REPOSITORY, Way
from tests.bed.bed import Bed
from tests.bed.kernel import Process
from tests.bed.spec import LOGIN

#: No run takes longer; one that does counts as failed.
DEADLINE_S = 300.0

#: A driver that ends at once would hide what comes up beside it.
DRIVER_S = 1.0


@dataclass(frozen=True)
class Run:
    """What one run took.  Seconds, bytes; None where it could not be measured."""

    way: str
    hosts: int
    round: int
    start_s: float
    """From srun (the batch script's first line) to the driver's first line."""
    end_s: float
    """From the driver's last line until Slurm has the job's nodes free."""
    nodes_s: float | None
    """From srun until the driver has connected and counted all nodes alive; None when it did not."""
    cpu_s: float | None
    """CPU time of all processes of all hosts, from the submission to the end."""
    output_bytes: int
    """What the job printed, less the driver's own."""
    own_peak_bytes: int | None
    """The largest keeper and supervisor together on one host, at their peak."""
    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    """raycluster's stamps by host, in seconds since srun."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class RunFailed(Exception):
    """A run that did not come to its end; with what it printed."""


def run_once(bed: Bed, meter: CpuMeter, way: Way, hosts: int, number: int, *, count_nodes: bool) -> Run:
    """Submit one job and measure it.  Raises RunFailed."""
    name = f"bench-{time.time_ns():x}"
    there = f"/home/admin/{name}"
    here = bed.path(LOGIN, there)
    here.mkdir()
    driver = [sys.executable, str(REPOSITORY / "benchmarks" / "driver.py"), there, str(DRIVER_S)]
    if count_nodes:
        driver.append(str(hosts))
    script = f"""#!/bin/bash
printf %s "$EPOCHREALTIME" > {there}/begun.part && mv {there}/begun.part {there}/begun
{way.body(driver, hosts)}
code=$?
exit $code
"""
    before = meter.seconds()
    options = [f"--nodes={hosts}", "--ntasks-per-node=1", "--cpus-per-task=2", f"--output={there}/output"]
    submitted = bed.run(LOGIN, ["sbatch", "--parsable", *options], stdin=script, check=True)
    job = submitted.stdout.strip()
    try:
        begun = stamp_of(here / "begun", bed, job)
        first = stamp_of(here / "first", bed, job)
        time.sleep(DRIVER_S / 2)
        own = list(raycluster_processes(host_inits(bed))) if "raycluster" in way.name else []
        last = stamp_of(here / "last", bed, job)
        free = until_free(bed, job)
    except TimeoutError as error:
        bed.run(LOGIN, ["scancel", job])
        text = (here / "output").read_text(errors="replace") if (here / "output").exists() else ""
        raise RunFailed(f"{way.name} on {hosts} hosts: {error}\n{text[-3000:]}") from None
    after = meter.seconds()
    nodes = here / "nodes"
    output = (here / "output").read_bytes()
    return Run(
        way=way.name,
        hosts=hosts,
        round=number,
        start_s=first - begun,
        end_s=free - last,
        nodes_s=float(nodes.read_text()) - begun if nodes.exists() else None,
        cpu_s=after - before if after is not None and before is not None else None,
        output_bytes=len(output) - output.count(b"driver: first line\n") * len(b"driver: first line\n"),
        own_peak_bytes=_largest_pair(own),
        phases=_phases(bed, job, begun) if own else {},
    )


def host_inits(bed: Bed) -> dict[int, str]:
    """The first process of each of the bed's hosts, by its pid here."""
    found = {}
    for host in bed.spec.nodes:
        process = Process.load(bed.directory / "hosts" / f"{host}.json")
        if process is not None:
            found[process.pid] = host
    return found


def stamp_of(path: Path, bed: Bed, job: str, deadline_s: float = DEADLINE_S) -> float:
    """The time that a file tells, once it is there.  TimeoutError, also when the job ends without it."""
    look_at = time.monotonic() + 10.0

    def there() -> bool:
        nonlocal look_at
        if time.monotonic() > look_at:
            look_at = time.monotonic() + 10.0
            if _is_over(bed, job) and not path.exists():
                raise TimeoutError(f"the job ended, and its driver has never stamped {path.name}")
        return path.exists()

    _wait(there, f"no {path.name}", 0.02, deadline_s)
    return float(path.read_text())


def _is_over(bed: Bed, job: str) -> bool:
    return not bed.run(LOGIN, ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]).stdout.strip()


def until_free(bed: Bed, job: str) -> float:
    """The time at which Slurm no longer lists the job."""
    _wait(lambda: _is_over(bed, job), "the job does not end", 0.05)
    return time.time()


def _wait(true: Callable[[], bool], otherwise: str, poll_s: float, deadline_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {deadline_s:g} s")
        time.sleep(poll_s)


def _largest_pair(processes: list[ProcessCost]) -> int | None:
    """The most that keeper and supervisor of one host took together; pages that they share count once."""
    by_host: dict[str, int] = {}
    for one in processes:
        if one.role in ("keeper", "supervisor"):
            grown = one.peak_rss_bytes - one.rss_bytes
            by_host[one.host] = by_host.get(one.host, 0) + one.pss_bytes + grown
    return max(by_host.values(), default=None)


def _phases(bed: Bed, job: str, begun: float) -> dict[str, dict[str, float]]:
    from raycluster_cli.state.record import Record

    state = bed.path(LOGIN, "/home/admin/.raycluster")
    words = Record.open(state / "bed" / job).read_nodes()
    return {
        host: {phase: round(when - begun, 3) for phase, when in word.phases.items()}
        for host, word in words.items()
    }
