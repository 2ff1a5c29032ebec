"""Into a running cluster: `raycluster attach`, `exec`, `dashboard`, `submit-job`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import RayclusterError, UsageError
from .completion import complete_job, complete_node
from .look import STATE_DIR, await_record, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..state.record import Record

ONE_JOB = typer.Argument(
    ...,
    metavar="JOB",
    help="Job id, job.rN, job+name, a name, or a record's path.",
    autocompletion=complete_job,
)
NODE = typer.Option(
    "", "--node", "-n", metavar="HOST", help="Which node. Default: the head's.", autocompletion=complete_node
)
_COMMAND = typer.Argument(None, metavar="-- COMMAND...", help="The command, after `--`.")


def attach(
    job: str = ONE_JOB,
    node: str = NODE,
    directory: str = STATE_DIR,
) -> None:
    """Open a shell on a node, inside a cluster's job.

    It sees the cluster as the driver does: RAY_ADDRESS, the token's file and the job's PATH are set, and
    a Python there is in after ray.init(). By srun in the job (no ssh is needed); on this machine for
    `run --local`. The shell takes no CPUs from the cluster, ends with the job, and passes its code on.
    (`ray list` and `ray memory` need --dashboard; for `ray status` take raycluster status.)

    \b
    Examples:
      raycluster attach 4711
      raycluster attach 4711 --node gpu07
    """
    from ..ops.inside import choose_live_node, enter

    env = dict(os.environ)
    record = _running(job, directory, env)
    enter(record, choose_live_node(record, node), (), env, pty=sys.stdin.isatty())


def execute(
    job: str = ONE_JOB,
    node: str = NODE,
    directory: str = STATE_DIR,
    command: list[str] | None = _COMMAND,
) -> None:
    """Run a command on a node, inside a cluster's job.

    It sees the cluster as the driver does; its exit code is passed on.

    \b
    Examples:
      raycluster exec 4711 -- python evaluate.py
      raycluster exec 4711 -n gpu07 -- nvidia-smi
    """
    from ..ops.inside import choose_live_node, enter

    if not command:
        raise UsageError("there is no command.", "Give it after `--`: raycluster exec 4711 -- nvidia-smi.")
    env = dict(os.environ)
    record = _running(job, directory, env)
    enter(record, choose_live_node(record, node), command, env)


def in_node(record_path: str, host: str, command: list[str] | None = typer.Argument(None)) -> None:
    """The part of attach and exec that runs on the node."""
    from ..ops.inside import become
    from ..state.record import Record

    record = Record.open(Path(record_path))
    word = record.read_node(host)
    if word is None:
        raise RayclusterError(f"the record {record_path} has no word of {host}, seen from there.")
    become(record, word, command or (), dict(os.environ))


def dashboard(
    job: str = ONE_JOB,
    open_: bool = typer.Option(False, "--open", help="Start the tunnel from here, and keep it until Ctrl-C."),
    port: int | None = typer.Option(None, "--port", metavar="PORT", help="Port at your end. Default: 8265."),
    directory: str = STATE_DIR,
) -> None:
    """Say how to reach a cluster's dashboard, or open a way.

    The dashboard listens on the loopback of the head's node, and asks for the cluster's token. It is
    started only when it was asked for (--dashboard), beside the driver, and needs ray[default].

    Exit codes: 0; 1 there is no dashboard, or ssh made no tunnel; 2 no such cluster; with --open at last
    ssh's own, or 130 after Ctrl-C.

    \b
    Examples:
      raycluster dashboard 4711
      raycluster dashboard 4711 --open --port 9000
    """
    import shlex
    from functools import partial

    from ..ops import tunnel as core
    from ..ops.inside import choose_node, is_here, live_head

    env = dict(os.environ)
    record = _running(job, directory, env)
    head = live_head(record)
    if not head.dashboard:
        raise _no_dashboard(record)
    word = choose_node(record, head.host)
    if head.auth:
        print(f"The dashboard asks for the cluster's token: cat {record.token_path}", file=sys.stderr)
    if is_here(record, word, env):
        print(f"http://{head.dashboard}")
        return
    if not open_:
        tunnel = core.tunnel_to(head.dashboard, head.host, port)
        print(
            "On your own machine (put in your way to this login node, should it have another name for you):\n"
        )
        print(f"    {shlex.join(tunnel.from_afar())}\n")
        print(f"and open http://localhost:{tunnel.local_port}")
        return
    tunnel = core.tunnel_to(head.dashboard, head.host, core.free_local_port(port))
    print(f"raycluster: {shlex.join(tunnel.from_here())}", file=sys.stderr)
    where = f"http://localhost:{tunnel.local_port}   (Ctrl-C closes the tunnel)"
    sys.exit(core.hold_tunnel(tunnel, env, partial(print, where, flush=True)))


def _no_dashboard(record: Record) -> RayclusterError:
    """Why there is none: not asked for, not there yet, or it did not start."""
    events = [event.text for event in record.read_events(1000) if "dashboard" in event.text]
    name = record.path.name
    if events:
        return RayclusterError(
            f"cluster {name} has no dashboard: {events[-1].removeprefix('warning: ')}.".replace("..", ".")
        )
    return RayclusterError(
        f"cluster {name} has no dashboard (yet): it comes beside the driver, some seconds after the "
        "start, and only when it was asked for.",
        "Start the cluster with --dashboard, or RAYCLUSTER_DASHBOARD=1; Ray needs ray[default] for it.",
    )


def submit_job(
    context: typer.Context,
    job: str = ONE_JOB,
    directory: str = STATE_DIR,
    words: list[str] | None = typer.Argument(
        None, metavar="[RAY OPTIONS] -- COMMAND...", help="What `ray job submit` takes."
    ),
) -> None:
    """Give a running cluster one more program.

    By Ray's own job API: `ray job submit` on the head's node.
    Needs the cluster's dashboard (--dashboard) and ray[default]. Options before `--` are those of
    `ray job submit`: --no-wait, --working-dir, --runtime-env-json, --submission-id. Its output is
    streamed; the exit code is Ray's, 1 when the program failed. Without a dashboard, and with the
    program's own exit code: raycluster exec JOB -- COMMAND.

    \b
    Examples:
      raycluster submit-job 4711 -- python evaluate.py
      raycluster submit-job 4711 --no-wait --working-dir . -- python evaluate.py
    """
    from ..ops.inside import choose_live_node, enter, live_head

    env = dict(os.environ)
    options, command = _split(words or [])
    if not command:
        raise UsageError(
            "there is no command.", "Give it after `--`: raycluster submit-job 4711 -- python x.py."
        )
    record = _running(job, directory, env)
    head = live_head(record)
    if not head.dashboard:
        error = _no_dashboard(record)
        raise RayclusterError(
            error.message,
            f"Ray's job API is part of it. {error.hint}".rstrip()
            + f" Without it: raycluster exec {record.path.name} -- …",
        )
    ray = ("ray", "job", "submit", "--address", f"http://{head.dashboard}")
    enter(record, choose_live_node(record), (*ray, *options, "--", *command), env)


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Ray's options and the command.

    >>> _split(["--no-wait", "--", "python", "x.py"])
    (['--no-wait'], ['python', 'x.py'])
    """
    if "--" in words:
        cut = words.index("--")
        return words[:cut], words[cut + 1 :]
    return [], words


def _running(job: str, directory: str, env: Mapping[str, str]) -> Record:
    from ..ops.inside import live_head

    record = await_record(job, state_dir(directory, env), env, once=True)
    live_head(record)
    if record.slurm_cluster == "local" and record.leases.head_runs_here() is not True:
        raise RayclusterError(
            f"{record.path.name} is a cluster of one machine, and not of this one (or it has gone).",
            "Log in where it was started.",
        )
    return record


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    words = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command()(attach)
    app.command("exec", context_settings={"allow_interspersed_args": True})(execute)
    app.command()(dashboard)
    app.command("submit-job", context_settings=words)(submit_job)
    app.command("in-node", hidden=True, context_settings={"allow_interspersed_args": False})(in_node)
