"""The command line: options in, exit code out.

The options of head, worker and run come from the table of config.Settings, so that
option, environment variable, documentation and `raycluster env` are one.  What a
command needs is imported when it runs: `--help` imports neither Ray nor Rich.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from . import __version__, cli_look
from .config import Settings, option_name, settings_of, variable_name
from .launch import Launcher, tell_errors

app = typer.Typer(
    name="raycluster",
    help="Starts, watches and stops a Ray cluster inside a Slurm allocation.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

#: Set by run_command_line: the keeper that this process was forked from, if any.
_keeper: Keeper | None = None


def run_command_line(keeper: Keeper | None) -> None:
    """Run the command line; errors that users can cause become one line and an exit code."""
    global _keeper
    _keeper = keeper
    try:
        app()
    except RayclusterError as error:
        print(f"raycluster: error: {error}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        sys.exit(int(ExitCode.SIGINT))
    except BrokenPipeError:
        # The reader (head, less) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


def _option(one: Field[Any], hint: Any) -> Any:
    """The Typer option of a field of Settings."""
    name = option_name(one.name)
    declared = f"{name}/--no-{name[2:]}" if hint is bool else name
    metavar = one.metadata.get("metavar") or {float: "SECONDS", str: "TEXT", bool: None}.get(hint, "N")
    if "choices" in one.metadata:
        metavar = "|".join(one.metadata["choices"])
    return typer.Option(
        declared,
        *one.metadata.get("aliases", ()),
        envvar=variable_name(one.name),
        help=one.metadata["help"],
        show_default=one.default not in (None, "", False),
        show_envvar=False,
        metavar=metavar,
    )


def _with_settings(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of its settings; it gets one Settings and the sources.

    The function is called as ``function(context, settings=…, **its own parameters)``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function).parameters)
        own.pop("settings")
        hints = get_type_hints(Settings)
        options = list(settings_of(command))

        def run(**values: Any) -> None:
            chosen = {one.name: values.pop(one.name) for one in options}
            function(settings=Settings(**{k: v for k, v in chosen.items() if v is not None}), **values)

        parameters = [
            *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own.values()),
            *(
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=one.default,
                    annotation=_annotated(one, hints[one.name]),
                )
                for one in options
            ),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        return run

    return decorate


def _annotated(one: Field[Any], hint: Any) -> Any:
    return Annotated[hint, _option(one, hint)]


_DRIVER = typer.Argument(
    None, metavar="[-- DRIVER ARGS...]", help="The program to run on the head, after `--`."
)
_DRIVER_SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
) -> None:
    """Starts, watches and stops a Ray cluster inside a Slurm allocation."""
    if version:
        print(f"raycluster {__version__}")
        raise typer.Exit


@app.command(context_settings=_DRIVER_SETTINGS)
@_with_settings("head")
def head(settings: Settings, driver: list[str] | None = _DRIVER) -> None:
    """Start the head, wait for its workers, run the driver and end with its exit code.

    Without a driver it stays, watching, until it is stopped.

    Example: raycluster head --expected-workers 3 -- python train.py
    """
    from .slurm import Allocation

    env = _environment()
    allocation = Allocation.from_environ(env)
    if allocation and allocation.procid and (allocation.step_tasks or 1) > 1:
        raise UsageError(
            f"`raycluster head` runs as task {allocation.procid} of {allocation.step_tasks}; "
            "a job has one head.",
            "Use `srun raycluster run -- …` for all tasks, or `srun -N1 -n1 raycluster head`.",
        )
    _check_in_allocation(allocation, env, "head", settings.expected_workers is not None)
    _run_node("head", settings, allocation, env, tuple(driver or ()))


@app.command()
@_with_settings("worker")
def worker(settings: Settings) -> None:
    """Join this node to the head, stay, and end when the cluster ends.

    Example: srun raycluster worker --master-ip gpu01 --master-port 20480
    """
    from .slurm import Allocation

    env = _environment()
    allocation = Allocation.from_environ(env)
    if _spare_task(allocation):
        return
    _check_in_allocation(allocation, env, "worker", bool(settings.master_ip))
    _run_node("worker", settings, allocation, env)


@app.command(context_settings=_DRIVER_SETTINGS)
@_with_settings("run")
def run(settings: Settings, driver: list[str] | None = _DRIVER) -> None:
    """Run on every task of one srun: rank 0 is the head and runs the driver, the rest are workers.

    With --local N: a head and N workers on this machine, with no Slurm.

    Example: srun raycluster run -- python train.py
    """
    _launcher.start("run", settings, tuple(driver or ()))


cli_look.register(app)
