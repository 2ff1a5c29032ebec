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

from . import __version__
from .config import Settings, option_name, settings_of, variable_name
from .errors import ExitCode, RayclusterError, UsageError

if TYPE_CHECKING:
    from .keeper import Keeper
    from .slurm import Allocation

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
    from .slurm import Allocation

    env = _environment()
    if settings.local is not None:
        from .local import run_local

        sys.exit(run_local(settings, env, tuple(driver or ()), _keeper, _state_dir(settings, env)))
    allocation = Allocation.from_environ(env)
    if allocation is None or not allocation.in_task:
        where = (
            "outside a Slurm job" if allocation is None else "in a batch script or shell, not in an srun task"
        )
        raise UsageError(
            f"`raycluster run` was started {where}; it takes its rank from srun.",
            "Use `srun raycluster run -- …`, or `raycluster run --local 2 -- …` for this machine alone.",
        )
    if _spare_task(allocation):
        return
    kind = "head" if allocation.procid == 0 else "worker"
    _run_node(kind, settings, allocation, env, tuple(driver or ()), symmetric=True)


# -- what the commands share --------------------------------------------------------------------


def _environment() -> Mapping[str, str]:
    """The environment, read once; a copy, so that nothing below can change it."""
    return dict(os.environ)


def _state_dir(settings: Settings, env: Mapping[str, str]) -> Path:
    if settings.state_dir:
        return Path(settings.state_dir).expanduser().absolute()
    return Path(env.get("HOME") or os.path.expanduser("~")) / ".raycluster"


def _spare_task(allocation: Allocation | None) -> bool:
    """Whether another task of this step on this node does the work; says so."""
    if allocation is None or allocation.is_first_task_on_node:
        return False
    print(
        f"raycluster: task {allocation.procid} shares {allocation.node_name} with another task of its step, "
        "which joins for the whole node; this one has nothing to do. Use --ntasks-per-node=1 to avoid it.",
        file=sys.stderr,
    )
    return True


def _check_in_allocation(
    allocation: Allocation | None, env: Mapping[str, str], command: str, told: bool
) -> None:
    """A shell of salloc may run on the login node, which is not part of the job."""
    if allocation is None or told or allocation.node_name is not None or not allocation.job_nodes:
        return
    here = socket.gethostname()
    tasks = "-N1 -n1 " if command == "head" else ""
    if not {here, here.partition(".")[0]} & set(allocation.job_nodes):
        raise UsageError(
            f"`raycluster {command}` was started on {here}, which is not a node of job {allocation.job_id}.",
            f"Start it on the job's nodes: srun {tasks}raycluster {command} …",
        )


def _run_node(
    kind: str,
    settings: Settings,
    allocation: Allocation | None,
    env: Mapping[str, str],
    driver: tuple[str, ...] = (),
    symmetric: bool = False,
) -> None:
    """Run this node to its end and end the process with its exit code."""
    import asyncio

    from .head import HeadRun
    from .lifecycle import Context
    from .status import Role
    from .worker import WorkerRun

    given = env.get("RAYCLUSTER_KEY", "")
    host = env.get("RAYCLUSTER_NODE_NAME", "") or (allocation.node_name if allocation else None)
    host = host or socket.gethostname().partition(".")[0]
    context = Context(
        settings=settings,
        env=env,
        allocation=allocation,
        role=Role(kind),
        key=given or (allocation.key if allocation else f"{host}-{os.getpid()}"),
        key_given=bool(given),
        slurm_cluster=(allocation.cluster_name if allocation else "") or "local",
        host=host,
        node_ip=env.get("RAYCLUSTER_NODE_IP", ""),
        state_dir=_state_dir(settings, env),
        driver=driver,
        keeper=_keeper,
        launched=_process_start(),
        symmetric=symmetric,
    )
    node = HeadRun(context) if kind == "head" else WorkerRun(context)
    sys.exit(asyncio.run(node.run()))


def _process_start() -> float:
    """Unix seconds at which the task's process started: the keeper's, which came first."""
    from .proctree import read_stat

    stat = read_stat(os.getppid() if _keeper else os.getpid())
    if stat is None:
        return time.time()
    with open("/proc/uptime", encoding="ascii") as file:
        up_s = float(file.read().split()[0])
    return time.time() - up_s + stat.start_ticks / os.sysconf("SC_CLK_TCK")
