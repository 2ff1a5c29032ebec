"""`raycluster scale`: what people write (gpu=8, gpu=0..32, +2, -1), and the bounds that it means."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..model.errors import UsageError
from ..model.group_status import GroupStatus
from ..model.wording import count
from ..model.worker_group import GroupBounds
from ..state.record import Record
from ..state.worker_jobs import WorkerJobFiles
from .clusters import own
from .groups import read_groups

_CHANGE = re.compile(
    r"(?:(?P<group>[a-z0-9][a-z0-9_-]*?)?(?:=|(?=[+-]\d)))?"
    r"(?:(?P<sign>[+-])(?P<by>\d{1,6})|(?P<least>\d{1,6})(?:\.\.(?P<most>\d{1,6}))?)"
)

_EXAMPLES = "For example gpu=8, gpu=0..32, gpu=+2 or gpu=-1."


def is_change(word: str) -> bool:
    """Whether a word that stands where a job may stand is a change.

    >>> is_change("+2"), is_change("gpu=8"), is_change("4711"), is_change("4711_2"), is_change("0..8")
    (True, True, False, False, True)
    """
    return word[:1] in ("+", "-") or "=" in word or (".." in word and "/" not in word)


def groups_of(record: Record) -> tuple[GroupStatus, ...]:
    """The worker groups of a cluster.  Raises UsageError for one of a fixed size."""
    groups = read_groups(record.path)
    if not groups:
        raise UsageError(
            f"cluster {record.path.name} has no worker groups: its size is fixed.",
            "`run --local N` starts N workers on this machine; only clusters of Slurm jobs grow and shrink."
            if record.slurm_cluster == "local"
            else "Start it with --max-nodes N, or with --config FILE that has [workers.NAME].",
        )
    return groups


def change_groups(record: Record, words: Sequence[str]) -> tuple[GroupStatus, ...]:
    """Set new bounds; returns the groups as they are now.  Raises UsageError."""
    groups = groups_of(record)
    own(record)
    if record.read_end() is not None:
        raise UsageError(
            f"cluster {record.path.name} has ended.", "`raycluster status` lists those that run."
        )
    changed = bounds_after(words, groups)
    WorkerJobFiles(record.path).write_bounds(all_bounds(changed, groups))
    return read_groups(record.path)


def bounds_after(words: Sequence[str], groups: Sequence[GroupStatus]) -> dict[str, GroupBounds]:
    """The new bounds, by group, for those that are changed.  Raises UsageError.

    `8` is exactly eight nodes.  `0..32` lets the group grow and shrink.  `+2` and `-1` are that many more or
    fewer than the group has, which then stays at that size.

    >>> bounds_after(["gpu=0..32"], [GroupStatus("gpu")])
    {'gpu': GroupBounds(min_workers=0, max_workers=32)}
    >>> bounds_after(["+2"], [GroupStatus("gpu", 3, 3)])
    {'gpu': GroupBounds(min_workers=5, max_workers=5)}
    """
    found: dict[str, GroupBounds] = {}
    for word in words:
        match = _CHANGE.fullmatch(word)
        if match is None:
            raise UsageError(f"{word!r} is no change of a worker group.", _EXAMPLES)
        group = _group(match["group"], groups)
        if group.name in found:
            raise UsageError(
                f"worker group {group.name} is changed twice.", "Give one change for each group."
            )
        if match["sign"]:
            base = group.max_workers if group.is_fixed else group.nodes
            size = base + (int(match["by"]) if match["sign"] == "+" else -int(match["by"]))
            if size < 0:
                raise UsageError(
                    f"worker group {group.name} has {count(base, 'node')}; {word} would leave {size}."
                )
            found[group.name] = _whole_jobs(group, word, size, size)
            continue
        least = int(match["least"])
        most = int(match["most"]) if match["most"] is not None else least
        if least > most:
            raise UsageError(f"{word}: {least} is more than {most}.", _EXAMPLES)
        found[group.name] = _whole_jobs(group, word, least, most)
    return found


def _whole_jobs(group: GroupStatus, word: str, least: int, most: int) -> GroupBounds:
    """The bounds.  Raises UsageError where no number of jobs has this many nodes."""
    if each := next((size for size in (least, most) if size % group.nodes_per_job), None):
        raise UsageError(
            f"{word}: jobs of worker group {group.name} have {group.nodes_per_job} nodes each, and {each} is "
            "no multiple of it.",
            f"For example {group.name}={each + group.nodes_per_job - each % group.nodes_per_job}.",
        )
    return GroupBounds(least, most)


def _group(name: str | None, groups: Sequence[GroupStatus]) -> GroupStatus:
    names = ", ".join(group.name for group in groups)
    if not name:
        if len(groups) == 1:
            return groups[0]
        raise UsageError(f"the cluster has {len(groups)} worker groups: {names}.", f"Name one. {_EXAMPLES}")
    for group in groups:
        if group.name == name:
            return group
    raise UsageError(f"the cluster has no worker group {name!r}.", f"Its groups: {names}.")


def all_bounds(changed: dict[str, GroupBounds], groups: Sequence[GroupStatus]) -> dict[str, GroupBounds]:
    """What `scale.json` then holds: the changes, and what was set by hand before."""
    kept = {group.name: GroupBounds(group.min_workers, group.max_workers) for group in groups if group.is_set}
    return {**kept, **changed}
