"""What Ray is told about this node: a plan made of what the node grants and what the user wants.

Pure: facts and options in, numbers out.  The three shares of a node's memory:

    granted = object store + memory (what tasks and actors may ask for) + reserve for Ray itself

so that a job that fills the first two is not killed by Slurm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..model.custom import check_labels, check_resources
from ..model.errors import UsageError
from ..model.option_text import parse_pairs, parse_size_bytes
from ..model.settings import Settings
from .figures import MIB
from .grants import HostFacts

OBJECT_STORE_SHARE_PERCENT = 30
NOT_TOLD_PERCENT = 5
"""So little less of it than /dev/shm would give is no warning: container runtimes keep small files there."""
OBJECT_STORE_MAX_BYTES = 200 * 1024**3
OBJECT_STORE_MIN_BYTES = 75 * MIB
"""Ray starts with no smaller store (ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES)."""
SLOW_STORAGE_MAX_BYTES = 10**10
"""A larger store outside of /dev/shm is refused by Ray (ray_constants.REQUIRE_SHM_SIZE_THRESHOLD)."""

MEMORY_MIN_BYTES = 128 * MIB
"""Less for tasks and actors than this is no use: the object store gives way first."""

# What Ray itself and raycluster need, in resident memory; measured, see docs/decisions.
HEAD_RESERVE_BYTES = 640 * MIB
WORKER_RESERVE_BYTES = 448 * MIB
DASHBOARD_RESERVE_BYTES = 320 * MIB
RESERVE_PER_CPU_BYTES = 64 * MIB


@dataclass(frozen=True)
class ResourcePlan:
    """What ``ray start`` is told on this node, and what the user should know about it."""

    num_cpus: int
    num_gpus: int
    memory_bytes: int
    object_store_bytes: int
    reserve_bytes: int
    """Granted memory that is neither: Ray's own processes, raycluster and the driver's start."""
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    """Variables to set for Ray and the driver on this node."""
    unset: tuple[str, ...] = ()
    """Variables to take out of that environment."""
    system_config: dict[str, object] = field(default_factory=dict)
    """What the head's GCS is told for the whole cluster."""
    sources: dict[str, str] = field(default_factory=dict)
    """Where num_cpus, num_gpus, memory_bytes and object_store_bytes come from."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For ``raycluster env --json`` and the record."""
        return {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "memory_bytes": self.memory_bytes,
            "object_store_bytes": self.object_store_bytes,
            "reserve_bytes": self.reserve_bytes,
            "resources": dict(self.resources),
            "labels": dict(self.labels),
            "environment": dict(self.environment),
            "unset": list(self.unset),
            "system_config": dict(self.system_config),
            "sources": dict(self.sources),
        }


