"""What this node really grants: CPUs, memory, shared memory, GPUs.

Ray sees the whole machine: it reads neither SLURM_* nor the affinity mask, and memory
limits only at the root of the cgroup tree.  Here every source is asked, every answer is
kept with its source for ``raycluster env``, and the smallest one counts.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..slurm.allocation import Allocation
from ..system import cgroups
from ..system.network import NodeAddress as NodeAddress
from ..system.network import node_address as node_address

MIB = 1024**2

# Per vendor the lists of visible devices, the one that its runtime obeys first in front.
VISIBLE_DEVICES = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "intel": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"),
}


@dataclass(frozen=True)
class Figure:
    """A number and where it was read."""

    value: int
    source: str


@dataclass(frozen=True)
class Grant:
    """What one kind of thing this node grants: the smallest of the candidates."""

    value: int
    source: str
    candidates: tuple[Figure, ...] = ()
    """Every figure found, the smallest too."""
    ray_would_assume: int | None = None
    """What Ray takes when it is told nothing; None where that cannot be said without Ray."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For ``raycluster env --json``."""
        return {
            "value": self.value,
            "source": self.source,
            "candidates": [{"value": figure.value, "source": figure.source} for figure in self.candidates],
            "ray_would_assume": self.ray_would_assume,
        }


@dataclass(frozen=True)
class SharedMemory:
    """The file system at /dev/shm."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class HostFacts:
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
    affinity: int | None = None,
    machine_cpus: int | None = None,
    shm: SharedMemory | None = None,
) -> HostFacts:
    """Ask every source on this node.

    ``root`` stands in for / in tests; so do ``affinity`` (CPUs this process may run on),
    ``machine_cpus`` (CPUs of the machine) and ``shm`` for what the kernel would say.
    """
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    if machine_cpus is None:
        machine_cpus = os.cpu_count() or affinity
    if shm is None:
        shm = _shared_memory(root / "dev/shm")
    cpus = _cpus(allocation, root, affinity, machine_cpus)
    gpus, devices = _gpus(env, allocation, root)
    memory = _memory(allocation, root)
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
        rocr_visible_devices=_rocr_alone(env),
        slow_object_store_allowed=bool(env.get("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE")),
    )


def divide(facts: HostFacts, nodes: int, index: int) -> HostFacts:
    """The facts for one of several Ray nodes on this machine (``run --local``): equal shares.

    GPUs go to the first node whole: two raylets that know the same devices would hand them out twice.
    """
    if nodes <= 1:
        return facts

    def share(grant: Grant, least: int = 0) -> Grant:
        source = f"{grant.source}, shared by {nodes} nodes"
        return replace(grant, value=max(least, grant.value // nodes), source=source)

    gpus = facts.gpus if index == 0 else Grant(0, "the first node has them", facts.gpus.candidates)
    return replace(
        facts,
        cpus=share(facts.cpus, 1),
        memory_bytes=share(facts.memory_bytes),
        shm_bytes=share(facts.shm_bytes),
        shm_free_bytes=facts.shm_free_bytes // nodes,
        gpus=gpus,
    )


def _smallest(
    candidates: Sequence[Figure], ray_would_assume: int | None = None, warnings: Sequence[str] = ()
) -> Grant:
    least = min(candidates, key=lambda figure: figure.value)
    return Grant(least.value, least.source, tuple(candidates), ray_would_assume, tuple(warnings))


# --- CPUs -----------------------------------------------------------------------------------------


def _cpus(allocation: Allocation | None, root: Path, affinity: int, machine_cpus: int) -> Grant:
    quotas = [Figure(limit.value, limit.source) for limit in cgroups.cpu_quotas(root)]
    figures = [Figure(affinity, "CPU affinity of this process"), *quotas]
    if allocation is not None:
        if allocation.cpus_on_node is not None:
            figures.append(Figure(allocation.cpus_on_node, "SLURM_CPUS_ON_NODE"))
        elif allocation.job_cpus_here is not None:
            figures.append(Figure(allocation.job_cpus_here, "SLURM_JOB_CPUS_PER_NODE"))
    figures.append(Figure(machine_cpus, "CPUs of the machine"))
    return _smallest(
        figures, _ray_cpus(root, machine_cpus), _pinning_warnings(allocation, affinity, machine_cpus)
    )


def _pinning_warnings(allocation: Allocation | None, affinity: int, machine_cpus: int) -> list[str]:
    """A step or a task that has fewer CPUs than its job on this node, and the option that gives it all."""
    if allocation is None or not allocation.in_task:
        return []
    job, step = allocation.job_cpus_here, allocation.cpus_on_node
    granted = max(job or 0, step or 0)
    if min(affinity, step or affinity) >= granted:
        return []
    if affinity == machine_cpus and step == granted:
        return []  # Slurm was told of more CPUs than the machine has; nothing is pinned
    several = (allocation.tasks_here or 1) > 1
    if step is not None and step >= granted and not several:
        return [
            f"this task is pinned to {affinity} of the {granted} CPUs that the job has on this node: "
            "add --cpu-bind=none to srun."
        ]
    option = f"--ntasks-per-node=1 -c {granted}" if several else f"-c {granted}"
    return [
        f"this {'task' if several else 'step'} has {min(affinity, step or affinity)} of the {granted} CPUs "
        f"that the job has on this node: add {option} to srun."
    ]


def _ray_cpus(root: Path, machine_cpus: int) -> int:
    """What Ray takes: the machine's CPUs, or the quota or cpuset at the root of the cgroup tree."""
    top = root / "sys/fs/cgroup"
    quota = _ratio(_read(top / "cpu/cpu.cfs_quota_us"), _read(top / "cpu/cpu.cfs_period_us"))
    if quota is None:
        words = (_read(top / "cpu.max") or "").split()
        quota = _ratio(*words) if len(words) == 2 else None
    found = [machine_cpus]
    if quota is not None:
        found.append(max(1, int(quota)))
    cpuset = _read(top / "cpuset/cpuset.cpus") or ""
    if re.fullmatch(r"[\d,-]+", cpuset, re.ASCII):
        found.append(_cpuset_size(cpuset))
    return min(found)


