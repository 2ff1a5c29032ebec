"""Slurm's facts about a node as labels for Ray."""

from __future__ import annotations

import re

from ..slurm.allocation import Allocation

#: The label of a node in a worker job (--cluster): the job, as Slurm names it.
JOB_LABEL = "slurm/worker-job"

#: Ray's own label for the node type of its autoscaler: the worker group.
GROUP_LABEL = "ray.io/node-group"


def slurm_labels(allocation: Allocation | None) -> tuple[tuple[str, str], ...]:
    """Slurm's facts by which a driver may want to place its work, as (key, value).

    Keys: slurm/node, slurm/partition, slurm/het-component, slurm/topology (the whole
    address, such as core.leaf3.n17) and, per kind of the address's parts, the innermost
    one: slurm/switch, slurm/block.  Values keep to what Ray takes (63 letters, digits,
    dashes, dots and underscores).
    """
    if allocation is None:
        return ()
    found: dict[str, str] = {}
    if allocation.node_name:
        found["slurm/node"] = allocation.node_name
    if allocation.partition:
        found["slurm/partition"] = allocation.partition
    if allocation.het_component is not None:
        found["slurm/het-component"] = str(allocation.het_component)
    kinds = (allocation.topology_addr_pattern or "").split(".")
    if len(kinds) > 1 and allocation.topology_addr:
        found["slurm/topology"] = allocation.topology_addr
        names = allocation.topology_addr.split(".", len(kinds) - 1)
        if len(names) == len(kinds):
            for kind, name in zip(kinds[:-1], names[:-1], strict=True):
                if re.fullmatch(r"[a-z]+", kind) and name:
                    found[f"slurm/{kind}"] = name
    return tuple((key, value) for key, text in found.items() if (value := label_value(text)))


def label_value(text: str) -> str:
    """The text as a label's value: other characters become underscores, 63 characters at most.

    >>> label_value("leaf[1-2],x")
    'leaf_1-2__x'
    """
    value = re.sub(r"[^A-Za-z0-9._-]", "_", text)[:63]
    return value.strip("._-")
