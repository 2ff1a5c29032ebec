"""What lines on a terminal are made of: characters, bars, numbers for people, text cut to a width."""

from __future__ import annotations

import textwrap
import time
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text


@dataclass(frozen=True)
class Glyphs:
    """The characters that screens are drawn with."""

    full: str = "█"
    part: str = "▏▎▍▌▋▊▉"
    """Less than a full character, least first."""
    empty: str = "░"
    levels: str = "·▁▂▃▄▅▆▇█"
    """A node in the map: idle to full."""
    bad: str = "✗"
    silent: str = "?"
    gone: str = "-"
    way: str = "▏▎▍▌▋"
    """A node that starts, by the steps of a start."""
    dash: str = "–"
    dot: str = " · "
    ellipsis: str = "…"
    rule: str = "─"
    up_down: str = "↑↓"


ASCII = Glyphs("#", "-", ".", ".123456789", "X", "?", "-", "abcde", "-", " | ", "~", "-", "up/down")
UNICODE = Glyphs()


def clock_of(when: float) -> str:
    """Time of day, local."""
    return time.strftime("%H:%M:%S", time.localtime(when))


def span(seconds: float) -> str:
    """A short duration: 8s, 4m12s, 2h05m, 3d04h.

    >>> span(8.4), span(252), span(7500), span(273600)
    ('8s', '4m12s', '2h05m', '3d04h')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count: float) -> str:
    """Bytes, in three characters or four and a unit.

    >>> size(0), size(900), size(1536 * 2**20), size(512 * 2**30)
    ('0', '900B', '1.5G', '512G')
    """
    if not count:
        return "0"
    for unit in "BKMGTP":
        if count < 1000 or unit == "P":
            return f"{count:.1f}{unit}" if count < 10 and unit != "B" else f"{count:.0f}{unit}"
        count /= 1024
    return ""


def amount(number: float) -> str:
    """CPUs and GPUs: 3, 0.5.

    >>> amount(3.0), amount(0.25)
    ('3', '0.25')
    """
    return f"{number:g}" if number < 1000 else f"{number:.0f}"


#: The colour of bars of CPUs and GPUs: all of them in use is what a job is for.
BUSY = "green"


def bar(fraction: float, width: int, glyphs: Glyphs, style: str = "") -> Text:
    """A bar; without a style (memory, object store) its colour warns of what is nearly full."""
    fraction = min(max(fraction, 0.0), 1.0)
    style = style or ("red" if fraction > 0.92 else "yellow" if fraction > 0.75 else "green")
    steps = len(glyphs.part) + 1
    count = round(fraction * width * steps)
    if fraction > 0 and count == 0:
        count = 1
    full, rest = divmod(count, steps)
    filled = glyphs.full * full + (glyphs.part[rest - 1] if rest else "")
    return Text.assemble((filled, style), (glyphs.empty * (width - len(filled)), "dim"))


def fit(text: str | Text, width: int, glyphs: Glyphs = UNICODE) -> Text:
    """Exactly ``width`` cells: cut with an ellipsis, or padded."""
    line = Text(text) if isinstance(text, str) else text.copy()
    line.truncate(max(width, 0), overflow="ellipsis" if glyphs is UNICODE else "crop", pad=True)
    return line


def wrapped(text: str, width: int, style: str, most: int, glyphs: Glyphs) -> list[Text]:
    """The text in at most this many lines, each with a leading blank."""
    room = max(width - 2, 10)
    parts = textwrap.wrap(" ".join(text.split()), room, max_lines=most, placeholder=f" {glyphs.ellipsis}")
    return [fit(Text(f" {part}", style), width, glyphs) for part in parts]


def sides(left: Text, right: Text, width: int, glyphs: Glyphs) -> Text:
    room = width - right.cell_len - 1
    return (
        Text.assemble(fit(left, max(room, 0), glyphs), " ", right) if room > 20 else fit(left, width, glyphs)
    )


def rule(title: str, width: int, glyphs: Glyphs) -> Text:
    """A line that begins a part."""
    line = f" {title} "
    return Text(line + glyphs.rule * max(width - cell_len(line) - 1, 0), "dim", no_wrap=True)
