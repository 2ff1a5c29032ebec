"""The exception that ended a Python program, found in what the program has printed.  Text in, value out."""

from __future__ import annotations

import re
from dataclasses import replace

from .dataclass import dataclass
from .log_lines import logged_text, own_text, shortened, without_label, without_rank

_BEGIN = "Traceback (most recent call last):"

#: How rich draws a traceback, in drivers that use Typer or rich.traceback: a frame around it.
_DRAWN = re.compile(r"╭─+ Traceback \(most recent call last\) ─+╮$")
_FRAME = ("╭", "│", "╰")

#: What Python puts before the lines of an exception group, and between its exceptions.
_GROUP = "+ Exception Group Traceback (most recent call last):"
_IN_GROUP = re.compile(r" *(?:\+ Exception Group (?=Traceback)|\| ?|\+[-+]+(?: \S+ -+)?$)")

#: The last line of an exception: its class, and its message if it has one.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:\(\w+\))?(?:: .*|:)?$")

#: A class that is an exception even where nothing follows its name.
_NAMED = re.compile(r"(?:Error|Exception|Interrupt|Exit|Timeout|Iteration)(?:\(\w+\))?$")

#: Before an exception that ends nothing, mostly at the exit of Python, below the one that does.
_IGNORED = "Exception ignored "

#: One exception leads to the next.
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")

#: Exceptions that only point to another one, which was printed before: of vLLM, Ray Tune, Ray Train, Ray
#: Data, torchrun, and of what starts another Python (accelerate), which ends with 1 after an exception.
_POINTS_BACK = re.compile(
    r"[Ss]ee (?:the )?(?:root cause|stack trace) \(?above|inspect the previous error messages|"
    r"TuneError: .*Trials did not complete|UDF failed to process a data block|"
    r"ray\.data\.exceptions\.SystemException|\bChildFailedError\b|"
    r"CalledProcessError: Command .*(?:python|accelerate|torchrun|deepspeed|\.py\b).* returned non-zero exit "
    r"status 1\b"
)

#: Lines between such an exception and the one that it points to, where that is another program's.
POINTS_BACK_LINES = 40

#: Where the part of another process begins, below an exception that it led to.
_TASK = re.compile(r"ray::\S.* \(pid=\d+")

#: Exceptions of Ray that the end of another process caused; its cause is found elsewhere.
_OF_ANOTHER = re.compile(
    r"\b(?:Actor(?:Died|Unavailable)Error|RayActorError|WorkerCrashedError|NodeDiedError|LocalRayletDiedError|"
    r"Object(?:Lost|Fetch\w*|Reconstruction\w*)Error|OwnerDiedError|RaySystemError|RpcError|"
    r"ActorPlacementGroupRemoved|OutOfMemoryError: Task was killed)\b|"
    r"CalledProcessError: .* died with <Signals"
)

#: A line below a message, before what torchrun says of each process.
_RULE = re.compile(r"(?:={3,}|-{3,})$")

#: What torchrun says there of a process that a signal has ended; of the first one last.
_BY_SIGNAL = re.compile(r" +traceback *: (Signal \d+ .*)")

#: Another program's line, a new line of a log, or a warning of Python's: no message goes on there.
_NOISE = re.compile(
    r"(?: *\d+: )?(?:raycluster|srun|slurmstepd|Exception ignored |\S+:\d+: \w*Warning: |"
    r"\(\w|\[|\d{4}-|\x1b|[IWE]\d{4} )"
)

#: Lines of a message that go on after its first, and of a table below it.
MESSAGE_LINES, TABLE_LINES = 12, 40

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
    first: int
    """Index of its first line in the text."""
    last: int
    """Index of its last line in the text, or of the exception that points to it; lines that a program has
    printed next may count as its message."""
    named: int
    """Index of the line with its class."""

    @property
    def is_of_another_process(self) -> bool:
        """Whether it only says that another process, or a node, has ended."""
        return self.points_back or bool(_OF_ANOTHER.search(self.text))

    @property
    def points_back(self) -> bool:
        """Whether it only points to another exception, which is not there."""
        return bool(_POINTS_BACK.search(self.summary))


