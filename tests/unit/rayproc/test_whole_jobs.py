"""Nodes and whole jobs: what Ray's autoscaler is told to count, and which jobs end."""

from __future__ import annotations

import pytest

from raycluster_cli.rayproc.whole_jobs import job_to_replace, jobs_of, jobs_to_end, node_bounds, together

TWO = 2


@pytest.mark.parametrize(
    ("sizes", "requested", "bounds", "expected"),
    [
        # Whole jobs only. Where no job is missing, the fewest are of no use.
        ([], 0, (0, 4), (0, 4)),
        ([], 0, (2, 4), (2, 4)),
        ([2], 0, (0, 4), (0, 4)),
        ([2], 0, (2, 4), (0, 4)),
        ([2, 2], 0, (2, 4), (0, 4)),
        ([2, 2], 0, (4, 4), (0, 4)),
        # Half a job: no further job where it is the last that may be.
        ([1], 0, (0, 2), (0, 1)),
        ([1], 0, (2, 2), (0, 1)),
        ([1], 0, (0, 4), (0, 3)),
        ([1], 0, (4, 4), (3, 3)),
        ([1], 0, (2, 4), (0, 3)),
        ([1, 2], 0, (2, 4), (0, 3)),
        ([1, 1], 0, (0, 4), (0, 2)),
        ([1, 1], 0, (0, 6), (0, 4)),
        # What has been asked for and has no job yet.
        ([], 2, (0, 2), (0, 2)),
        ([1], 2, (0, 4), (0, 3)),
        ([2], 2, (4, 4), (0, 4)),
        ([1], 1, (0, 4), (0, 2)),
        # Too many: one node of each job that has to end.
        ([2], 0, (0, 0), (0, 1)),
        ([2, 2], 0, (0, 2), (0, 3)),
        ([2, 2, 2], 0, (0, 2), (0, 4)),
        ([1, 2], 0, (0, 2), (0, 2)),
        ([1, 2], 0, (2, 2), (0, 2)),
        ([1], 0, (0, 0), (0, 0)),
    ],
)
def test_bounds(sizes: list[int], requested: int, bounds: tuple[int, int], expected: tuple[int, int]) -> None:
    assert node_bounds(sizes, requested, TWO, *bounds) == expected


@pytest.mark.parametrize("per_job", [2, 3, 4])
@pytest.mark.parametrize("least", [0, 1, 2])
@pytest.mark.parametrize("most", [2, 3, 5])
@pytest.mark.parametrize("sizes", [[], [1], [2], [1, 1], [1, 2], [2, 2], [1, 2, 2], [2, 2, 2, 1]])
def test_what_is_launched_is_never_too_many(sizes: list[int], most: int, least: int, per_job: int) -> None:
    """However many nodes Ray asks for within the bounds: in whole jobs they are within the bounds as well."""
    fewest, highest = node_bounds(sizes, 0, per_job, least * per_job, most * per_job)
    there = sum(sizes)
    assert 0 <= fewest <= highest
    for wanted in range(1, highest - there + 1):
        jobs = [*sizes, *[per_job] * jobs_of(wanted, per_job)]
        assert len(jobs) <= most
        after = node_bounds(jobs, 0, per_job, least * per_job, most * per_job)
        assert sum(jobs) <= after[1], "none of them is ended as too many in the next round"
    if fewest > there:
        assert jobs_of(fewest - there, per_job) == least - len(sizes)


@pytest.mark.parametrize(
    ("idle", "too_many", "sizes", "spare", "expected"),
    [
        ([], [], {}, 0, ([], [])),
        # One node of two is not needed: its job goes on.
        (["7"], [], {"7": 2}, 1, ([], [])),
        (["7", "7"], [], {"7": 2}, 1, (["7"], [])),
        (["7", "8", "8"], [], {"7": 2, "8": 2}, 2, (["8"], [])),
        # What is left of a job.
        (["7"], [], {"7": 1}, 1, (["7"], [])),
        (["7", "8"], [], {"7": 1, "8": 2}, 2, (["7"], [])),
        # It is of no use where the fewest are to stay; another takes its place.
        (["7"], [], {"7": 1}, 0, (["7"], [])),
        (["7", "8", "8"], [], {"7": 1, "8": 2}, 1, (["7"], [])),
        (["8", "8", "7"], [], {"7": 1, "8": 2}, 1, (["7"], [])),
        # The fewest jobs stay, the first of Ray's order go.
        (["8", "7", "8", "7"], [], {"7": 2, "8": 2}, 1, (["8"], [])),
        (["7", "7"], [], {"7": 2}, 0, ([], [])),
        # Too many: the whole job of the node that Ray has chosen.
        ([], ["7"], {"7": 2, "8": 2}, 0, ([], ["7"])),
        ([], ["7", "7"], {"7": 2, "8": 2}, 0, ([], ["7"])),
        (["7", "8", "8"], ["7"], {"7": 2, "8": 2}, 2, (["8"], ["7"])),
        (["8", "8"], ["7"], {"7": 2, "8": 2}, 1, ([], ["7"])),
        # Nodes without a job yet, and of a job that is about to leave.
        (["", ""], [""], {"7": 2}, 1, ([], [])),
        (["9"], ["9"], {"7": 2}, 1, ([], [])),
    ],
)
def test_jobs_end_whole(
    idle: list[str],
    too_many: list[str],
    sizes: dict[str, int],
    spare: int,
    expected: tuple[list[str], list[str]],
) -> None:
    assert jobs_to_end(idle, too_many, sizes, spare, 2) == expected


@pytest.mark.parametrize(
    ("sizes", "idle", "expected"),
    [
        ({}, [], ""),
        ({"7": 2, "8": 2}, ["7"], ""),
        ({"7": 2, "8": 1}, ["7"], "8"),
        ({"7": 1, "8": 1}, [], "7"),
        ({"7": 1, "8": 1}, ["8"], "8"),
    ],
)
def test_which_job_makes_room_for_a_whole_one(sizes: dict[str, int], idle: list[str], expected: str) -> None:
    assert job_to_replace(sizes, idle, 2) == expected


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ({}, {}),
        ({"a": ("7", 0), "b": ("7", 9000)}, {"a": 0, "b": 0}),
        ({"a": ("7", 6000), "b": ("7", 9000)}, {"a": 6000, "b": 6000}),
        ({"a": ("7", 6000), "b": ("8", 9000)}, {"a": 6000, "b": 9000}),
    ],
)
def test_pending_nodes_are_needed_together(
    idle: dict[str, tuple[str, int]], expected: dict[str, int]
) -> None:
    assert together(idle) == expected
