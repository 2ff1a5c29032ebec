"""What a job ends with, and what it says: on real Slurm, where the outcome depends on srun and the site."""

from __future__ import annotations

from tests.slurm.jobs import JobEnd, Slurm


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