def last_exception(text: str) -> Raised | None:
    """The exception that a program printed last, or the one that this points to; None without one.

    >>> last_exception("Traceback (most recent call last):\\n  File 'a'\\nValueError: bad").summary
    'ValueError: bad'
    """
    lines = [without_rank(without_label(line.rstrip())) for line in text.splitlines()]
    if _GROUP in text:
        lines = [_IN_GROUP.sub("", line, count=1) if _IN_GROUP.match(line) else line for line in lines]
    read: list[Raised] = []
    for number, line in enumerate(lines):
        if number and logged_text(lines[number - 1]).startswith(_IGNORED):
            continue
        if _begins(logged_text(line)) and not (read and number <= read[-1].last):
            read += filter(None, [_read(lines, number)])
    # The driver's own stands without the name of a process before it, unless the program names itself so.
    found = read[::-1]
    found.sort(key=lambda one: own_text(lines[one.first]) != lines[one.first])
    if not found:
        return None
    if not found[0].points_back:
        return found[0]
    near = found[0].first - POINTS_BACK_LINES
    before = [one for one in found if near <= one.last < found[0].first and not one.points_back]
    if not before:
        return found[0]
    return replace(max(before, key=lambda one: one.last), last=found[0].last, named=found[0].named)


def _begins(line: str) -> bool:
    return line == _BEGIN or bool(_DRAWN.match(line))


def _read(lines: list[str], begin: int) -> Raised | None:
    """The exception that begins in this line, with those that followed from it."""
    said: list[str] = []
    number = begin + 1
    last = named = begin
    message = 0
    framed, in_table, signal = True, False, ""
    while number < len(lines):
        line = logged_text(lines[number])
        if line.startswith((" ", "\t", *_FRAME)) and not (said and _begins(line)):
            if said and line.startswith("\t"):
                said[-1] += f" {line.strip()}"
            if in_table and (told := _BY_SIGNAL.match(line)):
                signal = f" {told[1]}"
            last, framed = number, framed or not in_table
        elif _is_exception(line) and framed:  # "Error: x" below an exception is the program's own line
            said.append(line)
            message, last, named, framed = 0, number, number, False
        elif (_begins(line) or _TASK.match(line)) and _is_chained(lines, number):
            message, last, framed, in_table = 0, number, True, False
        elif _begins(line):  # another one
            break
        elif line.startswith(_CHAINED) or not line:
            if not _goes_on(lines, number):
                break
        elif said and (in_table or _RULE.match(line)) and message < TABLE_LINES:
            in_table = True
            message += 1
            last = number
        elif said and message < MESSAGE_LINES and not _is_noise(lines[number]):
            if line.strip() not in said[-1]:  # several ranks print the same at once
                said[-1] += f" {line.strip()}"
            message += 1
            last = number
        else:
            break
        number += 1
    if not said:
        return None
    said[-1] += signal
    shown = [logged_text(line) for line in lines[begin : last + 1]]
    if len(shown) > SHOWN:
        shown = [*shown[:3], "  …", *shown[4 - SHOWN :]]
    # Of a chain, the last one that says something itself.
    summary = next((one for one in reversed(said) if not _POINTS_BACK.search(one)), said[-1])
    return Raised(shortened(summary.removesuffix(":")), tuple(shown), "\n".join(said), begin, last, named)


def _is_exception(line: str) -> bool:
    name, _, message = line.partition(":")
    return bool(_EXCEPTION.match(line)) and (bool(message) or "." in name or bool(_NAMED.search(name)))


def _is_chained(lines: list[str], number: int) -> bool:
    """Whether an exception that begins here followed from the one before."""
    before = [logged_text(line) for line in lines[max(number - 3, 0) : number]]
    return any(line.startswith(_CHAINED) for line in before)


def _goes_on(lines: list[str], number: int) -> bool:
    """Whether the exception goes on after a line that is empty, or says so."""
    after = [logged_text(line) for line in lines[number : number + 4]]
    return any(line.startswith(_CHAINED) for line in after) or any(map(_begins, after[:3]))


def _is_noise(line: str) -> bool:
    """Whether a line is another program's, or a new line of a log."""
    return bool(_NOISE.match(line))
