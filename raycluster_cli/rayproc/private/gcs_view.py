"""The cluster as Ray's autoscaler sees it: each node has an instance id and a node type.

A node without them is invisible to the autoscaler; a type that is not configured ends each of its rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.core.generated import autoscaler_pb2

from ...model.node_type import OWN_NODES, ClusterNode, NodeType
from ...model.unmet_demand import UnmetDemand
from ...model.worker_group import HEAD_GROUP
from ...model.worker_job import job_of
from ..demand import Resources, unplaceable
from .gcs import RPC_TIMEOUT_S

#: Only the head's raylet has this resource.
HEAD_RESOURCE = "node:__internal_head__"

#: The label of a node with its host's name in Slurm (node.labels).
HOST_LABEL = "slurm/node"


class GcsView:
    """Ray's GCS client as the autoscaler sees it: each node has an instance id and a node type.

    A node without them is invisible to the autoscaler, which then launches others for demand that would fit
    there (`request_resources`, placement groups).  Neither the head nor the workers of its job have them.
    """

    def __init__(self, gcs: Any) -> None:
        self._gcs = gcs
        self.nodes: Sequence[ClusterNode] = ()
        self.groups: frozenset[str] = frozenset()
        self._state: Any = None
        self._drained: set[str] = set()
        """Ids of the nodes that the autoscaler lets go."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gcs, name)

    def get_cluster_resource_state(self, *_: Any, **__: Any) -> bytes:
        reply = autoscaler_pb2.GetClusterResourceStateReply()
        reply.ParseFromString(self._gcs.get_cluster_resource_state(timeout_s=RPC_TIMEOUT_S))
        self._state = reply.cluster_resource_state
        name_nodes(self._state.node_states, self.groups)
        idle_together(self._state.node_states)
        self.nodes = tuple(map(_cluster_node, self._state.node_states))
        self._drained &= {node.node_id for node in self.nodes}
        return bytes(reply.SerializeToString())

    def drain_node(self, node_id: str, *arguments: Any, **named: Any) -> Any:
        """Ray's own call, for idle nodes: (accepted, why not)."""
        answer = self._gcs.drain_node(node_id, *arguments, **named)
        if answer[0]:
            self._drained.add(node_id)
        return answer

    def drain_nodes(self, node_ids: Sequence[bytes], *_: Any, **__: Any) -> list[bytes]:
        """Let nodes go that are too many: what runs there may end first.

        With Ray's own call of this name, which it makes when a group has more nodes than its maximum, the
        tasks there die at once.
        """
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        message = "the worker group has more nodes than wanted, or a whole job takes the place of this one"
        return [
            node_id
            for node_id in node_ids
            if node_id and self.drain_node(node_id.hex(), reason, message, 0)[0]
        ]

    def has_left(self, instance: str) -> bool:
        """Whether a node was in the cluster and is no more: its worker ends by itself."""
        of_it = [node for node in self.nodes if node.instance == instance]
        return bool(of_it) and not any(node.alive for node in of_it)

    def has_others(self, instance: str) -> bool:
        """Whether other nodes of its job are in the cluster that the autoscaler does not let go."""
        return any(
            node.alive and node.instance != instance and node.node_id not in self._drained
            for node in self.nodes
            if job_of(node.instance) == job_of(instance)
        )

    def was_lost(self, instance: str) -> bool:
        """Whether a node has left the cluster without being let go: its job ends, or has ended, by itself."""
        of_it = [node for node in self.nodes if node.instance == instance]
        return bool(of_it) and not any(node.alive or node.node_id in self._drained for node in of_it)

    def drop_feasible(self, state: Any, types: Sequence[NodeType]) -> None:
        """Take out of an AutoscalingState, in place, the "infeasible" requests that only have to wait.

        Ray also calls infeasible what fits on a node of a group that has its maximum.  The GCS warns of
        those, and with RAY_enable_infeasible_task_early_exit it ends their tasks.
        """
        sizes = [dict(node.total_resources) for node in self._state.node_states if _is_alive(node)]
        sizes += [dict(one.resources) for one in types if one.max_workers]
        kept = [one for one in state.infeasible_resource_requests if not _fits(one, sizes)]
        del state.infeasible_resource_requests[:]
        state.infeasible_resource_requests.extend(kept)

    def unplaceable(self, types: Sequence[NodeType]) -> list[UnmetDemand]:
        if self._state is None:
            return []
        there = [dict(node.total_resources) for node in self._state.node_states if _takes_work(node)]
        requests = [
            (dict(r.request.resources_bundle), r.count) for r in self._state.pending_resource_requests
        ]
        gangs: list[Sequence[Resources]] = [
            [dict(request.resources_bundle) for request in gang.requests]
            for gang in self._state.pending_gang_resource_requests
        ]
        possible: list[Resources] = [*there]
        for one in types:
            # A job that has lost a node takes the place of a whole one.
            nodes = [node for node in self.nodes if node.alive and not node.draining]
            jobs = {job_of(node.instance) for node in nodes if node.node_type == one.name}
            possible += [one.resources] * max(one.max_workers - len(jobs) * one.nodes_per_job, 0)
        return unplaceable(requests, gangs, possible)


