"""What a worker group may be."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.worker_group import WorkerGroup


@pytest.mark.parametrize("name", ["gpu", "a100-80", "x", "cpu_big"])
def test_names(name: str) -> None:
    assert WorkerGroup(name, 4).name == name


@pytest.mark.parametrize("name", ["", "head", "GPU", "a b", "-x", "x" * 33])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        WorkerGroup(name, 4)


@pytest.mark.parametrize(("least", "most"), [(-1, 4), (5, 4)])
def test_bounds_that_are_refused(least: int, most: int) -> None:
    with pytest.raises(UsageError, match="min is"):
        WorkerGroup("gpu", most, least)
