"""`raycluster monitor`: a cluster's record on the screen, as it changes.

On a terminal the screen is drawn anew each second, or when a key is pressed or the window
changes; elsewhere a line is printed when something happens.  The record and Slurm are read in
threads of their own, so that a file server that hangs does not take the keyboard with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ..model.errors import ExitCode, RayclusterError
from ..model.status import ClusterPhase, ClusterStatus, NodePhase
from ..ops.reader import read_cluster
from ..ops.status_json import cluster_json, prometheus_text
from ..slurm.queue import Job
from ..state.record import Record
from .screen import ASCII, UNICODE, Glyphs, View, clock_of, last_word, live_screen, report

#: How often the record is read; with many nodes more seldom, since each is a file to look at.
READ_S = 1.0
NODES_A_SECOND = 250.0

#: How often heads and nodes are told that somebody watches (usage.WATCHED_S is 15 s).
WATCH_S = 4.0

#: How often Slurm is asked; it changes little, and one controller serves a thousand people.
SLURM_S = 60.0

#: A record that has not been read for so long is told on the screen.
STALE_S = 6.0

#: How long `--once` waits for measurements where nobody has watched before.
ONCE_S = 4.0

#: Without a terminal: a sign of life at least so often.
QUIET_S = 60.0


class Feed:
    """The cluster's status, kept current by threads until closed."""

    def __init__(
        self,
        record: Record,
        query: Callable[[], dict[str, Job] | None],
        *,
        jobs: dict[str, Job] | None = None,
    ) -> None:
        self._record = record
        self._query = query
        self._jobs = jobs
        self._lock = threading.Lock()
        self._status: ClusterStatus | None = None
        self._at = time.monotonic()
        self._closed = threading.Event()
        self._changed = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        threading.Thread(target=self._read, daemon=True, name="record").start()
        if self._record.slurm_cluster != "local":
            threading.Thread(target=self._ask, daemon=True, name="slurm").start()

    def close(self) -> None:
        self._closed.set()

    def latest(self) -> tuple[ClusterStatus | None, float]:
        """The newest status, and how many seconds ago it was read."""
        if self._error is not None:
            raise self._error
        with self._lock:
            return self._status, time.monotonic() - self._at

    def wait(self, timeout_s: float) -> None:
        """Until there is a newer status, or the time is over."""
        self._changed.wait(timeout_s)
        self._changed.clear()

    def _read(self) -> None:
        watched = 0.0
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                if began - watched >= WATCH_S:
                    watched = began
                    self._record.watch()
                status = read_cluster(self._record, self._jobs)
            except BaseException as error:
                self._error = error
                self._changed.set()
                return
            with self._lock:
                self._status, self._at = status, time.monotonic()
            self._changed.set()
            took = time.monotonic() - began
            self._closed.wait(max(READ_S, len(status.nodes) / NODES_A_SECOND, 4 * took))

    def _ask(self) -> None:
        while not self._closed.is_set():
            self._jobs = self._query()
            self._closed.wait(SLURM_S)


# --------------------------------------------------------------------------- exit codes


def exit_code(status: ClusterStatus) -> int:
    """What --exit-status ends with: the cluster's own code when it is over, else how it does.

    0 it runs with all nodes (or stops, or waits in the queue); 4 nodes are missing in its start;
    5 it goes on with fewer, or is lost.
    """
    if status.exit_code is not None:
        return status.exit_code
    if status.phase is ClusterPhase.STARTING:
        return int(ExitCode.WORKERS_MISSING)
    if status.phase in (ClusterPhase.DEGRADED, ClusterPhase.LOST):
        return int(ExitCode.UNHEALTHY)
    return int(ExitCode.OK)


# --------------------------------------------------------------------------- where it goes


@dataclass(frozen=True)
class Wish:
    """What the person asked for."""

    once: bool = False
    as_json: bool = False
    prometheus: Path | None = None


def make_console(env: Mapping[str, str], file: TextIO | None = None) -> Console:
    """A console for stdout: no colour with NO_COLOR, plain where it is no terminal."""
    return Console(file=file or sys.stdout, highlight=False, no_color=bool(env.get("NO_COLOR")) or None)


def glyphs_of(console: Console) -> Glyphs:
    """Block characters where the terminal's encoding has them."""
    return ASCII if console.options.ascii_only else UNICODE


def print_lines(console: Console, lines: list[Text]) -> None:
    """Print lines as they are, without the blanks at their ends."""
    for line in lines:
        line = line.copy()
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


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
    wish: Wish,
    env: Mapping[str, str],
) -> ClusterStatus:
    """Show the cluster until it is over, the person leaves, or once.  Returns the last status."""
    console = make_console(env)
    if wish.once:
        return _once(record, query, wish, console)
    feed = Feed(record, query)
    feed.start()
    try:
        if console.is_terminal and not wish.as_json and sys.stdin.isatty() and env.get("TERM") != "dumb":
            status = _live(feed, wish, console)
            if status.is_over:
                print_lines(console, report(status, console.width, glyphs_of(console)))
            return status
        return _lines(feed, wish)
    finally:
        feed.close()


