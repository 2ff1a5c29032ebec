"""A command as a child of the calling program: its output streamed, its exit code, its end.

The output goes through this process, to what sys.stdout and sys.stderr are at that time: in a notebook the
cell, in a test what captures it.  The child is in a session of its own, so that a Ctrl-C on the terminal
reaches it once, by this process, as it does from a notebook.  Its process group is ended with it, as a
terminal does: a shell's programs too.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from ..model.errors import RayclusterError
from ..model.wording import shell_code
from ..ops.start_error import StartError
from ..system.proctree import all_stats

#: How often a wait looks whether it was cancelled.
POLL_S = 0.2

#: What a child gets to end in after SIGINT, and then after SIGTERM, before SIGKILL.
INTERRUPT_S = 10.0
TERM_S = 10.0

#: How long a killed child may take to end; one in a hung system call never does.
KILL_WAIT_S = 10.0

#: How long the kernel may take to hand over the exit code of a child that has ended.
REAP_S = 1.0

#: How long the rest of its process group gets when the child itself has ended: a shell's programs.
GROUP_S = 1.0

#: How often a process group that was signalled is checked.
GROUP_POLL_S = 0.05

#: How long a command that prints and ends may take; its own waits for Slurm are shorter.
OUTPUT_S = 180.0

#: How long the rest of its output is waited for after its end: a process that it left may hold the pipe.
REST_S = 10.0


def run_streamed(
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    cancelled: threading.Event,
    start_error: StartError | None = None,
) -> int:
    """Run a command to its end; returns its exit code, 128 + N for signal N.

    When this is interrupted, or ``cancelled`` is set, the child's process group gets SIGINT, and has ended
    when this returns.  ``start_error`` takes its line out of stderr.
    """
    errors = start_error or StartError()
    child = _start(argv, env)
    assert child.stdout is not None
    assert child.stderr is not None
    copies = [
        threading.Thread(target=_copy, args=(child.stdout, lambda: sys.stdout, None), daemon=True),
        threading.Thread(target=_copy, args=(child.stderr, lambda: sys.stderr, errors), daemon=True),
    ]
    for copy in copies:
        copy.start()
    try:
        while not ended(child, POLL_S) and not cancelled.is_set():
            pass
    finally:
        _end(child)
        for copy in copies:
            copy.join(REST_S)
    if child.returncode is None:
        raise RayclusterError(
            f"{argv[0]} (process {child.pid}) was killed and has not ended: it hangs in a system call.",
            "A file system or a device may not respond.",
        )
    return shell_code(child.returncode)


def output_of(argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float = OUTPUT_S) -> str:
    """What a command of raycluster prints.

    Raises RayclusterError with its message when it fails, and when it does not end within ``timeout_s``.
    """
    child = _start(argv, env)
    try:
        out, err = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise RayclusterError(
            f"{argv[0]} did not end within {timeout_s:g} s.",
            "A file system or Slurm may not respond; try again.",
        ) from error
    finally:
        _end(child)
    if child.returncode != 0:
        lines = err.decode("utf-8", "replace").splitlines()
        said = [line.removeprefix("raycluster: ").removeprefix("error: ") for line in lines if line.strip()]
        raise RayclusterError(said[-1] if said else f"{argv[0]} ended with code {child.returncode}.")
    return out.decode("utf-8", "replace")


def _start(argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise RayclusterError(f"{argv[0]} cannot be started: {error.strerror}.") from error


def _copy(source: IO[bytes], target: Callable[[], IO[str]], start_error: StartError | None) -> None:
    """Copy text as it comes, progress bars too; what the target does not take is read and dropped."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    is_open = True
    chunk = b"more"
    while chunk:
        chunk = source.read1(65536)  # type: ignore[attr-defined]
        text = decoder.decode(chunk, final=not chunk)
        if start_error is not None:
            text = start_error.take(text) if chunk else start_error.take(text) + start_error.rest()
        if is_open and text:
            try:
                target().write(text)
                target().flush()
            except (OSError, ValueError):  # the terminal or the notebook is gone
                is_open = False


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that has not ended, and its process group: SIGINT, SIGTERM, SIGKILL.

    A child that SIGKILL does not end, since it hangs in a system call, is left.
    """
    if child.poll() is not None:
        return
    steps = ((signal.SIGINT, INTERRUPT_S), (signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_WAIT_S))
    for number, wait_s in steps:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if _group_ended(child, wait_s):
            break
    ended(child, REAP_S)


def _group_ended(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    """Whether all processes of the group have ended; looks until then, or ``wait_s``.

    The child is not collected meanwhile, so that its process id names this group and no other.
    """
    began = time.monotonic()
    child_ended: float | None = None
    while True:
        running = [one for one in all_stats() if one.group == child.pid and one.state not in "ZX"]
        if not running:
            return True
        now = time.monotonic()
        if child_ended is None and all(one.pid != child.pid for one in running):
            child_ended = now
        if child_ended is not None and now - child_ended >= GROUP_S:
            return False
        if now - began >= wait_s:
            return False
        time.sleep(GROUP_POLL_S)


def ended(child: subprocess.Popen[bytes], wait_s: float) -> bool:
    """Whether a child has ended, or does so within ``wait_s`` seconds."""
    try:
        child.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True
