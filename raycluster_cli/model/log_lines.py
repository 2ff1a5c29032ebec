"""Lines of logs: which of them report a failure, and when they were written.

Text in, values out.  A warning is no failure, and neither is a text that only says what might happen: vLLM
warns at each start that its limit "can cause fd limit errors like `OSError: [Errno 24] Too many open files`",
and Ray lists "potential root causes" of a worker process that died.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

_COLOUR = re.compile(r"\x1b\[[\d;]*m")

#: What `srun --label` puts before each line.
_LABEL = re.compile(r" *\d+: ")

#: What stands before a line's own text: colours, srun's label, the process (vLLM, Ray's worker logs), and
#: PyTorch's rank.
_PREFIX = re.compile(
    r"(?:\x1b\[[\d;]*m)*(?: *\d+: )?(?:(?:\x1b\[[\d;]*m)*\([^()\n]{1,80}\)(?:\x1b\[[\d;]*m)* ?){0,2}"
    r"(?:\[rank\d+\]:(?: |$))?"
)

#: What PyTorch puts before each line of an exception, once a process group is there.
_RANK = re.compile(r"((?: *\d+: )?)\[rank\d+\]:(?: |$)")

#: The same for a line of an exception in a log: vLLM's `ERROR 11-28 19:08:15 [core.py:708] `.
_LOGGED = re.compile(r"(?:ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[?[\w./-]+:\d+\]? ?")

#: How slurmstepd begins a line in a job's output: by its name, and since Slurm 25.05 by the time.
SLURMSTEPD = r"(?:slurmstepd(?:-\S{1,80})?: |\[\d{4}-\d\d-\d\dT[\d:.+-]{8,20}\] (?:error|warning): )"

#: Lines below the level of an error, by the ways in which levels are written.
_BELOW_ERROR = re.compile(
    r"\[\d{4}-\d\d-\d\d[ T][\d:,.]+ [IWDT] "  # Ray's daemons: [2026-11-23 04:45:00,123 W 1 1] (raylet)
    r"|\d{4}-\d\d-\d\d[ T][\d:,.]+\s+(?:- )?(?:\S+ - )?(?:WARN(?:ING)?|INFO|DEBUG)\b"  # Ray in Python
    r"|\[?\d{4}-\d\d-\d\d[ T][\d:,.]+\]?(?:[\s|-]*\[[\w.:/-]+\])?[\s|-]*\[?"
    r"(?:WARN(?:ING)?|INFO|DEBUG)\b"  # loguru, Hydra
    r"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "  # TensorFlow, XLA
    r"|\[[^\]\n]{1,80}\](?: torch\S*:)? \[?(?:WARN(?:ING)?|INFO|DEBUG)\b"  # DeepSpeed, older torchrun
    r"|\S+:\d+:\d+ \[\d+\] NCCL INFO "
    r"|\[?(?:rank\d+\]:\s*\[)?[IWD]\d{4} "  # glog, absl, PyTorch: W1123 04:45:00.123456
    r"|\[?(?:WARN(?:ING)?|INFO|DEBUG)\b"  # vLLM: WARNING 11-28 19:08:15 [utils.py:222]
    r"|\S+:\d+: \w*Warning: "  # Python's warnings: train.py:12: UserWarning:
    r"|\w*Warning: "
    r"|(?:srun|sbatch|salloc|slurmstepd\S*): (?:warning|info|verbose|debug\d?)\b"
    r"|[Ww]arning: "
)

#: Before a text, in its sentence: it may happen, or is an example.
_MIGHT = re.compile(
    r"\b(?:may|might|could|would|if|like|such as|e\.g|for example|in case|potential|possibl[ey]|to avoid|"
    r"consider|common causes|can(?!'t))\b",
    re.IGNORECASE,
)

#: After a text, at once: it may happen.
_MIGHT_FOLLOW = re.compile(r"\W{0,3}(?:errors? )?(?:may|might|could|can)\b", re.IGNORECASE)

#: From here on a line only lists what may have been the cause (Ray, up to 2.60).
_LISTS_CAUSES = re.compile(r"potential root causes|[Ss]ome common causes")

_SENTENCE = re.compile(r"(?<!e\.g)[.;!?]\s")

#: So many characters before a text are read as its sentence: some lines are as long as a file.
_SENTENCE_CHARS = 500

#: What Ray's daemons log below the line that says why they end, and each minute: addresses, and their state.
_DUMP = re.compile(
    r"(?:\[[^\]]+\] \(\w+\) logging\.cc:\d+: +)?(?:PC: )? *@ +0x[0-9a-f]+ "
    r"|\S+\([\w+.]*\+0x[0-9a-f]+\) \[0x[0-9a-f]+\]"
    r"|\*\*\* StackTrace Information \*\*\*"
    r"|\[state-dump\]"
)

#: A line by which one of Ray's daemons ends: level C or F, mostly of a check that has failed.
_FATAL = re.compile(r"\[\d{4}-\d\d-\d\d[ T][\d:,.]+ [CF] [\d ]+\] \(\w+\) \S+ +(.*)")

#: What Ray writes before the check itself.
_BUG_IN_RAY = re.compile(r"An unexpected system state has occurred\..* Check failed: ")

_FULL_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)")


def without_colours(line: str) -> str:
    r"""A line without the codes that set colours on a terminal.

    >>> without_colours("\x1b[33m(raylet)\x1b[0m n2 is dead")
    '(raylet) n2 is dead'
    """
    return _COLOUR.sub("", line)


def without_label(line: str) -> str:
    """A line without the label of `srun --label`.

    >>> without_label(" 0: ValueError: bad")
    'ValueError: bad'
    """
    return _LABEL.sub("", line, count=1) if _LABEL.match(line) else line


def without_rank(line: str) -> str:
    """A line without the rank that PyTorch puts before it.

    >>> without_rank("[rank0]: ValueError: bad"), without_rank("[rank0]:[W1128 19:38:02 slow")
    ('ValueError: bad', '[rank0]:[W1128 19:38:02 slow')
    """
    return _RANK.sub(r"\1", line, count=1) if _RANK.match(line) else line


def own_text(line: str) -> str:
    """A line without what programs put before it.

    >>> own_text("(APIServer pid=7) WARNING 11-28 19:08:15 [utils.py:222] slow")
    'WARNING 11-28 19:08:15 [utils.py:222] slow'
    """
    return line[_PREFIX.match(line).end() :]  # type: ignore[union-attr]  # matches nothing too


def logged_text(line: str) -> str:
    """A line of an exception as Python prints it, also where a program has logged or coloured it.

    >>> logged_text("(EngineCore pid=7) ERROR 11-28 19:08:15 [core.py:708] ValueError: no memory")
    'ValueError: no memory'
    """
    text = without_colours(own_text(line))
    found = _LOGGED.match(text)
    return text[found.end() :] if found else text


def is_failure(line: str) -> bool:
    """Whether a line reports an error as far as its level says; one without a level may.

    >>> is_failure("[2026-11-23 04:45:00,123 W 1 1] (raylet) a.cc:1: Address already in use")
    False
    >>> is_failure("OSError: [Errno 98] Address already in use")
    True
    """
    text = own_text(line).lstrip()
    return not (_BELOW_ERROR.match(text) or _BELOW_ERROR.match(line.lstrip()))


def find_said(pattern: str, line: str) -> re.Match[str] | None:
    """Where a line says that this has happened; None when it does not, or only that it might.

    >>> find_said("Too many open files", "This can cause errors like `Too many open files`.") is None
    True
    >>> find_said("Too many open files", "OSError: [Errno 24] Too many open files").start()
    20
    """
    lists = _LISTS_CAUSES.search(line)
    text = line[: lists.start()] if lists else line
    for match in re.finditer(pattern, text):
        before = _SENTENCE.split(text[max(match.start() - _SENTENCE_CHARS, 0) : match.start()])[-1]
        if not _MIGHT.search(before) and not _MIGHT_FOLLOW.match(text, match.end()):
            return match
    return None


def without_dumps(lines: Iterable[str]) -> list[str]:
    """Lines of a log of Ray's daemons without addresses of the stack, and without dumps of their state.

    >>> without_dumps(["Check failed: port", "*** StackTrace Information ***", "raylet(+0xff7) [0x56] main"])
    ['Check failed: port']
    """
    return [line for line in lines if not _DUMP.match(line)]


def fatal_text(text: str) -> str:
    """Why one of Ray's daemons has ended itself, by its log; empty when that does not say.

    >>> fatal_text("[2026-11-29 14:58:52,480 C 1 1] (raylet) gcs_client.cc:92:  Check failed: ok Nil ID.")
    'Check failed: ok Nil ID.'
    """
    found = [match[1] for line in text.splitlines() if (match := _FATAL.match(line))]
    return _BUG_IN_RAY.sub("Check failed: ", found[-1]).strip() if found else ""


def written_at(line: str) -> float | None:
    """When a line was written, in Unix seconds by the time zone of here; None when it does not say.

    >>> written_at("no time in it") is None
    True
    """
    found = _FULL_TIME.search(line[:160])
    if found is None:
        return None
    try:
        return time.mktime(time.strptime(" ".join(found.groups()), "%Y %m %d %H %M %S"))
    except (ValueError, OverflowError):
        return None


def shortened(text: str, size: int = 300) -> str:
    """A text of at most about ``size`` characters that ends with a whole word.

    >>> shortened("three whole words", 12)
    'three whole …'
    """
    if len(text) <= size:
        return text
    head, _, _ = text[: size + 1].rpartition(" ")
    return f"{head or text[:size]} …"
