"""`raycluster status` and `raycluster monitor`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import RayclusterError, UsageError
from .completion import complete_job, complete_state
from .help import Command

if TYPE_CHECKING:
    from ..model.cluster_status import ClusterStatus
    from ..slurm.queue import Job
    from ..state.record import Record

#: What a person may give for JOB.
JOB_HELP = "Job id, id+name, cluster name, or the path of a record."

JOB = typer.Argument(
    "",
    metavar="[JOB]",
    help=f"{JOB_HELP} Default: this job's cluster, else the one that runs, else the newest.",
    autocompletion=complete_job,
)
ONE_OR_ALL = typer.Argument(
    "", metavar="[JOB]", help=f"{JOB_HELP} Default: all of them.", autocompletion=complete_job
)
STATE_DIR = typer.Option(
    "",
    "--state-dir",
    envvar="RAYCLUSTER_STATE_DIR",
    show_envvar=False,
    metavar="DIR",
    help="Directory of the records. Default: ~/.raycluster.",
)


def state_dir(given: str, env: Mapping[str, str]) -> Path:
    """The directory of the records, as `raycluster run` has it."""
    from ..state.location import state_dir_of

    return state_dir_of(given, env)


def ask_slurm(env: Mapping[str, str], uid: int | None = None) -> dict[str, Job] | None:
    """A user's jobs in Slurm, mine without ``uid``; on a terminal a line says so when squeue takes long."""
    import threading

    from ..slurm.queue import SQUEUE_TIMEOUT_S, query_jobs
    from ..system.report import say

    timer = threading.Timer(2.0, say, [f"waiting for squeue, up to {SQUEUE_TIMEOUT_S:g} s"])
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        return query_jobs(env, uid=uid)
    finally:
        timer.cancel()


def status(
    job: str = ONE_OR_ALL,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
    timing: bool = typer.Option(False, "--timing", help="Show how long each step of the start took."),
    all_: bool = typer.Option(False, "--all", "-a", help="List all clusters, not only the newest 20."),
    state: str = typer.Option(
        "",
        "--state",
        metavar="STATE[,STATE]",
        help="List only clusters in these states: running,failed.",
        autocompletion=complete_state,
    ),
    since: str = typer.Option(
        "", "--since", metavar="TIME", help="List only those that ran since then: 2h, 3d, 2026-11-27."
    ),
    directory: str = STATE_DIR,
) -> None:
    """List your clusters, or show one.

    Without JOB: one line per cluster, those that run first, then those that have ended, newest end first,
    with the exit code and the time of the end. `raycluster why JOB` explains an end.
    Works without Slurm's accounting, and also while Slurm does not answer.

    \b
    Examples:
      raycluster status
      raycluster status 4711
      raycluster status --state failed,lost --since 2d
      raycluster status 4711 --timing
      raycluster status 4711 --json | jq -r .state
    """
    import json
    import textwrap
    from dataclasses import replace

    from ..model.wording import count
    from ..ops.clusters import as_listed, of_whom, read_all, start_hint
    from ..ops.examination import cause_of
    from ..ops.pick import Pick
    from ..ops.status_json import cluster_json, list_json
    from ..state.catalogue import check_readable, owner_of
    from ..state.record import Record
    from .cluster_table import cluster_lines
    from .screen import facts, report
    from .terminal import glyphs_of, make_console, print_lines

    env = dict(os.environ)
    where = state_dir(directory, env)
    console = make_console(env)
    glyphs = glyphs_of(console)
    if (job or timing) and (state or since):
        reason = "JOB names one" if job else "--timing shows one"
        raise UsageError(f"--state and --since choose from the list of clusters, and {reason}.")
    check_readable(where)
    jobs = ask_slurm(env, owner_of(where))
    if not job and not timing:
        pick = Pick.parse(state, since)
        recorded = read_all(where, jobs, limit=10**9 if all_ or pick else 20)
        found = as_listed([*_without_record(where, jobs), *recorded])
        clusters = [each for each in found if pick.wants(each)]
        if as_json:
            print(json.dumps(list_json(clusters), indent=2))
        elif clusters:
            print_lines(console, cluster_lines(clusters, console.width, glyphs))
        elif found:
            print(f"None of {count(len(found), 'cluster')} in {where} is as --state and --since ask.")
        else:
            print(f"No clusters{of_whom(where)} in {where}. Start one: {start_hint(env).strip('`')}")
        return
    one = find_status(job, where, jobs, env)
    if one.is_over and one.exit_code != 0 and one.record:
        cause = cause_of(Record.at(Path(one.record)), where, env, lambda: jobs)
        one = replace(one, cause=cause)
    if as_json:
        print(json.dumps(cluster_json(one, timing=timing), indent=2))
        return
    if timing:
        from .drawing import ASCII
        from .timeline import timing_lines

        letters = glyphs is ASCII or console.color_system is None or console.no_color
        print_lines(console, timing_lines(one, console.width, glyphs, letters=letters))
        return
    print_lines(console, report(one, console.width, glyphs))
    print()
    for name, value in facts(one):
        for number, line in enumerate(textwrap.wrap(value, max(console.width - 13, 40)) or [""]):
            print(f"{name if number == 0 else '':>11}  {line}")
    if one.is_over and one.exit_code != 0:
        print(f"\nMore: raycluster why {one.title}")
    if not one.is_over and one.record:
        print(f"\nWatch it: raycluster monitor {one.title}   Stop it: raycluster stop {one.title}")


