"""`raycluster env`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from ..model.errors import ExitCode
from ..model.settings import Settings
from ..model.text import printable
from .help import Command


def register(app: typer.Typer, with_settings: Callable[[str], Callable[[Any], Any]]) -> None:
    """Add the command to the command line."""
    app.command("env", cls=Command)(with_settings("env")(environment))


def environment(
    context: typer.Context,
    settings: Settings,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
) -> None:
    """Show what a start would use here, and why.

    Every setting with its value and source (option, RAYCLUSTER_ variable, Slurm, this node, default);
    the CPUs, memory and GPUs granted, by every source, and what Ray alone would assume; address, ports,
    directories, versions, limits. Works in batch scripts, srun tasks, salloc shells and outside Slurm.
    Takes every option of head, worker and run, to show what it would change.

    Exit codes: 0 success; 1 a start on this node would fail; 2 usage.

    \b
    Examples:
      raycluster env
      srun -N1 -n1 raycluster env
      srun raycluster env --json > env.json
      raycluster env --num-cpus 4 --network 10.1.0.0/16
    """
    import json
    import shutil

    from ..ops.environment import look_around
    from ..ops.environment_page import as_json as to_json
    from ..ops.environment_page import as_lines
    from ..state.location import state_dir

    env = dict(os.environ)

    def source_of(name: str) -> str:
        source = context.get_parameter_source(name)
        return {"COMMANDLINE": "option", "ENVIRONMENT": "variable"}.get(
            source.name if source else "", "default"
        )

    found = look_around(settings, env, state_dir(settings, env), source_of)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
    else:
        for line in as_lines(found, shutil.get_terminal_size((100, 24)).columns):
            print(printable(line))
    if found.problems:
        sys.exit(int(ExitCode.FAILURE))