def _once(
    record: Record, query: Callable[[], dict[str, Job] | None], wish: Wish, console: Console
) -> ClusterStatus:
    jobs = query() if record.slurm_cluster != "local" else None
    status = read_cluster(record, jobs)
    if not status.is_over and status.ready_nodes and not _is_measured(status):
        # Nobody watched until now: the head notices within a second and measures, nodes soon after.
        record.watch()
        deadline = time.monotonic() + ONCE_S
        while not _is_measured(status) and not status.is_over and time.monotonic() < deadline:
            time.sleep(0.2)
            status = read_cluster(record, jobs)
    if wish.prometheus:
        write_prometheus(wish.prometheus, status)
    if wish.as_json:
        print(json.dumps(cluster_json(status), indent=2))
    elif not wish.prometheus or console.is_terminal:
        print_lines(console, report(status, console.width, glyphs_of(console)))
    return status


def _is_measured(status: ClusterStatus) -> bool:
    members = [node for node in status.nodes if node.is_member]
    return all(node.usage is not None and node.usage.memory_used_bytes is not None for node in members)


# -- on a terminal


def _live(feed: Feed, wish: Wish, console: Console) -> ClusterStatus:
    glyphs = glyphs_of(console)
    view = View(keys=True)
    drawn: tuple[Any, ...] = ()
    status: ClusterStatus | None = None
    with _keys() as read_keys, _Screen(console) as screen:
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
                    if wish.prometheus:
                        write_prometheus(wish.prometheus, status)
                if status.is_over:
                    return status
            for key in read_keys(0.1):
                if key in ("q", "Q", "\x1b"):
                    if status is not None:
                        return status
                    raise KeyboardInterrupt
                view = _turn(view, key, status, console.size.height)


def _turn(view: View, key: str, status: ClusterStatus | None, height: int) -> View:
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


class _Screen:
    """The terminal's other screen, drawn without flicker: every line over the one that was there."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> _Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def draw(self, lines: list[Text]) -> None:
        for line in lines:
            line.no_wrap = True
        self._live.update(Group(*lines), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], list[str]]]:
    """Keys as they are pressed: a function that waits so long for some."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def read_keys(timeout_s: float) -> list[str]:
        if not select.select([fd], [], [], timeout_s)[0]:
            return []
        data = os.read(fd, 256)
        if not data:  # the terminal is gone
            raise KeyboardInterrupt
        return split_keys(data.decode("ascii", "replace"))

    try:
        yield read_keys
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def split_keys(text: str) -> list[str]:
    """What a terminal sent as single keys; ESC O is written as ESC [.

    >>> split_keys("g\\x1b[6~\\x1bOA")
    ['g', '\\x1b[6~', '\\x1b[A']
    """
    return [
        key.replace("\x1bO", "\x1b[") for key in re.findall(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", text, re.DOTALL)
    ]


# -- without a terminal


def _lines(feed: Feed, wish: Wish) -> ClusterStatus:
    """A line for each event and each change of state; as JSON a document a line."""
    told = Told()
    while True:
        feed.wait(1.0)
        status, _ = feed.latest()
        if status is None:
            continue
        if wish.prometheus:
            write_prometheus(wish.prometheus, status)
        if wish.as_json:
            if told.is_news(status):
                print(json.dumps(cluster_json(status), separators=(",", ":")), flush=True)
        else:
            for line in told.lines(status):
                print(line, flush=True)
        if status.is_over:
            return status


class Told:
    """What has been printed, so that each thing is told once."""

    def __init__(self) -> None:
        self._event = 0.0
        self._texts: set[str] = set()
        self._state: tuple[Any, ...] = ()
        self._at = 0.0

    def is_news(self, status: ClusterStatus) -> bool:
        """Whether states or the measured usage have changed since the last time."""
        state = (*self._state_of(status), status.usage_at)
        news, self._state = state != self._state, state
        return news

    @staticmethod
    def _state_of(status: ClusterStatus) -> tuple[Any, ...]:
        nodes = tuple((node.host, node.state) for node in status.nodes)
        return status.phase, status.ready_nodes, nodes, len(status.events)

    def lines(self, status: ClusterStatus) -> list[str]:
        """What is new since the last time, in lines for a log."""
        found = []
        for when, text in status.events:
            if when > self._event or (when == self._event and text not in self._texts):
                self._texts = self._texts | {text} if when == self._event else {text}
                self._event = when
                found.append(f"{clock_of(when)} {' '.join(text.split())}")
        state = (status.phase, status.ready_nodes)
        quiet = status.read_at - self._at >= QUIET_S
        if state != self._state[:2] or quiet:
            found.append(f"{clock_of(status.read_at)} {_summary(status)}")
            self._at = status.read_at
        self._state = state
        return found


def _summary(status: ClusterStatus) -> str:
    """The state in a line."""
    text = f"{status.phase.value}: {status.headline}"
    if status.phase is ClusterPhase.STARTING:
        away = [node for node in status.nodes if not node.is_member and node.phase is not NodePhase.GONE]
        if away:
            text += f"; {', '.join(f'{node.host}: {node.state}' for node in away[:4])}"
            text += f" and {len(away) - 4} more" if len(away) > 4 else ""
    for node in status.problems[:3]:
        text += f"; {node.host}: {last_word(node, status)}"
    left = status.time_left_s
    if left is not None:
        text += f"; {int(left // 60)} min left"
    return text
