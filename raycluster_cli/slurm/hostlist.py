"""Hostlists, Slurm's notation for node names: text in, names out (and back: model.hostlist).

Nothing here runs a command: ``scontrol show hostnames`` is often missing in containers, and one call for
each node does not scale.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator

from ..model.errors import UsageError
from .malformed import MAX_HOSTS, malformed, quoted

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*")
_TOKEN = re.compile(r"\[[^\[\]]*\]|[^\[\],\s]+|\s*,\s*|\s+|[\[\]]")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")

_NEEDED = "a Slurm host list such as tux[01-03,7],login1"

_Fail = Callable[[str], UsageError]


def parse_hostlist(text: str, *, source: str = "node list") -> list[str]:
    """Expand a hostlist to the names that ``scontrol show hostnames`` prints, in its order.

    >>> parse_hostlist("tux[001-003,07],login1")
    ['tux001', 'tux002', 'tux003', 'tux07', 'login1']
    >>> parse_hostlist("rack[0-1]_blade[0-1]")
    ['rack0_blade0', 'rack0_blade1', 'rack1_blade0', 'rack1_blade1']
    >>> parse_hostlist("gpu[9-10].example.org")
    ['gpu9.example.org', 'gpu10.example.org']

    Text after the last bracket is read, although scontrol 22.05 refuses it.  What scontrol accepts by
    guessing (``n[1``, ``n[1-]``, ``n1,,n2``) is refused.  Raises UsageError; ``source`` is the variable or
    option to name in its message.
    """

    def fail(why: str) -> UsageError:
        return malformed(source, text, why, _NEEDED)

    hosts: list[str] = []
    for part in _parts(text, fail):
        hosts.extend(_expand(part, MAX_HOSTS - len(hosts), fail))
    return hosts


def _parts(text: str, fail: _Fail) -> list[str]:
    """Split at commas and white space outside brackets."""
    parts = [""]
    for token in _TOKEN.findall(text.strip()):
        if token in ("[", "]"):
            raise fail("an unmatched or nested bracket")
        if token.strip() in ("", ","):
            parts.append("")
        else:
            parts[-1] += token
    if "" in parts:
        raise fail("it is empty" if len(parts) == 1 else "a name between commas is empty")
    return parts


def _expand(part: str, room: int, fail: _Fail) -> Iterator[str]:
    """The hosts of one part of a hostlist, in which text and brackets alternate."""
    pieces = _BRACKETS.split(part)
    texts, brackets = pieces[0::2], pieces[1::2]
    for text in texts:
        if not _NAME_CHARACTERS.fullmatch(text):
            raise fail("a host name can only have letters, digits, '.', '_' and '-'")
    ranges = [_parse_bracket(bracket, fail) for bracket in brackets]
    if math.prod(sum(len(numbers) for numbers, _ in bracket) for bracket in ranges) > room:
        raise fail(f"more than {MAX_HOSTS} hosts")
    values = [[f"{n:0{width}d}" for numbers, width in bracket for n in numbers] for bracket in ranges]
    # Slurm's order: the last bracket varies fastest, then the first, the second and so on.
    for turn in itertools.product(*reversed(values[:-1]), *values[-1:]):
        chosen = (*reversed(turn[:-1]), *turn[-1:])
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, chosen, fillvalue="")))


def _parse_bracket(bracket: str, fail: _Fail) -> list[tuple[range, int]]:
    """Ranges of numbers, each with the width to pad to: that of its first number, as in Slurm."""
    ranges = []
    for item in bracket.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise fail(f"{quoted(bracket)} is not a list of numbers and ranges")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise fail(f"the range {quoted(item)} runs backwards")
        if high - low >= MAX_HOSTS:
            raise fail(f"more than {MAX_HOSTS} hosts")
        ranges.append((range(low, high + 1), len(match[1])))
    return ranges
