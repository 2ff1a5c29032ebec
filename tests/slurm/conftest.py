"""Fixtures: beds that live as long as the test run, and a fresh view of one for each test."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.bed import cgroup
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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line before pytest's last: which versions were tested."""
    slurmd, ray = shutil.which("slurmd", path=f"{os.environ['PATH']}:/usr/sbin"), metadata.version("ray")
    if slurmd:
        name = subprocess.run([slurmd, "-V"], capture_output=True, text=True, check=False).stdout.split()[-1]
        tested = f"Slurm {name}, Python {platform.python_version()}, Ray {ray}, cgroup {cgroup.version()}"
        terminalreporter.write_line(tested)


class Beds:
    """A bed of this test run that is made when first asked for, and anew after a test that broke it."""

    def __init__(self, name: str, spec: BedSpec) -> None:
        self._name = name
        self._spec = spec
        self._count = 0
        self._bed: Bed | None = None

    def get(self) -> Bed:
        """The bed; where there can be none the test is skipped, and fails in CI."""
        if self._bed is None:
            if why := missing(self._spec):
                (pytest.fail if IN_CI else pytest.skip)(why)
            self._count += 1
            self._bed = Bed.up(f"{self._name}-{os.getpid()}-{self._count}", self._spec)
        return self._bed

    def down(self) -> None:
        """Takes the bed away; the next that asks gets another."""
        if self._bed is not None:
            bed, self._bed = self._bed, None
            bed.down()

    def jobs(self) -> Iterator[Slurm]:
        """Jobs on the bed, whose hosts are brought back afterwards, or else the bed is taken down."""
        slurm = Slurm(self.get())
        yield slurm
        try:
            slurm.restore()
        except BaseException:
            self.down()
            raise


@pytest.fixture(scope="session")
def beds() -> Iterator[Beds]:
    """Three hosts that several jobs can share: 16 CPUs and 16000 MiB each, as far as Slurm knows."""
    beds = Beds("test", BedSpec(cpus=(16,), memory_mib=(16000,)))
    yield beds
    beds.down()


@pytest.fixture(scope="session")
def strict_beds() -> Iterator[Beds]:
    """Three hosts of 2 CPUs and 6000 MiB that enforce both; n2 and n3 pretend to have two GPUs each."""
    beds = Beds("strict", BedSpec(cgroups=True, gpus=(0, 2, 2)))
    yield beds
    beds.down()


@pytest.fixture
def bed(beds: Beds) -> Bed:
    """The bed whose hosts several jobs can share."""
    return beds.get()


@pytest.fixture
def slurm(beds: Beds) -> Iterator[Slurm]:
    """Jobs on ``bed``; afterwards they are gone and the hosts are back."""
    yield from beds.jobs()


@pytest.fixture
def strict_slurm(strict_beds: Beds) -> Iterator[Slurm]:
    """Jobs on the bed that enforces limits; afterwards they are gone and the hosts are back."""
    yield from strict_beds.jobs()
