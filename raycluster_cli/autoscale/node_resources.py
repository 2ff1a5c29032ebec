"""What a node of a worker group will have, before the first one has joined: from its sbatch options.

An estimate, which the first node that joins corrects.  The autoscaler needs it to know which demand fits on
such a node; of a group whose estimate is too small it launches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..model.errors import RayclusterError
from ..model.sbatch_words import option_pairs
from ..model.worker_group import WorkerGroup
from ..slurm.partitions import PartitionNodes, gpus_in, least_number
from ..slurm.quantities import parse_memory_mib

MIB = 1024 * 1024

#: The share of a node's memory that tasks and actors may ask for; node/resources.py has the exact sum.
MEMORY_SHARE = 0.6


def node_resources(group: WorkerGroup, partitions: Mapping[str, PartitionNodes]) -> dict[str, float]:
    """What a node of the group will have in Ray's terms; memory in bytes.

    >>> node_resources(WorkerGroup("gpu", 4, sbatch=("--cpus-per-task=16", "--gpus-per-node=a100:4")), {})
    {'CPU': 16.0, 'GPU': 4.0}
    """
    given = {name: value or "" for name, value in option_pairs(group.sbatch, lenient=True)}
    node = partitions.get(given.get("partition", "").split(",")[0])
    whole = node is not None and (node.whole_nodes or "exclusive" in given)
    found: dict[str, float] = {"CPU": float(least_number(given.get("cpus-per-task", "1")) or 1)}
    gpus = next((gpus_in(given[name]) for name in _GPU_OPTIONS if given.get(name)), 0)
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
