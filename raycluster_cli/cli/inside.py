"""Into a running cluster: `raycluster attach`, `exec`, `dashboard`, `submit-job`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..model.errors import RayclusterError, UsageError
from ..system.report import say
from .completion import complete_live_job, complete_node
from .help import Command
from .look import JOB_HELP, STATE_DIR, await_record, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..state.record import Record

ONE_JOB = typer.Argument(
    "",
    metavar="[JOB]",
    help=f"{JOB_HELP} Default: this job's cluster, else the one that runs.",
    autocompletion=complete_live_job,
)
NODE = typer.Option(
    "", "--node", "-n", metavar="HOST", help="The node. Default: the head's.", autocompletion=complete_node
)
WAIT = typer.Option(
    0.0,
    "--wait",
    metavar="SECONDS",
    min=0.0,
    help="Wait at most this long until the cluster's workers have joined. Default: do not wait.",
)
_COMMAND = typer.Argument(None, metavar="-- COMMAND [ARG]...", help="The command to run.")


class OnOneJob(Command):
    """A command of which JOB can be left out, also before `-- COMMAND`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = list(args)
        if "--" in args:
            cut = args.index("--")
            given = self.make_parser(ctx).parse_args(args[:cut])[0].get("job")
            if not isinstance(given, str):
                args.insert(cut, "")
            elif given.startswith("-"):  # an option of `ray job submit`
                args.insert(args.index(given), "")
        return super().parse_args(ctx, args)


def attach(
    job: str = ONE_JOB,
    node: str = NODE,
    directory: str = STATE_DIR,
) -> None:
    """Open a shell on a node of a running cluster.

    The shell has the driver's environment: RAY_ADDRESS, the token's file and PATH are set, so that
    ray.init() connects to the cluster. It runs inside the job by srun (ssh is not needed), takes no CPUs
    from the cluster and ends with the job. The exit code is the shell's.

    `ray list` and the like start Ray's dashboard when they need it; it is part of ray[default].

    \b
    Examples:
      raycluster attach
      raycluster attach 4711 --node gpu07
    """
    from ..ops.inside import choose_live_node, enter

    env = dict(os.environ)
    record = running_record(job, directory, env)
    enter(record, choose_live_node(record, node), (), env, pty=sys.stdin.isatty())


def execute(
    job: str = ONE_JOB,
    node: str = NODE,
    terminal: bool = typer.Option(False, "--tty", "-t", help="Give the command a terminal: top, an editor."),
    wait: float = WAIT,
    directory: str = STATE_DIR,
    command: list[str] | None = _COMMAND,
) -> None:
    """Run a command on a node of a running cluster.

    The command has the driver's environment and runs inside the job. The exit code is the command's.

    \b
    Examples:
      raycluster exec 4711 -- python evaluate.py
      raycluster exec 4711 -n gpu07 -- nvidia-smi
      raycluster exec 4711 -t -- top
      raycluster exec -- nvidia-smi
      raycluster exec --wait 300 -- python train.py
    """
    from ..ops.inside import choose_live_node, enter

    if not command:
        raise UsageError("there is no command.", "Give it after `--`: raycluster exec 4711 -- nvidia-smi.")
    if terminal and not sys.stdin.isatty():
        raise UsageError("-t needs a terminal, and the input of this command is none.", "Leave -t out.")
    env = dict(os.environ)
    if wait:
        ready_record(job, directory, env, node, wait)
    record = running_record(job, directory, env)
    enter(record, choose_live_node(record, node), command, env, pty=terminal)


def in_node(
    record_path: str,
    host: str,
    command: list[str] | None = typer.Argument(None),
    mark: str = typer.Option("", "--mark"),
) -> None:
    """The part of attach and exec that runs on the node; with a mark, that of the Python API."""
    from ..ops.inside import become
    from ..state.record import Record

    try:
        record = Record.open(Path(record_path))
        report = record.read_node(host)
        if report is None:
            raise RayclusterError(f"{host} sees no report of its own in the record {record_path}.")
        become(record, report, command or (), dict(os.environ))
    except RayclusterError as error:
        if not mark:
            raise
        from ..ops.start_error import marked_line

        print(marked_line(mark, error), file=sys.stderr, flush=True)
        sys.exit(int(error.exit_code))


