"""The command line: options in, exit code out.

The options of head, worker and run come from the table model.settings.Settings, so that option,
environment variable, documentation and `raycluster env` agree.  What a command needs is imported when it
runs: `--help` imports neither Ray nor Rich.  Plain command lines of head, worker and run do not come here
at all: plain.py reads them, in a tenth of the time.
"""

from __future__ import annotations

import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Annotated, Any, get_type_hints

import typer

from .._version import __version__
from ..cli.errors import tell_errors
from ..model.errors import ExitCode, UsageError
from ..model.settings import Settings, option_name, settings_of, variable_name
from ..ops.chosen_settings import state_dir_of_files, with_files, with_variable
from ..supervisor.launch import Launcher
from . import (
    doctor as cli_doctor,
)
from . import (
    env as cli_env,
)
from . import (
    init as cli_init,
)
from . import (
    inside as cli_inside,
)
from . import (
    logs as cli_logs,
)
from . import (
    look as cli_look,
)
from . import (
    scale as cli_scale,
)
from . import (
    service as cli_service,
)
from . import (
    stop as cli_stop,
)
from . import (
    submit as cli_submit,
)
from . import (
    why as cli_why,
)
from .completion import complete_live_job, complete_one_of, complete_profile
from .files import CONFIGURATION, source_of
from .help import Command
from .plain import with_bare_values
from .suggestions import command_for