def name_nodes(states: Any, groups: frozenset[str]) -> None:
    """Give the nodes of a ClusterResourceState, in place, an instance id and a node type that we know."""
    for node in states:
        short = node.node_id.hex()[:12]
        if HEAD_RESOURCE in node.total_resources:
            node.instance_id, node.ray_node_type_name = f"{HEAD_GROUP}/{short}", HEAD_GROUP
        elif not node.instance_id or node.ray_node_type_name not in groups:
            # The scheduler fails with a KeyError at a node of a type that is not configured.
            node.instance_id, node.ray_node_type_name = f"{OWN_NODES}/{short}", OWN_NODES


def idle_together(states: Any) -> None:
    """In a ClusterResourceState, in place: nodes of one job are idle when all of them are.

    They start and end together, so an idle one is no node that could be given back.
    """
    jobs: dict[str, list[Any]] = {}
    for node in states:
        if _is_alive(node):
            jobs.setdefault(job_of(node.instance_id), []).append(node)
    for nodes in jobs.values():
        if len(nodes) > 1 and nodes[0].ray_node_type_name not in (HEAD_GROUP, OWN_NODES):
            idle_ms = min(node.idle_duration_ms if _is_idle(node) else 0 for node in nodes)
            for node in filter(_is_idle, nodes):
                node.idle_duration_ms = idle_ms
                if not idle_ms:
                    node.status = autoscaler_pb2.NodeStatus.RUNNING


def _is_idle(node: Any) -> bool:
    return bool(node.status == autoscaler_pb2.NodeStatus.IDLE)


def _fits(request: Any, sizes: Sequence[Resources]) -> bool:
    wanted = request.resources_bundle.items()
    return any(all(size <= one.get(name, 0.0) for name, size in wanted) for one in sizes)


def _is_alive(node: Any) -> bool:
    return bool(node.status != autoscaler_pb2.NodeStatus.DEAD)


def _takes_work(node: Any) -> bool:
    return _is_alive(node) and node.status != autoscaler_pb2.NodeStatus.DRAINING


def _cluster_node(node: Any) -> ClusterNode:
    return ClusterNode(
        node_id=node.node_id.hex(),
        instance=node.instance_id,
        node_type=node.ray_node_type_name,
        alive=_is_alive(node),
        draining=node.status == autoscaler_pb2.NodeStatus.DRAINING,
        idle_s=node.idle_duration_ms / 1000 if _is_idle(node) else None,
        resources={name: size for name, size in node.total_resources.items() if not name.startswith("node:")},
        host=dict(getattr(node, "labels", {})).get(HOST_LABEL, ""),
    )