def _ratio(quota: str | None, period: str | None) -> float | None:
    try:
        value = int(quota or "") / int(period or "")
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def _cpuset_size(text: str) -> int:
    """How many CPUs a kernel list names.

    >>> _cpuset_size("0-3,8,10-11")
    7
    """
    total = 0
    for item in text.split(","):
        low, _, high = item.partition("-")
        total += int(high or low) - int(low) + 1
    return total


# --- memory ---------------------------------------------------------------------------------------


def _memory(allocation: Allocation | None, root: Path) -> Grant:
    machine = _machine_memory(root)
    figures = [Figure(limit.value, limit.source) for limit in cgroups.memory_limits(root)]
    figures += _slurm_memory(allocation)
    figures.append(Figure(machine, "memory of the machine (MemTotal)"))
    return _smallest(figures, _ray_memory(root, machine))


def _slurm_memory(allocation: Allocation | None) -> list[Figure]:
    if allocation is None:
        return []
    figures = []
    if allocation.mem_per_node_mib:
        figures.append(Figure(allocation.mem_per_node_mib * MIB, "SLURM_MEM_PER_NODE"))
    cpus = allocation.cpus_on_node or allocation.job_cpus_here
    if allocation.mem_per_cpu_mib and cpus:
        figures.append(
            Figure(allocation.mem_per_cpu_mib * cpus * MIB, f"SLURM_MEM_PER_CPU of {_count(cpus, 'CPU')}")
        )
    if allocation.mem_per_gpu_mib and allocation.gpus_on_node:
        gpus = allocation.gpus_on_node
        figures.append(
            Figure(allocation.mem_per_gpu_mib * gpus * MIB, f"SLURM_MEM_PER_GPU of {_count(gpus, 'GPU')}")
        )
    return figures


