"""The benchmark's command line; the package's docstring shows it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.idle import measure_idle
from benchmarks.join import environments
from benchmarks.meters import CpuMeter
from benchmarks.report import headline, plot, ratios, table, waterfall
from benchmarks.runs import Run, RunFailed, run_once
from benchmarks.ways import BESIDE, RAYCLUSTER, REPOSITORY, WAYS, Way, another_build, of_environment
from tests.bed.bed import Bed, missing
from tests.bed.spec import BedSpec


def main() -> int:
    options = _options()
    if options.show:
        saved = json.loads(Path(options.show).read_text())
        _show(saved["headline"], [Run(**run) for run in saved["runs"]], options.plot)
        return 0
    if why := missing(BedSpec()):
        print(f"benchmarks: {why}", file=sys.stderr)
        return 1
    hosts = [int(number) for number in options.hosts.split(",")]
    ways = [
        way for way in WAYS if not options.ways or any(one in way.name for one in options.ways.split(","))
    ]
    if options.beside:
        ways.append(another_build(Path(options.beside).resolve()))
    with contextlib.ExitStack() as stack:
        if options.installed:
            checkouts = [options.beside] if options.beside else []
            *beside, this = stack.enter_context(environments([*checkouts, str(REPOSITORY)]))
            ways = [of_environment(way, (beside[0] if way.name == BESIDE else this).root) for way in ways]
        return _run(options, hosts, ways)


def _run(options: argparse.Namespace, hosts: Sequence[int], ways: Sequence[Way]) -> int:
    when = headline(version("ray"), time.time())
    # No load of its own: what this process itself does is not counted, only what the bed does.
    meter = CpuMeter(f"raycluster-bench-{os.getpid()}")
    try:
        with meter:
            bed = Bed.up(f"bench-{os.getpid()}", BedSpec(hosts=max(hosts)))
        with bed:
            if options.idle:
                print(f"{when}\n\n{measure_idle(bed, min(3, max(hosts)), options.seconds)}")
                return 0
            runs, failed = _measure(bed, meter, ways, hosts, options, when)
    finally:
        meter.close()
    _show(when, runs, options.plot)
    return 1 if failed else 0


def _measure(
    bed: Bed,
    meter: CpuMeter,
    ways: Sequence[Way],
    hosts: Sequence[int],
    options: argparse.Namespace,
    when: str,
) -> tuple[list[Run], int]:
    """All runs, in turns; and how many failed."""
    runs: list[Run] = []
    failed = 0
    # Ray's files come from the page cache in every run: one that is not counted fetches them, and leaves
    # what an installation's first start makes.
    for way in ways:
        if way.name in (RAYCLUSTER.name, BESIDE):
            run_once(bed, meter, way, 1, 0, count_nodes=True)
    for number in range(1, options.rounds + 1):
        for count in hosts:
            for way in ways:
                for _ in range(way.turns):
                    try:
                        run = run_once(bed, meter, way, count, number, count_nodes=options.count_nodes)
                    except RunFailed as error:
                        failed += 1
                        print(f"round {number}: {error}", file=sys.stderr)
                        continue
                    runs.append(run)
                    if options.save:  # after each: a run of all takes an hour
                        saved = {"headline": when, "runs": [run.as_json() for run in runs]}
                        Path(options.save).write_text(json.dumps(saved) + "\n")
                    cpu = "" if run.cpu_s is None else f", {run.cpu_s:.1f} s of CPU"
                    print(
                        f"round {number}, {count} hosts, {way.name}: start {run.start_s:.2f} s, "
                        f"end {run.end_s:.2f} s{cpu}, {run.output_bytes} bytes",
                        file=sys.stderr,
                    )
    return runs, failed


def _show(when: str, runs: Sequence[Run], plot_path: str) -> None:
    print(f"{when}\n\n{table(runs)}\n\nraycluster over `ray symmetric-run`:\n\n{ratios(runs)}")
    if any(run.way == BESIDE for run in runs):
        print(f"\nraycluster over the other build:\n\n{ratios(runs, BESIDE)}")
    print(f"\nraycluster's steps, seconds since srun:\n\n{waterfall(runs)}")
    if plot_path:
        Path(plot_path).write_text(plot(runs, when.partition(";")[0]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--hosts", default="3", help="numbers of hosts, as in 1,2,4,8 (default: 3)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", default="", help="only ways whose names hold one of these words")
    parser.add_argument(
        "--beside", default="", metavar="DIR", help="another checkout, run in turns with this"
    )
    parser.add_argument(
        "--installed",
        action="store_true",
        help="each build in an environment of its own, as users install it",
    )
    parser.add_argument(
        "--count-nodes", action="store_true", help="the driver also connects and counts the nodes"
    )
    parser.add_argument("--save", default="", metavar="FILE", help="all runs, as JSON")
    parser.add_argument("--show", default="", metavar="FILE", help="only show what was saved")
    parser.add_argument("--plot", default="", metavar="FILE", help="draw the medians, as SVG")
    parser.add_argument("--idle", action="store_true", help="what an idle cluster of three hosts costs")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long --idle looks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
