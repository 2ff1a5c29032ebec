"""Why a cluster ended, as its logs, its nodes' reports and the job's output tell it.

Nothing is searched after a success or a deliberate stop.  A driver that failed is explained by its own last
exception; what other logs say counts only where that exception is about another process, or there is none.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.cause_search import BY_SLURM, Found, explains, find_causes
from ..model.causes import CAUSES
from ..model.log_lines import SLURMSTEPD, own_text, without_colours, without_dumps, without_label
from ..model.record import EndReport, NodeReport
from ..model.status import EndReason
from ..model.tracebacks import Raised, last_exception
from ..slurm.job_state import JobState
from ..state.catalogue import list_records
from ..state.record import Record
from ..state.submitted import output_of
from .logs import Source

#: How much of each log is searched, from its end.
READ_BYTES = 128 * 1024

#: The most hosts whose logs are searched (0.3 s each), those that failed first; a few tell enough.
HOSTS = 8

#: Lines of each log of the failed host that are shown, and of the job's output.
LAST_LINES = 6
OUTPUT_LINES = 15

#: Lines of the job's output in which a text counts, when no exception was printed.
SEARCHED_LINES = 60

#: An exception so close to the end of the output belongs to it, whatever the driver's code.
CLOSE_LINES = 5

#: After so many lines that a driver itself has printed it has handled the exception, also with Python's code.
WENT_ON_LINES = 20

#: What Python ends with after an exception that nothing handles.
UNHANDLED = 1

#: The cause that says nothing new once a process is known to have died.
SILENCE = "starved"

#: Lines that libraries print when Python ends, and tables.
_AT_EXIT = re.compile(r"(?:wandb|comet_ml|COMET|neptune|mlflow)\b|[|+=\s]|-{3}")

#: What Slurm itself has printed, with srun's label where it has one.
_OF_SLURM = re.compile(rf"(?: *\d+: )?(?:srun: |{SLURMSTEPD})")

#: The same anywhere in a line, as behind a progress bar, and the shell's line about an srun that was killed.
_TOLD_BY_SLURM = re.compile(rf"srun: |{SLURMSTEPD}|: line \d+: ")

#: raycluster's lines before a driver's own, with the cluster's address, and after them.
_READY = re.compile(r"^(?: *\d+: )?raycluster: .*\bready at ([^\s,;]+).*$", re.MULTILINE)
_OVER = re.compile(r"^(?: *\d+: )?raycluster: .*(?:; exit code \d+|; ended .* later)$", re.MULTILINE)

#: Ends on request.
ON_PURPOSE = (EndReason.STOP.value, EndReason.SIGNAL.value, EndReason.TIME_LIMIT.value)


@dataclass(frozen=True)
class JobOutput:
    """The end of the job's output, without the lines of raycluster and Slurm."""

    path: str
    """The file in which the lines are: of its errors, where it has one."""
    lines: tuple[str, ...] = ()
    raised: Raised | None = None
    handled: int = 0
    """How many of the lines end with an exception that the driver has handled: no cause of its end."""
    by_slurm: Found | None = None
    """What Slurm itself has written of the end: time limit, preemption, a failed node."""
    all_text: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        """The exception, or the last lines; without colours, which Ray gives them."""
        lines = self.raised.lines if self.raised is not None else self.lines[-OUTPUT_LINES:]
        return tuple(without_colours(line) for line in lines)


def output_paths(record: Record, state_dir: Path, slurm: JobState | None) -> list[Path]:
    """The file of the job's output, and that of its errors where it is another; as far as they are known.

    None of an attempt that was requeued: the file goes on with those after it.
    """
    later = any(
        one.job_id == record.job_id and one.restart > record.restart and one.name == record.name
        for one in list_records(state_dir)
    )
    if later or record.slurm_cluster == "local":
        return []
    head = record.read_head()
    output = (head.output if head is not None else "") or output_of(state_dir, record.job_id)
    errors = head.errors if head is not None else ""
    if slurm is not None:
        output, errors = output or slurm.output, errors or slurm.errors
    return [Path(path) for path in dict.fromkeys((output, errors)) if path]


def read_output(
    paths: Sequence[Path], code: int | None, *, address: str = "", drove: bool = True
) -> JobOutput | None:
    """The end of the job's output: its file, and that of its errors where it is another.

    ``code``: the driver's exit code where it is known.  ``address``: the cluster's, ``drove``: whether its
    driver was started, by which the output of this run is told from that of runs before it in the same job.
    None when there is nothing to read.
    """
    found = None
    for path in paths:
        text = of_this_run(read_tail(path), address, drove=drove)
        if text and (found is None or found.raised is None):
            one = _output(str(path), text, code)
            found = one if found is None or one.raised is not None or not found.lines else found
    return found


def of_this_run(text: str, address: str, *, drove: bool) -> str:
    r"""The part of a job's output that the last of its runs has printed; all where that cannot be told.

    >>> text = "KeyError\nraycluster: 3 nodes ready at a:1\nkilled\nraycluster: it ended; exit code 1\n"
    >>> of_this_run(text, "a:1", drove=True)
    '\nkilled\nraycluster: it ended; exit code 1\n'
    >>> of_this_run(f"{text}raycluster: error: taken\n", "", drove=False)
    '\nraycluster: error: taken\n'
    """
    ready = list(_READY.finditer(text))
    if drove:
        begin = next((found.end() for found in reversed(ready) if found[1] == address), 0)
    else:
        before = _OVER.search(text, ready[-1].end()) if ready else None
        begin = before.end() if before is not None else 0
    return text[begin:]


