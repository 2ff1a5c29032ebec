"""The hosts on which the worker jobs of a cluster may run: those of the partitions that its groups name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..model.errors import RayclusterError, UsageError
from ..model.sbatch_words import option_value
from ..system.process import Reaper
from .command import run_command
from .hostlist import parse_hostlist

#: One line for each partition, * behind the name of the default one, and each kind of its nodes.
SINFO = ("sinfo", "--noheader", "--format=%P|%N")

#: Of larger partitions no host is named: an environment has room for some thousand names.
MOST_HOSTS = 2000


def hosts_in(text: str, partitions: Collection[str]) -> tuple[str, ...]:
    """The hosts of these partitions in the output of SINFO, each once; "" stands for the default partition.

    Empty where they are more than MOST_HOSTS.

    >>> hosts_in("cpu*|n[1-2]\\ngpu|g1\\ngpu|g2\\n", ["gpu", ""])
    ('n1', 'n2', 'g1', 'g2')
    """
    found: dict[str, None] = {}
    for line in text.splitlines():
        name, _, nodes = line.strip().partition("|")
        if name.rstrip("*") in partitions or (name.endswith("*") and "" in partitions):
            try:
                found.update(dict.fromkeys(parse_hostlist(nodes)))
            except UsageError:  # "(null)" of a partition without nodes
                continue
    return tuple(found) if len(found) <= MOST_HOSTS else ()


def partitions_of(groups: Iterable[Sequence[str]]) -> set[str]:
    """The partitions that these options of sbatch name; "" where there is none.

    >>> sorted(partitions_of([("--partition=gpu,fat", "--time=9"), ("--mem=1G",)]))
    ['', 'fat', 'gpu']
    """
    found: set[str] = set()
    for words in groups:
        found.update(part.strip() for part in (option_value(words, "partition") or "").split(","))
    return found


async def hosts_of_groups(
    groups: Iterable[Sequence[str]], env: Mapping[str, str], reaper: Reaper, *, timeout_s: float
) -> tuple[str, ...]:
    """The hosts on which jobs with these options of sbatch may run; empty when Slurm does not say."""
    try:
        code, text = await run_command(SINFO, env, reaper, timeout_s=timeout_s)
    except RayclusterError:
        return ()
    return hosts_in(text, partitions_of(groups)) if code == 0 else ()
