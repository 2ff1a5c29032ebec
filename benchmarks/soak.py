"""Starts and stops for an hour beside a cluster that idles: whether anything grows.

    python -m benchmarks.soak --minutes 60      (make soak; needs Slurm's programs and root)

Prints a table for docs/performance.md, and exits with 1 if a figure is out of its bound or a run failed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.meters import raycluster_processes
from benchmarks.report import headline
from benchmarks.runs import host_inits
from benchmarks.ways import raycluster_command
from tests.bed.bed import Bed, missing
from tests.bed.spec import LOGIN, BedSpec

HOSTS = 3

#: Runs of one job, one after the other in its allocation.
STARTS_OF_A_JOB = 5

#: Log monitors have started by then, and Python has allocated what a run needs.
SETTLE_S = 30.0

STARTS_WITHIN_S, JOB_WITHIN_S = 120.0, 300.0

#: Where a host keeps what clusters leave: node's directories and shared memory.
PLACES = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass(frozen=True)
class Figure:
    """Something that must not grow without a bound."""

    name: str
    unit: str
    share: float
    """By so much of its first value it may grow …"""
    plus: float
    """… and by this, in its unit …"""
    per_hour: float = 0.0
    """… and by this for each hour."""

    def bound(self, first: float, hours: float) -> float:
        """What it may be after ``hours``.

        >>> Figure("memory", "MB", share=0.1, plus=2.0, per_hour=1.0).bound(20.0, hours=0.5)
        24.5
        """
        return first * (1 + self.share) + self.plus + self.per_hour * hours


#: Of the cluster that idles; sums over its three hosts.
FIGURES = (
    Figure("memory of keepers and supervisors", "MB", 0.05, 3.0),
    Figure("memory of companion and placeholders", "MB", 0.05, 3.0),
    Figure("open descriptors of all of these", "", 0.0, 12.0),
    Figure("processes of raycluster", "", 0.0, 0.0),
    Figure("files in /tmp, /var/tmp and /dev/shm", "", 0.0, 30.0, per_hour=30.0),
    # Ray's own logs: GCS and raylets write their statistics every minute.
    Figure("logs and other files in /tmp and /var/tmp", "kB", 0.0, 300.0, per_hour=8000.0),
    Figure("shared memory", "MB", 0.0, 1.0),
    Figure("files of its record", "", 0.0, 3.0),
    Figure("size of its record", "kB", 0.0, 20.0, per_hour=100.0),
)


@dataclass(frozen=True)
class Soak:
    """What was seen."""

    hours: float
    starts: int
    failed: int
    first: Mapping[str, float]
    """Values by the figures' names, once the cluster had settled."""
    last: Mapping[str, float]
    most: Mapping[str, float]
    left: Sequence[str]
    """What was on the hosts after the end and not before."""

    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        found = [f"{self.failed} of {self.starts} runs failed"] if self.failed else []
        found += [f"left behind: {line}" for line in self.left]
        for figure in FIGURES:
            bound = figure.bound(self.first[figure.name], self.hours)
            if self.last[figure.name] > bound:
                found.append(
                    f"{figure.name}: {self.last[figure.name]:.1f} {figure.unit}, at most {bound:.1f}"
                )
        return found

    def table(self) -> str:
        """The figures as markdown."""
        lines = [
            f"{self.starts} starts and stops on {HOSTS} hosts in {self.hours * 60:.0f} minutes "
            f"({STARTS_OF_A_JOB} in each job), {self.failed} failed, "
            f"{len(self.left)} files, processes or sockets left on the hosts.",
            "",
            "| The cluster that idled meanwhile, all hosts | at first | at the end | at most | allowed |",
            "|---|---|---|---|---|",
        ]
        for figure in FIGURES:
            first, last, most = (values[figure.name] for values in (self.first, self.last, self.most))
            bound = figure.bound(first, self.hours)
            digits = 1 if figure.unit == "MB" else 0
            unit = f" ({figure.unit})" if figure.unit else ""
            cells = " | ".join(f"{value:.{digits}f}" for value in (first, last, most, bound))
            lines.append(f"| {figure.name}{unit} | {cells} |")
        return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    if why := missing(BedSpec()):
        print(f"benchmarks: {why}", file=sys.stderr)
        return 1
    when = headline(version("ray"), time.time())
    spec = BedSpec(hosts=HOSTS, cpus=(16,), memory_mib=(16000,))
    with Bed.up(f"soak-{os.getpid()}", spec) as bed:
        soak = run(bed, options.minutes * 60)
    print(f"{when}\n\n{soak.table()}")
    for problem in soak.problems():
        print(f"soak: {problem}", file=sys.stderr)
    return 1 if soak.problems() else 0


