"""`raycluster why`: a page that says what ended first, where, by what, and what to change.

From the record alone, so that it works after the job, without Slurm's accounting, and from
any machine that sees the record.  :func:`post_mortem` reads; :func:`page` is a pure function
of what was read.
"""

from __future__ import annotations

import signal
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..model.causes import Found, find_causes
from ..model.record import EndReport, Event, HeadInfo, NodeReport, ProcessDeath
from ..model.status import NodePhase, Role
from ..state.record import Record
from ..system.process import describe_code
from ..system.report import command_text, count, duration

#: Of each log this much is looked through, from its end.
READ_BYTES = 128 * 1024

#: Lines of raycluster's own programs that hold no cause: a driver's traceback ends in them too.
LAST_LINES = 6

#: The cause that a death explains away.
SILENCE = "starved"

#: A node's clock counts as wrong when it is this far from the file server's.
SKEW_S = 5.0

_OVER = (NodePhase.GONE.value, NodePhase.FAILED.value)
_LOST = ("head-lost", "worker-lost", "supervisor-killed", "keeper-killed", "raylet-lost")


@dataclass(frozen=True)
class Death:
    """A process that ended though nobody wanted it to."""

    when: float
    """Unix seconds, by the file server's clock as far as it can be told."""
    host: str
    name: str
    code: int
    """As subprocess gives it: negative for a death by signal."""

    def __str__(self) -> str:
        return f"{self.name} on {self.host} {describe_code(self.code)}"


@dataclass(frozen=True)
class NodeEnd:
    """What a node last said."""

    host: str
    role: str
    phase: str
    message: str
    exit_code: int | None
    updated: float
    oom_kills: int | None = None
    skew_s: float = 0.0
    """Its clock less the file server's."""

    @property
    def silent(self) -> bool:
        """It never said how it ended: killed with all of its processes, or its host is gone."""
        return self.phase not in _OVER


@dataclass(frozen=True)
class PostMortem:
    """All that `why` shows."""

    job: str
    running: bool
    head: HeadInfo | None
    end: EndReport | None
    nodes: tuple[NodeEnd, ...]
    deaths: tuple[Death, ...]
    found: tuple[Found, ...]
    last_lines: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Of the failed_host's telling logs: (host/file, lines)."""
    events: tuple[Event, ...] = ()
    log_dirs: tuple[str, ...] = ()
    log: str = ""
    missing: tuple[str, ...] = field(default=())
    """Nodes that were expected and of which nothing is known."""

    def as_json(self) -> dict[str, Any]:
        """Plain values for programs."""
        verdict, remedies = judge(self)
        return {
            "schema": 1,
            "job": self.job,
            "running": self.running,
            "exit_code": self.end.exit_code if self.end else None,
            "reason": self.end.reason if self.end else "",
            "culprit": self.end.failed_host if self.end else "",
            "message": self.end.message if self.end else "",
            "verdict": verdict,
            "remedies": list(remedies),
            "first": asdict(self.deaths[0]) if self.deaths else None,
            "causes": [
                {"name": one.cause.name, "where": one.where, "line": one.line, "remedy": one.cause.remedy}
                for one in self.found
            ],
            "nodes": [asdict(node) for node in self.nodes],
        }


# -- reading ---------------------------------------------------------------------------------------


def post_mortem(record: Record) -> PostMortem:
    """Read a record."""
    end, head = record.read_end(), record.read_head()
    words = record.read_nodes()
    skews = {host: _skew_s(record, word) for host, word in words.items()}
    nodes = tuple(
        NodeEnd(
            host=host,
            role=word.role,
            phase=word.phase,
            message=word.message,
            exit_code=word.exit_code,
            updated=word.updated - skews[host],
            oom_kills=word.oom_kills,
            skew_s=skews[host],
        )
        for host, word in words.items()
    )
    deaths = [
        Death(one.when - skews[host], host, one.name, one.code)
        for host, word in words.items()
        for one in word.deaths
        if not _drained(one, end)
    ]
    deaths.sort(key=lambda death: death.when)
    failed_host = (end.failed_host if end else "") or (deaths[0].host if deaths else "")
    return PostMortem(
        job=record.path.name,
        running=end is None and any(node.phase not in _OVER for node in nodes),
        head=head,
        end=end,
        nodes=nodes,
        deaths=tuple(deaths),
        found=tuple(
            found
            for found in find_causes(_texts(record, end, words, failed_host))
            if not _explained(found, bool(deaths), end)
        ),
        last_lines=tuple(_last_lines(record, failed_host)),
        events=tuple(record.read_events(limit=12)),
        log_dirs=tuple(str(path) for path in sorted((record.path / "logs").glob("*")) if path.is_dir()),
        log=words[failed_host].log if failed_host in words else "",
    )


