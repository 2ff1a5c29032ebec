"""`raycluster url` and `raycluster tunnel`, and the wait of `submit --wait-ready`."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import ExitCode, RayclusterError, UsageError
from ..model.wording import duration
from ..system.report import say
from .help import Command
from .look import JOB, STATE_DIR, ask_slurm, find_status, state_dir

if TYPE_CHECKING:
    from ..model.cluster_status import ClusterStatus
    from ..ops.server_readiness import Waited

#: A line of progress that is longer is cut.
_LINE = 150

#: Within this time after the submission of a job it is normal that raycluster has not started in it yet.
_STARTS_S = 30.0
_STARTS = "the job runs; raycluster has not started in it yet"


def url(
    job: str = JOB,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
    wait: float | None = typer.Option(
        None, "--wait", metavar="SECONDS", help="Wait at most this long until the server is ready."
    ),
    directory: str = STATE_DIR,
) -> None:
    """Print the URL of a server (--service).

    The URL is that of the head's node, as other nodes and the login node reach it.

    Exit codes: 0 the server is ready; 4 it starts, also after a restart; 5 it does not answer; 1 there is no
    server, or the cluster has ended; 2 no such cluster.

    \b
    Examples:
      raycluster url 4711
      raycluster url 4711 --wait 600 --json
    """
    from ..ops.lookup import Looker
    from ..ops.server_readiness import Waited, await_ready, is_ready, refuse_other_drivers
    from ..ops.status_json import service_json
    from ..state.catalogue import owner_of

    env = dict(os.environ)
    where = state_dir(directory, env)
    if wait is not None:
        look = Looker(job, where, env)
        with Progress(where, env) as progress:
            found = await_ready(
                look.look, progress.tell, timeout_s=wait, clock=time.monotonic, sleep=time.sleep
            )
        if found.status is None and look.problem is not None:
            raise look.problem
    else:
        known = find_status(job, where, ask_slurm(env, owner_of(where)), env)
        if not known.is_over:
            refuse_other_drivers(known)
        found = Waited(known, is_ready(known))
    status = found.status
    if as_json:
        service = service_json(status.service) if status is not None and status.service else None
        print(json.dumps({"schema": 1, "job": job or (status.job if status else ""), "service": service}))
        sys.exit(int(ExitCode.FAILURE) if found.is_over else found.code)
    if status is None or found.is_over:
        raise RayclusterError(*_over(found, job))
    if status.service is None:
        say(f"cluster {status.title} has no URL yet: {status.headline}")
        sys.exit(found.code)
    print(status.service.url)
    if status.service.is_local:
        say(f"only {status.head_host} itself reaches it: raycluster tunnel {status.title}")
    if not found.ready:
        say(status.service_line)
    sys.exit(found.code)


def tunnel(
    job: str = JOB,
    target: int | None = typer.Argument(
        None, metavar="[PORT]", help="Port on the head's node. Default: the server's (--service)."
    ),
    open_: bool = typer.Option(False, "--open", help="Open an ssh tunnel from here until Ctrl-C."),
    port: int | None = typer.Option(None, "--port", metavar="PORT", help="Local port. Default: the same."),
    directory: str = STATE_DIR,
) -> None:
    """Show how to reach a server through ssh, or open a tunnel.

    For a server that listens on 127.0.0.1 only (--service-host 127.0.0.1), and for any other port of the
    head's node.

    Exit codes: 0 success; 1 there is no server, or ssh opened no tunnel; 2 no such cluster. With --open:
    ssh's exit code, or 130 after Ctrl-C.

    \b
    Examples:
      raycluster tunnel 4711
      raycluster tunnel 4711 --open --port 8000
      raycluster tunnel 4711 6006
    """
    from ..ops import tunnel as core
    from ..ops.clusters import find_once
    from ..ops.inside import live_head

    env = dict(os.environ)
    record = find_once(state_dir(directory, env), job, env)
    head = live_head(record)
    service = record.read_service() if head.service else None
    if target is None and service is None:
        raise RayclusterError(
            f"cluster {record.path.name} has no server (yet): none was started with --service.",
            f"Name the port on {head.host}: raycluster tunnel {record.path.name} PORT",
        )
    if target is not None and not 1 <= target <= 65535:
        raise UsageError(f"the port is {target}; a port is a number from 1 to 65535.")
    own = service is not None and target in (None, service.port)
    address = service.address if own and service is not None else f"127.0.0.1:{target}"
    if record.slurm_cluster == "local":
        print(f"http://{address}")
        return
    local = port if port is not None else int(address.rpartition(":")[2])
    if not open_:
        found = core.tunnel_to(address, head.host, local)
        print(core.instructions(found, "use"))
        return
    found = core.tunnel_to(address, head.host, core.free_local_port(local))
    say(shlex.join(found.from_here()))
    where = f"http://localhost:{found.local_port}   (Ctrl-C closes the tunnel)"
    hint = "Start the server with --service-host 0.0.0.0 and an API key: its URL then needs no tunnel."
    sys.exit(core.hold_tunnel(found, env, partial(print, where, flush=True), hint=hint))


def wait_ready(job: str, where: Path, env: Mapping[str, str]) -> int:
    """The wait of `submit --wait-ready`: returns the exit code; the URL is on stdout when it is ready."""
    from ..ops.lookup import Looker
    from ..ops.server_readiness import await_ready, last_lines

    look = Looker(job, where, env)
    with Progress(where, env) as progress:
        found = await_ready(look.look, progress.tell, timeout_s=None, clock=time.monotonic, sleep=time.sleep)
    if found.ready:
        assert found.status is not None and found.status.service is not None
        print(found.status.service.url, flush=True)
        return int(ExitCode.OK)
    lines = last_lines(found.status, where, env) if found.status is not None else []
    if lines:
        say("the server's last lines:")
        print("\n".join(f"    {line}" for line in lines), file=sys.stderr, flush=True)
    message, hint = _over(found, job)
    say(f"{message} {hint}".rstrip())
    return found.code


class Progress:
    """What the wait shows: on a terminal one line, cleared at the end; elsewhere a line for each change."""

    def __init__(
        self, where: Path, env: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._where = where
        self._env = env
        self._clock = clock
        self._began = clock()
        self._told = ""
        self._on_terminal = sys.stderr.isatty()

    def tell(self, status: ClusterStatus) -> None:
        from ..model.cluster_status import ClusterPhase
        from ..ops.server_readiness import last_line
        from .safe_status import safe_text

        waited_s = self._clock() - self._began
        waited = duration(waited_s)
        early = status.phase is ClusterPhase.NO_RECORD and waited_s < _STARTS_S
        text = _STARTS if early else safe_text(status.headline)
        if self._on_terminal:
            said = last_line(status, self._where, self._env)
            text = f"{waited}: {text}{f' | {said}' if said else ''}"
            columns = min(os.get_terminal_size(sys.stderr.fileno()).columns - 1, _LINE)
            print(f"\r\x1b[K{text[:columns]}", end="", file=sys.stderr, flush=True)
        elif text != self._told:
            self._told = text
            said = last_line(status, self._where, self._env)
            say(f"job {status.title}: {text} ({waited}){f'; it said: {said}' if said else ''}")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _over(found: Waited, job: str) -> tuple[str, str]:
    """Message and hint for a server that will not be ready any more."""
    status = found.status
    if status is None:
        return f"neither a record nor Slurm knows job {job} any more.", ""
    return (
        f"cluster {status.title} has ended: {status.headline.rstrip('.')}.",
        f"`raycluster why {status.title}` says more.",
    )


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(cls=Command)(url)
    app.command(cls=Command)(tunnel)