def run(bed: Bed, seconds: float) -> Soak:
    """Start the cluster that idles, and others until the time is over."""
    idle = _submit(bed, f"exec {_srun('sleep', '1000000')}")
    _wait(lambda: _state_of(bed, idle) == "driver running", "the cluster that idles", STARTS_WITHIN_S)
    began = time.monotonic()
    starts = failed = 0
    first: dict[str, float] | None = None
    last: dict[str, float] = {}
    most: dict[str, float] = {}
    while time.monotonic() < began + seconds:
        failures = _starts_and_stops(bed)
        starts, failed = starts + STARTS_OF_A_JOB, failed + failures
        last = _figures(bed, idle)
        if first is None and time.monotonic() > began + SETTLE_S:
            first = last
        most = {name: max(value, most.get(name, 0.0)) for name, value in last.items()}
        print(f"{(time.monotonic() - began) / 60:.1f} min: {starts} starts, {failed} failed", file=sys.stderr)
    hours = (time.monotonic() - began) / 3600
    bed.run(LOGIN, ["scancel", idle], check=True)
    _wait(bed.idle, "idle nodes", JOB_WITHIN_S)
    left = [f"{host}: {line}" for host in bed.spec.names for line in bed.leftovers(host)]
    return Soak(hours, starts, failed, first or last, last, most, left)


def _starts_and_stops(bed: Bed) -> int:
    """One job with some runs.  Returns how many failed."""
    text = f"for i in $(seq {STARTS_OF_A_JOB}); do {_srun('true')} || echo FAILED >> ~/soak-failed; done"
    path = bed.path(LOGIN, "/home/admin/soak-failed")
    job = _submit(bed, text)
    _wait(lambda: not _waits_or_runs(bed, job), f"the end of job {job}", JOB_WITHIN_S)
    if not path.exists():
        return 0
    failed = path.read_text().count("FAILED")
    path.unlink()
    return failed


def _srun(*driver: str) -> str:
    task = [*raycluster_command(), "run", "--", *driver]
    return " ".join(["srun", f"-N{HOSTS}", "--ntasks-per-node=1", "--mem=0", *task])


def _submit(bed: Bed, script: str) -> str:
    options = [f"-N{HOSTS}", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=3000", "--output=soak-%j.out"]
    done = bed.run(
        LOGIN,
        ["sbatch", "--parsable", "--no-requeue", *options],
        stdin=f"#!/bin/bash\n{script}\n",
        check=True,
    )
    return done.stdout.strip()


def _waits_or_runs(bed: Bed, job: str) -> bool:
    return bool(bed.run(LOGIN, ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]).stdout.strip())


def _state_of(bed: Bed, job: str) -> str:
    """The phase of a cluster's head; empty while it has no record."""
    from raycluster_cli.state.record import Record

    path = _record(bed, job)
    report = Record.open(path).read_node("n1") if path.exists() else None
    return report.phase if report is not None else ""


def _record(bed: Bed, job: str) -> Path:
    return bed.path(LOGIN, "/home/admin/.raycluster") / "bed" / job


def _figures(bed: Bed, job: str) -> dict[str, float]:
    """The figures of the cluster that idles, while no other runs."""
    processes = list(raycluster_processes(host_inits(bed)))
    own = [one for one in processes if one.role in ("keeper", "supervisor")]
    others = [one for one in processes if one not in own and not one.role.endswith("(Ray's)")]
    places = [bed.path(host, place) for host in bed.spec.nodes for place in PLACES]
    files = [size for place in places for size in _sizes(place)]
    disks = [size for place in places if place.name != "shm" for size in _sizes(place)]
    shared = [size for place in places if place.name == "shm" for size in _sizes(place)]
    record = list(_sizes(_record(bed, job)))
    values = (
        sum(_anonymous_bytes(one.pid) for one in own) / 1e6,
        sum(_anonymous_bytes(one.pid) for one in others) / 1e6,
        sum(_descriptors(one.pid) for one in [*own, *others]),
        len(own) + len(others),
        len(files),
        sum(disks) / 1e3,
        sum(shared) / 1e6,
        len(record),
        sum(record) / 1e3,
    )
    return {figure.name: float(value) for figure, value in zip(FIGURES, values, strict=True)}


def _sizes(top: Path) -> Iterator[int]:
    """Bytes on disk of every file below."""
    for directory, _, names in os.walk(top):
        for name in names:
            try:
                status = (Path(directory) / name).lstat()
            except FileNotFoundError:
                continue
            yield status.st_blocks * 512


def _anonymous_bytes(pid: int) -> int:
    """Memory without pages of files: those are shared with whatever else runs on this machine."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def _descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _wait(true: object, what: str, within_s: float) -> None:
    assert callable(true)
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:g} s")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
