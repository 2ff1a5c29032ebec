"""What Ray's autoscaler sees of the cluster: values of Ray's own, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ray.core.generated import autoscaler_pb2 as pb

from raycluster_cli.model.node_type import ClusterNode, NodeType
from raycluster_cli.rayproc.private.gcs_view import GcsView, idle_together, name_nodes

STATUS = pb.NodeStatus


def state(*nodes: tuple[str, int, int]) -> Any:
    """Nodes of group gpu: instance, status, milliseconds since when they have been idle."""
    found = pb.ClusterResourceState()
    for number, (instance, status, idle_ms) in enumerate(nodes):
        found.node_states.add(
            node_id=bytes([number]) * 28,
            instance_id=instance,
            ray_node_type_name="gpu",
            status=status,
            idle_duration_ms=idle_ms,
        )
    return found.node_states


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        # all idle: as long as the one that has been idle for the shortest time
        ([("7", STATUS.IDLE, 900), ("7/1", STATUS.IDLE, 300)], [300, 300]),
        # one at work
        ([("7", STATUS.IDLE, 900), ("7/1", STATUS.RUNNING, 0)], [None, None]),
        # one has left, or is about to
        ([("7", STATUS.IDLE, 900), ("7/1", STATUS.DEAD, 0)], [900, None]),
        ([("7", STATUS.IDLE, 900), ("7/1", STATUS.DRAINING, 0)], [None, None]),
        # jobs of one node, and tasks of an array
        ([("7", STATUS.IDLE, 900), ("8", STATUS.RUNNING, 0)], [900, None]),
        ([("7_0", STATUS.IDLE, 900), ("7_1", STATUS.RUNNING, 0)], [900, None]),
        ([("7_0", STATUS.IDLE, 900), ("7_0/1", STATUS.RUNNING, 0)], [None, None]),
    ],
)
def test_nodes_of_a_job_are_idle_together(given: list[tuple[str, int, int]], seen: list[int | None]) -> None:
    states = state(*given)
    name_nodes(states, frozenset(["gpu"]))
    idle_together(states)
    assert [one.idle_duration_ms if one.status == STATUS.IDLE else None for one in states] == seen


@pytest.mark.parametrize(
    ("given", "most", "named"),
    [
        ([("7", STATUS.RUNNING, 0), ("7/1", STATUS.RUNNING, 0)], 2, False),
        # A job that has lost a node is one of those that the group may have.
        ([("7", STATUS.RUNNING, 0), ("7/1", STATUS.DEAD, 0)], 2, True),
        ([("7", STATUS.RUNNING, 0), ("7/1", STATUS.DEAD, 0)], 4, False),
        # One that is about to leave is none, and takes no work.
        ([("7", STATUS.DRAINING, 0), ("7/1", STATUS.DEAD, 0)], 2, False),
        ([("7", STATUS.DRAINING, 0), ("7/1", STATUS.DEAD, 0)], 0, True),
        ([], 2, False),
    ],
)
def test_a_placement_group_that_waits_for_a_lost_node(
    given: list[tuple[str, int, int]], most: int, named: bool
) -> None:
    class Gcs:
        def get_cluster_resource_state(self, **_: Any) -> bytes:
            reply = pb.GetClusterResourceStateReply()
            states = reply.cluster_resource_state
            states.node_states.extend(state(*given))
            for one in states.node_states:
                one.total_resources["GPU"] = 4
            states.node_states.add(node_id=b"h" * 28, total_resources={"node:__internal_head__": 1})
            states.pending_gang_resource_requests.add(requests=[{"resources_bundle": {"GPU": 4}}] * 2)
            return bytes(reply.SerializeToString())

    view = GcsView(Gcs())
    view.groups = frozenset(["gpu"])
    view.get_cluster_resource_state()
    told = view.unplaceable([NodeType("gpu", 0, most, resources={"GPU": 4.0}, nodes_per_job=2)])
    assert bool(told) is named, told
    assert all("a placement group that needs 8 GPUs in all" in one.text or not most for one in told)


def node(instance: str, *, alive: bool = True, node_id: str = "") -> ClusterNode:
    return ClusterNode(node_id or f"id-{instance}", instance, "gpu", alive=alive)


def test_who_has_left_and_who_has_others() -> None:
    view = GcsView(None)
    view.nodes = [node("7"), node("7/1", alive=False), node("8", alive=False), node("9"), node("9/1")]
    assert [name for name in ("7", "7/1", "8", "9", "5") if view.has_left(name)] == ["7/1", "8"]
    assert [name for name in ("7", "7/1", "8", "9", "9/1") if view.has_others(name)] == ["7/1", "9", "9/1"]
    view._drained.add("id-9/1")
    assert not view.has_others("9")
