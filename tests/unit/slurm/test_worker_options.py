"""The options of sbatch that worker jobs take over from the head's job."""

from __future__ import annotations

import shlex

import pytest

from raycluster_cli.slurm.worker_options import options_for_workers, options_of_job


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("-N 1 -t 1:00:00 --gpus-per-node 4", "--time=1:00:00 --gpus-per-node=4"),
        ("-p gpu -A me -q high --reservation r", "--partition=gpu --account=me --qos=high --reservation=r"),
        ("-C 'a100&nvlink' -x gpu07 --exclusive", "'--constraint=a100&nvlink' --exclude=gpu07 --exclusive"),
        ("--mem=64G -c 8 --gres=gpu:a100:2", "--mem=64G --cpus-per-task=8 --gres=gpu:a100:2"),
        ("-J name -o out -e err --array 1-3 -d afterok:1 -b now+1hour -w gpu01 -H", ""),
        ("--export=ALL,KEY=secret --mail-type=ALL --mail-user=me --signal=B:USR1@60 --requeue", ""),
        # a block of nodes (Slurm 24.05), of which a worker job has one
        ("-N 16 --segment=8 --spread-segments -p gpu", "--partition=gpu"),
        # what several tasks of a node have is one task's
        ("-N 2 -n 8 -c 2", "--cpus-per-task=8"),
        ("-N 2 --ntasks-per-node 4", "--cpus-per-task=4"),
        ("-N 2 --ntasks-per-node=2 -c 3 --gpus-per-task=1", "--cpus-per-task=6 --gpus-per-node=2"),
        ("-N 4 -G a100:8", "--gpus-per-node=a100:2"),
        ("-N 4-8 -G 8", "--gpus-per-node=2"),
        # the last of two counts
        ("-p one --time=1 -p two", "--time=1 --partition=two"),
    ],
)
def test_what_worker_jobs_take_over(given: str, kept: str) -> None:
    assert options_for_workers(shlex.split(given)) == shlex.split(kept)


def test_variables_of_sbatch_stand_for_options() -> None:
    env = {"SBATCH_PARTITION": "cpu", "SBATCH_ACCOUNT": "me", "SBATCH_EXCLUSIVE": "1", "SBATCH_JOB_NAME": "x"}
    assert options_for_workers(["-p", "gpu"], env) == ["--partition=gpu", "--account=me", "--exclusive"]


@pytest.mark.parametrize(
    ("given", "env", "kept"),
    [
        ("-N 2", {"SBATCH_GPUS": "8"}, "--gpus-per-node=4"),
        ("-N 2 --ntasks-per-node=2", {"SBATCH_GPUS_PER_TASK": "1"}, "--cpus-per-task=2 --gpus-per-node=2"),
        ("--gpus-per-node=4", {"SBATCH_GPUS": "8"}, "--gpus-per-node=4"),
        ("--mem-per-cpu=2G", {"SBATCH_MEM_PER_NODE": "64G"}, "--mem-per-cpu=2G"),
        ("", {"SBATCH_MEM_PER_GPU": "8G"}, "--mem-per-gpu=8G"),
    ],
)
def test_variables_for_amounts(given: str, env: dict[str, str], kept: str) -> None:
    assert options_for_workers(shlex.split(given), env) == shlex.split(kept)


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, []),
        ({"SLURM_JOB_PARTITION": "gpu", "SLURM_JOB_QOS": "high"}, ["--partition=gpu", "--qos=high"]),
        ({"SLURM_JOB_CPUS_PER_NODE": "8(x2),4"}, ["--cpus-per-task=8"]),
        ({"SLURM_MEM_PER_NODE": "4096"}, ["--mem=4096"]),
        ({"SLURM_MEM_PER_NODE": "0"}, []),
        ({"SLURM_MEM_PER_CPU": "1024"}, ["--mem-per-cpu=1024"]),
        ({"SLURM_GPUS_ON_NODE": "2"}, ["--gres=gpu:2"]),
        ({"SLURM_GPUS_ON_NODE": "0"}, []),
        ({"SLURM_JOB_START_TIME": "100", "SLURM_JOB_END_TIME": "190"}, ["--time=2"]),
        # without a limit Slurm writes the end of its time
        ({"SLURM_JOB_START_TIME": "100", "SLURM_JOB_END_TIME": "4294967294"}, []),
    ],
)
def test_what_the_job_itself_tells(env: dict[str, str], found: list[str]) -> None:
    assert options_of_job(env) == found
