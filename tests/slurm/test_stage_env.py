"""--stage-env on real hosts, each with a /tmp of its own: everything runs from the copies, and they go."""

from __future__ import annotations

import re

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import SRUN, batch
from tests.slurm.jobs import JobEnd, Slurm

pytestmark = pytest.mark.chaos

DRIVER = f"python {REPOSITORY}/tests/slurm/drivers/executables.py"


def executables(output: str) -> dict[str, str]:
    """sys.executable of the driver and of a task on each node, of the last cluster."""
    return dict(re.findall(r"^EXECUTABLE (\S+) (\S+)", output, re.MULTILINE))


def test_all_nodes_run_from_a_copy_which_the_jobs_next_cluster_uses_again(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"{SRUN} raycluster run --verbose --stage-env --keep-env -- {DRIVER}\necho SECOND\n"
        f"{SRUN} raycluster run --verbose --stage-env -- {DRIVER}",
        user="alice",
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    first, second = job.output().split("SECOND")
    assert re.search(r"copied to /tmp/rce-62001-\w{8} on n1 in ", first), first
    assert len(re.findall(r"unpacked to /tmp/rce-62001-\w{8} on n[23] in ", first)) == 2, first
    assert len(re.findall(r"is on n[123] already: /tmp/rce-62001-", second)) == 3, second
    for output in (first, second):
        found = executables(output)
        assert found.keys() == {"driver", "n1", "n2", "n3"}, output
        assert len(set(found.values())) == 1, output
        assert found["driver"].startswith("/tmp/rce-62001-"), output
        assert "imports Ray" not in output
    slurm.assert_nothing_left()
