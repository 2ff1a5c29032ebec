"""Groups and what is known of them, as node types of Ray's autoscaler."""

from __future__ import annotations

import pytest

from raycluster_cli.autoscale.node_types import count_by_group, node_types
from raycluster_cli.model.worker_group import GroupBounds, WorkerGroup

GPU = WorkerGroup("gpu", 8, min_workers=2, idle_timeout_s=60.0, labels={"kind": "a100"})
CPU = WorkerGroup("cpu", 4)


def test_each_group_is_a_type() -> None:
    gpu, cpu = node_types([GPU, CPU], {}, {"gpu": {"GPU": 4.0}}, {})
    assert (gpu.name, gpu.min_workers, gpu.max_workers) == ("gpu", 2, 8)
    assert (gpu.resources, gpu.labels, gpu.idle_timeout_s) == ({"GPU": 4.0}, {"kind": "a100"}, 60.0)
    assert (cpu.name, cpu.min_workers, cpu.max_workers, cpu.resources) == ("cpu", 0, 4, {})


@pytest.mark.parametrize(
    ("bounds", "existing", "paused", "expected"),
    [
        ({}, {}, (), (2, 8)),
        ({"gpu": GroupBounds(5, 5)}, {}, (), (5, 5)),
        ({"gpu": GroupBounds(0, 0)}, {"gpu": 3}, (), (0, 0)),
        ({"cpu": GroupBounds(1, 1)}, {}, (), (2, 8)),
        # A paused group keeps what it has.
        ({}, {"gpu": 1}, {"gpu"}, (1, 1)),
        ({}, {"gpu": 5}, {"gpu"}, (2, 5)),
        ({}, {}, {"gpu"}, (0, 0)),
        ({"gpu": GroupBounds(0, 3)}, {"gpu": 5}, {"gpu"}, (0, 3)),
        ({}, {"gpu": 5}, {"cpu"}, (2, 8)),
    ],
)
def test_bounds(
    bounds: dict[str, GroupBounds],
    existing: dict[str, int],
    paused: tuple[str, ...],
    expected: tuple[int, int],
) -> None:
    (gpu,) = node_types([GPU], bounds, {}, existing, paused)
    assert (gpu.min_workers, gpu.max_workers) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0, 8), (0, 8)), ((1, 7), (4, 4)), ((4, 4), (4, 4)), ((0, 3), (0, 0)), ((5, 9), (8, 8))],
)
def test_bounds_of_jobs_of_four_nodes(bounds: tuple[int, int], expected: tuple[int, int]) -> None:
    group = WorkerGroup("block", bounds[1], bounds[0], nodes_per_job=4)
    (block,) = node_types([group], {}, {}, {})
    assert (block.min_workers, block.max_workers) == expected


def test_a_node_that_is_a_job_and_in_the_cluster_counts_once() -> None:
    launched = {"7_0": "gpu", "7_1": "gpu"}
    joined = {"7_0": "gpu", "by-hand": "gpu"}
    assert count_by_group(launched, joined, {"gpu": 2, "cpu": 1}) == {"gpu": 5, "cpu": 1}
    assert count_by_group({}, {}, {}) == {}