def monitor(
    job: str = JOB,
    once: bool = typer.Option(False, "--once", help="Print the present state and exit."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON: one document per line, at each change."),
    exit_status: bool = typer.Option(
        False,
        "--exit-status",
        help="Exit with the cluster's exit code (see above).",
    ),
    prometheus_file: str = typer.Option(
        "", "--prometheus-file", metavar="FILE", help="Keep FILE up to date in Prometheus's text format."
    ),
    directory: str = STATE_DIR,
) -> None:
    """Watch a cluster until it ends.

    On a terminal: a live screen. Elsewhere: one line per event. Works on a login node, inside the job
    and for `run --local`.

    Keys: q quits, the arrow keys and Page Up/Down scroll, g groups nodes by state.

    With --exit-status: the cluster's exit code once it has ended. With --once before that: 0 it runs on
    all nodes, 4 it starts and nodes are missing, 5 it runs on fewer nodes, is suspended or is lost.

    \b
    Examples:
      raycluster monitor
      raycluster monitor 4711 --once
      raycluster monitor 4711 --exit-status >> monitor.log
      raycluster monitor 4711 --json | jq --unbuffered -r .headline
    """
    from ..slurm.queue import query_jobs
    from . import monitor as screen

    env = dict(os.environ)
    where = state_dir(directory, env)
    options = screen.Options(once, as_json, Path(prometheus_file).absolute() if prometheus_file else None)
    record = await_record(job, where, env, once)
    last = screen.monitor(record, lambda: query_jobs(env, uid=record.owner), options, env)
    sys.exit(screen.exit_code(last) if exit_status else 0)


def await_record(
    job: str,
    where: Path,
    env: Mapping[str, str],
    once: bool,
    sleep: Callable[[float], object] = time.sleep,
) -> Record:
    """The record to watch; of a job that still waits in Slurm's queue, once it is there."""
    from ..model.cluster_status import ClusterPhase
    from ..ops.clusters import NO_RECORD_HINT, find_record
    from ..ops.lookup import without_record_yet
    from ..ops.no_record import refuse_job_of_others
    from ..slurm.queue import query_jobs
    from ..state.catalogue import NoRecordError
    from ..system.report import say

    told = ""
    while True:
        try:
            return find_record(where, job, env)
        except UsageError as error:
            found = without_record_yet(job, where, query_jobs(env))
            if found is None:
                if isinstance(error, NoRecordError):
                    refuse_job_of_others(job, where, env)
                raise
            if once:
                hint = "" if found.phase is ClusterPhase.PENDING else NO_RECORD_HINT.format(job=found.job)
                raise RayclusterError(f"job {job} has no cluster: {found.headline}.", hint) from None
            if found.headline != told:
                told = found.headline
                say(f"job {job}: {told}")
            sleep(5.0 if found.slurm_state == "PENDING" else 1.0)


def find_status(
    job: str, where: Path, jobs: Mapping[str, Job] | None, env: Mapping[str, str]
) -> ClusterStatus:
    """The cluster that a person means, also one that has no record (yet).  Raises UsageError."""
    from ..ops import lookup

    return lookup.find_status(job, where, jobs, env)


def _without_record(where: Path, jobs: Mapping[str, Job] | None) -> list[ClusterStatus]:
    """Jobs of `raycluster submit` without a record: they wait, or raycluster did not start in them."""
    from ..ops.clusters import job_without_record
    from ..state.catalogue import list_records

    known = {record.job_id for record in list_records(where)}
    return [
        job_without_record(each)
        for each in (jobs or {}).values()
        if each.id not in known and (where / "submitted" / each.id).exists()
    ]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(cls=Command)(status)
    app.command(cls=Command)(monitor)