app = typer.Typer(
    name="raycluster",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

#: What a value has to be, by its name in the words of Click or, since Typer 0.29, of pydantic.
_NEEDED = {
    "integer": "a whole number",
    "float": "a number",
    "number": "a number",
    "boolean": "true or false",
}

#: What the shell offers for the value of a setting.
_COMPLETIONS: dict[str, Callable[..., Any]] = {
    "profile": complete_profile,
    "cluster": complete_live_job,
    "on_worker_loss": complete_one_of(("fail", "continue", "wait:")),
    **{
        one.name: complete_one_of(one.metadata["choices"])
        for one in fields(Settings)
        if "choices" in one.metadata
    },
}

#: Set by run_command_line: what this process was given at its start.
_launcher: Launcher


def run_command_line(launcher: Launcher) -> None:
    """Run the command line; errors that users can cause become one line and an exit code."""
    global _launcher
    _launcher = launcher
    tell_errors(_call)


def _call() -> None:
    """Call the application; Typer's errors of several lines become one of ours."""
    try:
        code = app(with_bare_values(sys.argv[1:]), prog_name="raycluster", standalone_mode=False)
    except typer.Abort:
        sys.exit(int(ExitCode.SIGINT))
    except Exception as error:
        if not hasattr(error, "format_message"):  # not one of Click's; Typer may bring its own copy of Click
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(int(ExitCode.USAGE))
        where = getattr(getattr(error, "ctx", None), "command_path", None) or _command_path(sys.argv[1:])
        said = error.format_message().strip().rstrip(".").replace("\n", " ")
        said = f"{said[:1].lower()}{said[1:]}"
        if (unknown := re.match(r"no such command '([^']*)'", said)) and where == "raycluster":
            meant = command_for(unknown[1], typer.main.get_command(app).commands)  # type: ignore[attr-defined]
            raise UsageError(
                f"there is no command {unknown[1]!r}.",
                f"Did you mean `raycluster {meant}`?" if meant else "`raycluster --help` lists the commands.",
            ) from error
        hint = f"`{where} --help` lists the options."
        if near := getattr(error, "possibilities", None):
            said = f"no such option: {getattr(error, 'option_name', '')}"
            hint = f"Did you mean {' or '.join(sorted(near))}? {hint}"
        parameter = getattr(error, "param", None)
        if found := _found(parameter, sys.argv[1:], _launcher.env):
            kind = re.search(r"\ban? (?:valid )?(integer|float|number|boolean)\b", said)
            said = (
                f"{found}; it must be {_NEEDED[kind[1]]}" if kind else f"{found}: {said.rpartition(': ')[2]}"
            )
        raise UsageError(f"{said}.", hint) from error
    sys.exit(code if isinstance(code, int) else 0)


def _command_names() -> list[str]:
    return list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _command_path(arguments: Sequence[str]) -> str:
    """The command that was called, for an error that does not know: an option without its value."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return f"raycluster {arguments[0]}" if arguments and arguments[0] in commands else "raycluster"


def _found(parameter: Any, arguments: Sequence[str], env: Mapping[str, str]) -> str:
    """What was given for a parameter that was refused: "--timeout is 'soon'"; '' when not known."""
    options = getattr(parameter, "opts", [])
    own = list(itertools.takewhile(lambda argument: argument != "--", arguments))
    for number, argument in reversed(list(enumerate(own))):  # of an option given twice, the last one counts
        name, equals, value = argument.partition("=")
        if name in options and (equals or number + 1 < len(own)):
            return f"{name} is {(value if equals else own[number + 1])!r}"
    variable = getattr(parameter, "envvar", None)
    if isinstance(variable, str) and env.get(variable):
        return f"{variable} is {env[variable]!r}"
    return ""


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
        autocompletion=_COMPLETIONS.get(one.name),
    )


def _with_settings(command: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command function the options of its settings; it gets one Settings.

    The function is called as ``function(settings=…, **its own parameters)``, with ``context`` where it has
    that parameter.  What the configuration files say is in the context's ``meta[CONFIGURATION]``.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(function).parameters)
        own.pop("settings")
        hints = get_type_hints(Settings)
        options = list(settings_of(command))

        def run(context: typer.Context, **values: Any) -> None:
            said = {one.name: values.pop(one.name) for one in options}
            given = {k: v for k, v in said.items() if v is not None and source_of(context, k) != "default"}
            more = {"context": context} if "context" in own else {}
            try:
                chosen = with_files(command, given, os.environ)
                context.meta[CONFIGURATION] = chosen.configuration
                function(settings=Settings(**chosen.values), **values, **more)
            except UsageError as error:
                variables = [name for name in given if source_of(context, name) == "variable"]
                raise with_variable(error, variables) from error.__cause__

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [
            context,
            *(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for name, parameter in own.items()
                if name != "context"
            ),
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


_DRIVER = typer.Argument(None, metavar="[-- DRIVER [ARG]...]", help="The program to run on the head.")
_DRIVER_SETTINGS = {"ignore_unknown_options": False, "allow_interspersed_args": False}


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Start, watch and stop a Ray cluster inside a Slurm allocation.

    \b
    Examples:
      srun raycluster run -- python train.py         in a batch script
      raycluster submit -N 2 -- python train.py      from a login node
      raycluster run --local 2 -- python train.py    on this machine
    """
    if version:
        print(f"raycluster {__version__}")
        raise typer.Exit
    # Commands that look at clusters have no other setting that a file can give.
    name = context.invoked_subcommand or ""
    command = context.command.commands.get(name)  # type: ignore[attr-defined]
    looks = command is not None and any(
        each.name == "directory" and "--state-dir" in each.opts for each in command.params
    )
    if looks and (directory := state_dir_of_files(os.environ)):
        context.default_map = {name: {"directory": directory}}


@app.command(cls=Command, context_settings=_DRIVER_SETTINGS)
@_with_settings("head")
def head(settings: Settings, driver: list[str] | None = _DRIVER) -> None:
    """Start the head and run the driver on it.

    The driver starts when the workers have joined. The exit code is the driver's. Without a driver the
    cluster runs until it is stopped.

    \b
    Example:
      raycluster head --expected-workers 3 -- python train.py
    """
    _launcher.start("head", settings, tuple(driver or ()))


@app.command(cls=Command)
@_with_settings("worker")
def worker(settings: Settings) -> None:
    """Join this node to a cluster until the cluster ends.

    \b
    Examples:
      srun raycluster worker
      raycluster worker --master-ip gpu01 --master-port 20480
      raycluster worker --cluster 4711               in a job of its own
    """
    _launcher.start("worker", settings)


@app.command(cls=Command, context_settings=_DRIVER_SETTINGS)
@_with_settings("run")
def run(settings: Settings, driver: list[str] | None = _DRIVER) -> None:
    """Run a whole cluster with one srun, or on this machine.

    Every task of the step runs this command: the first is the head and runs the driver, the others are
    workers. The exit code is the driver's. With --local N: a head and N workers on this machine, without
    Slurm.

    \b
    Examples:
      srun raycluster run -- python train.py
      raycluster run --local 2 -- python train.py
    """
    _launcher.start("run", settings, tuple(driver or ()))


@app.command("help", cls=Command)
def show_help(
    context: typer.Context,
    command: str = typer.Argument(
        "",
        metavar="[COMMAND]",
        help="The command. Default: all, one line each.",
        autocompletion=lambda incomplete: complete_one_of(_command_names())(incomplete),
    ),
) -> None:
    """Show the help of a command.

    \b
    Example:
      raycluster help submit
    """
    assert context.parent is not None
    group: Any = context.parent.command
    if not command:
        print(context.parent.get_help())
        return
    found = group.get_command(context.parent, command)
    if found is None:
        group.resolve_command(context.parent, [command])  # raises the error of an unknown command
    print(found.get_help(found.context_class(found, info_name=command, parent=context.parent)))


cli_look.register(app)
cli_stop.register(app)
cli_scale.register(app)
cli_why.register(app)
cli_env.register(app, _with_settings)
cli_submit.register(app, _with_settings)
cli_init.register(app)
cli_service.register(app)
cli_logs.register(app)
cli_inside.register(app)
cli_doctor.register(app, _with_settings)
