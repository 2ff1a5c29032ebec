"""The nodes of each partition, by one sinfo: CPUs, memory and GPUs of the smallest."""

from __future__ import annotations

from collections.abc import Mapping

from ..model.dataclass import dataclass
from ..model.errors import RayclusterError
from .answer import Run, answer_of
from .quantities import parse_gpu_count

#: How long sinfo may take.
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


def parse_partitions(text: str) -> dict[str, PartitionNodes]:
    """By name, from the lines of SINFO; the default partition also under the empty name.

    >>> found = parse_partitions("cpu*|8|16000+|(null)|NO\\ngpu|64|512000|gpu:a100:4(S:0-1)|EXCLUSIVE\\n")
    >>> found["gpu"], found[""].cpus
    (PartitionNodes(cpus=64, memory_mib=512000, gpus=4, whole_nodes=True), 8)
    """
    found: dict[str, PartitionNodes] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 5:
            continue
        name, cpus, memory, gres, sharing = fields
        one = PartitionNodes(least_number(cpus), least_number(memory), gpus_in(gres), sharing == "EXCLUSIVE")
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
    return parse_partitions(answer.stdout) if answer is not None and answer.returncode == 0 else {}


def gpus_in(text: str) -> int:
    """The GPUs in a GRES or an option of sbatch; 0 where it cannot be read."""
    try:
        return parse_gpu_count(text)
    except RayclusterError:
        return 0


def least_number(text: str) -> int:
    """Of a number that sinfo has shortened, such as `16000+`, the least that it stands for."""
    digits = text.rstrip("+").partition("-")[0]
    return int(digits) if digits.isdecimal() else 0
