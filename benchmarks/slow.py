"""Starts from a slow shared file system, on Slurm hosts of a bed.

    python -m benchmarks.slow [--beside DIR ...] [--latency 0,1,3] [--rounds 1] [--hosts 3] [--ways WORDS]

Each build is installed, with its Python, below one directory that all hosts see through FUSE
(slow_files.py).  Each operation on it takes so many milliseconds longer, and the kernel keeps no attributes.
The builds and `ray symmetric-run` take turns:

* *first line*: from srun (the batch script's first line) to the first line of the driver
* *tasks*: until the driver has the result of a task of every node
* *operations*: of the file system, by all hosts together, until then

With ``--options "--stage-env --keep-env"`` this build has a second cluster in the same job: the first one is
the way's "cold", the second one its "warm".

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
from collections.abc import Iterator, Sequence
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
    """One cluster.  Seconds since srun; operations of the file system until then."""

    way: str
    latency_ms: float
    first_s: float
    tasks_s: float
    first_operations: int
    operations: int


@dataclass(frozen=True)
class Way:
    """A way to run the driver: its name, the environment, and the command before it."""

    name: str
    environment: Path
    command: str
    """With {hosts} and {driver}."""

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters of one job, by the names of their rows."""
        return (f"{self.name}, cold", f"{self.name}, warm") if "--keep-env" in self.command else (self.name,)


RAYCLUSTER = "srun --nodes={hosts} --ntasks-per-node=1 {bin}/raycluster run {options} -- {driver}"

# Its workers give up after 40 s without a GCS, and after 60 s with only py_gcs_connect_timeout_s raised.
# With 3 ms both are before the head's Ray is imported.
SYMMETRIC = """
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=800
export RAY_py_gcs_connect_timeout_s=800
export RAY_gcs_rpc_server_reconnect_timeout_s=800
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
        for environment in dict.fromkeys(way.environment for way in ways):
            _first_start(bed, environment, figures)
        for _ in range(options.rounds):
            for latency_ms in (float(word) for word in options.latency.split(",")):
                for way in ways:
                    for run in run_job(bed, way, options.hosts, figures, latency_ms):
                        print(run, file=sys.stderr, flush=True)
                        runs.append(run)
                    if options.save:
                        Path(options.save).write_text(json.dumps([asdict(one) for one in runs]) + "\n")
    return runs


def _first_start(bed: Bed, environment: Path, figures: SharedFigures) -> None:
    """The first start of an installation leaves compiled modules; it is not counted."""
    figures.latency_s = 0.0
    command = RAYCLUSTER.format(hosts=1, driver="sleep 2", bin=environment / "bin", options="")
    script = f"#!/bin/bash\nunset PYTHONDONTWRITEBYTECODE\n{command}\n"
    submit = ["sbatch", "--wait", "--nodes=1", "--output=/dev/null"]
    bed.run(LOGIN, submit, stdin=script, check=True, timeout_s=DEADLINE_S)


def run_job(bed: Bed, way: Way, hosts: int, figures: SharedFigures, latency_ms: float) -> Iterator[SlowRun]:
    """Submit one job and measure its clusters."""
    there = f"/home/admin/slow-{time.time_ns():x}"
    here = bed.path(LOGIN, there)
    here.mkdir()
    shutil.copy(REPOSITORY / "benchmarks/task_driver.py", here)
    script = f"#!/bin/bash\nexport PATH={way.environment}/bin:$PATH\n"
    for number in range(len(way.clusters)):
        stamps = f"{there}/{number}"
        driver = shlex.join([f"{way.environment}/bin/python", f"{there}/task_driver.py", stamps, str(hosts)])
        body = way.command.format(hosts=hosts, driver=driver, bin=way.environment / "bin", options="")
        script += f"mkdir {stamps}\n"
        script += f'printf %s "$EPOCHREALTIME" > {stamps}/begun.part\nmv {stamps}/begun.part {stamps}/begun\n'
        script += f"{body}\n"
    options = [f"--nodes={hosts}", "--ntasks-per-node=1", "--cpus-per-task=2", f"--output={there}/output"]
    figures.latency_s = latency_ms / 1000
    job = bed.run(LOGIN, ["sbatch", "--parsable", *options], stdin=script, check=True).stdout.strip()
    try:
        for number, name in enumerate(way.clusters):
            yield _cluster(bed, job, here / str(number), name, figures, latency_ms)
    except TimeoutError as error:
        print(f"{way.name}, {latency_ms:g} ms: {error}", file=sys.stderr)
    finally:
        # The cause of a failure comes first; what follows can be long.
        text = (here / "output").read_text(errors="replace") if (here / "output").exists() else ""
        print(text if len(text) < 6000 else f"{text[:4000]}\n…\n{text[-2000:]}", file=sys.stderr)
        figures.latency_s = 0.0
        bed.run(LOGIN, ["scancel", job])
        until_free(bed, job)
        for host in bed.spec.nodes:  # what --keep-env has left
            bed.run(host, ["sh", "-c", "rm -rf /tmp/rce-*"])


def _cluster(
    bed: Bed, job: str, stamps: Path, name: str, figures: SharedFigures, latency_ms: float
) -> SlowRun:
    """Measure one cluster of a job.  Raises TimeoutError."""
    begun = stamp_of(stamps / "begun", bed, job, deadline_s=DEADLINE_S)
    before = figures.operations
    first = stamp_of(stamps / "first", bed, job, deadline_s=DEADLINE_S)
    first_operations = figures.operations - before
    tasks = stamp_of(stamps / "tasks", bed, job, deadline_s=DEADLINE_S)
    operations = figures.operations - before
    return SlowRun(name, latency_ms, first - begun, tasks - begun, first_operations, operations)


def table(runs: Sequence[SlowRun]) -> str:
    """Medians, in Markdown.

    >>> print(table([SlowRun("a", 3, 1, 2, 5, 10), SlowRun("a", 3, 3, 4, 7, 30)]).splitlines()[-1])
    | 3 | a | 2 | 2.0 (1.0 to 3.0) | 6 | 3.0 (2.0 to 4.0) | 20 |
    """
    groups: dict[tuple[float, str], list[SlowRun]] = defaultdict(list)
    for run in runs:
        groups[run.latency_ms, run.way].append(run)
    lines = [
        "| latency (ms) | way | runs | srun → first line (s) | operations | srun → tasks (s) | operations |",
        "|---|---|---|---|---|---|---|",
    ]
    for (latency_ms, way), group in sorted(groups.items(), key=lambda item: item[0][0]):
        cells = (
            *(f"{latency_ms:g}", way, str(len(group)), _median([run.first_s for run in group])),
            f"{statistics.median(run.first_operations for run in group):.0f}",
            _median([run.tasks_s for run in group]),
            f"{statistics.median(run.operations for run in group):.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> str:
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
