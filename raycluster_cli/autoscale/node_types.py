"""The node types of Ray's autoscaler, from worker groups, their bounds and what is known of their nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from ..model.node_type import NodeType
from ..model.worker_group import GroupBounds, WorkerGroup


def node_types(
    groups: Sequence[WorkerGroup],
    bounds: Mapping[str, GroupBounds],
    resources: Mapping[str, Mapping[str, float]],
    existing: Mapping[str, int],
    paused: Collection[str] = (),
) -> list[NodeType]:
    """One type for each group.

    ``bounds``: set by `raycluster scale`, over the group's own.  ``resources``: of a node of each group.
    ``existing``: how many nodes of each group were asked for and are not over.  ``paused``: groups for which
    no job may be submitted now; they keep what they have, and Ray's autoscaler looks for other groups.
    """
    found = []
    for group in groups:
        own = bounds.get(group.name) or GroupBounds(group.min_workers, group.max_workers)
        # Jobs are submitted and ended whole.
        least = -(-own.min_workers // group.nodes_per_job) * group.nodes_per_job
        most = own.max_workers // group.nodes_per_job * group.nodes_per_job
        if group.name in paused:
            there = -(-existing.get(group.name, 0) // group.nodes_per_job) * group.nodes_per_job
            most = min(most, there)
        found.append(
            NodeType(
                name=group.name,
                min_workers=min(least, most),
                max_workers=most,
                resources=dict(resources.get(group.name, {})),
                labels=dict(group.labels),
                idle_timeout_s=group.idle_timeout_s,
                nodes_per_job=group.nodes_per_job,
            )
        )
    return found


def count_by_group(
    launched: Mapping[str, str], joined: Mapping[str, str], in_flight: Mapping[str, int]
) -> dict[str, int]:
    """Nodes of each group that were asked for.

    ``launched`` and ``joined``: groups by instance, of the jobs and of the nodes in the cluster; many are in
    both.  ``in_flight``: nodes by group whose submission has begun and not ended.

    >>> count_by_group({"4711": "gpu"}, {"4711": "gpu", "99": "gpu"}, {"cpu": 2})
    {'gpu': 2, 'cpu': 2}
    """
    return dict(Counter({**launched, **joined}.values()) + Counter(in_flight))
