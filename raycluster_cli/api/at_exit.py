"""Clusters that end with this program: at the interpreter's exit, and by SIGTERM inside a `with`.

SIGTERM is what workflow engines, and Slurm for a program in a job of its own, send first; Python by itself
dies of it without running a `finally`.  A program that is killed by SIGKILL ends nothing: its cluster then
runs until its time limit, or until `raycluster stop`.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

_ends: dict[int, tuple[int, Callable[[], None]]] = {}
"""By the id of the cluster's object: the process that it belongs to, and what ends it."""


def end_at_exit(key: int, end: Callable[[], None]) -> None:
    """Call ``end`` when the interpreter exits; not in a process that was forked off this one."""
    atexit.unregister(_end_all)  # at most once
    atexit.register(_end_all)
    _ends[key] = (os.getpid(), end)


def forget(key: int) -> None:
    """What was registered has ended."""
    _ends.pop(key, None)


def _end_all() -> None:
    for owner, end in list(_ends.values()):
        if owner == os.getpid():
            end()
    _ends.clear()


def exit_at_sigterm() -> Callable[[], None]:
    """Let SIGTERM raise SystemExit(143), where nothing else handles it; returns what undoes that."""
    if threading.current_thread() is not threading.main_thread():
        return _nothing
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return _nothing
    signal.signal(signal.SIGTERM, _exit)
    return _default_again


def _exit(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the end
    raise SystemExit(128 + number)


def _default_again() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _nothing() -> None:
    return
