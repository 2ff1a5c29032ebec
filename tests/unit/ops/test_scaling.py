"""`raycluster scale`: what people write, and what it sets."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.group_status import GroupStatus
from raycluster_cli.model.worker_group import GroupBounds
from raycluster_cli.model.worker_job import WorkerJob
from raycluster_cli.ops.scaling import all_bounds, bounds_after

GPU = GroupStatus(
    "gpu",
    0,
    8,
    jobs=(
        WorkerJob("1", "gpu", "ready", 0.0, nodes=2),
        WorkerJob("2", "gpu", "pending", 0.0),
        WorkerJob("3", "gpu", "draining", 0.0),
        WorkerJob("4", "gpu", "ended", 0.0),
    ),
)
CPU = GroupStatus("cpu-1", 4, 4, is_set=True)


@pytest.mark.parametrize(
    ("words", "bounds"),
    [
        (["gpu=8"], {"gpu": (8, 8)}),
        (["gpu=0"], {"gpu": (0, 0)}),
        (["gpu=0..32", "cpu-1=2"], {"gpu": (0, 32), "cpu-1": (2, 2)}),
        # from what it has, pending included: 3
        (["gpu=+2"], {"gpu": (5, 5)}),
        (["gpu+2"], {"gpu": (5, 5)}),
        (["gpu=-1"], {"gpu": (2, 2)}),
        (["gpu-3"], {"gpu": (0, 0)}),
        # from what was set: 4, though none is there yet
        (["cpu-1=+1"], {"cpu-1": (5, 5)}),
        (["cpu-1-1"], {"cpu-1": (3, 3)}),
    ],
)
def test_changes(words: list[str], bounds: dict[str, tuple[int, int]]) -> None:
    found = bounds_after(words, [GPU, CPU])
    assert found == {name: GroupBounds(*pair) for name, pair in bounds.items()}


@pytest.mark.parametrize(
    ("word", "bounds"), [("8", (8, 8)), ("0..32", (0, 32)), ("+2", (5, 5)), ("-1", (2, 2)), ("=4", (4, 4))]
)
def test_the_only_group_needs_no_name(word: str, bounds: tuple[int, int]) -> None:
    assert bounds_after([word], [GPU]) == {"gpu": GroupBounds(*bounds)}


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["+2"], "has 2 worker groups: gpu, cpu-1", "Name one"),
        (["fat=2"], "no worker group 'fat'", "Its groups: gpu, cpu-1"),
        (["gpu=4..2"], "gpu=4..2: 4 is more than 2", "gpu=0..32"),
        (["gpu=-4"], "has 3 nodes; gpu=-4 would leave -1", ""),
        (["gpu=many"], "'gpu=many' is no change", "gpu=8"),
        (["gpu"], "'gpu' is no change", "gpu=8"),
        (["gpu=1", "gpu=2"], "gpu is changed twice", "one change"),
    ],
)
def test_what_is_refused(words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        bounds_after(words, [GPU, CPU])
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("word", ["3", "0..3", "3..4", "+1", "-1"])
def test_jobs_of_several_nodes_are_whole(word: str) -> None:
    block = GroupStatus(
        "block", 0, 8, nodes_per_job=2, jobs=(WorkerJob("1", "block", "ready", 0.0, nodes=2),)
    )
    with pytest.raises(
        UsageError, match=r"jobs of worker group block have 2 nodes each, and [13] is no multiple"
    ):
        bounds_after([word], [block])
    assert bounds_after(["+2"], [block]) == {"block": GroupBounds(4, 4)}


def test_earlier_changes_stay() -> None:
    changed = {"gpu": GroupBounds(1, 2)}
    assert all_bounds(changed, [GPU, CPU]) == {"gpu": GroupBounds(1, 2), "cpu-1": GroupBounds(4, 4)}
