"""The exception that ended a Python program, found in what the program has printed.  Text in, value out."""

from __future__ import annotations

import re

from .dataclass import dataclass
from .log_lines import logged_text, own_text, shortened

_BEGIN = "Traceback (most recent call last):"

#: The last line of an exception: its class, and its message if it has one.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:\(\w+\))?(?:: .*|:)?$")

#: A class that is an exception even where nothing follows its name.
_NAMED = re.compile(r"(?:Error|Exception|Interrupt|Exit|Timeout|Iteration)(?:\(\w+\))?$")

#: One exception leads to the next.
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")

#: Exceptions that only point to another one, which was printed before (vLLM).
_POINTS_BACK = re.compile(r"[Ss]ee (?:the )?(?:root cause|stack trace) \(?above")

#: Exceptions of Ray that the end of another process caused; its cause is found elsewhere.
_OF_ANOTHER = re.compile(
    r"\b(?:Actor(?:Died|Unavailable)Error|RayActorError|WorkerCrashedError|NodeDiedError|LocalRayletDiedError|"
    r"Object(?:Lost|Fetch\w*|Reconstruction\w*)Error|OwnerDiedError|RaySystemError|RpcError|"
    r"ActorPlacementGroupRemoved|OutOfMemoryError: Task was killed)\b"
)

#: Lines of a message that go on after its first.
MESSAGE_LINES = 12

#: Lines of one exception that are shown: its beginning and its end.
SHOWN = 24


@dataclass(frozen=True)
class Raised:
    """An exception as it was printed."""

    summary: str
    """Its class and message, in one line."""
    lines: tuple[str, ...]
    """As printed, without what programs put before each line; the middle of a long one left out."""
    text: str
    """Class and whole message, of this exception and of those that led to it."""
    last: int
    """Index of its last line in the text."""

    @property
    def is_of_another_process(self) -> bool:
        """Whether it only says that another process, or a node, has ended."""
        return bool(_OF_ANOTHER.search(self.text))

    @property
    def points_back(self) -> bool:
        return bool(_POINTS_BACK.search(self.text))


def last_exception(text: str) -> Raised | None:
    """The exception that a program printed last, or the one that this points to; None without one.

    >>> last_exception("Traceback (most recent call last):\\n  File 'a'\\nValueError: bad").summary
    'ValueError: bad'
    """
    lines = [line.rstrip() for line in text.splitlines()]
    begins = [number for number, line in enumerate(lines) if logged_text(line) == _BEGIN]
    # The driver's own stands without the name of a process before it, unless the program names itself so.
    own = [number for number in begins if own_text(lines[number]) == lines[number]]
    order = [*reversed(own), *(number for number in reversed(begins) if number not in own)]
    found = [raised for number in order if (raised := _read(lines, number)) is not None]
    if not found:
        return None
    if not found[0].points_back:
        return found[0]
    before = [one for one in found if one.last < found[0].last and not one.points_back]
    return max(before, key=lambda one: one.last) if before else found[0]


def _read(lines: list[str], begin: int) -> Raised | None:
    """The exception that begins in this line, with those that followed from it."""
    said: list[str] = []
    number = begin + 1
    last = begin
    message = 0
    while number < len(lines):
        line = logged_text(lines[number])
        if line.startswith((" ", "\t")):
            if said and line.startswith("\t"):
                said[-1] += f" {line.strip()}"
            last = number
        elif _is_exception(line):
            said.append(line)
            message, last = 0, number
        elif line == _BEGIN and _is_chained(lines, number):
            message, last = 0, number
        elif line.startswith(_CHAINED) or not line:
            if not _goes_on(lines, number):
                break
        elif said and message < MESSAGE_LINES and not _is_noise(lines[number]):
            said[-1] += f" {line.strip()}"
            message += 1
            last = number
        else:
            break
        number += 1
    if not said:
        return None
    shown = [logged_text(line) for line in lines[begin : last + 1]]
    if len(shown) > SHOWN:
        shown = [*shown[:3], "  …", *shown[4 - SHOWN :]]
    return Raised(shortened(said[-1]), tuple(shown), "\n".join(said), last)


def _is_exception(line: str) -> bool:
    name, colon, _ = line.partition(":")
    return bool(_EXCEPTION.match(line)) and (bool(colon) or bool(_NAMED.search(name)))


def _is_chained(lines: list[str], number: int) -> bool:
    """Whether an exception that begins here followed from the one before."""
    before = [logged_text(line) for line in lines[max(number - 3, 0) : number]]
    return any(line.startswith(_CHAINED) for line in before)


def _goes_on(lines: list[str], number: int) -> bool:
    """Whether the exception goes on after a line that is empty, or says so."""
    after = [logged_text(line) for line in lines[number : number + 4]]
    return any(line.startswith(_CHAINED) for line in after) or _BEGIN in after[:3]


def _is_noise(line: str) -> bool:
    """Whether a line is another program's, or a new line of a log."""
    return bool(re.match(r"(?:\d+: )?(?:raycluster|srun|slurmstepd|\(\w|\[|\d{4}-|\x1b|[IWE]\d{4} )", line))
