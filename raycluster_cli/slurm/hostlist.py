"""Hostlists, Slurm's notation for node names: text in, names out, and back.

Nothing here runs a command: ``scontrol show hostnames`` is often missing in containers, and one call for
each node does not scale.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

from ..model.errors import UsageError
from .malformed import MAX_HOSTS, malformed, quoted

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)
_NUMBERED = re.compile(r"(.*?)(\d{1,18})((?:\.\D*)?)", re.ASCII)
_NAME_CHARACTERS = re.compile(r"[A-Za-z0-9._-]*")
_TOKEN = re.compile(r"\[[^\[\]]*\]|[^\[\],\s]+|\s*,\s*|\s+|[\[\]]")
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")

_NEEDED = "a Slurm host list such as tux[01-03,7],login1"

_Fail = Callable[[str], UsageError]


def parse_hostlist(text: str, *, source: str = "node list") -> list[str]:
    """Expand a hostlist, as ``scontrol show hostnames`` does and in its order.

    >>> parse_hostlist("tux[001-003,07],login1")
    ['tux001', 'tux002', 'tux003', 'tux07', 'login1']
    >>> parse_hostlist("rack[0-1]_blade[0-1]")
    ['rack0_blade0', 'rack0_blade1', 'rack1_blade0', 'rack1_blade1']
    >>> parse_hostlist("gpu[9-10].example.org")
    ['gpu9.example.org', 'gpu10.example.org']

    Suffixes after the last bracket are read, although scontrol 22.05 refuses them.
    What scontrol reads by guessing (``n[1``, ``n[1-]``, ``n1,,n2``) is refused.
    Raises UsageError, in whose message ``source`` names the variable or option.
    """

    def fail(why: str) -> UsageError:
        return malformed(source, text, why, _NEEDED)

    hosts: list[str] = []
    for word in _names(text, fail):
        hosts.extend(_expand(word, MAX_HOSTS - len(hosts), fail))
    return hosts


def _names(text: str, fail: _Fail) -> list[str]:
    """Split at the commas, blanks and line ends that stand outside of brackets."""
    words = [""]
    for token in _TOKEN.findall(text.strip()):
        if token in ("[", "]"):
            raise fail("a bracket without its partner, or one inside another")
        if token.strip() in ("", ","):
            words.append("")
        else:
            words[-1] += token
    if "" in words:
        raise fail("it is empty" if len(words) == 1 else "a name between commas is empty")
    return words


def _expand(word: str, room: int, fail: _Fail) -> Iterator[str]:
    """The hosts of one comma-free word: text and brackets in turns."""
    parts = _BRACKETS.split(word)
    texts, brackets = parts[0::2], parts[1::2]
    for piece in texts:
        if not _NAME_CHARACTERS.fullmatch(piece):
            raise fail("a host name has letters, digits, '.', '_' and '-' only")
    ranges = [_parse_bracket(bracket, fail) for bracket in brackets]
    if math.prod(sum(len(numbers) for numbers, _ in bracket) for bracket in ranges) > room:
        raise fail(f"more than {MAX_HOSTS} hosts")
    values = [[f"{n:0{width}d}" for numbers, width in bracket for n in numbers] for bracket in ranges]
    # Slurm's order: the last bracket turns fastest, then the first, the second and so on.
    for turn in itertools.product(*reversed(values[:-1]), *values[-1:]):
        chosen = (*reversed(turn[:-1]), *turn[-1:])
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(texts, chosen, fillvalue="")))


def _parse_bracket(bracket: str, fail: _Fail) -> list[tuple[range, int]]:
    """Ranges of numbers with the width to which they are padded: that of the low end, as in Slurm."""
    ranges = []
    for item in bracket.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise fail(f"{quoted(bracket)} is not made of numbers and ranges")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise fail(f"the range {quoted(item)} runs backwards")
        if high - low >= MAX_HOSTS:
            raise fail(f"more than {MAX_HOSTS} hosts")
        ranges.append((range(low, high + 1), len(match[1])))
    return ranges


def format_hostlist(hosts: Sequence[str]) -> str:
    """The shortest plain hostlist of these hosts in this order, for messages and for ``-w``.

    >>> format_hostlist(["n1", "n2", "n3", "n7", "login"])
    'n[1-3,7],login'
    >>> format_hostlist(["n08", "n09", "n10"])
    'n[08-10]'
    """
    words: list[str] = []
    for (prefix, suffix, numbered), group in itertools.groupby(
        map(_split_number, hosts), key=lambda n: n[:3]
    ):
        numbers = [number for *_, number in group]
        if numbered and len(numbers) > 1:
            words.append(f"{prefix}[{','.join(_number_ranges(numbers))}]{suffix}")
        else:
            words.extend(f"{prefix}{number}{suffix}" for number in numbers)
    return ",".join(words)


def _split_number(host: str) -> tuple[str, str, bool, str]:
    """Prefix, suffix, whether there is a number between them, and the number."""
    match = _NUMBERED.fullmatch(host)
    return (match[1], match[3], True, match[2]) if match else (host, "", False, "")


def _number_ranges(numbers: Sequence[str]) -> list[str]:
    ranges: list[list[str]] = []
    for number in numbers:
        if ranges and number == f"{int(ranges[-1][-1]) + 1:0{len(ranges[-1][0])}d}":
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return [r[0] if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in ranges]