def _explained(found: Found, anything_died: bool, end: EndReport | None) -> bool:
    """Whether a text is but the echo of what is known already.

    A node that was seen to die did not answer either; and whatever ends, a driver that fails by
    itself too, leaves lines of broken connections behind.
    """
    if found.cause.name == SILENCE:
        return anything_died
    driver_failed = end is not None and end.reason == "driver"
    return found.cause.secondary and (anything_died or driver_failed)


def _drained(death: ProcessDeath, end: EndReport | None) -> bool:
    """A raylet that ended in order once the cluster had: that is the end, not its cause."""
    on_purpose = end is not None and end.reason not in _LOST
    return int(death.code) == 0 and (on_purpose or (end is not None and float(death.when) > end.when))


def _skew_s(record: Record, word: NodeReport) -> float:
    """How far a node's clock is from the file server's: its word's own time less the file's."""
    try:
        written = (record.path / "nodes" / f"{word.host}.json").stat().st_mtime
    except OSError:
        return 0.0
    skew_s = word.updated - written
    # A word may be written late (a file system that hung), never before it was made.
    return skew_s if abs(skew_s) > SKEW_S else 0.0


def _texts(
    record: Record, end: EndReport | None, words: dict[str, NodeReport], failed_host: str
) -> Iterator[tuple[str, str]]:
    """Everything that may name a cause, the failed_host's first."""
    if end is not None:
        yield "the end's message", end.message
    hosts = sorted(words, key=lambda host: (host != failed_host, host))
    for host in hosts:
        yield f"{host}'s last word", words[host].message
    for host in hosts:
        for path in sorted((record.path / "logs" / host).glob("*"), key=_rank):
            yield f"{host}/{path.name}", _tail(path)
    output = record.read_head()
    path_text = output.output if output else ""
    if path_text:
        yield path_text, _tail(Path(path_text))


def _rank(path: Path) -> tuple[int, str]:
    order = ("raylet.err", "gcs_server.err", "ray-start.log", "raylet.out", "gcs_server.out")
    return (order.index(path.name) if path.name in order else len(order), path.name)


def _tail(path: Path, size: int = READ_BYTES) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - size, 0))
            return file.read(size).decode("utf-8", "replace")
    except OSError:
        return ""


