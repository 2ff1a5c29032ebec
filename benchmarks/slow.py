"""Starts from a slow shared file system, on Slurm hosts of a bed.

    python -m benchmarks.slow [--beside DIR ...] [--latency 0,1,3] [--rounds 1] [--hosts 3] [--ways WORDS]

Each build is installed, with its Python, below one directory that all hosts see through FUSE
(slow_files.py).  Each operation on it takes so many milliseconds longer, and the kernel keeps no attributes.
The builds and `ray symmetric-run` take turns:

* *first line*: from srun (the batch script's first line) to the first line of the driver
* *tasks*: until the driver has the result of a task of every node
* *operations*: of the file system, by all hosts together, until then

Needs root, Slurm's programs, fuse3 and the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import make_environment
from benchmarks.report import headline
from benchmarks.runs import stamp_of, until_free
from benchmarks.slow_files import SharedFigures, mounted
from benchmarks.ways import REPOSITORY
from tests.bed.bed import Bed
from tests.bed.spec import LOGIN, BedSpec

#: No run takes longer; one that does counts as failed.
DEADLINE_S = 900.0


@dataclass(frozen=True)
class SlowRun:
    """One run.  Seconds since srun; None when the run did not come so far."""

    way: str
    latency_ms: float
    first_s: float | None
    tasks_s: float | None
    operations: int


@dataclass(frozen=True)
class Way:
    """A way to run the driver: its name, the environment, and the command before it."""

    name: str
    environment: Path
    command: str
    """With {hosts} and {driver}."""


RAYCLUSTER = "srun --nodes={hosts} --ntasks-per-node=1 {bin}/raycluster run {options} -- {driver}"

SYMMETRIC = """
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=800
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
srun --nodes={hosts} --ntasks-per-node=1 \\
    {bin}/ray symmetric-run --address "${{nodes[0]}}:6379" --min-nodes {hosts} -- {driver}
"""


def main() -> None:
    options = _options()
    when = headline(version("ray"), time.time())
    # Not below /tmp, which each host has for itself.
    mount = Path(f"/srv/raycluster-slow-{os.getpid()}")
    with tempfile.TemporaryDirectory(prefix="slow-files-") as directory:
        source = Path(directory) / "shared"
        source.mkdir()
        ways = []
        for name, checkout in [
            *((Path(p).name, Path(p)) for p in options.beside),
            ("this build", REPOSITORY),
        ]:
            short = name.split()[0]
            make_environment(checkout.resolve(), source / short, mount / short)
            ways.append(Way(name, mount / short, RAYCLUSTER))
        ways += [
            Way(f"this build {words}", mount / "this", RAYCLUSTER.replace("{options}", words))
            for words in options.options
        ]
        ways.append(Way("ray symmetric-run", mount / "this", SYMMETRIC))
        wanted = [
            way for way in ways if not options.ways or any(w in way.name for w in options.ways.split(","))
        ]
        try:
            with mounted(source, mount, Path(directory) / "figures") as figures:
                runs = _measure(wanted, figures, options)
        finally:
            mount.rmdir()
    print(f"{when}\n\n{table(runs)}")


def _measure(ways: Sequence[Way], figures: SharedFigures, options: argparse.Namespace) -> list[SlowRun]:
    runs = []
    with Bed.up(f"slow-{os.getpid()}", BedSpec(hosts=options.hosts)) as bed:
        for way in ways:
            if way.command != SYMMETRIC:
                _first_start(bed, way, figures)
        for _ in range(options.rounds):
            for latency_ms in (float(word) for word in options.latency.split(",")):
                for way in ways:
                    run = run_once(bed, way, options.hosts, figures, latency_ms)
                    print(run, file=sys.stderr, flush=True)
                    runs.append(run)
                    if options.save:
                        Path(options.save).write_text(json.dumps([asdict(one) for one in runs]) + "\n")
    return runs


def _first_start(bed: Bed, way: Way, figures: SharedFigures) -> None:
    """The first start of an installation leaves compiled modules; it is not counted."""
    figures.latency_s = 0.0
    command = way.command.format(hosts=1, driver="sleep 2", bin=way.environment / "bin", options="")
    script = f"#!/bin/bash\nunset PYTHONDONTWRITEBYTECODE\n{command}\n"
    bed.run(LOGIN, ["sbatch", "--wait", "--nodes=1", "--output=/dev/null"], stdin=script, check=True)


def run_once(bed: Bed, way: Way, hosts: int, figures: SharedFigures, latency_ms: float) -> SlowRun:
    """Submit one job and measure it."""
    there = f"/home/admin/slow-{time.time_ns():x}"
    here = bed.path(LOGIN, there)
    here.mkdir()
    shutil.copy(REPOSITORY / "benchmarks/task_driver.py", here)
    driver = shlex.join([f"{way.environment}/bin/python", f"{there}/task_driver.py", there, str(hosts)])
    body = way.command.format(hosts=hosts, driver=driver, bin=way.environment / "bin", options="")
    script = f"""#!/bin/bash
