"""`raycluster monitor`: a cluster's record on the screen, as it changes.

On a terminal the screen is drawn anew each second, when a key is pressed and when the window changes;
elsewhere a line is printed when something happens.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import ExitCode, RayclusterError
from ..ops.reader import read_cluster
from ..ops.status_json import cluster_json, prometheus_text
from ..slurm.queue import Job
from ..state.record import Record
from .changes import Changes
from .feed import Feed
from .screen import View, live_screen, report
from .terminal import FullScreen, glyphs_of, make_console, pressed_keys, print_lines

#: After this long without a successful read of the record the screen says so.
STALE_S = 6.0

#: How long `--once` waits for measurements where nobody has watched before.
ONCE_S = 4.0


@dataclass(frozen=True)
class Options:
    """What the person asked for."""

    once: bool = False
    as_json: bool = False
    prometheus: Path | None = None


def exit_code(status: ClusterStatus) -> int:
    """The code of --exit-status: the cluster's own when it is over, else how it is now.

    0 it runs with all nodes (or stops, or waits in the queue); 4 nodes are missing in its start;
    5 it continues with fewer nodes, is suspended, or is lost.
    """
    if status.exit_code is not None:
        return status.exit_code
    if status.phase is ClusterPhase.STARTING:
        return int(ExitCode.WORKERS_MISSING)
    if status.phase in (ClusterPhase.DEGRADED, ClusterPhase.SUSPENDED, ClusterPhase.LOST):
        return int(ExitCode.UNHEALTHY)
    return int(ExitCode.OK)


def write_prometheus(path: Path, status: ClusterStatus) -> None:
    """Replace the file in one step, as scrapers of files want it.  Raises RayclusterError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(prometheus_text(status))
        beside.replace(path)
    except OSError as error:
        raise RayclusterError(
            f"cannot write {path}: {error.strerror or error}.", "Give --prometheus-file another place."
        ) from error


def monitor(
    record: Record,
    query: Callable[[], dict[str, Job] | None],
    options: Options,
    env: Mapping[str, str],
) -> ClusterStatus:
    """Show the cluster until it is over, the person leaves, or once.  Returns the last status."""
    console = make_console(env)
    if options.once:
        return _once(record, query, options, console)
    feed = Feed(record, query)
    feed.start()
    try:
        if console.is_terminal and not options.as_json and sys.stdin.isatty() and env.get("TERM") != "dumb":
            status = _live(feed, options, console)
            if status.is_over:
                print_lines(console, report(status, console.width, glyphs_of(console)))
            return status
        return _lines(feed, options)
    finally:
        feed.close()


def _once(
    record: Record, query: Callable[[], dict[str, Job] | None], options: Options, console: Console
) -> ClusterStatus:
    jobs = query() if record.slurm_cluster != "local" else None
    status = read_cluster(record, jobs)
    if not status.is_over and status.ready_nodes and not _is_measured(status) and record.watch():
        # Nothing was measured until now: the head notices within a second and measures, nodes soon after.
        deadline = time.monotonic() + ONCE_S
        while not _is_measured(status) and not status.is_over and time.monotonic() < deadline:
            time.sleep(0.2)
            status = read_cluster(record, jobs)
    if options.prometheus:
        write_prometheus(options.prometheus, status)
    if options.as_json:
        print(json.dumps(cluster_json(status), indent=2))
    elif not options.prometheus or console.is_terminal:
        print_lines(console, report(status, console.width, glyphs_of(console)))
    return status


def _is_measured(status: ClusterStatus) -> bool:
    members = [node for node in status.nodes if node.is_member]
    return all(node.usage is not None and node.usage.memory_used_bytes is not None for node in members)


def _live(feed: Feed, options: Options, console: Console) -> ClusterStatus:
    glyphs = glyphs_of(console)
    view = View(keys=True)
    drawn: tuple[Any, ...] = ()
    status: ClusterStatus | None = None
    with pressed_keys() as read_keys, FullScreen(console) as screen:
        while True:
            found, old_s = feed.latest()
            if found is not None:
                status = found
                stale = old_s if old_s > STALE_S else 0.0
                view = replace(view, stale_s=stale)
                now = (id(status), int(stale), console.size, view)
                if now != drawn:
                    drawn = now
                    width, height = console.size
                    screen.draw(live_screen(status, width, height, view, glyphs))
                    if options.prometheus:
                        write_prometheus(options.prometheus, status)
                if status.is_over:
                    return status
            for key in read_keys(0.1):
                if key in ("q", "Q", "\x1b"):
                    if status is not None:
                        return status
                    raise KeyboardInterrupt
                view = view_after(view, key, status, console.size.height)


def view_after(view: View, key: str, status: ClusterStatus | None, height: int) -> View:
    """The view after a key."""
    nodes = len(status.nodes) if status else 0
    page = max(height // 2, 1)
    steps = {
        "\x1b[A": -1,
        "k": -1,
        "\x1b[B": 1,
        "j": 1,
        "\x1b[5~": -page,
        "\x1b[6~": page,
        " ": page,
        "\x1b[H": -nodes,
        "\x1b[F": nodes,
    }
    if key in steps:
        return view.moved(steps[key], nodes)
    if key == "g":
        order: dict[bool | None, bool | None] = {None: False, False: True, True: None}
        return replace(view, groups=order[view.groups], offset=0)
    return view


def _lines(feed: Feed, options: Options) -> ClusterStatus:
    """A line for each event and each change of state; as JSON a document a line."""
    changes = Changes()
    while True:
        feed.wait(1.0)
        status, _ = feed.latest()
        if status is None:
            continue
        if options.prometheus:
            write_prometheus(options.prometheus, status)
        if options.as_json:
            if changes.any(status):
                print(json.dumps(cluster_json(status), separators=(",", ":")), flush=True)
        else:
            for line in changes.lines(status):
                print(line, flush=True)
        if status.is_over:
            return status
