"""What a node of a group will have, before there is one."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from raycluster_cli.autoscale.node_resources import node_resources
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.slurm.partitions import SINFO, PartitionNodes, ask_partitions, parse_partitions

GIB = 1024**3

SINFO_TEXT = """\
cpu*|8|16000+|(null)|NO
cpu*|4|8000|(null)|NO
gpu|64|512000|gpu:a100:4(S:0-1)|EXCLUSIVE
gpu|64|512000|gpu:a100:8|EXCLUSIVE
"""


def test_the_smallest_node_of_each_partition() -> None:
    found = parse_partitions(SINFO_TEXT + "a line of a site's wrapper\n")
    assert found == {
        "cpu": PartitionNodes(4, 8000, 0, False),
        "": PartitionNodes(4, 8000, 0, False),
        "gpu": PartitionNodes(64, 512000, 4, True),
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"CPU": 1.0}),
        (("--cpus-per-task=8",), {"CPU": 8.0}),
        (("--cpus-per-task=8", "--mem=10G"), {"CPU": 8.0, "memory": 6.0 * GIB}),
        (("--cpus-per-task=4", "--mem-per-cpu=2560M"), {"CPU": 4.0, "memory": 6.0 * GIB}),
        (("--gpus-per-node=2", "--mem-per-gpu=5G"), {"CPU": 1.0, "GPU": 2.0, "memory": 6.0 * GIB}),
        (("--gres=gpu:a100:4",), {"CPU": 1.0, "GPU": 4.0}),
        (("--gpus=h100:2",), {"CPU": 1.0, "GPU": 2.0}),
        (("--mem=as much as there is",), {"CPU": 1.0}),
        (("--mem=0",), {"CPU": 1.0, "memory": float(int(8000 * 1024 * 1024 * 0.6))}),
        (("--exclusive",), {"CPU": 4.0, "memory": float(int(8000 * 1024 * 1024 * 0.6))}),
        (
            ("--partition=gpu", "--gpus-per-node=4"),
            {"CPU": 64.0, "GPU": 4.0, "memory": float(int(512000 * 1024 * 1024 * 0.6))},
        ),
        (("--partition=nobody-knows", "--exclusive"), {"CPU": 1.0}),
    ],
)
def test_resources_from_options(options: tuple[str, ...], expected: dict[str, float]) -> None:
    group = WorkerGroup("w", 4, sbatch=options)
    assert node_resources(group, parse_partitions(SINFO_TEXT)) == expected


def test_what_the_user_gives_counts() -> None:
    group = WorkerGroup("w", 4, sbatch=("--cpus-per-task=8",), resources={"CPU": 6.0, "licence": 1})
    assert node_resources(group, {}) == {"CPU": 6.0, "licence": 1.0}


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [(0, "a*|2|100|(null)|NO\n", {"a", ""}), (1, "sinfo: error: no controller\n", set())],
)
def test_sinfo_is_asked_once(tmp_path: Any, code: int, text: str, expected: set[str]) -> None:
    calls = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, code, text, "")

    (tmp_path / "sinfo").write_text("#!/bin/sh\n")
    (tmp_path / "sinfo").chmod(0o755)
    assert set(ask_partitions({"PATH": str(tmp_path)}, run=run)) == expected
    assert [command[1:] for command in calls] == [list(SINFO[1:])]


def test_without_sinfo_nothing_is_known() -> None:
    assert ask_partitions({"PATH": "/nowhere"}) == {}