def _output(path: str, text: str, code: int | None) -> JobOutput:
    driver = Source(Path(path), "driver")
    own = [line.rstrip() for line in text.splitlines() if driver.wants(line.encode())]
    lines = [line for line in own if line.strip()]
    raised = last_exception("\n".join(lines))
    handled = 0
    if raised is not None and _went_on(lines, raised, code):
        handled, raised = raised.last + 1, None
    return JobOutput(path, tuple(lines), raised, handled, _by_slurm(path, text), text)


def _went_on(lines: Sequence[str], raised: Raised, code: int | None) -> bool:
    """Whether a driver has gone on after an exception, by the lines that were printed after it."""
    if code is not None and code > 128:  # no exception ends Python by a signal
        return len(lines) - raised.named > CLOSE_LINES
    if code != UNHANDLED:
        return len(lines) - raised.last > CLOSE_LINES
    lines = [without_label(line) for line in lines[raised.last + 1 :]]
    # Ray prints the lines of other processes too, with a name before them.
    return sum(own_text(line) == line and not _AT_EXIT.match(line) for line in lines) > WENT_ON_LINES


def _by_slurm(path: str, text: str) -> Found | None:
    lines = "\n".join(line for line in text.splitlines() if _TOLD_BY_SLURM.search(line))
    found = {one.name: line for one in CAUSES if one.name in BY_SLURM and (line := one.find(lines))}
    return next((Found(one, path, found[one.name]) for one in CAUSES if one.name in found), None)


def search(
    record: Record,
    end: EndReport | None,
    reports: dict[str, NodeReport],
    output: JobOutput | None,
    *,
    failed_host: str,
    anything_died: bool,
    died_by: int | None = None,
    loss: bool = False,
) -> tuple[Found, ...]:
    """The causes that the texts name, the likeliest first.

    ``died_by`` and ``loss`` as explains() has them: no text explains a death of which nobody dies by it.
    """
    if end is not None and (end.exit_code == 0 or end.reason in ON_PURPOSE):
        return ()
    driver_failed = end is not None and end.reason == EndReason.DRIVER.value
    raised = output.raised if output is not None else None
    if driver_failed and raised is not None and output is not None:
        found = find_causes([(output.path, raised.text)])
        primary = tuple(one for one in found if not one.cause.secondary)
        if primary or not raised.is_of_another_process:
            return primary
        loss = True
    texts = _texts(record, end, reports, output, failed_host, output_first=driver_failed)
    ended = end.when if end is not None else None
    found = find_causes(texts, host="" if driver_failed else failed_host, ended=ended)
    silent = anything_died or end is None
    # A node that died did not answer either; and every process that ends, a driver that failed by itself
    # too, leaves lines of broken connections behind.
    return tuple(
        one
        for one in found
        if explains(one.cause, died_by=died_by, loss=loss)
        and not (one.cause.name == SILENCE and silent)
        and not (one.cause.secondary and (silent or driver_failed))
    )


def _texts(
    record: Record,
    end: EndReport | None,
    reports: dict[str, NodeReport],
    output: JobOutput | None,
    failed_host: str,
    *,
    output_first: bool,
) -> Iterator[tuple[str, str]]:
    """Everything that may name a cause, what explains most first."""
    said = []
    if output is not None:
        slurm = [line for line in output.all_text.splitlines() if _OF_SLURM.match(line)]
        own = output.lines[max(len(output.lines) - SEARCHED_LINES, output.handled) :]
        said = [(output.path, "\n".join([*own, *slurm]))]
    if output_first:
        yield from said
    if end is not None:
        yield "the record of the end", end.message
    hosts = sorted(reports, key=lambda host: (host != failed_host, not reports[host].exit_code, host))
    for host in hosts:
        yield f"{host}'s last report", reports[host].message
    for host in hosts[:HOSTS]:
        for path in sorted(listed(record.path / "logs" / host), key=_rank):
            yield f"{host}/{path.name}", read_tail(path)
    if not output_first:
        yield from said


def listed(directory: Path) -> list[Path]:
    """What is in a directory; nothing where it cannot be read."""
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _rank(path: Path) -> tuple[int, str]:
    order = ("raylet.err", "gcs_server.err", "ray-start.log", "raylet.out", "gcs_server.out")
    return (order.index(path.name) if path.name in order else len(order), path.name)


def read_tail(path: Path, size: int = READ_BYTES) -> str:
    """The end of a file; empty when it is not a readable file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return ""
            file.seek(max(found.st_size - size, 0))
            return file.read(size).decode("utf-8", "replace")
    except (OSError, ValueError):  # ValueError: the record names a path that no file can have
        return ""


def last_log_lines(record: Record, host: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The last lines of the raylet and the GCS of one node, as (host/file, lines)."""
    if not host:
        return
    for name in ("raylet.err", "raylet.out", "gcs_server.err", "gcs_server.out"):
        path = record.path / "logs" / host / name
        read = (line.rstrip() for line in read_tail(path, 16384).splitlines() if line.strip())
        lines = without_dumps(read)
        if lines:
            yield f"{host}/{name}", tuple(lines[-LAST_LINES:])
