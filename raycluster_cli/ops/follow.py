"""A job from outside: its state, where its output goes, and following both to its end.

The state is polled with `scontrol show job`, at intervals that grow: the controller is shared.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from ..model.errors import RayclusterError
from ..model.wording import duration
from ..slurm.job_state import JobState, job_state
from ..slurm.pending import explain
from ..slurm.queue import WAITING
from ..system.report import say

#: How often the job's output and its state are polled; the state first quickly, then less often.
OUTPUT_POLL_S = 0.2
STATE_POLL_S = (0.5, 5.0)

#: How long output may arrive after behind the job's end on a network file system.
OUTPUT_LAG_S = 2.0

#: How long a running job may be without an output file: network file systems show new files late.
OUTPUT_MISSING_S = 10.0


class Tail:
    """The growing end of a file that may not be there yet, or be replaced (a requeued job).

    Each read opens the file: on NFS that alone makes sure that what other hosts have written is seen (nfs(5),
    close-to-open cache consistency).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._read_bytes = 0

    def read(self) -> bytes:
        """What was written since the last call."""
        try:
            with open(self.path, "rb") as file:
                self._check(os.fstat(file.fileno()))
                file.seek(self._read_bytes)
                data = file.read()
        except OSError:
            return b""
        self._read_bytes += len(data)
        return data

    def skip(self, size: int) -> None:
        """Start after this many bytes."""
        with contextlib.suppress(OSError):
            self._check(os.stat(self.path))
        self._read_bytes = size

    def _check(self, found: os.stat_result) -> None:
        """Another file, or a shorter one, is read from its beginning."""
        file = (found.st_dev, found.st_ino)
        if self._file not in (None, file) or found.st_size < self._read_bytes:
            self._read_bytes = 0
        self._file = file


