"""Fixtures: beds that live as long as the test run, and a fresh view of one for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.bed import Bed, missing
from tests.bed.spec import BedSpec
from tests.slurm.jobs import Slurm

HERE = Path(__file__).parent
IN_CI = os.environ.get("CI") == "true" or os.environ.get("RAYCLUSTER_CI") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves the chaos tests to `make chaos`.

    Skips all tests of this directory where there can be no bed, with one line for each file; not in CI.
    """
    if not os.environ.get("RAYCLUSTER_CHAOS"):
        left = [item for item in items if item.get_closest_marker("chaos")]
        items[:] = [item for item in items if item not in left]
        config.hook.pytest_deselected(items=left)
    if not IN_CI and (why := missing(BedSpec())):
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=why))


def _bed(name: str, spec: BedSpec) -> Iterator[Bed]:
    """A bed of this test run; where there can be none its tests are skipped, and fail in CI."""
    if why := missing(spec):
        (pytest.fail if IN_CI else pytest.skip)(why)
    with Bed.up(f"{name}-{os.getpid()}", spec) as bed:
        yield bed


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """Three hosts that several jobs can share: 16 CPUs and 16000 MiB each, as far as Slurm knows."""
    yield from _bed("test", BedSpec(cpus=(16,), memory_mib=(16000,)))


@pytest.fixture(scope="session")
def strict_bed() -> Iterator[Bed]:
    """Three hosts of 2 CPUs and 6000 MiB that enforce both; n2 and n3 pretend to have two GPUs each."""
    yield from _bed("strict", BedSpec(cgroups=True, gpus=(0, 2, 2)))


@pytest.fixture
def slurm(bed: Bed) -> Iterator[Slurm]:
    """Jobs on ``bed``; afterwards they are gone and the hosts are back."""
    slurm = Slurm(bed)
    yield slurm
    slurm.restore()


@pytest.fixture
def strict_slurm(strict_bed: Bed) -> Iterator[Slurm]:
    """Jobs on ``strict_bed``; afterwards they are gone and the hosts are back."""
    slurm = Slurm(strict_bed)
    yield slurm
    slurm.restore()
