"""Scripts in which the driver is no child of raycluster: a step of its own, or the batch script itself."""

from __future__ import annotations

from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, batch, driver, record
from tests.slurm.jobs import JobEnd, Slurm

BESIDE = f"""
{SRUN} raycluster run &
cluster=$!
set -e
srun --overlap --nodes=1 --ntasks=1 --mem=0 raycluster exec --wait 120 -- {driver(0)}
raycluster env --export > lines
eval "$(cat lines)"
{driver(0, "--tasks")}
raycluster stop
set +e
wait $cluster
echo "CLUSTER $?"
"""


def test_a_driver_in_a_second_step_and_in_the_script(slurm: Slurm) -> None:
    job = batch(slurm, BESIDE, user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert output.count("NODES n1 n2 n3") == 2, output
    assert "TASKS n1 n2 n3" in output
    assert "CLUSTER 0" in output
    lines = slurm.bed.path(LOGIN, "/home/alice/lines").read_text()
    assert "export RAY_ADDRESS=10.77.0.1:" in lines
    assert "export RAY_AUTH_TOKEN_PATH=/" in lines
    token = (record(slurm.bed, job) / "token").read_text().strip()
    assert token and token not in lines + output
    slurm.assert_nothing_left()


def test_a_script_ends_where_there_is_no_cluster(slurm: Slurm) -> None:
    job = batch(slurm, 'eval "$(raycluster env --export --wait 1)" || exit 9', nodes=1)
    assert job.wait() == JobEnd("FAILED", 9, 0), job.output()
    assert "raycluster: error: " in job.output()
