"""The terminal: a console for stdout, a full screen without flicker, keys as they are pressed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from .drawing import ASCII, UNICODE, Glyphs
from .errors import ReaderGone

#: How long the rest of an arrow key may take: a network may deliver its bytes one by one.
ESCAPE_S = 0.05

#: The beginning of such a key; alone it is Escape.
_UNFINISHED = re.compile(rb"\x1b(?:[\[O][0-9;]*)?\Z")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise ReaderGone


def make_console(env: Mapping[str, str], file: TextIO | None = None) -> Console:
    """A console for stdout: no colour with NO_COLOR, plain where it is no terminal."""
    return _Console(file=file or sys.stdout, highlight=False, no_color=bool(env.get("NO_COLOR")) or None)


def glyphs_of(console: Console) -> Glyphs:
    """Block characters where the terminal's encoding has them."""
    return ASCII if console.options.ascii_only else UNICODE


def print_lines(console: Console, lines: list[Text]) -> None:
    """Print lines as they are, without the blanks at their ends."""
    for line in lines:
        line = line.copy()
        line.rstrip()
        console.print(line, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


class FullScreen:
    """The terminal's other screen, drawn without flicker: every line over the one that was there."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stderr=False)

    def __enter__(self) -> FullScreen:
        self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._live.__exit__(*exception)

    def draw(self, lines: list[Text]) -> None:
        for line in lines:
            line.no_wrap = True
        self._live.update(Group(*lines), refresh=True)


@contextlib.contextmanager
def pressed_keys() -> Iterator[Callable[[float], list[str]]]:
    """Keys as they are pressed: a function that waits this long for some."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def read_keys(timeout_s: float) -> list[str]:
        if not select.select([fd], [], [], timeout_s)[0]:
            return []
        data = _read(fd)
        while _UNFINISHED.search(data) and select.select([fd], [], [], ESCAPE_S)[0]:
            data += _read(fd)
        return split_keys(data.decode("ascii", "replace"))

    try:
        yield read_keys
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _read(fd: int) -> bytes:
    """What was typed.  Raises KeyboardInterrupt when the terminal is gone."""
    data = b""
    with contextlib.suppress(OSError):
        data = os.read(fd, 256)
    if not data:
        raise KeyboardInterrupt
    return data


def split_keys(text: str) -> list[str]:
    """What a terminal sent as single keys; ESC O is written as ESC [.

    >>> split_keys("g\\x1b[6~\\x1bOA")
    ['g', '\\x1b[6~', '\\x1b[A']
    """
    return [
        key.replace("\x1bO", "\x1b[") for key in re.findall(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", text, re.DOTALL)
    ]
