"""What this node grants: CPUs, memory, shared memory, GPUs.

Ray sees the whole machine: it reads neither SLURM_* nor the affinity mask, and memory
limits only at the root of the cgroup tree.  Here every source is read, every figure is
kept with its source for ``raycluster env``, and the smallest one counts.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ..model.value import Value
from ..slurm.allocation import Allocation
from .cpus import granted_cpus, wants_one_thread
from .figures import Figure, Grant
from .gpus import granted_gpus, rocr_alone
from .labels import slurm_labels
from .memory import SharedMemory, granted_memory, shared_memory


class HostFacts(Value):
    """What this node grants to this step, and how we know."""

    cpus: Grant
    memory_bytes: Grant
    shm_bytes: Grant
    """Size of /dev/shm; 0 where there is none."""
    shm_free_bytes: int
    gpus: Grant
    gpu_vendor: str = ""
    """nvidia, amd or intel; empty where neither a driver nor a variable tells."""
    visible_devices_variable: str = ""
    """The variable that lists the devices this process may use; empty where none is set."""
    visible_devices: tuple[str, ...] | None = None
    """Its devices; None where no variable limits them."""
    labels: tuple[tuple[str, str], ...] = ()
    """Slurm's facts as labels for Ray, in the order in which they are shown."""
    rocr_visible_devices: str | None = None
    """ROCR_VISIBLE_DEVICES where it is set and HIP_VISIBLE_DEVICES is not: Ray refuses that."""
    slow_object_store_allowed: bool = False
    """RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE is set: Ray takes an object store larger than /dev/shm."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, each with what to do; resources.plan_resources drops those an option settles."""
        return tuple(
            warning
            for grant in (self.cpus, self.memory_bytes, self.shm_bytes, self.gpus)
            for warning in grant.warnings
        )

    def as_dict(self) -> dict[str, object]:
        """For ``raycluster env --json``."""
        return {
            "cpus": self.cpus.as_dict(),
            "memory_bytes": self.memory_bytes.as_dict(),
            "shm_bytes": {**self.shm_bytes.as_dict(), "free": self.shm_free_bytes},
            "gpus": {
                **self.gpus.as_dict(),
                "vendor": self.gpu_vendor,
                "visible_devices_variable": self.visible_devices_variable,
                "visible_devices": None if self.visible_devices is None else list(self.visible_devices),
            },
            "warnings": list(self.warnings),
        }


def read_host(
    env: Mapping[str, str],
    allocation: Allocation | None,
    *,
    root: Path = Path("/"),
    affinity: int | Collection[int] | None = None,
    machine_cpus: int | None = None,
    shm: SharedMemory | None = None,
) -> HostFacts:
    """Ask every source on this node.

    ``root`` stands in for / in tests; so do ``affinity`` (CPUs this process may run on, or how many),
    ``machine_cpus`` (CPUs of the machine) and ``shm`` for what the kernel would say.
    """
    if affinity is None:
        affinity = os.sched_getaffinity(0)
    allowed = range(affinity) if isinstance(affinity, int) else affinity
    affinity = len(allowed)
    if machine_cpus is None:
        machine_cpus = os.cpu_count() or affinity
    if shm is None:
        shm = shared_memory(root / "dev/shm")
    one_thread = allowed if wants_one_thread(env) else None
    cpus = granted_cpus(allocation, root, affinity, machine_cpus, one_thread)
    gpus, devices = granted_gpus(env, allocation, root)
    memory = granted_memory(allocation, root)
    return HostFacts(
        cpus=cpus,
        memory_bytes=memory,
        shm_bytes=Grant(
            shm.total_bytes,
            "size of /dev/shm",
            (Figure(shm.total_bytes, "size of /dev/shm"), Figure(shm.free_bytes, "free in /dev/shm")),
            ray_would_assume=shm.free_bytes,
        ),
        shm_free_bytes=shm.free_bytes,
        gpus=gpus,
        gpu_vendor=devices.vendor,
        visible_devices_variable=devices.variable,
        visible_devices=devices.visible,
        labels=slurm_labels(allocation),
        rocr_visible_devices=rocr_alone(env),
        slow_object_store_allowed=bool(env.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE")),
    )
