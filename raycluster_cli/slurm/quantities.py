"""Quantities as Slurm writes them, counts per node, memory and GPUs: text in, numbers out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .malformed import MAX_HOSTS, malformed, quoted

_COUNT = re.compile(r"(\d{1,9})(?:\(x(\d{1,9})\))?", re.ASCII)
_MEMORY = re.compile(r"(\d{1,15})([KMGT]?)", re.ASCII | re.IGNORECASE)
_GPUS_OF_TYPE = re.compile(r"(?:[A-Za-z0-9._-]+:)?(\d{1,6})", re.ASCII)
_GPU_RESOURCE = re.compile(r"gpu(?::(?!\d+$)[A-Za-z0-9._-]+)?(?::(\d{1,6}))?", re.ASCII)
_PARENTHESES = re.compile(r"\([^()]*\)")

_COUNTS_NEEDED = "counts as Slurm writes them, such as 72(x2),36"


def parse_counts(text: str, *, source: str = "count list") -> list[int]:
    """Expand counts per node, as in SLURM_JOB_CPUS_PER_NODE and SLURM_TASKS_PER_NODE.

    >>> parse_counts("72(x2),36")
    [72, 72, 36]
    """
    counts: list[int] = []
    for item in text.strip().split(","):
        match = _COUNT.fullmatch(item)
        if match is None:
            raise malformed(source, text, f"{quoted(item)} is not a count", _COUNTS_NEEDED)
        times = int(match[2] or 1)
        if times == 0:
            raise malformed(source, text, f"{quoted(item)} is a count for no node", _COUNTS_NEEDED)
        if len(counts) + times > MAX_HOSTS:
            raise malformed(source, text, f"more than {MAX_HOSTS} nodes", _COUNTS_NEEDED)
        counts.extend([int(match[1])] * times)
    return counts


def parse_memory_mib(text: str, *, source: str = "memory") -> int:
    """Memory in MiB.  A plain number is MiB; K, M, G and T are powers of 1024; K is rounded up.

    >>> [parse_memory_mib(text) for text in ("4000", "4000M", "2G", "1T", "1500K")]
    [4000, 4000, 2048, 1048576, 2]
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise malformed(source, text, "not a size", "MiB, or a number with K, M, G or T, such as 4000 or 4G")
    number, unit = int(match[1]), match[2].upper()
    if unit == "K":
        return -(-number // 1024)
    return number * {"": 1, "M": 1, "G": 1024, "T": 1024**2}[unit]


def parse_gpu_count(text: str, *, source: str = "GPU count") -> int:
    """The number of GPUs in a count, a typed count, a list of generic resources or a list of TRES.

    >>> [parse_gpu_count(text) for text in ("2", "a100:4", "gpu:a100:4(S:0-1)", "gpu:2,gpu:v100:1")]
    [2, 4, 4, 3]
    >>> [parse_gpu_count(text) for text in ("gpu", "nvme:1,gpu:2", "cpu=1,gres/gpu=2", "(null)")]
    [1, 2, 2, 0]

    If any item begins with ``gpu``, only such items count; otherwise each item is ``type:count``.
    ``cpu=4,gres/gpu:a100=2,gres/gpu=2`` (TRES) lists the same GPUs twice: the item without a type is the sum.
    """
    needed = "a number of GPUs such as 2, a100:4 or gpu:a100:4"
    if text.strip() in ("(null)", "N/A"):
        return 0
    items = _PARENTHESES.sub("", text.strip()).split(",")
    if any("=" in item for item in items):
        return _tres_gpu_count(items, source, text, needed)
    items = [re.sub(r"^gres[/:]", "", item) for item in items]
    only_gpus = any(re.match(r"gpu(:|$)", item) for item in items)
    total = 0
    for item in items:
        if only_gpus and item.partition(":")[0] != "gpu":
            continue
        match = (_GPU_RESOURCE if only_gpus else _GPUS_OF_TYPE).fullmatch(item)
        if match is None:
            raise malformed(source, text, f"{quoted(item)} is not a count of GPUs", needed)
        total += int(match[1] or 1)  # gpu and gpu:a100 mean one
    return total


def _tres_gpu_count(items: Sequence[str], source: str, text: str, needed: str) -> int:
    """GPUs of ``gres/gpu:a100=2,gres/gpu=2``: the item without a type is the sum.  23.11: ``gres:gpu:2``."""
    typed, untyped = 0, None
    for item in items:
        name, _, count = re.sub(r"^(gres:gpu(?::[^:=]+)?):(\d+)$", r"\1=\2", item).rpartition("=")
        name = name.replace("gres:", "gres/", 1)
        if name != "gres/gpu" and not name.startswith("gres/gpu:"):
            continue
        if not (count.isascii() and count.isdigit()):
            raise malformed(source, text, f"{quoted(item)} is not a count of GPUs", needed)
        if name == "gres/gpu":
            untyped = int(count[:9])
        else:
            typed += int(count[:9])
    return typed if untyped is None else untyped