def object_store_size(granted_bytes: int, shm_bytes: int) -> int:
    """Bytes for the object store: min(30 % of the memory granted, size of /dev/shm, 200 GB).

    >>> object_store_size(10 * 1024**3, 64 * 1024**3) == 3 * 1024**3
    True
    """
    return min(granted_bytes * OBJECT_STORE_SHARE_PERCENT // 100, shm_bytes, OBJECT_STORE_MAX_BYTES)


def reserve_size(num_cpus: int, *, head: bool, dashboard: bool) -> int:
    """Bytes that Ray itself needs on a node: its daemons, and an idle worker process a CPU."""
    fixed = HEAD_RESERVE_BYTES if head else WORKER_RESERVE_BYTES
    return fixed + (DASHBOARD_RESERVE_BYTES if dashboard else 0) + num_cpus * RESERVE_PER_CPU_BYTES


def plan_resources(
    facts: HostFacts,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    memory_bytes: int | None = None,
    object_store_bytes: int | None = None,
    resources: Mapping[str, float | str] | None = None,
    labels: Mapping[str, str] | None = None,
    head: bool = True,
    dashboard: bool = False,
    spill_in_memory: bool = False,
) -> ResourcePlan:
    """Make the plan; what the user gives wins, and is refused only where Ray would refuse it.

    ``head`` and ``dashboard`` decide how much is reserved for Ray itself.  ``spill_in_memory``:
    the directory for spilled objects is kept in memory (memory.is_in_memory).
    """
    warnings: list[str] = []
    sources: dict[str, str] = {}
    cpus = _plan_cpus(facts, num_cpus, sources, warnings)
    gpus = _plan_gpus(facts, num_gpus, sources, warnings)
    reserve = reserve_size(cpus, head=head, dashboard=dashboard)
    store = _plan_object_store(facts, object_store_bytes, memory_bytes, reserve, sources, warnings)
    memory = _plan_memory(facts, memory_bytes, store, reserve, sources, warnings)
    environment, unset = _plan_environment(facts)
    return ResourcePlan(
        num_cpus=cpus,
        num_gpus=gpus,
        memory_bytes=memory,
        object_store_bytes=store,
        reserve_bytes=max(0, facts.memory_bytes.value - memory - store),
        resources=check_resources(resources or {}),
        labels={**dict(facts.labels), **check_labels(labels or {})},
        environment=environment,
        unset=unset,
        system_config=_plan_spilling(spill_in_memory, sources),
        sources=sources,
        warnings=tuple(warnings),
    )


def plan_from_settings(
    facts: HostFacts, settings: Settings, *, head: bool, spill_in_memory: bool = False
) -> ResourcePlan:
    """The plan with what the user set: the same for a start, for `env` and for `doctor`."""
    memory, store = settings.memory, settings.object_store_memory
    return plan_resources(
        facts,
        num_cpus=settings.num_cpus,
        num_gpus=settings.num_gpus,
        memory_bytes=parse_size_bytes("--memory", memory) if memory else None,
        object_store_bytes=parse_size_bytes("--object-store-memory", store) if store else None,
        resources=parse_pairs("--resources", settings.resources),
        labels=parse_pairs("--labels", settings.labels),
        head=head,
        dashboard=settings.dashboard,
        spill_in_memory=spill_in_memory,
    )


def _plan_cpus(facts: HostFacts, given: int | None, sources: dict[str, str], warnings: list[str]) -> int:
    if given is None:
        sources["num_cpus"] = facts.cpus.source
        warnings += facts.cpus.warnings
        return facts.cpus.value
    sources["num_cpus"] = "--num-cpus"
    if given > facts.cpus.value:
        warnings.append(
            f"--num-cpus {given} is more than the {facts.cpus.value} granted here ({facts.cpus.source}): "
            "tasks will share cores."
        )
    return given


def _plan_gpus(facts: HostFacts, given: int | None, sources: dict[str, str], warnings: list[str]) -> int:
    if given is None:
        sources["num_gpus"] = facts.gpus.source
        warnings += facts.gpus.warnings
        return facts.gpus.value
    sources["num_gpus"] = "--num-gpus"
    if facts.visible_devices is not None and given > len(facts.visible_devices):
        raise UsageError(
            f"--num-gpus {given} cannot be had: found {len(facts.visible_devices)} visible "
            f"({facts.visible_devices_variable}), needed {given}; Ray refuses more than are visible.",
            "Ask Slurm for more, or give a smaller number.",
        )
    if given > facts.gpus.value:
        warnings.append(
            f"--num-gpus {given} is more than the {facts.gpus.value} granted here ({facts.gpus.source})."
        )
    return given


def _plan_object_store(
    facts: HostFacts,
    given: int | None,
    memory_given: int | None,
    reserve: int,
    sources: dict[str, str],
    warnings: list[str],
) -> int:
    granted, shm, free = facts.memory_bytes.value, facts.shm_bytes.value, facts.shm_free_bytes
    if given is not None:
        sources["object_store_bytes"] = "--object-store-memory"
        _check_given_store(facts, given, warnings)
        return given
    store = object_store_size(granted, shm)
    source = {
        shm: "size of /dev/shm",
        OBJECT_STORE_MAX_BYTES: "200 GB at most",
        granted * OBJECT_STORE_SHARE_PERCENT // 100: f"{OBJECT_STORE_SHARE_PERCENT} % of the memory granted",
    }[store]
    if free < store:
        # Ray compares with what is free, and takes a slow disk, or refuses, where that is less.
        if store - free > store * NOT_TOLD_PERCENT // 100:
            warnings.append(
                f"/dev/shm has {_mib(free)} free of {_mib(shm)}: the object store gets that "
                f"instead of {_mib(store)}. Another job or a leftover of one holds the rest (ls -l /dev/shm)."
            )
        store, source = free, "free in /dev/shm"
    memory = MEMORY_MIN_BYTES if memory_given is None else memory_given
    room = granted - reserve - memory
    if room < store and memory_given is None:
        store, source = max(room, 0), "what the reserve for Ray leaves"
        if store < OBJECT_STORE_MIN_BYTES:
            need = reserve + memory + OBJECT_STORE_MIN_BYTES
            raise UsageError(
                f"too little memory on this node: found {_mib(granted)} ({facts.memory_bytes.source}), "
                f"needed {_mib(need)}: {_mib(reserve)} for Ray itself, {_mib(OBJECT_STORE_MIN_BYTES)} object "
                f"store, {_mib(memory)} for tasks.",
                f"Give the node more (sbatch --mem={-(-need // MIB)}M or above), "
                "or set both --memory and --object-store-memory to take the risk.",
            )
    if store < OBJECT_STORE_MIN_BYTES:
        raise UsageError(
            f"too little room for Ray's object store: found {_mib(store)} ({source}), "
            f"needed {_mib(OBJECT_STORE_MIN_BYTES)} at least.",
            "Make /dev/shm larger (in a container, bind the host's), or give --object-store-memory.",
        )
    sources["object_store_bytes"] = source
    return store


def check_least_store(given: int) -> None:
    """Raise UsageError for an object store (in bytes) that Ray does not start with."""
    if given < OBJECT_STORE_MIN_BYTES:
        raise UsageError(
            f"--object-store-memory is too small: found {_mib(given)}, "
            f"needed {_mib(OBJECT_STORE_MIN_BYTES)}, the least that Ray starts with."
        )


def _check_given_store(facts: HostFacts, given: int, warnings: list[str]) -> None:
    check_least_store(given)
    if given > facts.memory_bytes.value:
        warnings.append(
            f"--object-store-memory {_mib(given)} is more than the memory granted here, "
            f"{_mib(facts.memory_bytes.value)} ({facts.memory_bytes.source}): "
            "a full store gets the job killed."
        )
    if given <= facts.shm_free_bytes:
        return
    if given > SLOW_STORAGE_MAX_BYTES and not facts.slow_object_store_allowed:
        raise UsageError(
            f"--object-store-memory {_mib(given)} does not fit: found {_mib(facts.shm_free_bytes)} free in "
            "/dev/shm, needed as much; Ray refuses a store of more than 10 GB elsewhere.",
            "Give less, make /dev/shm larger, or set RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE=1.",
        )
    warnings.append(
        f"--object-store-memory {_mib(given)} is more than the {_mib(facts.shm_free_bytes)} free in "
        "/dev/shm: Ray puts the object store on disk, which is slow."
    )


def _plan_memory(
    facts: HostFacts,
    given: int | None,
    store: int,
    reserve: int,
    sources: dict[str, str],
    warnings: list[str],
) -> int:
    granted = facts.memory_bytes.value
    if given is not None:
        sources["memory_bytes"] = "--memory"
        if given + store + reserve > granted:
            warnings.append(
                f"--memory {_mib(given)} with the object store's {_mib(store)} leaves less than the "
                f"{_mib(reserve)} that Ray itself needs of {_mib(granted)} granted here "
                f"({facts.memory_bytes.source}): the job may be killed for memory."
            )
        return given
    left = granted - store - reserve
    if left < MEMORY_MIN_BYTES:  # only with a store given by hand: the planned one has given way
        raise UsageError(
            f"--object-store-memory {_mib(store)} leaves too little: found {_mib(granted)} granted "
            f"({facts.memory_bytes.source}) less {_mib(reserve)} for Ray itself, "
            f"needed {_mib(MEMORY_MIN_BYTES)} for tasks.",
            "Give a smaller store, ask Slurm for more memory, or set --memory too.",
        )
    sources["memory_bytes"] = f"{facts.memory_bytes.source}, less object store and {_mib(reserve)} for Ray"
    return left


def _plan_environment(facts: HostFacts) -> tuple[dict[str, str], tuple[str, ...]]:
    """AMD: Slurm sets ROCR_VISIBLE_DEVICES, Ray refuses that and takes HIP_VISIBLE_DEVICES."""
    if facts.gpu_vendor == "amd" and facts.rocr_visible_devices is not None:
        return {"HIP_VISIBLE_DEVICES": facts.rocr_visible_devices}, ("ROCR_VISIBLE_DEVICES",)
    return {}, ()


def _plan_spilling(spill_in_memory: bool, sources: dict[str, str]) -> dict[str, object]:
    """No spilling from memory to memory.

    From 80 % full on Ray copies every object of the store to the directory for spilled ones.
    Where that is a tmpfs the copies count as the job's memory: a store of 900 MiB then takes
    1,800, and a job of 3,000 was killed.  Without spilling only what is too much goes there.
    """
    if not spill_in_memory:
        return {}
    sources["spilling"] = "off: its directory is in memory (--spill-dir on a disk turns it on)"
    return {"automatic_object_spilling_enabled": False}


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
