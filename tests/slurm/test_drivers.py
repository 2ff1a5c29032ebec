"""Drivers as people write them, on real Slurm hosts."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from raycluster_cli.rayproc.requirements import has_dashboard
from tests.bed.bed import REPOSITORY
from tests.slurm.batches import SRUN, batch, line_with
from tests.slurm.jobs import JobEnd, Slurm

DRIVERS = REPOSITORY / "tests/slurm/drivers"


@pytest.mark.parametrize("options", ["", "--tls"])
def test_a_copy_of_the_drivers_environment_works_on_every_node(slurm: Slurm, options: str) -> None:
    """Before, worker processes on other nodes aborted for ever: the token's path was the head's."""
    job = batch(slurm, f"{SRUN} raycluster run {options} -- python {DRIVERS}/copied.py")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert line_with("COPIED", output) == "COPIED n1 n2 n3"
    assert line_with("ADDRESSES", output) == "ADDRESSES 10.77.0.1 10.77.0.2 10.77.0.3"
    places = line_with("TEMPORARY", output).split()[1:]
    assert len({*places}) == 3, "each node has its own directory"
    assert all(place.startswith("/tmp/rc-0-") and place.endswith("/t") for place in places)
    # RayDP connects on one node to the socket that another node names.
    assert len(line_with("SOCKETS", output).split()) == 2, output
    slurm.assert_nothing_left()


def test_shared_memory_of_worker_processes_that_ray_killed_is_removed(slurm: Slurm) -> None:
    """Not as root, whose other processes on a node could have made it."""
    job = batch(slurm, f"{SRUN} raycluster run -- python {DRIVERS}/shared_memory.py", user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert line_with("SEGMENTS", job.output()) == "SEGMENTS 9"
    slurm.assert_nothing_left()


CLOSES = """
import time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory("psm_of_another_job", create=True, size=4096)
memory.close()
print("CLOSED", flush=True)
time.sleep(600)
"""


def test_shared_memory_of_the_users_other_job_stays(slurm: Slurm) -> None:
    """It may be closed for a moment only, and whose a file is cannot be told then."""
    shape = ("--nodes=1", "--ntasks=1", "--nodelist=n1", "--cpus-per-task=2", "--mem=4000")
    waits = "until [ -e /dev/shm/psm_of_another_job ]; do sleep 0.1; done"
    words = shlex.quote(f"python {DRIVERS}/shared_memory.py && {waits}")
    job = slurm.sbatch(f"{SRUN} raycluster run -- sh -c {words}", *shape, user="alice")
    job.wait_for("SEGMENTS 3")
    other = slurm.sbatch(f"exec python -c {shlex.quote(CLOSES)}", *shape, user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    there = slurm.run("n1", ["ls", "/dev/shm"]).stdout.split()
    assert "psm_of_another_job" in there
    other.cancel()
    other.wait()
    slurm.run("n1", ["sh", "-c", "rm /dev/shm/psm_*"], check=True)
    slurm.assert_nothing_left()


def test_srun_and_the_job_api_inside_a_driver(slurm: Slurm) -> None:
    """mpirun calls srun too.  Without SLURM_OVERLAP it waits for ever: the cluster's step has all CPUs."""
    words = "timeout 60 srun --ntasks=3 --mem=0 hostname; echo SRUN $?; "
    words += "raycluster submit-job $SLURM_JOB_ID -- true; echo SUBMITTED $?"
    job = batch(slurm, f"{SRUN} raycluster run -- sh -c {shlex.quote(words)}")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert {"n1", "n2", "n3", "SRUN 0"} <= {*output.splitlines()}, output
    if has_dashboard():
        assert "SUBMITTED 0" in output
    else:
        assert "\nSUBMITTED 1\n" in output
        assert "raycluster: error: cluster" in output
        assert "has no dashboard and no job API: they need `pip install 'ray[default]'`" in output
        assert "Traceback" not in output
    slurm.assert_nothing_left()


def test_after_export_none_the_scripts_work_and_ones_own_is_told_what_to_add(slurm: Slurm) -> None:
    """The driver is killed: what it had printed is in the output all the same."""
    programs = Path(sys.executable).parent
    driver = "import os; print('PRINTED', os.environ['ip_head'] == os.environ['RAY_ADDRESS']); os.kill(0, 9)"
    job = batch(
        slurm,
        f"""
        export PATH={programs}:$PATH
        srun --nodes=1 --ntasks=1 --mem=0 {programs}/raycluster run -- no-such-program
        cd {REPOSITORY}
        exec bash slurm/symmetric.sbatch python -c {shlex.quote(driver)}
        """,
        "--export=NONE",
        nodes=2,
    )
    assert job.wait() == JobEnd("FAILED", 137, 0), job.output()
    output = job.output()
    told = line_with("raycluster: error", output)
    assert "this step did not get the batch script's environment" in told
    assert "`srun --export=ALL`" in told
    assert "\nPRINTED True\n" in output
    slurm.assert_nothing_left()
