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


def option_pairs(words: Sequence[str], *, lenient: bool = False) -> list[Pair]:
    """The options, each as (long name, value); the value of a flag is None.

    Raises UsageError for what is no option of sbatch; with ``lenient`` a short option that is not known keeps
    its name, as "-Z", and a word that belongs to no option is left out.

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
            short, attached = word[1], word[2:].strip()
            if attached or short in _FLAGS:
                value_of_short: str | None = attached or None
            else:
                value_of_short = rest.pop(0) if rest and not rest[0].startswith("-") else None
            if short not in LONG and not lenient:
                raise UsageError(f"{word!r} is no option of sbatch.", "`sbatch --help` lists them.")
            pairs.append((LONG.get(short, word[:2]), value_of_short))
        elif not lenient:
            raise UsageError(
                f"{word!r} belongs to no option of sbatch.",
                "Write options as --name=value, such as --mem=64G.",
            )
    return pairs


def option_value(words: Sequence[str], name: str) -> str | None:
    """The value of an option by its long name, the last one: "" without one, None if not given.

    >>> option_value(["-x", "n1", "--exclude=n[2-3]"], "exclude"), option_value(["-N2"], "time")
    ('n[2-3]', None)
    """
    return value_in(option_pairs(words, lenient=True), name)


def value_in(pairs: Iterable[Pair], name: str) -> str | None:
    """The same among options that were read before."""
    found = [value or "" for each, value in pairs if each == name]
    return found[-1] if found else None


def option_word(name: str, value: str | None) -> str:
    """One option as a word of a command.

    >>> option_word("mem", "4G"), option_word("exclusive", None)
    ('--mem=4G', '--exclusive')
    """
    return f"--{name}" if value is None else f"--{name}={value}"


def option_line(name: str, value: str | None) -> str:
    """An option (with its hyphens) as it stands on an #SBATCH line; :func:`line_pairs` reads it.

    >>> option_line("--comment", "two words"), option_line("-N", "4")
    ("--comment='two words'", '-N 4')
    """
    if value is None:
        return name
    # sbatch reads #SBATCH lines with shell-like quoting, so what needs quotes gets them.
    # Unlike bash it takes a backslash in single quotes for its own (seen in Slurm 22.05).
    quoted = shlex.quote(value.replace("\\", "\\\\"))
    return f"{name}={quoted}" if name.startswith("--") else f"{name} {quoted}"


def line_pairs(lines: Iterable[str]) -> list[Pair]:
    """The options of #SBATCH lines, as :func:`option_pairs` with ``lenient`` has them.

    >>> line_pairs(["-D /a", "--chdir='/b c'", "-c4", "--exclusive"])
    [('chdir', '/a'), ('chdir', '/b c'), ('cpus-per-task', '4'), ('exclusive', None)]
    """
    pairs = [pair for line in lines for pair in option_pairs(split_words(line), lenient=True)]
    return [(name, value and value.replace("\\\\", "\\")) for name, value in pairs]


def shell_text(words: Iterable[str]) -> str:
    """The words as one text that :func:`split_words` reads."""
    return shlex.join(words)
