"""Random faults in random phases: each run ends with the right code, and leaves nothing.

`make chaos FAULTS=100` does as many; each prints its seed, and RAYCLUSTER_SEED=S[,S…] does these again.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.spec import BedSpec, home
from tests.slurm.cluster import Cluster, Disk
from tests.slurm.conftest import Beds
from tests.slurm.images import image_of_alice, no_container
from tests.slurm.injection import DRIVER_WAITS, GROWN_S, Run, small_places
from tests.slurm.jobs import Slurm
from tests.slurm.random_faults import CUT_S, draw, right_codes
from tests.waiting import wait_until

SEEDS = [int(seed) for seed in os.environ.get("RAYCLUSTER_SEED", "").split(",") if seed]
FAULTS = int(os.environ.get("RAYCLUSTER_FAULTS", "") or len(SEEDS) or 10)

#: A run that the fault need not end goes on for so long, and is then told to exit.
GOES_ON_S = 20.0

#: From the fault to the end: a host that does not respond (15 s), srun, Slurm, and this machine.
ENDS_WITHIN_S = 150.0

#: A worker job that was cancelled while its host was cut off completes when slurmctld sends the end again:
#: once the node has answered, which it asks every SlurmdTimeout / 3 (100 s), at the next of its looks for
#: such jobs, one a minute.
RESENT_S = 180.0


@pytest.fixture(scope="module")
def fault_beds() -> Iterator[Beds]:
    """Three hosts with little shared memory, so that it is full soon."""
    settings = {"KillWait": "15", "SlurmdTimeout": "300"}
    beds = Beds("faults", BedSpec(cpus=(16,), memory_mib=(16000,), shm_mib=512, slurm=settings))
    yield beds
    beds.down()


@pytest.fixture
def fault_slurm(fault_beds: Beds) -> Iterator[Slurm]:
    yield from fault_beds.jobs()


def queue(slurm: Slurm) -> set[str]:
    """The states of the jobs in Slurm's queue."""
    return set(slurm.run("login", ["squeue", "-h", "-o", "%T"], check=True).stdout.split())


@contextlib.contextmanager
def _another_cluster(slurm: Slurm, user: str) -> Iterator[Cluster]:
    """Another cluster of the user, which works on all nodes and must not be touched."""
    cluster = Cluster.start(slurm, DRIVER_WAITS.format(code=0, timeout_s=60.0), user=user).driving()
    yield cluster
    for path in slurm.bed.path("login", home(user)).glob(f"{cluster.name}.*"):
        path.unlink()


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(FAULTS))
def test_random_fault_ends_with_the_right_code_and_leaves_nothing(
    fault_slurm: Slurm, number: int, tmp_path: Path
) -> None:
    seed = SEEDS[number] if number < len(SEEDS) else random.randrange(1_000_000)
    drawn = draw(seed)
    print(f"\nRAYCLUSTER_SEED={seed}: {drawn}", flush=True)
    with contextlib.ExitStack() as stack:
        disk = None
        if drawn.fault.what == "record":
            disk = Disk(fault_slurm, tmp_path / "image")
            stack.callback(disk.remove)
        stack.enter_context(small_places(fault_slurm, drawn.fault.what == "node's directory"))
        if drawn.shape == "container":
            if why := no_container(fault_slurm):
                pytest.skip(why)
            stack.enter_context(image_of_alice(fault_slurm))
        beside = (
            stack.enter_context(_another_cluster(fault_slurm, drawn.user))
            if drawn.shape == "beside"
            else None
        )
        run = Run(fault_slurm, drawn, disk)
        run.cluster.shares_nodes = beside is not None
        stack.push(run.tell_failure)
        stack.callback(run.heal)
        run.wait_for_moment()
        phases = run.do()
        right = right_codes(drawn.fault, phases, drawn.driver_code, shape=drawn.shape)
        job = run.cluster.job
        if right == {drawn.driver_code}:
            run.tell_driver("check" if drawn.grows or drawn.fault.what != "worker" else "")
        else:
            with contextlib.suppress(AssertionError):
                job.wait(GOES_ON_S)
            if drawn.driver_code in right:
                run.tell_driver("")
        code = run.exit_code(ENDS_WITHIN_S + (GROWN_S if drawn.grows else 0.0))
        said = run.cluster.end.get("message", "no record")
        print(f"  in {[phase.name for phase in phases]}: {code} of {sorted(right)}; {said}")
        assert code in right
        if beside is not None:
            beside.slurm.bed.path("login", f"{home(drawn.user)}/{beside.name}.exit").write_text("check")
            assert beside.job.wait().exit_code == 0, beside.job.output()
    wait_until(lambda: queue(fault_slurm) <= {"COMPLETING"}, timeout_s=60, what="an empty queue")
    lost = drawn.grows and drawn.fault.kind == "cut" and drawn.fault.lasts_s >= CUT_S
    resent_s = RESENT_S if lost else 60
    wait_until(lambda: not queue(fault_slurm), timeout_s=resent_s, what="an empty queue")
    wait_until(fault_slurm.bed.idle, timeout_s=60, what="idle nodes")
    fault_slurm.assert_nothing_left()
