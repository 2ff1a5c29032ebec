"""--stage-env on real hosts, each with a /tmp of its own: everything runs from the copies, and they go."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import SRUN, batch
from tests.slurm.cluster import Cluster, Proc
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.chaos

DRIVER = f"python {REPOSITORY}/tests/slurm/drivers/executables.py"

SMALL = "/tmp/small"


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
    assert re.search(r"copied to /tmp/rce-62001-\w{8} (\(in memory\) )?on n1 in ", first), first
    assert len(re.findall(r"unpacked to /tmp/rce-62001-\w{8} on n[23] in ", first)) == 2, first
    assert len(re.findall(r"is on n[123] already: /tmp/rce-62001-", second)) == 3, second
    for output in (first, second):
        found = executables(output)
        assert found.keys() == {"driver", "n1", "n2", "n3"}, output
        assert len(set(found.values())) == 1, output
        assert found["driver"].startswith("/tmp/rce-62001-"), output
    slurm.assert_nothing_left()


@pytest.fixture
def small(slurm: Slurm) -> Iterator[str]:
    """A directory on each host, which on n2 has no room."""
    for host in ("n1", "n2", "n3"):
        slurm.run(host, ["mkdir", "-m", "1777", SMALL], check=True)
    slurm.run("n2", ["mount", "-n", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none", SMALL], check=True)
    yield SMALL
    slurm.run("n2", ["umount", "-n", "-l", SMALL])
    for host in ("n1", "n2", "n3"):
        slurm.run(host, ["rmdir", SMALL], check=True)


def test_a_node_without_room_uses_the_shared_environment(slurm: Slurm, small: str) -> None:
    job = batch(slurm, f"{SRUN} raycluster run --stage-env={small} -- {DRIVER}", user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    why = f"n2: the shared environment is used: there is no room for the head's copy: {small}: "
    assert output.count(why) == 1, output
    found = executables(output)
    assert found["n2"] == sys.executable, output
    assert {found[name].rpartition("/rce-")[0] for name in ("driver", "n1", "n3")} == {small}, output


def running(slurm: Slurm) -> tuple[Job, Cluster]:
    """A cluster of two nodes whose driver sleeps."""
    job = batch(slurm, f"{SRUN} raycluster run --stage-env -- sleep 600", nodes=2)
    job.wait_for("driver: sleep 600")
    return job, Cluster(slurm, job, "sleeps")


def supervisor(cluster: Cluster, host: str) -> Proc:
    """The process that runs from the copy, and whose parent does not."""
    ours = [one for one in cluster.processes(host) if "/rce-" in one.line and "--stage-env" in one.line]
    numbers = {one.pid for one in ours}
    return next(one for one in ours if one.parent not in numbers)


@pytest.mark.parametrize("keeper_too", [False, True])
def test_nothing_is_left_of_a_copy_whose_processes_were_killed(slurm: Slurm, keeper_too: bool) -> None:
    job, cluster = running(slurm)
    found = supervisor(cluster, "n2")
    wait_until(lambda: cluster.find("n2", "raylet"), timeout_s=60, what="a raylet")
    pids = [str(found.parent)] * keeper_too + [str(found.pid)]
    slurm.run("n2", ["kill", "-KILL", *pids], check=True)
    assert job.wait().state == "FAILED", job.output()
    if keeper_too:  # Slurm may end the step before one of Ray's agents has cleared the node
        after = batch(slurm, f"{SRUN} raycluster run -- true", nodes=2)
        assert after.wait() == JobEnd("COMPLETED", 0, 0), after.output()
    slurm.assert_nothing_left(60)
