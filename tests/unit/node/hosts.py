"""Stand-in machines: what a node with recorded variables of Slurm grants."""

from __future__ import annotations

from pathlib import Path

from raycluster_cli.node.figures import MIB
from raycluster_cli.node.grants import HostFacts, read_host
from raycluster_cli.node.memory import SharedMemory
from raycluster_cli.slurm.allocation import Allocation

from ..slurm.test_allocation import environment
from ..trees import machine

GIB = 1024 * MIB
SHM = SharedMemory(3 * GIB, 3 * GIB)


def facts(
    root: Path,
    name: str = "",
    *,
    affinity: int | tuple[int, ...] = 2,
    machine_cpus: int = 64,
    shm: SharedMemory = SHM,
    **changes: str | None,
) -> HostFacts:
    """The facts of a node whose environment is a recorded one, with variables changed or taken out."""
    wanted: dict[str, str | None] = {**(environment(name) if name else {}), **changes}
    env = {key: value for key, value in wanted.items() if value is not None}
    if not (root / "proc/meminfo").exists():
        machine(root)
    return read_host(
        env, Allocation.from_environ(env), root=root, affinity=affinity, machine_cpus=machine_cpus, shm=shm
    )
