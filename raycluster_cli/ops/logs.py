"""A cluster's logs, wherever they are: the job's output file, a node's directory, the record.

driver and raycluster are parts of the job's output: raycluster's lines begin with its name.  raylet and gcs
are files in the node's session while it runs, and in the record's ``logs/HOST`` after that, where they were
kept (--keep-logs).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import RayclusterError
from ..model.log_lines import SLURMSTEPD
from ..model.record import NodeReport
from ..model.text import printable
from ..node.places import RAY_DIR
from ..slurm.job_state import job_state
from ..state.record import Record
from ..state.submitted import output_of
from .follow import Tail, without_output

COMPONENTS = ("driver", "raycluster", "raylet", "gcs")

#: The files of each of Ray's components, the one with errors first.
FILES = {
    "raylet": ("raylet.err", "raylet.out"),
    "gcs": ("gcs_server.err", "gcs_server.out"),
}

POLL_S = 0.3

#: How much of a file's end is read for its last lines.
MAX_END_BYTES = 8 << 20

#: Lines of the job's output that raycluster and Slurm have written, not the driver.
_OURS = re.compile(
    rb"(?: *\d+: )?(?:(?:raycluster|srun|slurmstepd(?:-\S+)?)(?:\[\S*\])?: |%s)" % SLURMSTEPD.encode()
)


@dataclass(frozen=True)
class Source:
    """A file, and which of its lines to show."""

    path: Path
    component: str = ""

    def wants(self, line: bytes) -> bool:
        if self.component == "raycluster":
            return bool(_OURS.match(line))
        return self.component != "driver" or not _OURS.match(line)


def job_output(record: Record, state_dir: Path, env: Mapping[str, str]) -> Path:
    """The file that the job's output goes to.  Raises RayclusterError that says who was asked."""
    if record.slurm_cluster == "local":
        raise RayclusterError(
            f"{record.path.name} was started by `run --local`: its driver writes to the terminal in which it "
            "was started, and there is no file.",
            f"Its events: raycluster logs {record.path.name} --component raycluster",
        )
    head = record.read_head()
    known = head.output if head is not None else ""
    known = known or output_of(state_dir, record.job_id)
    if not known:
        state = job_state(record.job_id, env)
        known = state.output if state is not None else ""
    if not known:
        raise RayclusterError(
            f"the output file of job {record.job_id} is not known: neither the record nor Slurm names it.",
            "By default it is slurm-JOB.out in the directory from which it was submitted.",
        )
    path = Path(known)
    if not os.path.exists(path):  # Path.exists raises for a name that no file can have
        host, has_ended = head.host if head is not None else "", record.read_end() is not None
        told = without_output(record.path.name, host, path, has_ended=has_ended)
        raise RayclusterError(f"the output of job {record.job_id} cannot be shown: {told}.")
    return path


def worker_job_output(record: Record, name: str) -> Path | None:
    """The output file of a worker job, by its id or one of its nodes; None when it names no worker job.

    Raises RayclusterError for one whose file cannot be seen.
    """
    from ..state.worker_jobs import WorkerJobFiles

    head = record.read_head()
    report = record.read_node(name) if head is not None and head.worker_groups else None
    job_id = report.job if report is not None and report.job else name
    jobs = WorkerJobFiles(record.path).read_jobs() if head is not None and head.worker_groups else None
    job = next((job for job in jobs.jobs if job.is_called(job_id)), None) if jobs is not None else None
    if job is None:
        return None
    if not job.output or not os.path.exists(job.output):
        where = f", {job.output}, is not there (yet)" if job.output else " is not known"
        raise RayclusterError(f"the output of worker job {job_id}{where}; the job is {job.state}.")
    return Path(job.output)


def session_files(report: NodeReport, component: str) -> list[Path]:
    """A component's logs in the node's own directory; the newest session's."""
    found = (Path(report.node_root) / RAY_DIR).glob("session_*/logs")
    sessions = sorted(
        (path for path in found if not path.parent.is_symlink()), key=lambda path: path.stat().st_mtime
    )
    return [path for name in FILES[component] if sessions and (path := sessions[-1] / name).exists()]


def kept_files(record: Record, host: str, component: str) -> list[Path]:
    """Those that were copied to the record before the node's directory was removed."""
    return [path for name in FILES[component] if os.path.exists(path := record.path / "logs" / host / name)]


def last_lines(source: Source, count: int) -> tuple[list[bytes], int]:
    """The last ``count`` wanted lines (all for a negative number), and the bytes read so far.

    Raises OSError.
    """
    with open(source.path, "rb") as file:
        size = file.seek(0, 2)
        start = 0 if count < 0 else max(0, size - MAX_END_BYTES)
        file.seek(start)
        data = file.read()
    lines = data.splitlines(keepends=True)
    if start and lines:
        del lines[0]  # a part of one
    wanted = [line for line in lines if source.wants(line)]
    return wanted if count < 0 else wanted[len(wanted) - min(count, len(wanted)) :], start + len(data)


def show(
    sources: Sequence[Source],
    count: int,
    *,
    follow: bool,
    is_over: Callable[[], bool],
    write: Callable[[bytes], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Print the ends of files, each under its name where there are several, and what comes after them."""
    put = write or _write
    tails = []
    for number, source in enumerate(sources):
        if len(sources) > 1:
            put(f"{chr(10) if number else ''}==> {printable(str(source.path))} <==\n".encode())
        lines, size = last_lines(source, count)
        for line in lines:
            put(line if line.endswith(b"\n") or follow else line + b"\n")
        tail = Tail(source.path)
        tail.skip(size)
        tails.append((source, tail))
    last = sources[-1] if sources else None
    left: dict[Path, bytes] = {}
    while follow:
        over = is_over()  # asked first, so that no last line is missed
        for source, tail in tails:
            data = left.pop(source.path, b"") + tail.read()
            lines = data.splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n") and not over:
                left[source.path] = lines.pop()
            wanted = [line for line in lines if source.wants(line)]
            if wanted and source is not last and len(sources) > 1:
                put(f"\n==> {printable(str(source.path))} <==\n".encode())
                last = source
            for line in wanted:
                put(line)
        if over:
            return
        sleep(POLL_S)


def event_lines(record: Record, count: int) -> Iterable[bytes]:
    """The events in the record, where there is no output file."""
    for event in record.read_events(count if count >= 0 else 10_000):
        at = time.strftime("%H:%M:%S", time.localtime(event.when))
        yield f"{at} {printable(event.text)}\n".encode()


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
