"""Which demand fits on no node."""

from __future__ import annotations

import pytest

from raycluster_cli.rayproc.demand import Resources, unplaceable

NODES: list[Resources] = [
    {"CPU": 4.0, "memory": 8 * 2.0**30, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0},
    {"CPU": 8.0, "GPU": 1.0, "memory": 4 * 2.0**30, "node:10.0.0.2": 1.0},
]

CASES: list[tuple[str, list[tuple[Resources, int]], list[list[Resources]], list[str]]] = [
    ("nothing waits", [], [], []),
    ("all fits, though it must wait", [({"CPU": 8.0}, 500), ({"GPU": 1.0, "CPU": 1.0}, 3), ({}, 1)], [], []),
    (
        "more CPUs than a node has",
        [({"CPU": 64.0}, 1)],
        [],
        ["a task or an actor that needs 64 CPUs (the largest node has 8 CPUs)"],
    ),
    (
        "a resource that nobody has",
        [({"CPU": 1.0, "tpu": 1.0}, 2)],
        [],
        ["2 tasks or actors that each need 1 CPU, 1 tpu (no node has any)"],
    ),
    (
        "each is there, but on different nodes",
        [({"GPU": 1.0, "memory": 6 * 2.0**30}, 1)],
        [],
        ["a task or an actor that needs 1 GPU, 6.0 GiB of memory (no node has all of it)"],
    ),
    ("a group that fits", [], [[{"CPU": 4.0}, {"CPU": 8.0}]], []),
    (
        "a bundle that fits nowhere",
        [],
        [[{"CPU": 1.0}, {"GPU": 2.0}]],
        ["a placement group with a bundle of 2 GPUs (the largest node has 1 GPU)"],
    ),
    (
        "a group that is too large",
        [],
        [[{"CPU": 4.0}] * 4],
        ["a placement group that needs 16 CPUs in all (the cluster has 12 CPUs)"],
    ),
]


@pytest.mark.parametrize(
    ("requests", "groups", "told"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_fits_on_no_node(
    requests: list[tuple[Resources, int]], groups: list[list[Resources]], told: list[str]
) -> None:
    assert [one.text for one in unplaceable(requests, groups, NODES)] == told


def test_the_kind_does_not_depend_on_the_number() -> None:
    one, more = (unplaceable([({"CPU": 64.0}, count)], [], NODES) for count in (1, 9))
    assert [each.kind for each in one] == [each.kind for each in more]


def test_without_nodes_nothing_is_known() -> None:
    assert unplaceable([({"CPU": 1.0}, 1)], [], []) == []
