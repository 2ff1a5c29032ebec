"""Counts per node, memory and GPUs, as Slurm's variables have them."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.slurm.quantities import parse_counts, parse_gpu_count, parse_memory_mib


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("1", [1]),
        ("72(x2),36", [72, 72, 36]),
        ("1,2(x2)", [1, 2, 2]),
        ("0(x3)", [0, 0, 0]),
        (" 4 ", [4]),
        ("2(x1)", [2]),
    ],
)
def test_counts(text: str, counts: list[int]) -> None:
    assert parse_counts(text) == counts


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "x",
        "72(x)",
        "72(x2",
        "72x2",
        "72(2)",
        "-1",
        "1.5",
        "4(x0)",
        "1,,2",
        "1,",
        "1(x99999999)",
        "٣",
    ],
)
def test_malformed_counts(text: str) -> None:
    with pytest.raises(UsageError, match=r"^SLURM_TASKS_PER_NODE cannot be read: found .*needed counts"):
        parse_counts(text, source="SLURM_TASKS_PER_NODE")


@pytest.mark.parametrize(
    ("text", "mib"),
    [("4000", 4000), ("4000M", 4000), ("4g", 4096), ("1T", 1024**2), ("2048K", 2), ("1K", 1), ("0", 0)],
)
def test_memory(text: str, mib: int) -> None:
    assert parse_memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "lots", "4GiB", "-1", "1.5G", "4 000", "G"])
def test_malformed_memory(text: str) -> None:
    with pytest.raises(UsageError, match=r"SLURM_MEM_PER_NODE cannot be read: found .* needed MiB"):
        parse_memory_mib(text, source="SLURM_MEM_PER_NODE")


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("2", 2),
        ("0", 0),
        ("a100:4", 4),
        ("a100:2,v100:1", 3),
        ("gpu:2", 2),
        ("gpu", 1),
        ("gpu:a100", 1),
        ("gpu:a100:4", 4),
        ("gpu:2080ti:4", 4),
        ("1g.5gb:7", 7),
        ("gpu:a100:4(S:0-1)", 4),
        ("gpu:a100:2(IDX:0,2),gpu:v100:1(IDX:3)", 3),
        ("gpu:2,gpu:v100:1", 3),
        ("nvme:1,gpu:2", 2),
        ("gres:gpu:2", 2),
        ("gres/gpu:v100:2", 2),
        ("cpu=4,mem=8G,gres/gpu=2", 2),
        ("gres/gpu:a100=2,gres/gpu=2", 2),
        ("gres/gpu:a100=2,gres/gpu:v100=1", 3),
        ("cpu=1,gres:gpu:2", 2),
        ("cpu=1,gres:gpu:a100:2", 2),
        ("cpu=1", 0),
        ("(null)", 0),
    ],
)
def test_gpu_count(text: str, gpus: int) -> None:
    assert parse_gpu_count(text) == gpus


@pytest.mark.parametrize(
    "text", ["", "two", "a100:", ":4", "a100:x", "gpu:a100:4:5", "gres/gpu=x", "-1", "gpu:"]
)
def test_malformed_gpu_count(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"SLURM_GPUS_ON_NODE cannot be read: found .* needed a number of GPUs"
    ):
        parse_gpu_count(text, source="SLURM_GPUS_ON_NODE")
