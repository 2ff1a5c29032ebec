"""Ray's own scheduler, deciding in whole jobs: values in, values out, without a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import SchedulingRequest
from ray.autoscaler.v2.schema import AutoscalerInstance
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import autoscaler_pb2 as pb
from ray.core.generated.instance_manager_pb2 import Instance, NodeKind

from raycluster_cli.model.node_type import NodeType
from raycluster_cli.rayproc.private.scheduler import WholeJobsScheduler

SIZE = {"CPU": 1.0}
IDLE_S = 6.0

#: Of a node: the milliseconds since it has been idle, None while it works; or what it waits for.
State = int | str | None


class Events:
    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def log_cluster_scheduling_update(self, **arguments: Any) -> None:
        self.told.append(arguments)


def instance(name: str, state: State, group: str = "block") -> AutoscalerInstance:
    """The node of a job, "7" and "7/1"; "" for one that is asked for and has no job yet."""
    running = not isinstance(state, str)
    made = Instance(
        instance_id=f"im-{name or id(object())}",
        cloud_instance_id=name,
        instance_type=group,
        status=Instance.RAY_RUNNING if running else Instance.InstanceStatus.Value(state),
        node_kind=NodeKind.WORKER,
        node_id=f"id-{name}" if running else "",
    )
    node = pb.NodeState(
        total_resources=SIZE,
        available_resources=SIZE if state is not None else {},
        status=pb.NodeStatus.RUNNING if state is None else pb.NodeStatus.IDLE,
        idle_duration_ms=state if isinstance(state, int) else 0,
        ray_node_type_name=group,
    )
    return AutoscalerInstance(name or None, node if running else None, made)


def decided(
    nodes: dict[str, State],
    tasks: int,
    bounds: tuple[int, int],
    per_job: int = 2,
    size: dict[str, float] = SIZE,
    gang: int = 0,
) -> tuple[int, list[str], Events]:
    """How many nodes are launched, and which end.  ``size``: of each task; ``gang``: so many bundles."""
    events = Events()
    kind = NodeType("block", *bounds, resources=SIZE, idle_timeout_s=IDLE_S, nodes_per_job=per_job)
    config = NodeTypeConfig("block", *bounds, idle_timeout_s=IDLE_S, resources=dict(SIZE))
    bundle = ResourceRequestUtil.make(size)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={"block": config},
        resource_requests=ResourceRequestUtil.group_by_count([bundle] * tasks),
        gang_resource_requests=[pb.GangResourceRequest(requests=[bundle] * gang)] if gang else [],
        current_instances=[instance(name, state) for name, state in nodes.items()],
    )
    reply = WholeJobsScheduler(events, lambda: [kind]).schedule(request)
    launched = sum(one.count for one in reply.to_launch)
    return launched, sorted(one.instance_id[3:] for one in reply.to_terminate), events


LONG = 9000


@pytest.mark.parametrize(
    ("nodes", "tasks", "bounds", "launched", "ended"),
    [
        # Whole jobs are launched.
        ({}, 1, (0, 4), 2, []),
        ({}, 2, (0, 4), 2, []),
        ({}, 3, (0, 4), 4, []),
        ({}, 9, (0, 4), 4, []),
        ({}, 0, (2, 4), 2, []),
        # What is left of a job is a job: with the most jobs there is no other, and no loop.
        ({"7": None}, 0, (0, 2), 0, []),
        ({"7": None}, 0, (2, 2), 0, []),
        ({"7": 0}, 1, (0, 2), 0, []),
        # Where work waits, it makes room for a whole one: one at a time, one without work first.
        ({"7": None}, 1, (0, 2), 0, ["7"]),
        ({"7": None, "8": 5}, 3, (0, 4), 0, ["8"]),
        ({"7": None, "8": None, "8/1": None}, 1, (0, 4), 0, ["7"]),
        ({"7": None, "7/1": None}, 1, (0, 2), 0, []),
        # Not while nodes of it are on their way, or are being let go.
        ({"7": "ALLOCATED"}, 2, (0, 2), 0, []),
        ({"7": "RAY_STOP_REQUESTED"}, 1, (0, 2), 0, []),
        ({"7": "RAY_STOPPING"}, 1, (0, 2), 2, []),
        # It cannot be one of the fewest either.
        ({"7": LONG}, 0, (2, 2), 0, ["7"]),
        ({"7": LONG, "8": None, "8/1": None}, 0, (4, 4), 0, ["7"]),
        ({"7": None}, 1, (0, 4), 2, []),
        ({"7": None}, 5, (0, 4), 2, []),
        ({"7": 0}, 1, (0, 4), 0, []),
        # The second round, with the new job.
        ({"7": None, "8": "ALLOCATED", "8/1": "ALLOCATED"}, 1, (0, 4), 0, []),
        ({"7": None, "8": "ALLOCATED", "8/1": "ALLOCATED"}, 2, (0, 4), 0, []),
        # Jobs end when all of their nodes are idle.
        ({"7": LONG, "7/1": LONG}, 0, (0, 2), 0, ["7", "7/1"]),
        ({"7": LONG, "7/1": 100}, 0, (0, 2), 0, []),
        ({"7": LONG, "7/1": LONG}, 1, (0, 2), 0, []),
        ({"7": LONG, "7/1": "ALLOCATED"}, 0, (0, 2), 0, []),
        ({"7": LONG}, 0, (0, 2), 0, ["7"]),
        ({"7": LONG, "7/1": LONG, "8": 9, "8/1": 9}, 0, (2, 4), 0, ["7", "7/1"]),
        ({"7": LONG, "7/1": LONG}, 0, (2, 4), 0, []),
        # Too many: whole jobs, those without work first.
        ({"7": None, "7/1": None, "8": 5, "8/1": 5}, 0, (0, 2), 0, ["8", "8/1"]),
        ({"7": None, "7/1": None, "8": 5}, 0, (0, 2), 0, ["8"]),
        ({"7": None, "7/1": None}, 0, (0, 0), 0, ["7", "7/1"]),
        ({"7": None, "7/1": "RAY_STOP_REQUESTED"}, 0, (0, 2), 0, []),
    ],
)
def test_whole_jobs(
    nodes: dict[str, State], tasks: int, bounds: tuple[int, int], launched: int, ended: list[str]
) -> None:
    found = decided(nodes, tasks, bounds)
    assert found[:2] == (launched, ended)
    # Drivers hear what is done, and nothing of what is not.
    [told] = found[2].told
    assert sum(one.count for one in told["launch_requests"]) == launched
    assert len(told["terminate_requests"]) == len(ended)
    is_there = sum(1 for state in nodes.values() if state not in ("RAY_STOP_REQUESTED", "RAY_STOPPING"))
    if launched or ended:
        assert told["cluster_resources"]["CPU"] == is_there + launched - len(ended)


@pytest.mark.parametrize(
    "nodes",
    [
        {"7": LONG, "8": LONG, "8/1": LONG},
        # In whatever order Ray looks at them.
        {"7": LONG, "8": LONG, "7/1": LONG, "8/1": LONG},
        {"8": LONG, "7": LONG, "7/1": LONG, "8/1": LONG},
    ],
)
def test_one_of_two_idle_jobs_stays(nodes: dict[str, State]) -> None:
    _, ended, _ = decided(nodes, 0, (2, 4))
    jobs = [sorted(name for name in nodes if name.partition("/")[0] == job) for job in ("7", "8")]
    assert ended in jobs


def test_what_is_left_of_a_job_makes_room_only_for_what_a_whole_one_can_have() -> None:
    assert decided({"7": 5}, 0, (0, 2), gang=2)[:2] == (0, ["7"])
    assert decided({"7": 5}, 0, (0, 2), gang=3)[:2] == (0, [])  # more than one job has
    assert decided({"7": 5}, 1, (0, 2), size={"CPU": 9.0})[:2] == (0, [])
    assert decided({"7": 5, "8": 5}, 0, (0, 4), gang=3)[:2] == (0, ["7"])


@pytest.mark.parametrize(
    ("first", "ended"),
    [
        (None, ["7"]),
        ("RAY_STOP_REQUESTED", []),  # the second round: it still works
    ],
)
def test_of_two_groups_one_makes_room_for_what_waits(first: State, ended: list[str]) -> None:
    """Both have half a job, and one whole job of either is enough."""
    kinds = [
        NodeType(name, 0, 2, resources=SIZE, idle_timeout_s=IDLE_S, nodes_per_job=2) for name in ("a", "b")
    ]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs={
            one.name: NodeTypeConfig(one.name, 0, 2, idle_timeout_s=IDLE_S, resources=dict(SIZE))
            for one in kinds
        },
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(SIZE)]),
        gang_resource_requests=[],
        current_instances=[instance("7", first, "a"), instance("8", None, "b")],
    )
    reply = WholeJobsScheduler(Events(), lambda: kinds).schedule(request)
    assert [one.instance_id[3:] for one in reply.to_terminate] == ended


def test_jobs_of_one_node_are_decided_by_ray_alone() -> None:
    assert decided({"7": LONG, "8": None}, 0, (0, 4), 1)[:2] == (0, ["7"])
    assert decided({"7": None}, 1, (0, 2), 1)[:2] == (1, [])
    assert decided({"7": None, "8": 5}, 0, (0, 1), 1)[:2] == (0, ["8"])
