"""Node names in Slurm's notation, for messages and for the record; slurm.hostlist reads it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

_NUMBERED = re.compile(r"(.*?)(\d{1,18})((?:\.\D*)?)", re.ASCII)


def format_hostlist(hosts: Sequence[str]) -> str:
    """A short hostlist of these hosts in this order, for messages and for ``srun -w``.

    >>> format_hostlist(["n1", "n2", "n3", "n7", "login"])
    'n[1-3,7],login'
    >>> format_hostlist(["n08", "n09", "n10"])
    'n[08-10]'
    """
    parts: list[str] = []
    for (prefix, suffix, numbered), group in itertools.groupby(
        map(_split_number, hosts), key=lambda n: n[:3]
    ):
        numbers = [number for *_, number in group]
        if numbered and len(numbers) > 1:
            parts.append(f"{prefix}[{','.join(_number_ranges(numbers))}]{suffix}")
        else:
            parts.extend(f"{prefix}{number}{suffix}" for number in numbers)
    return ",".join(parts)


def _split_number(host: str) -> tuple[str, str, bool, str]:
    """Prefix, suffix, whether there is a number between the two, and the number."""
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


def natural(host: str) -> tuple[object, ...]:
    """Sorts n2 before n10.

    >>> sorted(["n10", "n2"], key=natural)
    ['n2', 'n10']
    """
    parts: list[object] = []
    digits = ""
    for char in host + "\0":
        if char.isdigit():
            digits += char
        else:
            if digits:
                parts += [(0, int(digits), "")]
                digits = ""
            parts.append((1, 0, char))
    return tuple(parts)
