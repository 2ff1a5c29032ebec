"""What a node of a worker group will have, before the first one has joined: from its sbatch options.

An estimate, which the first node that joins corrects.  The autoscaler needs it to know which demand fits on
such a node; of a group whose estimate is too small it launches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model.errors import RayclusterError
from ..model.worker_group import WorkerGroup
from ..slurm.answer import Run, answer_of
from ..slurm.quantities import parse_gpu_count, parse_memory_mib

MIB = 1024 * 1024

#: The share of a node's memory that tasks and actors may ask for; node/resources.py has the exact sum.
MEMORY_SHARE = 0.6

SINFO_S = 10.0

#: One line for each kind of node of each partition: name (* at the default one), CPUs, MiB, GRES, sharing.
SINFO = ("sinfo", "--noheader", "--format=%P|%c|%m|%G|%h")


@dataclass(frozen=True)
class PartitionNodes:
    """The smallest node of a partition."""

    cpus: int
    memory_mib: int
    gpus: int
    whole_nodes: bool
    """A job gets all of a node, whatever it asks for (OverSubscribe=EXCLUSIVE)."""


def partitions_of(text: str) -> dict[str, PartitionNodes]:
    """By name, from the lines of SINFO; the default partition also under the empty name.

    >>> found = partitions_of("cpu*|8|16000+|(null)|NO\\ngpu|64|512000|gpu:a100:4(S:0-1)|EXCLUSIVE\\n")
    >>> found["gpu"], found[""].cpus
    (PartitionNodes(cpus=64, memory_mib=512000, gpus=4, whole_nodes=True), 8)
    """
    found: dict[str, PartitionNodes] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 5:
            continue
        name, cpus, memory, gres, sharing = fields
        one = PartitionNodes(_number(cpus), _number(memory), _gpus(gres), sharing == "EXCLUSIVE")
        for key in {name.rstrip("*"), "" if name.endswith("*") else name.rstrip("*")}:
            other = found.get(key, one)
            found[key] = PartitionNodes(
                min(one.cpus, other.cpus),
                min(one.memory_mib, other.memory_mib),
                min(one.gpus, other.gpus),
                one.whole_nodes and other.whole_nodes,
            )
    return found


def ask_partitions(env: Mapping[str, str], *, run: Run | None = None) -> dict[str, PartitionNodes]:
    """By one call of sinfo; empty where it gives no answer.  Blocks."""
    arguments = {"run": run} if run is not None else {}
    answer = answer_of(SINFO, env, timeout_s=SINFO_S, **arguments)
    return partitions_of(answer.stdout) if answer is not None and answer.returncode == 0 else {}


def node_resources(group: WorkerGroup, partitions: Mapping[str, PartitionNodes]) -> dict[str, float]:
    """What a node of the group will have in Ray's terms; memory in bytes.

    >>> node_resources(WorkerGroup("gpu", 4, sbatch=("--cpus-per-task=16", "--gpus-per-node=a100:4")), {})
    {'CPU': 16.0, 'GPU': 4.0}
    """
    given = dict(_pairs(group.sbatch))
    node = partitions.get(given.get("partition", "").split(",")[0])
    whole = node is not None and (node.whole_nodes or "exclusive" in given)
    found: dict[str, float] = {"CPU": float(_number(given.get("cpus-per-task", "1")) or 1)}
    gpus = next((_gpus(given[name]) for name in _GPU_OPTIONS if given.get(name)), 0)
    memory_mib = _memory_mib(given, found["CPU"], gpus, node)
    if node is not None and whole:
        found["CPU"] = float(max(node.cpus, int(found["CPU"])))
        memory_mib = memory_mib or node.memory_mib
    if gpus:
        found["GPU"] = float(gpus)
    if memory_mib:
        found["memory"] = float(int(memory_mib * MIB * MEMORY_SHARE))
    return found | {name: float(size) for name, size in group.resources.items()}


_GPU_OPTIONS = ("gpus-per-node", "gpus-per-task", "gpus", "gres")


def _pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """Long names and values of options that are one word each, as a group has them."""
    split = [word[2:].partition("=") for word in words if word.startswith("--")]
    return [(name, value) for name, _, value in split]


def _memory_mib(given: Mapping[str, str], cpus: float, gpus: int, node: PartitionNodes | None) -> int:
    """As Slurm gives it to the job; 0: not known."""
    for name, times in (("mem", 1), ("mem-per-cpu", int(cpus)), ("mem-per-gpu", gpus)):
        if given.get(name):
            try:
                size = parse_memory_mib(given[name]) * times
            except RayclusterError:
                return 0
            return size or (node.memory_mib if node is not None and name == "mem" else 0)
    return 0


def _gpus(text: str) -> int:
    try:
        return parse_gpu_count(text)
    except RayclusterError:
        return 0


def _number(text: str) -> int:
    """Of a number that sinfo has shortened, such as `16000+`, the least that it stands for."""
    digits = text.rstrip("+").partition("-")[0]
    return int(digits) if digits.isdecimal() else 0
