"""sbatch's options as pairs of long name and value, from any of the ways in which they can be written."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from .errors import UsageError

#: The long names of sbatch's short options (sbatch(1)).
LONG = {
    "A": "account",
    "a": "array",
    "B": "extra-node-info",
    "b": "begin",
    "C": "constraint",
    "c": "cpus-per-task",
    "D": "chdir",
    "d": "dependency",
    "e": "error",
    "F": "nodefile",
    "G": "gpus",
    "H": "hold",
    "i": "input",
    "J": "job-name",
    "k": "no-kill",
    "L": "licenses",
    "M": "clusters",
    "m": "distribution",
    "N": "nodes",
    "n": "ntasks",
    "O": "overcommit",
    "o": "output",
    "p": "partition",
    "Q": "quiet",
    "q": "qos",
    "S": "core-spec",
    "s": "oversubscribe",
    "t": "time",
    "v": "verbose",
    "W": "wait",
    "w": "nodelist",
    "x": "exclude",
}

_FLAGS = frozenset("HOQvW")

Pair = tuple[str, "str | None"]


def split_words(text: str) -> list[str]:
    """Words of a shell.  Raises UsageError for a quotation mark without its other half.

    >>> split_words("-p gpu --comment='two words'")
    ['-p', 'gpu', '--comment=two words']
    """
    try:
        return shlex.split(text, comments=False)
    except ValueError as error:
        raise UsageError(f"sbatch's options {text!r} cannot be read: {str(error).lower()}.") from error


def option_pairs(words: Sequence[str]) -> list[Pair]:
    """The options, each as (long name, value); the value of a flag is None.  Raises UsageError.

    >>> option_pairs(["-pgpu", "-t", "60", "--mem=4G", "--exclusive", "-N", "2"])
    [('partition', 'gpu'), ('time', '60'), ('mem', '4G'), ('exclusive', None), ('nodes', '2')]
    """
    rest = list(words)
    pairs: list[Pair] = []
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            if not equals and rest and not rest[0].startswith("-"):
                pairs.append((name, rest.pop(0)))
            else:
                pairs.append((name, value if equals else None))
        elif word.startswith("-") and len(word) > 1:
            short, attached = word[1], word[2:]
            if attached or short in _FLAGS:
                value_of_short: str | None = attached or None
            else:
                value_of_short = rest.pop(0) if rest and not rest[0].startswith("-") else None
            if short not in LONG:
                raise UsageError(f"{word!r} is no option of sbatch.", "`sbatch --help` lists them.")
            pairs.append((LONG[short], value_of_short))
        else:
            raise UsageError(
                f"{word!r} belongs to no option of sbatch.",
                "Write options as --name=value, such as --mem=64G.",
            )
    return pairs


def option_word(name: str, value: str | None) -> str:
    """One option as a word of a command.

    >>> option_word("mem", "4G"), option_word("exclusive", None)
    ('--mem=4G', '--exclusive')
    """
    return f"--{name}" if value is None else f"--{name}={value}"


def shell_text(words: Iterable[str]) -> str:
    """The words as one text that :func:`split_words` reads."""
    return shlex.join(words)
