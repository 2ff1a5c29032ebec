"""Addresses on real Slurm hosts, and clusters whose nodes share no directory."""

from __future__ import annotations

from tests.slurm.batches import SRUN, batch, driver, line_with
from tests.slurm.jobs import JobEnd, Slurm

ALL = "NODES n1 n2 n3"


def test_a_cluster_on_ipv6(slurm: Slurm) -> None:
    job = batch(slurm, f"{SRUN} raycluster run --network fd77::/64 -- {driver(0, '--tasks')}")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "3 nodes ready at [fd77::1]:" in job.output()
    assert "TASKS n1 n2 n3" in job.output()
    slurm.assert_nothing_left()


def test_driver_and_tasks_are_told_the_one_address(slurm: Slurm) -> None:
    show = "import os; print('IS', os.environ['VLLM_HOST_IP'], os.environ['NCCL_SOCKET_IFNAME'])"
    job = batch(slurm, f'{SRUN} raycluster run -- python -c "{show}"')
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert line_with("IS ", job.output()).startswith("IS 10.77.0.1 ")


def test_an_interface_that_is_not_there_is_told_with_those_that_are(slurm: Slurm) -> None:
    job = batch(slurm, "raycluster head --interface ib0 -- true", nodes=1)
    assert job.wait() == JobEnd("FAILED", 2, 0), job.output()
    line = line_with("error", job.output())
    assert "--interface ib0" in line
    assert "10.77.0.1" in line
    slurm.assert_nothing_left()


def test_nodes_that_share_no_directory_meet_by_name_port_and_token(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        export RAYCLUSTER_STATE_DIR=/var/tmp/own
        export RAYCLUSTER_TOKEN=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n')
        {SRUN} sh -c 'raycluster run -- {driver(7, "--tasks")}; code=$?; rm -r /var/tmp/own; exit $code'
        """,
    )
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    assert "TASKS n1 n2 n3" in job.output()
    slurm.assert_nothing_left()


def test_without_a_shared_directory_and_token_the_worker_says_what_to_do(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        export RAYCLUSTER_STATE_DIR=/var/tmp/own RAYCLUSTER_TIMEOUT=25
        {SRUN} sh -c 'raycluster run -- {driver(0)}; code=$?; rm -r /var/tmp/own; exit $code'
        """,
        nodes=2,
    )
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("n2 did not join", job.output())
    assert "no head (the record names none)" in line
    assert "RAYCLUSTER_TOKEN" in line
    slurm.assert_nothing_left()
