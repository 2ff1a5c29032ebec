"""`raycluster logs`."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..model.errors import RayclusterError, UsageError
from ..system.report import say
from .completion import complete_component, complete_node
from .help import Command
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
        help="The node, for raylet; or a worker job, for its output. Default: the one that failed, else the "
        "head's.",
        autocompletion=complete_node,
    ),
    component: str = typer.Option(
        "",
        "--component",
        "-c",
        metavar="NAME",
        help="driver, raycluster, raylet or gcs. Default: the whole output of the job.",
        autocompletion=complete_component,
    ),
    lines: int = typer.Option(
        50, "--lines", metavar="N", help="Show the last N lines of each file; -1 shows all."
    ),
    follow: bool = typer.Option(False, "--follow", "-f", help="Show new lines until the cluster has ended."),
    directory: str = STATE_DIR,
) -> None:
    """Show the job's output, or the logs of Ray's processes.

    driver and raycluster are parts of the job's output. raylet and gcs are logs on a node: they are read
    there while the cluster runs, and afterwards from the record, which keeps them when the cluster
    failed (or always, with --keep-logs always).

    Exit codes: 0 success; 1 there is no such log (the message says why); 2 no such cluster or node.

    \b
    Examples:
      raycluster logs 4711 --follow
      raycluster logs 4711 -c raylet -n gpu07 --lines 200
      raycluster logs 4711 -n 4715_2                     of a worker job
    """
    from ..ops import logs as core
    from ..ops.clusters import find_record
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
        # Submitted, and ended (or not started yet) before raycluster had written anything.
        _show([core.Source(Path(output), component)], lines, follow, lambda: _job_is_over(job, env))
        return

    def is_over() -> bool:
        return record.read_end() is not None and not _has_live_nodes(record)

    if component in core.FILES:
        _ray_logs(record, node, component, lines, follow, env)
        return
    if node and (path := core.worker_job_output(record, node)) is not None:
        _show([core.Source(path, component)], lines, follow, is_over)
        return
    if node:
        say(
            f"warning: --node {node} has no effect: the output of all nodes is in one file. It belongs to "
            "--component raylet; the number of lines is --lines N"
        )
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
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise  # of the output, which cli.errors tells
        where = error.filename or sources[0].path
        raise RayclusterError(f"{where} cannot be read: {error.strerror}.") from error


def _job_is_over(job: str, env: Mapping[str, str]) -> bool:
    from ..slurm.job_state import job_state

    state = job_state(job, env)
    return state is None or state.has_ended


def _has_live_nodes(record: Record) -> bool:
    """Whether the head has not reported its end yet: its last lines may be to come."""
    import time

    end, head = record.read_end(), record.read_head()
    if end is None or head is None or time.time() - end.when > 30:
        return False
    report = record.read_node(head.host)
    return report is not None and not report.has_ended


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
        and os.path.isdir(record.path / "logs" / end.failed_host)
    ):
        node = end.failed_host
    report = choose_node(record, node)
    if component == "gcs" and report.role != "head":
        raise UsageError(f"the GCS runs on the head's node, not on {report.host}.", "Leave --node out.")
    kept = kept_files(record, report.host, component)
    if sees_directory(record, report, env):
        files = session_files(report, component)
        if files or not kept:
            _need(files, report, component, "Ray has not written any yet")
            _show(
                [Source(path) for path in files], lines, follow, lambda: not os.path.isdir(report.node_root)
            )
            return
    if kept:
        _show([Source(path) for path in kept], lines, False, lambda: True)
        return
    if end is not None or report.has_ended:
        _need(
            [],
            report,
            component,
            "the node's directory was removed, and no logs were kept (--keep-logs always keeps them)",
        )
    if env.get("RAYCLUSTER_LOGS_HERE"):
        _need([], report, component, f"its directory {report.node_root} is not visible there")
    arguments = [
        "logs",
        str(record.path),
        "--node",
        report.host,
        "--component",
        component,
        "--lines",
        str(lines),
    ]
    argv, outer = on_node(record, report, [*arguments, *(["--follow"] if follow else [])], env)
    sys.stdout.flush()
    os.execve(argv[0], argv, {**outer, "RAYCLUSTER_LOGS_HERE": "1"})


def _need(files: list[Path], report: NodeReport, component: str, why: str) -> None:
    if not files:
        raise RayclusterError(f"there are no logs of {component} on {report.host}: {why}.")


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(cls=Command)(logs)
