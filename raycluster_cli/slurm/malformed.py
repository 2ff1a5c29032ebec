"""The error for text that is not in one of Slurm's formats."""

from __future__ import annotations

from ..model.errors import UsageError

MAX_HOSTS = 65536
"""No hostlist or list of counts expands to more: Slurm's own limit for one range (MAX_RANGE)."""


def malformed(source: str, text: str, why: str, needed: str) -> UsageError:
    """The error for ``text``; ``source`` is the variable or option that it came from.

    >>> malformed("SLURM_MEM_PER_NODE", "lots", "not a size", "MiB").message
    "SLURM_MEM_PER_NODE cannot be read: found 'lots' (not a size), needed MiB."
    """
    return UsageError(f"{source} cannot be read: found {quoted(text)} ({why}), needed {needed}.")


def quoted(text: str) -> str:
    """The text as it can be shown in a message of one line.

    >>> quoted("two\\nlines")
    "'two\\\\nlines'"
    """
    return repr(text if len(text) <= 80 else text[:77] + "...")
