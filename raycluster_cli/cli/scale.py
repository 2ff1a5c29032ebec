"""`raycluster scale`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import typer

from ..model.errors import UsageError
from .completion import complete_change, complete_live_job
from .help import Command
from .look import JOB_HELP, STATE_DIR, state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..model.group_status import GroupStatus
    from ..state.record import Record

_JOB = typer.Argument(
    "",
    metavar="[JOB]",
    help=f"{JOB_HELP} Default: this job's cluster, else the one that runs.",
    autocompletion=complete_live_job,
)
_CHANGES = typer.Argument(
    None,
    metavar="[CHANGE]...",
    help="GROUP=N, GROUP=MIN..MAX, GROUP=+N or GROUP=-N; where there is one group also without its name.",
    autocompletion=complete_change,
)
#: -1 is a change, not an option.
_SETTINGS = {"ignore_unknown_options": True}


def scale(
    job: str = _JOB,
    changes: list[str] | None = _CHANGES,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
    serve: bool = typer.Option(
        False,
        "--serve",
        help="Submit and cancel the worker jobs from this host until the cluster ends, for a head whose node "
        "cannot.",
    ),
    directory: str = STATE_DIR,
) -> None:
    """Show or set how many nodes a cluster's worker groups have.

    GROUP=8 is exactly eight nodes. GROUP=0..32 lets the group grow and shrink with the work between these
    bounds. GROUP=+2 and GROUP=-1 are two more and one fewer than it has, and it stays at that size. All
    count nodes of worker jobs; those of the head's own job are always there.

    Exit codes: 0 success, with --serve once the cluster has ended; 130 after Ctrl-C; 2 no such cluster or
    group, or a cluster of a fixed size.

    \b
    Examples:
      raycluster scale 4711
      raycluster scale 4711 gpu=8
      raycluster scale 4711 gpu=0..32 cpu=+2
      raycluster scale 4711 -1
      raycluster scale 4711 --serve
    """
    from ..ops.clusters import find_once
    from ..ops.scaling import change_groups, groups_of, is_change

    env = dict(os.environ)
    where = state_dir(directory, env)
    words = list(changes or [])
    if is_change(job):
        job, words = "", [job, *words]
    if unknown := [word for word in (job, *words) if word.startswith("--")]:
        raise UsageError(f"there is no option {unknown[0]}.", "`raycluster scale --help` lists the options.")
    record = find_once(where, job, env)
    groups = change_groups(record, words) if words or serve else groups_of(record)
    if serve:
        _serve(record, env)
        return
    if as_json:
        from ..ops.groups import group_json
        from ..ops.status_json import SCHEMA

        found = {"schema": SCHEMA, "job": record.key, "name": record.name}
        print(json.dumps({**found, "groups": [group_json(group) for group in groups]}, indent=2))
    else:
        _show(groups, env)


def _serve(record: Record, env: dict[str, str]) -> None:
    """Run Slurm's commands for the head until the cluster has ended, or Ctrl-C."""
    from ..model.errors import ExitCode
    from ..ops.clusters import is_alive
    from ..ops.launch_server import serve
    from ..state.worker_jobs import WorkerJobFiles
    from ..system.report import say

    def ended() -> bool:
        return record.read_end() is not None or not is_alive(record)

    say(f"submitting worker jobs for cluster {record.path.name} until it ends; Ctrl-C stops it")
    try:
        serve(WorkerJobFiles(record.path), env, ended=ended, report=say)
    except KeyboardInterrupt:
        say(f"no worker job is submitted any more; to go on: raycluster scale {record.path.name} --serve")
        sys.exit(int(ExitCode.SIGINT))


def _show(groups: Sequence[GroupStatus], env: dict[str, str]) -> None:
    import time

    from .group_table import group_lines, job_lines
    from .safe_status import safe_groups
    from .terminal import glyphs_of, make_console, print_lines

    console = make_console(env)
    groups = safe_groups(groups)
    glyphs, now = glyphs_of(console), time.time()
    lines = group_lines(groups, console.width, now, glyphs)
    jobs = job_lines(groups, console.width, now, glyphs, 200)
    print_lines(console, [*lines, *([type(lines[0])(""), *jobs] if jobs else [])])


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(cls=Command, context_settings=_SETTINGS)(scale)