def _last_lines(record: Record, failed_host: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The last lines of the raylet and the GCS of the node that ended first."""
    for name in ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out"):
        path = record.path / "logs" / failed_host / name
        lines = (
            [line.rstrip() for line in _tail(path, 16384).splitlines() if line.strip()] if failed_host else []
        )
        if lines:
            yield f"{failed_host}/{name}", tuple(lines[-LAST_LINES:])


# -- judging ---------------------------------------------------------------------------------------


def judge(post: PostMortem) -> tuple[str, tuple[str, ...]]:
    """The likely cause in a sentence or two, and what to change."""
    end = post.end
    killed = sum(node.oom_kills or 0 for node in post.nodes)
    remedies = [found.cause.remedy for found in post.found]
    if killed:
        hosts = ", ".join(f"{node.host} ({node.oom_kills})" for node in post.nodes if node.oom_kills)
        return (
            f"Memory: the kernel killed {count(killed, 'process', 'processes')} of this job's control groups "
            f"for it, on {hosts}.",
            (
                "Ask for more memory (--mem), or let Ray use less: --memory, --object-store-memory, fewer "
                "tasks at a time.",
            ),
        )
    if end is None:
        silent = [node.host for node in post.nodes if node.silent]
        if post.running and not post.deaths:
            return (
                "The record has no end: the cluster runs, or all of the head's processes were killed at once "
                "(SIGKILL by Slurm, power failure).",
                ("Is the job still there? squeue; raycluster status.",),
            )
        return f"No end was written; without a last word: {', '.join(silent)}.", tuple(remedies)
    if end.exit_code == 0 and end.reason in ("driver", "stop", "time-limit"):
        return "Nothing went wrong.", ()
    if post.found:
        return post.found[0].cause.meaning, tuple(remedies)
    return _by_reason(post, end)


def _by_reason(post: PostMortem, end: EndReport) -> tuple[str, tuple[str, ...]]:
    """When no known text was found: what the reason of the end usually means."""
    failed_host = next((node for node in post.nodes if node.host == end.failed_host), None)
    if end.reason in _LOST and failed_host is not None and failed_host.silent:
        return (
            f"{failed_host.host} stopped responding: its power, its network or all of its processes at "
            f"once. Its last report: {failed_host.message or failed_host.phase!r}.",
            (
                f"scontrol show node {failed_host.host} tells what Slurm knows. Leave it out next time: "
                f"--exclude={failed_host.host}.",
            ),
        )
    if end.reason in _LOST and post.deaths and post.deaths[0].code == -signal.SIGKILL:
        first = post.deaths[0]
        return (
            f"{first.name} on {first.host} was killed from outside: by the machine's out-of-memory killer, "
            "an administrator, or a `kill` in the job.",
            (f"dmesg on {first.host}, or the site's monitoring, tells who it was; memory is usual.",),
        )
    if end.reason == "driver":
        by_signal = 128 < end.exit_code < 160
        told = describe_code(128 - end.exit_code if by_signal else end.exit_code)
        return (
            f"The driver itself failed: it {told}. The cluster did not lose a node.",
            ("Its own output, in the job's log, says more.",),
        )
    if end.reason == "signal":
        limit = post.head.end_time if post.head else 0.0
        if limit and abs(limit - end.when) < 90:
            return (
                "The job reached its time limit.",
                ("More --time, or --stop-before 120 and a driver that saves its work on SIGTERM.",),
            )
        return (
            "It was ended from outside: scancel, preemption or Ctrl-C.",
            ("If nobody did that: sacct -j JOB, or ask for --requeue-on-preempt.",),
        )
    if end.reason == "error" and end.exit_code == 4:
        return (
            "Workers were missing at the deadline.",
            (
                "Look at the nodes below that did not join; --timeout gives more time, --min-workers starts "
                "without them.",
            ),
        )
    return end.message or "Unknown.", ()


# -- showing ---------------------------------------------------------------------------------------


def page(post: PostMortem, *, width: int = 100) -> str:
    """One page of plain text."""
    lines = list(_heading(post))
    verdict, remedies = judge(post)
    lines += ["", "Likely cause", *_wrapped(verdict, width)]
    if post.found:
        lines += [*_wrapped(f"{post.found[0].where}: {post.found[0].line}", width, "  > ")]
    if remedies:
        lines += ["What to change"]
        for remedy in dict.fromkeys(remedies[:3]):
            lines += _wrapped(remedy, width, "  - ", "    ")
    if post.deaths:
        lines += ["", "What ended first"]
        lines += [f"  {_clock(death.when)}  {death}" for death in post.deaths[:5]]
    lines += ["", "Nodes", *_node_lines(post)]
    if post.events:
        lines += ["", "Events"]
        lines += [f"  {_clock(event.when)}  {event.text}"[: width + 20] for event in post.events[-8:]]
    for name, last in post.last_lines:
        lines += ["", f"Last lines of {name}", *(f"  {line}"[: width + 20] for line in last)]
    lines += [
        "",
        f"Logs: {', '.join(post.log_dirs)}" if post.log_dirs else "No logs were kept (--keep-logs).",
    ]
    return "\n".join(lines) + "\n"


def _heading(post: PostMortem) -> Iterator[str]:
    head, end = post.head, post.end
    driver = f": {command_text(head.driver)}" if head and head.driver else ""
    yield f"Cluster {post.job}{driver}"[:160]
    if end is None:
        yield "  no end in its record"
        return
    ran = f" after {duration(max(end.when - head.started, 0))}" if head and head.started else ""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(end.when))
    yield f"  ended {when}{ran}, exit code {end.exit_code}"
    where = f" ({end.failed_host})" if end.failed_host else ""
    yield f"  {end.message}{where if end.failed_host not in end.message else ''}"


def _node_lines(post: PostMortem) -> Iterator[str]:
    """Those that failed or fell silent first; of many good ones only the number."""
    ended = post.end is not None

    def bad(node: NodeEnd) -> bool:
        failed = bool(node.exit_code) or node.phase == NodePhase.FAILED.value
        return failed or (ended and node.silent) or bool(node.oom_kills)

    troubled = [node for node in post.nodes if bad(node)]
    for node in sorted(troubled, key=lambda node: (node.role != Role.HEAD.value, node.host))[:12]:
        code = f"code {node.exit_code}" if node.exit_code is not None else "no last word"
        oom = f", {count(node.oom_kills, 'process', 'processes')} killed for memory" if node.oom_kills else ""
        skew = f", its clock is {node.skew_s:+.0f} s off" if node.skew_s else ""
        yield f"  {node.host:<12} {node.role:<6} {code}{oom}{skew}: {node.message or node.phase}"
    if len(troubled) > 12:
        yield f"  and {len(troubled) - 12} more like these"
    good = len(post.nodes) - len(troubled)
    if good:
        yield (
            f"  {count(good, 'node')} ended in order" if ended else f"  {count(good, 'node')} without trouble"
        )
    skewed = [f"{node.host} ({node.skew_s:+.0f} s)" for node in post.nodes if node.skew_s]
    if skewed:
        yield f"  clocks that are off: {', '.join(skewed[:8])}"


def _clock(when: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 10)}"


def _wrapped(text: str, width: int, first: str = "  ", rest: str = "    ") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest if first.strip() else first
    )