export PATH={way.environment}/bin:$PATH
printf %s "$EPOCHREALTIME" > {there}/begun.part && mv {there}/begun.part {there}/begun
{body}
"""
    options = [f"--nodes={hosts}", "--ntasks-per-node=1", "--cpus-per-task=2", f"--output={there}/output"]
    figures.latency_s = latency_ms / 1000
    before = figures.operations
    job = bed.run(LOGIN, ["sbatch", "--parsable", *options], stdin=script, check=True).stdout.strip()
    stamps: dict[str, float] = {}
    operations = 0
    try:
        for name in ("begun", "first", "tasks"):
            stamps[name] = stamp_of(here / name, bed, job, deadline_s=DEADLINE_S)
            operations = figures.operations - before
    except TimeoutError as error:
        text = (here / "output").read_text(errors="replace") if (here / "output").exists() else ""
        print(f"{way.name}, {latency_ms:g} ms: {error}\n{text[-1500:]}", file=sys.stderr)
        bed.run(LOGIN, ["scancel", job])
    figures.latency_s = 0.0
    bed.run(LOGIN, ["scancel", job])
    until_free(bed, job)
    begun = stamps.get("begun", 0.0)
    return SlowRun(
        way.name,
        latency_ms,
        stamps["first"] - begun if "first" in stamps else None,
        stamps["tasks"] - begun if "tasks" in stamps else None,
        operations,
    )


def table(runs: Sequence[SlowRun]) -> str:
    """Medians, in Markdown.

    >>> print(table([SlowRun("a", 3.0, 1.0, 2.0, 10), SlowRun("a", 3.0, 3.0, None, 30)]).splitlines()[-1])
    | 3 | a | 2 | 2.0 (1.0 to 3.0) | 2.0 | 20 |
    """
    groups: dict[tuple[float, str], list[SlowRun]] = defaultdict(list)
    for run in runs:
        groups[run.latency_ms, run.way].append(run)
    lines = [
        "| latency (ms) | way | runs | srun → first line (s) | srun → tasks (s) | operations |",
        "|---|---|---|---|---|---|",
    ]
    for (latency_ms, way), group in sorted(groups.items(), key=lambda item: item[0][0]):
        first = [run.first_s for run in group if run.first_s is not None]
        tasks = [run.tasks_s for run in group if run.tasks_s is not None]
        cells = (
            *(f"{latency_ms:g}", way, str(len(group)), _median(first), _median(tasks)),
            f"{statistics.median(run.operations for run in group):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> str:
    if not values:
        return "–"
    median = f"{statistics.median(values):.1f}"
    return median if len(values) == 1 else f"{median} ({min(values):.1f} to {max(values):.1f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", action="append", default=[], help="another checkout, with its .venv")
    parser.add_argument("--latency", default="0,1,3", help="milliseconds of each operation (default: 0,1,3)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--ways", default="", help="only ways whose names hold one of these words")
    parser.add_argument(
        "--options", action="append", default=[], help="one more way: this build with these options of run"
    )
    parser.add_argument("--save", default="", metavar="FILE", help="all runs, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
