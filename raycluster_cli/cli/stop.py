"""`raycluster stop`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import ExitCode, RayclusterError, UsageError
from ..model.text import printable
from ..system import report
from .completion import complete_live_job
from .help import Command
from .look import STATE_DIR, ask_slurm, state_dir

if TYPE_CHECKING:
    from ..ops.stop import Surroundings
    from ..slurm.queue import Job
    from ..state.record import Record

_JOBS = typer.Argument(
    None,
    metavar="[JOB]...",
    help="Job ids, id+name, cluster names, or paths of records.",
    autocompletion=complete_live_job,
)


def stop(
    jobs: list[str] | None = _JOBS,
    all_: bool = typer.Option(False, "--all", help="Stop all your clusters, after a question."),
    yes: bool = typer.Option(
        False, "--yes", "-y", help="Do not ask; cancel a job in which raycluster does not start."
    ),
    timeout: float = typer.Option(
        60.0,
        "--timeout",
        metavar="SECONDS",
        help="How long to wait before the head is ended by force.",
    ),
    here: bool = typer.Option(
        False,
        "--here",
        help="Only on this node, by signals: end the head of JOB, and remove what crashed clusters left.",
    ),
    directory: str = STATE_DIR,
) -> None:
    """Stop clusters; remove what crashed ones left.

    Without JOB: the cluster of this job, else the only one that runs. The cluster shuts down cleanly:
    the driver gets SIGTERM, workers are drained, every node removes its files. A cluster that does not
    end within --timeout is ended by signals, then by scancel of its step or job; a head that is
    already ending gets at least its own --grace. A job that waits in
    Slurm's queue is cancelled; one that runs, but has no cluster yet, ends when its head starts.

    Exit codes: 0 all have ended; 1 one still runs; 2 no such cluster, or it is not clear which; 130
    after Ctrl-C (the clusters still end).

    \b
    Examples:
      raycluster stop
      raycluster stop 4711 4712
      raycluster stop --all --yes
      raycluster stop 4711 --timeout 300
    """
    from ..model.wording import count
    from ..ops.clusters import own
    from ..ops.stop import Outcome, Surroundings, end_here, stop_cluster, sweep_here, tell_swept
    from ..ops.stop_early import EarlyStop, named
    from ..state.catalogue import record_of

    env = dict(os.environ)
    where = state_dir(directory, env)
    screen = _Progress()
    around = Surroundings(env, say=screen.say, progress=screen.show, query=lambda: ask_slurm(env))
    if timeout < 0:
        raise UsageError(f"--timeout is {timeout:g}; it must be a number of seconds, 0 or more.")
    if here:
        ended = [end_here(own(record_of(where, job)), around) for job in jobs or []]
        screen.clear()
        tell_swept(sweep_here(env), screen.say)
        sys.exit(int(ExitCode.OK if all(each.is_good for each in ended) else ExitCode.FAILURE))
    if all_ and jobs:
        raise UsageError("--all was given together with JOB.", "Give one of them.")
    early = EarlyStop.of_slurm(around)
    without_record: list[Job] = []
    if all_:
        records = _all(where, around, yes)
    elif jobs:
        records, without_record = named(jobs, where, around, early)
    else:
        records = _only_one(where, around)
    for record in records:
        own(record)
    worst = Outcome.OVER
    several = len(records) + len(without_record) > 1
    asked = _ask_all(records) if several else []
    ends: list[tuple[str, Callable[..., Outcome]]] = [
        (record.path.name, partial(stop_cluster, record, requested=record in asked)) for record in records
    ]
    ends += [(job.shown_id, partial(early.stop, job, where, cancel=yes)) for job in without_record]
    try:
        for name, end in ends:
            try:
                outcome = end(around=around, deadline_s=timeout)
            except RayclusterError as error:
                if not several:
                    raise
                screen.say(f"{name} was not stopped: {error}")
                outcome = Outcome.FAILED
            worst = worst if outcome.is_good else outcome
    finally:
        screen.clear()
    swept = sweep_here(env)
    tell_swept(swept, screen.say)
    if all_ and not records and not swept:
        screen.say(f"no cluster of mine runs (records in {where}), and this node is clean")
    if not worst.is_good:
        screen.say(
            f"not all clusters have ended ({count(len(records) + len(without_record), 'stop')} requested)"
        )
        sys.exit(int(ExitCode.FAILURE))


def _ask_all(records: list[Record]) -> list[Record]:
    """Ask all heads at once to end, before one after the other is waited for; those that were asked."""
    asked = []
    for record in records:
        if record.read_end() is None:
            with contextlib.suppress(RayclusterError):  # told when it is its turn
                record.request_stop("raycluster stop")
                asked.append(record)
    return asked


class _Progress:
    """Lines on stderr; on a terminal the last one says what is being waited for."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._shown = ""

    def say(self, text: str) -> None:
        self.clear()
        report.say(text)

    def show(self, text: str) -> None:
        if not self._terminal or text == self._shown:
            return
        try:
            width = os.get_terminal_size(2).columns
        except OSError:
            width = 80
        sys.stderr.write(f"\r\x1b[K{printable(text)[: width - 1]}")
        sys.stderr.flush()
        self._shown = text

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = ""


def _only_one(where: Path, around: Surroundings) -> list[Record]:
    """The cluster of this job, else the only one that runs."""
    from ..ops.stop import running_clusters, sweep_here, tell_swept
    from ..state.catalogue import record_of

    inside = around.env.get("SLURM_JOB_ID", "")
    if inside:
        try:
            return [record_of(where, inside)]
        except UsageError:
            pass
    found = running_clusters(where, around.jobs())
    running = [(record, status) for record, status in found if not status.is_over]
    if len(running) == 1:
        return [running[0][0]]
    if running:
        names = ", ".join(status.title for _, status in running[:8])
        raise UsageError(f"{len(running)} clusters run: {names}.", "Name one, or give --all.")
    swept = sweep_here(around.env)
    tell_swept(swept, around.say)
    if found or swept:  # lost clusters are cleared without being named: nobody uses them
        return [record for record, _ in found]
    raise UsageError(
        f"no cluster of mine runs (records in {where}).", "`raycluster status` lists those that ended."
    )


def _all(where: Path, around: Surroundings, yes: bool) -> list[Record]:
    from ..ops.stop import running_clusters
    from .cluster_table import cluster_lines
    from .terminal import glyphs_of, make_console, print_lines

    running = running_clusters(where, around.jobs())
    if not running or yes:
        return [record for record, _ in running]
    console = make_console(around.env, sys.stderr)
    print_lines(console, cluster_lines([status for _, status in running], console.width, glyphs_of(console)))
    _ask(f"Stop {'this cluster' if len(running) == 1 else f'these {len(running)} clusters'}?")
    return [record for record, _ in running]


def _ask(question: str) -> None:
    """Yes, or the end; UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError(f"nobody can be asked here: {question}", "Give --yes.")
    if not typer.confirm(question, err=True):
        raise RayclusterError("nothing was stopped.")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(cls=Command)(stop)