def dashboard(
    job: str = ONE_JOB,
    open_: bool = typer.Option(False, "--open", help="Open an ssh tunnel from here until Ctrl-C."),
    port: int | None = typer.Option(None, "--port", metavar="PORT", help="Local port. Default: 8265."),
    directory: str = STATE_DIR,
) -> None:
    """Show how to reach a cluster's dashboard, or open a tunnel.

    The dashboard listens on the loopback address of the head's node and asks for the cluster's token. It
    starts when something connects to it for the first time, which takes some seconds, or with the driver
    (--dashboard). It is part of ray[default].

    Exit codes: 0 success; 1 there is no dashboard, or ssh opened no tunnel; 2 no such cluster. With
    --open: ssh's exit code, or 130 after Ctrl-C.

    \b
    Examples:
      raycluster dashboard 4711
      raycluster dashboard 4711 --open --port 9000
    """
    import shlex
    from functools import partial

    from ..ops import tunnel as core
    from ..ops.inside import choose_node, dashboard_address, is_here, live_head
    from ..system.report import say

    env = dict(os.environ)
    record = running_record(job, directory, env)
    head = live_head(record)
    address = dashboard_address(record, head)
    report = choose_node(record, head.host)
    if head.auth:
        print(f"The dashboard asks for the cluster's token: cat {record.token_path}", file=sys.stderr)
    if is_here(record, report, env):
        print(f"http://{address}")
        return
    if not open_:
        tunnel = core.tunnel_to(address, head.host, port)
        print(core.instructions(tunnel, "open"))
        return
    tunnel = core.tunnel_to(address, head.host, core.free_local_port(port))
    say(shlex.join(tunnel.from_here()))
    where = f"http://localhost:{tunnel.local_port}   (Ctrl-C closes the tunnel)"
    sys.exit(core.hold_tunnel(tunnel, env, partial(print, where, flush=True)))


def submit_job(
    context: typer.Context,
    job: str = ONE_JOB,
    directory: str = STATE_DIR,
    arguments: list[str] | None = typer.Argument(
        None, metavar="[RAY OPTIONS] -- COMMAND [ARG]...", help="As for `ray job submit`."
    ),
) -> None:
    """Run one more program on a running cluster by Ray's job API.

    Calls `ray job submit` on the head's node, which starts Ray's dashboard if it does not run yet; it is
    part of ray[default].
    Options before `--` are those of `ray job submit`: --no-wait, --working-dir, --runtime-env-json,
    --submission-id. The program's output is streamed. The exit code is Ray's: 1 when the program failed.

    `raycluster exec JOB -- COMMAND` needs no dashboard and has the program's own exit code.

    \b
    Examples:
      raycluster submit-job 4711 -- python evaluate.py
      raycluster submit-job 4711 --no-wait --working-dir . -- python evaluate.py
    """
    from ..ops.inside import choose_live_node, dashboard_address, enter, live_head

    env = dict(os.environ)
    options, command = _split(arguments or [])
    if not command:
        raise UsageError(
            "there is no command.", "Give it after `--`: raycluster submit-job 4711 -- python x.py."
        )
    record = running_record(job, directory, env)
    head = live_head(record)
    address = dashboard_address(record, head)
    ray = ("ray", "job", "submit", "--address", f"http://{address}")
    enter(record, choose_live_node(record), (*ray, *options, "--", *command), env)


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Ray's options and the command.

    >>> _split(["--no-wait", "--", "python", "x.py"])
    (['--no-wait'], ['python', 'x.py'])
    """
    if "--" in arguments:
        cut = arguments.index("--")
        return arguments[:cut], arguments[cut + 1 :]
    return [], arguments


def ready_record(job: str, directory: str, env: Mapping[str, str], node: str, wait_s: float) -> Record:
    """The record of a cluster once programs can run on it.  Raises RayclusterError."""
    from ..ops.clusters import find_record, own
    from ..ops.no_record import refuse_job_of_others
    from ..ops.readiness import wait_until_ready
    from ..state.catalogue import NoRecordError

    where = state_dir(directory, env)
    try:
        return wait_until_ready(lambda: own(find_record(where, job, env)), node, wait_s)
    except NoRecordError:
        refuse_job_of_others(job, where, env)
        raise


def running_record(job: str, directory: str, env: Mapping[str, str]) -> Record:
    """The record of a cluster that runs.  Raises RayclusterError."""
    from ..ops.clusters import own
    from ..ops.inside import live_head

    record = own(await_record(job, state_dir(directory, env), env, once=True))
    live_head(record)
    if record.slurm_cluster == "local" and record.leases.head_runs_here() is not True:
        raise RayclusterError(
            f"{record.path.name} is a cluster of `run --local` that does not run on this machine.",
            "Log in to the machine on which it was started.",
        )
    return record


def image_check(
    directory: str = typer.Option("", "--state-dir", help="The directory of the records."),
    ray: str = typer.Option("", "--ray", help="The version of Ray outside."),
) -> None:
    """Tell what the container image has in which this runs."""
    from ..ops.image_check import check_image

    for line in check_image(state_dir(directory, dict(os.environ)), ray):
        say(line)


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    as_ray = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command(cls=OnOneJob)(attach)
    app.command("exec", cls=OnOneJob, context_settings={"allow_interspersed_args": True})(execute)
    app.command(cls=OnOneJob)(dashboard)
    app.command("submit-job", cls=OnOneJob, context_settings=as_ray)(submit_job)
    app.command("in-node", hidden=True, context_settings={"allow_interspersed_args": False})(in_node)
    app.command("image-check", hidden=True)(image_check)
