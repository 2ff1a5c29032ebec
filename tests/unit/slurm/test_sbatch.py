"""The command line that submits worker jobs, compared whole."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.slurm.sbatch import (
    HeadJob,
    is_marked,
    job_ids,
    sbatch_arguments,
)

HEAD = HeadJob(
    "4700", "train", Path("/home/ada/.raycluster/tux/4700"), "/home/ada/work", ("/venv/raycluster",)
)
OUTPUTS = Path("/home/ada/.raycluster/tux/4700/jobs")
OUTPUT = "--output=/home/ada/.raycluster/tux/4700/jobs/%j.out"
BEFORE = [
    "--parsable",
    "--job-name=train-gpu",
    "--chdir=/home/ada/work",
]
MARK = "--comment=raycluster:4700"
AFTER = ["--ntasks-per-node=1", "--no-requeue", "--export=ALL", "--wrap"]
WORKER = "/venv/raycluster worker --cluster /home/ada/.raycluster/tux/4700 --group gpu --drain-before=60"


def test_one_job_of_one_node_runs_the_worker_in_its_batch_step() -> None:
    group = WorkerGroup("gpu", 8, sbatch=("--partition=gpu", "-G", "4"))
    assert sbatch_arguments(HEAD, group, 1, outputs=OUTPUTS) == [
        *BEFORE,
        "--output=/home/ada/.raycluster/tux/4700/jobs/%j.out",
        *("--partition=gpu", "-G", "4"),
        *(MARK, "--nodes=1"),
        *AFTER,
        f"exec {WORKER}",
    ]


def test_several_jobs_are_one_array_and_avoid_hosts() -> None:
    group = WorkerGroup("gpu", 8)
    assert sbatch_arguments(HEAD, group, 3, outputs=OUTPUTS, excluded=("n7", "n2")) == [
        *BEFORE,
        "--output=/home/ada/.raycluster/tux/4700/jobs/%A_%a.out",
        "--exclude=n2,n7",
        "--array=0-2",
        *(MARK, "--nodes=1"),
        *AFTER,
        f"exec {WORKER}",
    ]


def test_the_worker_gets_the_heads_options_and_what_the_group_adds() -> None:
    head = HEAD.but(options=("--temp-dir=/local",))
    group = WorkerGroup(
        "gpu", 8, resources={"GPU": 4.0, "licence": 2.0}, labels={"zone": "a b"}, drain_before_s=300.0
    )
    command = shlex.split(sbatch_arguments(head, group, 1, outputs=OUTPUTS)[-1])
    assert command[command.index("gpu") + 1 :] == [
        "--temp-dir=/local",
        "--drain-before=300",
        '--labels={"zone": "a b"}',
        '--resources={"licence": 2}',
    ]


def test_in_a_job_of_several_nodes_srun_starts_the_workers() -> None:
    group = WorkerGroup("gpu", 8, nodes_per_job=2, sbatch=("-x", "n[1-2]"))
    arguments = sbatch_arguments(HEAD, group, 1, outputs=OUTPUTS, excluded=("n7",))
    assert arguments == [
        *BEFORE,
        "--output=/home/ada/.raycluster/tux/4700/jobs/%j.out",
        *("-x", "n[1-2]", "--exclude=n[1-2],n7"),
        *(MARK, "--nodes=2"),
        *AFTER,
        "exec srun --ntasks-per-node=1 --export=ALL --cpu-bind=none --mem=0 --kill-on-bad-exit=0 --wait=0 "
        + WORKER,
    ]


@pytest.mark.parametrize(
    ("given", "comment"),
    [
        ((), "raycluster:4700"),
        (("--comment=project 7",), "raycluster:4700 project 7"),
        (("--comment", "raycluster:4600"), "raycluster:4700 raycluster:4600"),
        (("--comment=",), "raycluster:4700"),
    ],
)
def test_a_comment_of_the_group_stands_behind_the_mark(given: tuple[str, ...], comment: str) -> None:
    arguments = sbatch_arguments(HEAD, WorkerGroup("gpu", 8, sbatch=given), 1, outputs=OUTPUTS)
    assert [word for word in arguments if word.startswith("--comment=")][-1] == f"--comment={comment}"
    assert arguments.index(f"--comment={comment}") >= arguments.index(OUTPUT) + len(given)
    assert is_marked(comment, HEAD.mark)
    assert not is_marked(comment, "raycluster:4600")
    assert not is_marked(comment, "raycluster:470")


def test_a_path_with_blanks_and_percent_signs() -> None:
    head = HEAD.but(record=Path("/data/my runs/50%"), raycluster=("/my venv/python", "-c", "import x"))
    arguments = sbatch_arguments(head, WorkerGroup("a", 1), 1, outputs=head.record / "jobs")
    assert "--output=/data/my runs/50%%/jobs/%j.out" in arguments
    assert arguments[-1] == (
        "exec '/my venv/python' -c 'import x' worker --cluster '/data/my runs/50%' --group a "
        "--drain-before=60"
    )


@pytest.mark.parametrize(
    ("answer", "jobs", "ids"),
    [
        ("4711\n", 1, ["4711"]),
        ("4711;tux\n", 1, ["4711"]),
        ("Welcome to tux.\n4711\n\n", 2, ["4711_0", "4711_1"]),
        ("", 1, []),
        ("Submitted batch job\n", 1, []),
    ],
)
def test_the_job_in_the_answer(answer: str, jobs: int, ids: list[str]) -> None:
    assert job_ids(answer, jobs) == ids
