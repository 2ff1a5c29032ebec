"""Demand that no node can satisfy: tasks, actors and placement groups that will never start on these nodes.

Where no autoscaler runs Ray does not report them: the driver waits.  Pure functions of what the GCS knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model.unmet_demand import UnmetDemand

Resources = Mapping[str, float]

#: Resources that Ray counts in bytes.
_BYTES = ("memory", "object_store_memory")


def unplaceable(
    requests: Sequence[tuple[Resources, int]],
    groups: Sequence[Sequence[Resources]],
    nodes: Sequence[Resources],
) -> list[UnmetDemand]:
    """What waits and fits on no node; each kind once.

    ``requests``: what a task or an actor asks for, and how many ask for it.  ``groups``: the bundles of each
    placement group.  ``nodes``: all resources of each node that is alive.

    >>> found = unplaceable([({"CPU": 8.0}, 3), ({"CPU": 1.0}, 9)], [], [{"CPU": 4.0}, {"CPU": 2.0}])
    >>> [one.text for one in found]
    ['3 tasks or actors that each need 8 CPUs (the largest node has 4 CPUs)']
    """
    if not nodes:
        return []
    found: dict[str, int] = {}
    for resources, count in requests:
        if not _fits(resources, nodes):
            text = f"need {_words(resources)} {_what_there_is(resources, nodes)}"
            found[text] = found.get(text, 0) + count
    unmet = {text: _of_tasks(text, count) for text, count in found.items()}
    for bundles in groups:
        if text := _of_group(bundles, nodes):
            unmet[text] = text
    return sorted((UnmetDemand(*item) for item in unmet.items()), key=lambda one: one.text)


def _of_tasks(text: str, count: int) -> str:
    if count > 1:
        return f"{count} tasks or actors that each {text}"
    return f"a task or an actor that {text.replace('need ', 'needs ', 1)}"


def _of_group(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> str:
    """Why a placement group cannot be placed; empty when it may."""
    for bundle in bundles:
        if not _fits(bundle, nodes):
            return f"a placement group with a bundle of {_words(bundle)} {_what_there_is(bundle, nodes)}"
    wanted = _sum(bundles)
    there = _sum(nodes)
    missing = {name: size for name, size in wanted.items() if size > there.get(name, 0.0)}
    if not missing:
        return ""
    have = {name: there.get(name, 0.0) for name in missing}
    return f"a placement group that needs {_words(missing)} in all (the cluster has {_words(have)})"


def _sum(many: Sequence[Resources]) -> dict[str, float]:
    total: dict[str, float] = {}
    for resources in many:
        for name, size in resources.items():
            total[name] = total.get(name, 0.0) + size
    return total


def _fits(resources: Resources, nodes: Sequence[Resources]) -> bool:
    return any(all(size <= node.get(name, 0.0) for name, size in resources.items()) for node in nodes)


def _what_there_is(resources: Resources, nodes: Sequence[Resources]) -> str:
    """The most that a node has of what is missing; or that each is there, but not together."""
    most = {name: max(node.get(name, 0.0) for node in nodes) for name in resources}
    missing = {name: most[name] for name, size in resources.items() if size > most[name]}
    if not missing:
        return "(no node has all of it)"
    return f"(the largest node has {_words(missing)})" if any(missing.values()) else "(no node has any)"


def _words(resources: Resources) -> str:
    """Resources for people.

    >>> _words({"CPU": 1.0, "GPU": 0.5, "memory": 2.0**31, "TPU-v4": 4.0})
    '1 CPU, 0.5 GPUs, 4 TPU-v4, 2.0 GiB of memory'
    """
    words = []
    for name, size in sorted(resources.items()):
        if name in _BYTES:
            words.append(f"{size / 2**30:.1f} GiB of {name.replace('_', ' ')}")
        else:
            plural = "s" if name in ("CPU", "GPU") and size != 1 else ""
            words.append(f"{size:g} {name}{plural}")
    return ", ".join(words) or "nothing"