def _machine_memory(root: Path) -> int:
    match = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE)
    if match:
        return int(match[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ray_memory(root: Path, machine: int) -> int:
    """What Ray takes for the node's memory: the limit at the root of the cgroup tree, or the machine's."""
    for name in ("memory/memory.limit_in_bytes", "memory.max"):
        text = _read(root / "sys/fs/cgroup" / name)
        if text is not None:
            return min(int(text), machine) if text.isdigit() else machine
    return machine


def is_in_memory(path: Path, *, root: Path = Path("/")) -> bool:
    """True where files at this path are kept in memory (a tmpfs, as /tmp of diskless nodes)."""
    kind, longest = "", -1
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        point = PurePosixPath(cgroups.unescape(fields[4])) if len(fields) > 4 else None
        # The last of several at one place covers the others, hence >=.
        if point is not None and path.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = tail.partition(" ")[0], len(point.parts)
    return kind in ("tmpfs", "ramfs")


def _shared_memory(path: Path) -> SharedMemory:
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return SharedMemory(0, 0)
    return SharedMemory(usage.total, usage.free)


# --- GPUs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Devices:
    vendor: str
    variable: str
    visible: tuple[str, ...] | None


def parse_visible_devices(text: str) -> tuple[str, ...]:
    """The devices that a list of visible devices names; they may be numbers, UUIDs or MIG instances.

    >>> parse_visible_devices("0,1")
    ('0', '1')
    >>> parse_visible_devices("MIG-GPU-5c/1/0")
    ('MIG-GPU-5c/1/0',)
    >>> [parse_visible_devices(text) for text in ("", "NoDevFiles", "-1", "level_zero:0,1")]
    [(), (), (), ('0', '1')]
    """
    devices: list[str] = []
    for item in text.strip().removeprefix("level_zero:").split(","):
        device = item.strip()
        if device in ("", "NoDevFiles", "none", "void", "-1"):
            break  # CUDA ends the list at the first that is not valid
        devices.append(device)
    return tuple(devices)


def _driver_devices(root: Path) -> dict[str, int]:
    """GPUs of the machine by vendor, as their kernel drivers report them; no library is loaded."""
    found = {}
    nvidia = len(_list(root / "proc/driver/nvidia/gpus")) or len(
        [name for name in _list(root / "dev") if re.fullmatch(r"nvidia\d+", name, re.ASCII)]
    )
    if nvidia:
        found["nvidia"] = nvidia
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    amd = sum(1 for name in _list(nodes) if (_read(nodes / name / "gpu_id") or "0") != "0")
    if amd:
        found["amd"] = amd
    drm = root / "sys/class/drm"
    cards = [name for name in _list(drm) if re.fullmatch(r"renderD\d+", name, re.ASCII)]
    # 8086 is Intel; i915 also drives the small display GPU of many CPUs, which takes no work of Ray's,
    # so a lone card counts only where a variable names it (see _vendor).
    intel = sum(1 for name in cards if _read(drm / name / "device/vendor") == "0x8086")
    if intel:
        found["intel"] = intel
    return found


def _gpus(env: Mapping[str, str], allocation: Allocation | None, root: Path) -> tuple[Grant, _Devices]:
    drivers = _driver_devices(root)
    devices = _devices(env, drivers)
    driver = drivers.get(devices.vendor)
    figures = []
    if devices.visible is not None:
        figures.append(Figure(len(devices.visible), devices.variable))
    if allocation is not None and allocation.gpus_on_node is not None:
        figures.append(Figure(allocation.gpus_on_node, "SLURM_GPUS_ON_NODE"))
    parts = any("MIG" in device or "." in device for device in devices.visible or ())
    if driver is not None and not parts:  # the driver counts whole devices: seven parts of one are no less
        figures.append(Figure(driver, f"{devices.vendor} driver"))
    if allocation is not None and allocation.gpus_on_node is None and devices.visible is None:
        # Slurm sets one or the other wherever it grants a GPU; those that the driver shows may be others'.
        figures.append(Figure(0, "Slurm granted none"))
    if not figures:
        figures.append(Figure(0, "no driver and no variable names any"))
    warnings = _gpu_warnings(env, allocation, devices, driver)
    assumed = driver or 0
    if devices.visible is not None and driver:
        assumed = min(driver, len(devices.visible))
    return _smallest(figures, assumed, warnings), devices


def _devices(env: Mapping[str, str], drivers: Mapping[str, int]) -> _Devices:
    """The vendor and its list: Slurm's plugins may set the lists of all vendors, so the driver decides."""
    vendor = _vendor(env, drivers)
    for variable in VISIBLE_DEVICES.get(vendor, ()):
        # Selectors other than lists of devices ("level_zero:gpu", "*:*") limit nothing that can be counted.
        if variable in env and "*" not in env[variable] and not env[variable].endswith(":gpu"):
            return _Devices(vendor, variable, parse_visible_devices(env[variable]))
    return _Devices(vendor, "", None)


def _vendor(env: Mapping[str, str], drivers: Mapping[str, int]) -> str:
    named = [v for v, variables in VISIBLE_DEVICES.items() if any(variable in env for variable in variables)]
    for vendor in ("nvidia", "amd"):
        if vendor in drivers:
            return vendor
    if "intel" in drivers and ("intel" in named or drivers["intel"] > 1):
        return "intel"
    return named[0] if named else ""


def _gpu_warnings(
    env: Mapping[str, str], allocation: Allocation | None, devices: _Devices, driver: int | None
) -> list[str]:
    if allocation is None:
        return []
    granted = allocation.gpus_on_node
    visible = None if devices.visible is None else len(devices.visible)
    warnings = []
    if granted is not None and visible is not None and visible < granted:
        warnings.append(
            f"this task sees {visible} of the {granted} GPUs granted on this node "
            f"({devices.variable}={env[devices.variable]}): tasks are bound to GPUs of their own. "
            "Add --gpu-bind=none to srun, or ask with --gpus-per-node instead of --gpus-per-task."
        )
    job_gpus = env.get("SLURM_JOB_GPUS", "")
    if granted is None and visible is None:
        if job_gpus and allocation.in_task:
            warnings.append(
                f"the job has GPUs on this node (SLURM_JOB_GPUS={job_gpus}) and this step has none: "
                f"add --gres=gpu:{len(job_gpus.split(','))} to srun, or --num-gpus 0 if that is meant."
            )
        elif driver:
            warnings.append(
                f"the {devices.vendor} driver shows {_count(driver, 'GPU')} and Slurm granted none: "
                f"add --gpus-per-node={driver} to sbatch or srun, or give --num-gpus."
            )
    elif granted and driver is None:
        warnings.append(
            f"Slurm granted {_count(granted, 'GPU')} and no driver is seen here: in a container, "
            "let it see them (apptainer --nv or --rocm)."
        )
    return warnings


def _rocr_alone(env: Mapping[str, str]) -> str | None:
    return env.get("ROCR_VISIBLE_DEVICES") if "HIP_VISIBLE_DEVICES" not in env else None


# --- labels ---------------------------------------------------------------------------------------


def slurm_labels(allocation: Allocation | None) -> tuple[tuple[str, str], ...]:
    """Slurm's facts by which a driver may want to place its work, as (key, value).

    Keys: slurm/node, slurm/partition, slurm/het-component, slurm/topology (the whole
    address, such as core.leaf3.n17) and, per kind of the address's parts, the innermost
    one: slurm/switch, slurm/block.  Values keep to what Ray takes (63 letters, digits,
    dashes, dots and underscores).
    """
    if allocation is None:
        return ()
    found: dict[str, str] = {}
    if allocation.node_name:
        found["slurm/node"] = allocation.node_name
    if allocation.partition:
        found["slurm/partition"] = allocation.partition
    if allocation.het_component is not None:
        found["slurm/het-component"] = str(allocation.het_component)
    kinds = (allocation.topology_addr_pattern or "").split(".")
    if len(kinds) > 1 and allocation.topology_addr:
        found["slurm/topology"] = allocation.topology_addr
        names = allocation.topology_addr.split(".", len(kinds) - 1)
        if len(names) == len(kinds):
            for kind, name in zip(kinds[:-1], names[:-1], strict=True):
                if re.fullmatch(r"[a-z]+", kind) and name:
                    found[f"slurm/{kind}"] = name
    return tuple((key, value) for key, text in found.items() if (value := label_value(text)))


def label_value(text: str) -> str:
    """The text as a label's value: other characters become underscores, 63 characters at most.

    >>> label_value("leaf[1-2],x")
    'leaf_1-2__x'
    """
    value = re.sub(r"[^A-Za-z0-9._-]", "_", text)[:63]
    return value.strip("._-")


# --- small things ---------------------------------------------------------------------------------


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _list(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError:
        return []
