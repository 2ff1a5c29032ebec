"""`raycluster init`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from .help import Command


def init(
    directory: str = typer.Argument(".", metavar="[DIR]", help="Directory to write to; made if needed."),
    gpu: bool = typer.Option(False, "--gpu", help="Also a script and an example for GPU nodes."),
    service: bool = typer.Option(False, "--service", help="Also a script and an example of a server."),
    elastic: bool = typer.Option(False, "--elastic", help="Also for a cluster that grows: cluster.toml."),
    container: bool = typer.Option(False, "--container", help="Also a script for Ray in a container."),
    force: bool = typer.Option(False, "--force", help="Overwrite files of the same names."),
    show: bool = typer.Option(False, "--list", help="List the files that there are; write nothing."),
) -> None:
    """Write batch scripts and a driver for a new project.

    The scripts are commented line by line and run as they are, with the Python environment that is active
    or, where none with raycluster is, the one of this command. A raycluster.toml has settings and profiles
    for `raycluster submit`. No file is overwritten unless --force is given.

    \b
    Examples:
      raycluster init
      raycluster init project --gpu --elastic
      raycluster init --list

    Exit codes: 0 success; 1 the files cannot be written; 2 usage, or a file exists already.
    """
    from ..ops.project_files import KINDS, kind_of, next_steps, project_files, write_files

    if show:
        for each in project_files(KINDS, sys.executable):
            kind = kind_of(each.name)
            print(f"{each.name:<18}{f'--{kind}' if kind else '':<13}{each.about}")
        return
    given = {"gpu": gpu, "service": service, "elastic": elastic, "container": container}
    kinds = [kind for kind in KINDS if given[kind]]
    wanted = project_files(kinds, sys.executable)
    path = Path(directory)
    changed = write_files(path, wanted, force=force)
    for each in wanted:
        print(f"{path / each.name}{' (overwritten)' if each.name in changed else ''}: {each.about}")
    print("\nNext:")
    for command, about in next_steps(path, kinds):
        print(f"  # {about}\n  {command}" if about else f"  {command}")
    print("\nIf your site needs an account or a partition:\n  put it into raycluster.toml and the scripts.")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=Command)(init)
