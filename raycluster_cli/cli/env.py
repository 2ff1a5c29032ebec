"""`raycluster env`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import typer

from ..model.errors import ExitCode, RayclusterError, UsageError
from ..model.settings import Settings
from ..model.text import printable
from .files import CONFIGURATION, source_of
from .help import Command
from .inside import ONE_JOB, WAIT, ready_record, running_record


def register(app: typer.Typer, with_settings: Callable[[str], Callable[[Any], Any]]) -> None:
    """Add the command to the command line."""
    app.command("env", cls=Command)(with_settings("env")(environment))


def environment(
    context: typer.Context,
    settings: Settings,
    job: str = ONE_JOB,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
    export: bool = typer.Option(
        False, "--export", help="Print instead what a shell evaluates to connect to a cluster that runs."
    ),
    wait: float = WAIT,
) -> None:
    """Show what a start would use here, and why.

    Every setting with its value and source (option, RAYCLUSTER_ variable, configuration file, Slurm, this
    node, default); what the files give a job of `raycluster submit`;
    the CPUs, memory and GPUs granted, by every source, and what Ray alone would assume; address, ports,
    directories, versions, limits. Works in batch scripts, srun tasks, salloc shells and outside Slurm.
    Takes every option of head, worker and run, to show what it would change.

    With --export: lines for a script whose driver is no child of raycluster, as in
    eval "$(raycluster env --export)" || exit. They set the driver's environment on this node: RAY_ADDRESS,
    the path of the token's file, PATH. The token is not in them. Where there is no such cluster, eval fails.

    Exit codes: 0 success; 1 a start on this node would fail; 2 usage.

    \b
    Examples:
      raycluster env
      srun -N1 -n1 raycluster env
      srun raycluster env --json > env.json
      raycluster env --num-cpus 4 --network 10.1.0.0/16
      raycluster env --export --wait 300
    """
    import json
    import shutil

    from ..ops.environment import look_around
    from ..ops.environment_page import as_json as to_json
    from ..ops.environment_page import as_lines
    from ..ops.job_profile import job_values
    from ..state.location import state_dir

    env = dict(os.environ)
    if export:
        _export(job, settings.state_dir, env, wait)
        return
    if job or wait:
        raise UsageError("JOB and --wait belong to --export.", 'eval "$(raycluster env --export JOB)"')

    found = look_around(settings, env, state_dir(settings, env), partial(source_of, context))
    found.submit = job_values(context.meta[CONFIGURATION])
    if as_json:
        print(json.dumps(to_json(found), indent=2))
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        for line in as_lines(found, width, wrap=sys.stdout.isatty()):
            print(printable(line))
    if found.problems:
        sys.exit(int(ExitCode.FAILURE))


def _export(job: str, directory: str, env: Mapping[str, str], wait_s: float) -> None:
    """Print the lines; where they cannot be, one that makes `eval` fail."""
    from pathlib import Path

    from ..ops.inside import node_here, shell_lines
    from ..rayproc.client import read_changes

    try:
        if wait_s:
            ready_record(job, directory, env, "", wait_s)
        record = running_record(job, directory, env)
        here = node_here(record, env)
        change, unset = read_changes(Path(here.node_root), here.host)
    except RayclusterError:
        print("false")
        raise
    for line in shell_lines(change, unset, env):
        print(line)
