"""`raycluster logs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import RayclusterError, UsageError
from .completion import complete_component, complete_node
from .look import JOB, STATE_DIR, await_record, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..model.record import NodeReport
    from ..ops.logs import Source
    from ..state.record import Record


def logs(
    job: str = JOB,
    node: str = typer.Option(
        "",
        "--node",
        "-n",
        metavar="HOST",
        help="Of which node, for raylet. Default: the one that failed, else the head's.",
        autocompletion=complete_node,
    ),
    component: str = typer.Option(
        "",
        "--component",
        "-c",
        metavar="driver|raycluster|raylet|gcs",
        help="Default: the job's output, driver and raycluster as they came.",
        autocompletion=complete_component,
    ),
    lines: int = typer.Option(
        50, "--lines", metavar="N", help="So many lines of the end of each file; -1: all."
    ),
    follow: bool = typer.Option(
        False, "--follow", "-f", help="Go on, until the cluster has ended. Ctrl-C ends it."
    ),
    directory: str = STATE_DIR,
) -> None:
    """Show what a cluster has written.

    The job's output, or the logs of Ray's processes on a node.
    Without JOB: the cluster of this job, else the one that runs, else the newest. driver and raycluster
    are parts of the job's output. raylet and gcs are read on the node while the cluster runs, and from
    the record after that: kept when it failed, always with --keep-logs always.

    Exit codes: 0; 1 what was asked for is not there (a line says why); 2 no such cluster or node.

    \b
    Examples:
      raycluster logs 4711 --follow
      raycluster logs 4711 -c raylet -n gpu07 --lines 200
    """
    from ..ops import logs as core
    from ..ops.reader import find_record
    from ..state.submitted import output_of

    env = dict(os.environ)
    where = state_dir(directory, env)
    if component and component not in core.COMPONENTS:
        raise UsageError(f"--component is {component!r}; it must be one of {', '.join(core.COMPONENTS)}.")
    try:
        record = await_record(job, where, env, once=not follow) if job else find_record(where, job, env)
    except UsageError:
        output = output_of(where, job) if job and component in ("", "driver", "raycluster") else ""
        if not output or not os.path.exists(output):
            raise
        # Submitted, and ended (or not yet there) before raycluster had written anything.
        _show([core.Source(Path(output), component)], lines, follow, lambda: _job_is_over(job, env))
        return

    def is_over() -> bool:
        return record.read_end() is not None and not _has_live_nodes(record)

    if component in core.FILES:
        _ray_logs(record, node, component, lines, follow, env)
        return
    try:
        path = core.job_output(record, where, env)
    except RayclusterError:
        if component == "raycluster":
            for line in core.event_lines(record, lines):
                sys.stdout.buffer.write(line)
            return
        raise
    _show([core.Source(path, component)], lines, follow, is_over)


def _show(sources: list[Source], lines: int, follow: bool, is_over: object) -> None:
    from ..ops.logs import show

    try:
        show(sources, lines, follow=follow, is_over=is_over)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RayclusterError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _job_is_over(job: str, env: Mapping[str, str]) -> bool:
    from ..ops.follow import job_state

    state = job_state(job, env)
    return state is None or state.has_ended


def _has_live_nodes(record: Record) -> bool:
    """Whether the head has still to say good-bye: its last lines may be to come."""
    import time

    end, head = record.read_end(), record.read_head()
    if end is None or head is None or time.time() - end.when > 30:
        return False
    word = record.read_node(head.host)
    return word is not None and word.phase not in ("gone", "failed")


def _ray_logs(
    record: Record, node: str, component: str, lines: int, follow: bool, env: Mapping[str, str]
) -> None:
    """Logs of Ray's own processes on one node."""
    from ..ops.inside import choose_node, on_node, sees_directory
    from ..ops.logs import Source, kept_files, session_files

    end = record.read_end()
    if (
        not node
        and component == "raylet"
        and end is not None
        and (record.path / "logs" / end.failed_host).is_dir()
    ):
        node = end.failed_host
    word = choose_node(record, node)
    if component == "gcs" and word.role != "head":
        raise UsageError(f"the GCS runs on the head's node, not on {word.host}.", "Leave --node out.")
    kept = kept_files(record, word.host, component)
    if sees_directory(record, word, env):
        files = session_files(word, component)
        if files or not kept:
            _need(files, word, component, "it has not written any yet")
            _show([Source(path) for path in files], lines, follow, lambda: not os.path.isdir(word.node_root))
            return
    if kept:
        _show([Source(path) for path in kept], lines, False, lambda: True)
        return
    if end is not None or word.phase in ("gone", "failed"):
        _need(
            [],
            word,
            component,
            "the node's directory has gone, and none were kept; --keep-logs always keeps them",
        )
    if env.get("RAYCLUSTER_LOGS_HERE"):
        _need([], word, component, f"its directory {word.node_root} is not to be seen there")
    words = ["logs", str(record.path), "--node", word.host, "--component", component, "--lines", str(lines)]
    argv, outer = on_node(record, word, [*words, *(["--follow"] if follow else [])], env)
    sys.stdout.flush()
    os.execve(argv[0], argv, {**outer, "RAYCLUSTER_LOGS_HERE": "1"})


def _need(files: list[Path], word: NodeReport, component: str, why: str) -> None:
    if not files:
        raise RayclusterError(f"there are no logs of {component} on {word.host}: {why}.")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(logs)