class CopiedOutput:
    """A job's output as it is copied: what goes to Slurm's StdOut to stdout, StdErr to stderr.

    Files that were there before the job started are an earlier job's, until they change.  ``appended``: the
    job appends to them (sbatch --open-mode=append); they had this many bytes when it was submitted.
    """

    def __init__(self, appended: Mapping[Path, int] | None = None) -> None:
        self._appended = appended
        self.is_open_line = False
        """Whether the last line that was copied has no end yet."""
        self._tails: dict[Path, tuple[Tail, BinaryIO]] = {}
        self._before: dict[Path, tuple[int, ...] | None] = {}
        self._is_waiting = False

    def learn(self, state: JobState) -> None:
        """Take the files' names from Slurm; and while the job waits, what is there before it starts."""
        is_new = not self._tails
        if is_new and state.output:
            for name, stream in ((state.errors, sys.stderr.buffer), (state.output, sys.stdout.buffer)):
                if name not in ("", "/dev/null"):
                    self._tails[Path(name)] = (Tail(Path(name)), stream)
                    if self._appended is not None and Path(name) in self._appended:
                        self._tails[Path(name)][0].skip(self._appended[Path(name)])
        if state.state in WAITING and (is_new or not self._is_waiting):
            self._before = {path: _identity(path) for path in self._tails}
        self._is_waiting = state.state in WAITING

    def has_begun(self) -> bool:
        """Whether one of the files is there, and not as it was before the job started."""
        return len(self.missing()) < len(self._tails)

    def missing(self) -> list[Path]:
        """The files that are not there, or only as they were before the job started."""
        return [path for path in self._tails if _identity(path) in (None, self._before.get(path))]

    def copy(self) -> bool:
        """Copy what is new; returns whether there was anything."""
        copied = False
        for path, (tail, stream) in self._tails.items():
            if self._before.get(path) is not None:
                if (now := _identity(path)) == (before := self._before[path]):
                    continue
                self._before[path] = None
                if self._appended is not None and before and now and now[:2] == before[:2]:
                    tail.skip(before[2])
            if data := tail.read():
                copied = True
                stream.write(data)
                stream.flush()
                self.is_open_line = not data.endswith(b"\n")
        return copied

    def copy_rest(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        """Copy what arrives after the job's end."""
        deadline = clock() + OUTPUT_LAG_S
        while self.copy() or (clock() < deadline and self.missing()):
            sleep(OUTPUT_POLL_S)

    def say(self, text: str) -> None:
        """A line on stderr, never behind half a line of the job's on the same terminal."""
        if self.is_open_line and sys.stdout.isatty():
            print(file=sys.stderr)
        self.is_open_line = False
        say(text)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written or replaced; None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def follow(
    job_id: str,
    env: Mapping[str, str],
    *,
    output: bool = True,
    appended: Mapping[Path, int] | None = None,
    ask: Callable[[str, Mapping[str, str]], JobState | None] = job_state,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Stream a job's output and say its states on stderr, until it ends; returns its exit code.

    ``appended``: sizes of the output files before a job that appends to them, in bytes; None for all others.
    Raises RayclusterError when Slurm no longer knows the job before its end was seen.
    """
    began = clock()
    files = CopiedOutput(appended)
    is_waiting, told_missing = True, not output
    running_since: float | None = None  # stays so for a job that ends in the queue
    told = seen = reason = ""
    explained: set[str] = set()
    poll_s, unknown_since = STATE_POLL_S[0], None
    asked = began - STATE_POLL_S[1]
    while True:
        state = None
        pause_s = STATE_POLL_S[0] if is_waiting and files.has_begun() else poll_s
        is_due = clock() >= asked + pause_s
        if is_due:
            state = ask(job_id, env)
            poll_s = min(poll_s * 1.3, STATE_POLL_S[1])
            asked = clock()
        if state is not None:
            unknown_since = None
            if output:
                files.learn(state)
            if is_waiting and state.state not in WAITING and (state.nodes or not state.has_ended):
                running_since = clock()
            is_waiting = state.state in WAITING
            now = describe(state)
            if now != seen:
                poll_s = STATE_POLL_S[0]
            # That a job is ending is news only if it takes long.
            is_news = now != told and (state.state != "COMPLETING" or now == seen) and not state.has_ended
            seen = now
            if is_news:
                told = now
                files.say(f"job {job_id} {now} ({duration(clock() - began)})")
            why = explain(state.reason, job_id) if is_waiting and state.reason == reason else ""
            if why and why not in explained:
                explained.add(why)
                say(f"job {job_id}: {why}")
            reason = state.reason  # Slurm's first one can be another (22.05: PartitionConfig)
        elif is_due:
            unknown_since = unknown_since if unknown_since is not None else clock()
            if clock() - unknown_since > 60.0:
                raise RayclusterError(
                    f"Slurm has not answered about job {job_id} for a minute.",
                    f"Its record may say how it ended: raycluster status {job_id}.",
                )
        if not is_waiting:
            files.copy()
        if state is not None and state.has_ended:
            files.copy_rest(clock, sleep)
            files.say(f"job {job_id} {describe(state)} ({duration(clock() - began)})")
            for path in files.missing() if running_since is not None else ():
                say(without_output(job_id, state.host, path, has_ended=True))
            return state.shell_code
        if not told_missing and state is not None and state.state == "RUNNING" and files.missing():
            told_missing = running_since is not None and clock() - running_since > OUTPUT_MISSING_S
            for path in files.missing() if told_missing else ():
                say(without_output(job_id, state.host, path))
        sleep(OUTPUT_POLL_S)


def without_output(job_id: str, host: str, path: Path, *, has_ended: bool = False) -> str:
    """Why a file of a job's output is not shown, and how to see it.  ``host``: where the job wrote it."""
    told = f"{path} is not visible on this host. If it is on a disk of {host or 'the first node of the job'}"
    if has_ended:
        return f"{told}, read it there; next time, give --output on a file system that this host sees"
    return f"{told}: raycluster exec {job_id} -- tail -n +1 -f {shlex.quote(str(path))}"


def describe(state: JobState) -> str:
    """A job's state for people.

    >>> describe(JobState("PENDING", "Resources"))
    'waits in the queue (Resources)'
    >>> describe(JobState("SUSPENDED", nodes="n[1-2]"))
    'is suspended on n[1-2]'
    """
    where = f" on {state.nodes}" if state.nodes else ""
    if state.state in WAITING:
        return f"waits in the queue ({state.reason or state.state})"
    if state.state == "RUNNING":
        return f"runs{where}"
    if state.state == "COMPLETING":
        return "is ending"
    if state.state == "COMPLETED":
        return "completed"
    if not state.has_ended:  # SUSPENDED, STOPPED (scancel --signal=STOP), RESIZING, STAGE_OUT …
        return f"is {state.state.lower().replace('_', ' ')}{where}"
    return f"ended: {state.state.lower().replace('_', ' ')}, exit code {state.shell_code}"
