"""The resources that Ray gets on this node: a plan made of what the node grants and what the user wants.

Pure: facts and options in, numbers out.  The three shares of a node's memory:

    granted = object store + memory (what tasks and actors may ask for) + reserve for Ray itself

so that a job that fills the first two is not killed by Slurm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ..model.custom import check_labels, check_resources
from ..model.dataclass import dataclass
from ..model.errors import UsageError
from ..model.option_text import parse_pairs, parse_size_bytes
from ..model.settings import Settings
from ..model.value import Value
from .figures import MIB
from .grants import HostFacts

OBJECT_STORE_SHARE_PERCENT = 30
NO_WARNING_PERCENT = 5
"""A store that is smaller by at most this, since /dev/shm is in use, gets no warning: container runtimes keep
small files there."""
OBJECT_STORE_MAX_BYTES = 200 * 1024**3
OBJECT_STORE_MIN_BYTES = 75 * MIB
"""Ray starts with no smaller store (ray_constants.OBJECT_STORE_MINIMUM_MEMORY_BYTES)."""
SLOW_STORAGE_MAX_BYTES = 10**10
"""A larger store outside of /dev/shm is refused by Ray (ray_constants.REQUIRE_SHM_SIZE_THRESHOLD)."""

MEMORY_MIN_BYTES = 128 * MIB
"""The least for tasks and actors: where it does not fit, the object store is made smaller."""

# What Ray itself and raycluster need, in resident memory; measured, see docs/decisions.
HEAD_RESERVE_BYTES = 640 * MIB
WORKER_RESERVE_BYTES = 448 * MIB
DASHBOARD_RESERVE_BYTES = 320 * MIB
RESERVE_PER_CPU_BYTES = 64 * MIB


@dataclass(frozen=True)
class ResourcePlan:
    """The resources that Ray gets on this node, and warnings for the user."""

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
    """Settings of the head's GCS for the whole cluster."""
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
    cpus = _plan_cpus(facts, num_cpus)
    gpus = _plan_gpus(facts, num_gpus)
    reserve = reserve_size(cpus.value, head=head, dashboard=dashboard)
    store = _plan_object_store(facts, object_store_bytes, memory_bytes, reserve)
    memory = _plan_memory(facts, memory_bytes, store.value, reserve)
    shares = {"num_cpus": cpus, "num_gpus": gpus, "object_store_bytes": store, "memory_bytes": memory}
    sources = {name: share.source for name, share in shares.items()}
    if spill_in_memory:
        sources["spilling"] = "off: its directory is in memory (--spill-dir on a disk turns it on)"
    environment, unset = _plan_environment(facts)
    return ResourcePlan(
        num_cpus=cpus.value,
        num_gpus=gpus.value,
        memory_bytes=memory.value,
        object_store_bytes=store.value,
        reserve_bytes=max(0, facts.memory_bytes.value - memory.value - store.value),
        resources=check_resources(resources or {}),
        labels={**dict(facts.labels), **check_labels(labels or {})},
        environment=environment,
        unset=unset,
        system_config=_plan_spilling(spill_in_memory),
        sources=sources,
        warnings=tuple(warning for share in shares.values() for warning in share.warnings),
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


class _Share(Value):
    """What one kind of resource of the plan is, and where the number comes from."""

    value: int
    source: str
    warnings: tuple[str, ...] = ()


def _plan_cpus(facts: HostFacts, given: int | None) -> _Share:
    if given is None:
        return _Share(facts.cpus.value, facts.cpus.source, facts.cpus.warnings)
    if given <= facts.cpus.value:
        return _Share(given, "--num-cpus")
    warning = (
        f"--num-cpus {given} is more than the {facts.cpus.value} granted here ({facts.cpus.source}): "
        "tasks will share cores."
    )
    return _Share(given, "--num-cpus", (warning,))


def _plan_gpus(facts: HostFacts, given: int | None) -> _Share:
    if given is None:
        return _Share(facts.gpus.value, facts.gpus.source, facts.gpus.warnings)
    if facts.visible_devices is not None and given > len(facts.visible_devices):
        raise UsageError(
            f"--num-gpus {given} cannot be had: found {len(facts.visible_devices)} visible "
            f"({facts.visible_devices_variable}), needed {given}; Ray refuses more than are visible.",
            "Ask Slurm for more, or give a smaller number.",
        )
    if given <= facts.gpus.value:
        return _Share(given, "--num-gpus")
    warning = f"--num-gpus {given} is more than the {facts.gpus.value} granted here ({facts.gpus.source})."
    return _Share(given, "--num-gpus", (warning,))


def _plan_object_store(facts: HostFacts, given: int | None, memory_given: int | None, reserve: int) -> _Share:
    if given is not None:
        return _Share(given, "--object-store-memory", _check_given_store(facts, given))
    granted, shm, free = facts.memory_bytes.value, facts.shm_bytes.value, facts.shm_free_bytes
    warnings: list[str] = []
    store = object_store_size(granted, shm)
    source = {
        shm: "size of /dev/shm",
        OBJECT_STORE_MAX_BYTES: "200 GB at most",
        granted * OBJECT_STORE_SHARE_PERCENT // 100: f"{OBJECT_STORE_SHARE_PERCENT} % of the memory granted",
    }[store]
    if free < store:
        # Ray compares with what is free, and takes a slow disk, or refuses, where that is less.
        if store - free > store * NO_WARNING_PERCENT // 100:
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
    return _Share(store, source, tuple(warnings))


def check_least_store(given: int) -> None:
    """Raise UsageError for an object store (in bytes) that Ray does not start with."""
    if given < OBJECT_STORE_MIN_BYTES:
        raise UsageError(
            f"--object-store-memory is too small: found {_mib(given)}, "
            f"needed {_mib(OBJECT_STORE_MIN_BYTES)}, the least that Ray starts with."
        )


def _check_given_store(facts: HostFacts, given: int) -> tuple[str, ...]:
    """The warnings about an object store that the user sized.  Raises UsageError where Ray refuses it."""
    check_least_store(given)
    warnings: list[str] = []
    if given > facts.memory_bytes.value:
        warnings.append(
            f"--object-store-memory {_mib(given)} is more than the memory granted here, "
            f"{_mib(facts.memory_bytes.value)} ({facts.memory_bytes.source}): "
            "a full store gets the job killed."
        )
    if given <= facts.shm_free_bytes:
        return tuple(warnings)
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
    return tuple(warnings)


def _plan_memory(facts: HostFacts, given: int | None, store: int, reserve: int) -> _Share:
    granted = facts.memory_bytes.value
    if given is not None:
        if given + store + reserve <= granted:
            return _Share(given, "--memory")
        warning = (
            f"--memory {_mib(given)} with the object store's {_mib(store)} leaves less than the "
            f"{_mib(reserve)} that Ray itself needs of {_mib(granted)} granted here "
            f"({facts.memory_bytes.source}): the job may be killed for memory."
        )
        return _Share(given, "--memory", (warning,))
    left = granted - store - reserve
    if left < MEMORY_MIN_BYTES:  # only with a store given by hand: the planned one has given way
        raise UsageError(
            f"--object-store-memory {_mib(store)} leaves too little: found {_mib(granted)} granted "
            f"({facts.memory_bytes.source}) less {_mib(reserve)} for Ray itself, "
            f"needed {_mib(MEMORY_MIN_BYTES)} for tasks.",
            "Give a smaller store, ask Slurm for more memory, or set --memory too.",
        )
    return _Share(left, f"{facts.memory_bytes.source}, less object store and {_mib(reserve)} for Ray")


def _plan_environment(facts: HostFacts) -> tuple[dict[str, str], tuple[str, ...]]:
    """AMD: Slurm sets ROCR_VISIBLE_DEVICES, Ray refuses that and takes HIP_VISIBLE_DEVICES."""
    if facts.gpu_vendor == "amd" and facts.rocr_visible_devices is not None:
        return {"HIP_VISIBLE_DEVICES": facts.rocr_visible_devices}, ("ROCR_VISIBLE_DEVICES",)
    return {}, ()


def _plan_spilling(spill_in_memory: bool) -> dict[str, object]:
    """Ray's settings for spilling: none from memory to memory.

    Once the object store is 80 % full Ray copies its objects to the directory for spilled ones.
    Where that is a tmpfs the copies count as the job's memory: a store of 900 MiB then takes
    1,800, and a job of 3,000 was killed.  Without spilling only what does not fit goes there.
    """
    return {"automatic_object_spilling_enabled": False} if spill_in_memory else {}


def _mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
