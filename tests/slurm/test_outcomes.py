"""What a job ends with, and what it says: on real Slurm, where the outcome depends on srun and the site."""

from __future__ import annotations

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, driver
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.versions


def test_spare_tasks_stay_until_the_cluster_ends(slurm: Slurm) -> None:
    """srun's --wait (the site's WaitTime) kills a step so long after its first task has ended."""
    work = "python -c 'import ray, time; ray.init(log_to_driver=False); time.sleep(6); print(\"WORKED\")'"
    job = slurm.sbatch(
        f"srun --ntasks-per-node=3 --wait=2 --cpu-bind=none --mem=0 raycluster run -- {work}",
        *("--nodes=2", "--ntasks-per-node=3", "--exclusive", "--mem=0"),
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "WORKED" in job.output()
    slurm.assert_nothing_left()


def test_a_driver_that_never_connects_is_told(slurm: Slurm) -> None:
    """Its job completes, though one node did the work of two, or none did any.

    The first one leaves its program in the background.
    """
    first = f"{SRUN} raycluster run -- sh -c 'sleep 300 &'"
    job = slurm.sbatch(
        f"{first}; raycluster why $SLURM_JOB_ID; {SRUN} raycluster run -- {driver(0)}",
        *("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mem=0"),
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = " ".join(job.output().split())  # `why` breaks lines
    assert "it did not use this cluster: no driver has connected to it" in output, job.output()
    first, second = output.split("it did not use this cluster: no driver has connected to it")
    assert "; no driver has connected to this cluster; ended" in first
    assert "but a program that it started still ran: sleep 300. It is ended" in first
    assert "NODES n1 n2" in second
    assert "connected" not in second.rpartition("nodes ready")[2]


def test_a_requeue_that_slurm_will_refuse_is_told_at_the_start(slurm: Slurm) -> None:
    """It can be allowed while the job runs; if nobody does, the end says plainly what happened."""
    # One process: a shell whose `sleep` gets the signal first would end before it has got its own.
    save = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75))"
    save += "; print('READY', flush=True); time.sleep(600)"
    job = slurm.sbatch(
        f'{SRUN} raycluster run --requeue-on-preempt -- python -c "{save}"',
        *("--nodes=1", "--ntasks-per-node=1", "--exclusive", "--mem=0", "--no-requeue"),
    )
    job.wait_for("READY")
    told = job.wait_for("--requeue-on-preempt has no effect")
    assert f"`scontrol update JobId={job.id} Requeue=1`" in told
    job.cancel("--signal=TERM")
    assert job.wait() == JobEnd("FAILED", 75, 0), job.output()
    assert f"requeueing the job failed: `scontrol requeue {job.id}` ended with code 1: " in job.output()
    assert "Error(" not in job.output()
    slurm.assert_nothing_left()


@pytest.mark.parametrize("name", ["", pytest.param("--name tune", marks=pytest.mark.chaos)])
def test_a_stop_before_the_head_has_started(slurm: Slurm, name: str) -> None:
    """In its first moments a job has no record: the request waits there for the head.

    That of a cluster with a name will be elsewhere: its head is asked once it is there.
    """
    place = "$HOME/.raycluster/bed/$SLURM_JOB_ID"
    run = f"exec {SRUN} raycluster run {name} -- sh -c 'sleep 9; echo DRIVING'"
    job = slurm.sbatch(
        f"until [ -e {place}/stop.json ]; do sleep 0.1; done; {run}",
        *("--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mem=0"),
    )
    wait_until(lambda: job.state() == "RUNNING", timeout_s=60, what="the job")
    done = slurm.run(LOGIN, ["raycluster", "stop", job.id], timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert "has no cluster yet" in done.stderr
    assert "ended after" in done.stderr
    assert job.wait().exit_code == 143, job.output()
    assert "DRIVING" not in job.output()
    assert "nodes ready" not in job.output()
    slurm.assert_nothing_left()


def test_a_stop_of_a_job_that_waits_cancels_it(slurm: Slurm) -> None:
    job = slurm.sbatch("raycluster run -- true", "--hold", "--nodes=1")
    done = slurm.run(LOGIN, ["raycluster", "stop", job.id], timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert "(pending) is cancelled" in done.stderr
    assert job.wait().state == "CANCELLED"


@pytest.mark.cgroup2
def test_submit_keeps_the_drivers_code_after_an_oom_kill(strict_slurm: Slurm) -> None:
    """The driver loses a child to the kernel and ends with 75; srun ends with 1."""
    eat = 'python -c "x = [bytearray(1 << 20) for _ in range(9000)]"'
    words = ["raycluster", "submit", "--nodes=1", "--exclusive", "--mem=2500", "--time=5", "--follow"]
    words += ["--memory=500M", "--object-store-memory=200M", "--", "bash", "-c", f"{eat}; exit 75"]
    done = strict_slurm.run(LOGIN, words, timeout_s=150)
    assert "of this step for lack of memory: srun ends with code 1 then" in done.stdout, done
    assert done.returncode == 75, done
    strict_slurm.assert_nothing_left()
