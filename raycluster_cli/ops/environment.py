"""`raycluster env`: what a start on this node would use, and where each value comes from.

Everything is determined as `raycluster head` does it, port block and node directory included; these are
taken for a moment and released.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .._version import __version__
from ..model.errors import RayclusterError
from ..model.hostlist import format_hostlist
from ..model.settings import Settings, option_name, variable_name
from ..model.variables import unknown_variables
from ..node.directory import make_node_root
from ..node.grants import HostFacts, read_host
from ..node.resources import ResourcePlan, plan_from_settings
from ..slurm.allocation import Allocation
from ..slurm.cluster_name import slurm_cluster_name
from ..system.cgroups import process_limits
from ..system.limits import LimitReport, raise_limits
from ..system.network import NodeAddress, describe, interface_addresses, node_address
from ..system.ports import claim_ports, derived_gcs_ports


@dataclass(frozen=True)
class Value:
    """One setting."""

    name: str
    value: Any
    source: str
    """option --x, variable RAYCLUSTER_X, FILE, [TABLE], Slurm (…), this node (…), default."""


@dataclass
class StartEnvironment:
    """All that a start would use.  What could not be determined is None, and ``problems`` says why."""

    settings: list[Value]
    job: dict[str, Any]
    submit: list[Value] = field(default_factory=list)
    """What configuration files give a job that is submitted."""
    facts: HostFacts | None = None
    plan: ResourcePlan | None = None
    address: NodeAddress | None = None
    addresses: str = ""
    """All addresses of this node, in a line."""
    ports: dict[str, Any] | None = None
    gcs_ports: list[int] = field(default_factory=list)
    """Where workers without a shared record would look for the head."""
    directories: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    limits: LimitReport | None = None
    variables: dict[str, str] = field(default_factory=dict)
    """What would be set for Ray and the driver on this node."""
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Why a start on this node would fail."""


def look_around(
    settings: Settings,
    env: Mapping[str, str],
    state_dir: Path,
    source_of: Callable[[str], str],
    *,
    head: bool = True,
) -> StartEnvironment:
    """Determine everything.  ``source_of`` a setting: option, variable, default, or a file's table."""
    allocation = Allocation.from_environ(env)
    host = (allocation.node_name if allocation else None) or socket.gethostname().partition(".")[0]
    found = StartEnvironment(_settings(settings, allocation, state_dir, source_of), _job(allocation, host))

    def attempt(step: Callable[[], None]) -> None:
        try:
            step()
        except RayclusterError as error:
            found.problems.append(str(error))

    attempt(lambda: _measure(found, settings, env, allocation, head))
    attempt(lambda: _network(found, settings, env, allocation))
    if allocation is not None and allocation.node_name is None and host not in allocation.job_nodes:
        found.warnings.append(
            f"this shell runs on {host}, which is not a node of job {allocation.job_id}: the values are "
            "those of this machine; `srun -N1 -n1 raycluster env` shows those of a node."
        )
    key = _key(settings, allocation, host, slurm_cluster_name(allocation, env))
    attempt(lambda: _ports(found, settings, key, head))
    attempt(lambda: _directories(found, settings, env, state_dir, key))
    found.versions = _versions()
    cpus = found.plan.num_cpus if found.plan else 1
    found.limits = raise_limits(num_cpus=cpus, pids_limits=tuple(process_limits()))
    found.warnings += found.limits.warnings
    if unknown := unknown_variables(env):
        found.warnings.append(unknown)
    _fill_in(found)
    return found


def _key(settings: Settings, allocation: Allocation | None, host: str, cluster: str) -> str:
    job = allocation.key if allocation else f"{host}-{os.getpid()}"
    return f"{cluster}/{job}+{settings.name}"


def _settings(
    settings: Settings, allocation: Allocation | None, state_dir: Path, source_of: Callable[[str], str]
) -> list[Value]:
    """Each setting with its source; what Slurm gives in the place of a default."""
    slurm: dict[str, tuple[Any, str]] = {}
    if allocation is not None and allocation.job_nodes:
        nodes = allocation.step_nodes or allocation.job_nodes
        variable = "SLURM_STEP_NODELIST" if allocation.step_nodes else "SLURM_JOB_NODELIST"
        slurm["expected_workers"] = (len(nodes) - 1, f"Slurm ({variable})")
        slurm["master_ip"] = (allocation.head_node, f"Slurm ({variable})")
    values = []
    for one in fields(Settings):
        given = source_of(one.name)
        value = getattr(settings, one.name)
        source = {
            "option": f"option {option_name(one.name)}",
            "variable": f"variable {variable_name(one.name)}",
        }.get(given, given)
        if source == "default" and one.name in slurm:
            value, source = slurm[one.name]
        if one.name == "state_dir" and not value:
            value = str(state_dir)
        values.append(Value(one.name, value, source))
    return values


def _job(allocation: Allocation | None, host: str) -> dict[str, Any]:
    """What Slurm says of this process; outside Slurm the host alone."""
    if allocation is None:
        return {"where": "outside Slurm", "host": host}
    if allocation.in_task:
        where = f"task {allocation.procid} of {allocation.step_tasks or '?'} in step {allocation.step_id}"
    elif allocation.is_batch:
        where = "the batch script"
    else:
        where = "a shell of the job (salloc)"
    return {
        "where": where,
        "host": host,
        "job_id": allocation.job_id,
        "job_name": allocation.job_name,
        "key": allocation.key,
        "slurm_cluster": allocation.cluster_name,
        "partition": allocation.partition,
        "nodes": format_hostlist(list(allocation.job_nodes)) if allocation.job_nodes else "",
        "step_nodes": format_hostlist(list(allocation.step_nodes)) if allocation.step_nodes else "",
        "head_node": allocation.head_node if allocation.job_nodes else "",
        "restart_count": allocation.restart_count,
        "end_time": allocation.end_time,
    }


def _measure(
    found: StartEnvironment,
    settings: Settings,
    env: Mapping[str, str],
    allocation: Allocation | None,
    head: bool,
) -> None:
    found.facts = read_host(env, allocation)
    found.plan = plan_from_settings(found.facts, settings, head=head)
    found.warnings += found.plan.warnings
    found.variables.update(found.plan.environment)


def _network(
    found: StartEnvironment, settings: Settings, env: Mapping[str, str], allocation: Allocation | None
) -> None:
    found.addresses = describe(interface_addresses())
    others = [node for node in allocation.job_nodes if node != allocation.node_name] if allocation else []
    found.address = node_address(
        interface=settings.interface or None,
        network=settings.network or None,
        route_to=settings.master_ip or (others[0] if others else None),
        env=env,
    )
    found.variables.update(found.address.environment(env))
    proxies = [name for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY") if env.get(name)]
    if proxies:
        found.warnings.append(
            f"{', '.join(proxies)} is set: the cluster's own nodes are added to no_proxy for Ray."
        )


def _ports(found: StartEnvironment, settings: Settings, key: str, head: bool) -> None:
    given = {"gcs": settings.master_port} if settings.master_port and head else {}
    address = found.address.ip if found.address else "127.0.0.1"
    found.gcs_ports = list(derived_gcs_ports(key))[:4]
    with claim_ports(key, address=address, head=head, given=given) as claim:
        found.ports = dict(claim.ports.as_dict())
        found.warnings += claim.warnings


def _directories(
    found: StartEnvironment, settings: Settings, env: Mapping[str, str], state_dir: Path, key: str
) -> None:
    found.directories["state"] = str(state_dir)
    base = Path(settings.temp_dir) if settings.temp_dir else None
    root = make_node_root(key, env=env, base=base, role="env")
    try:
        found.directories["node"] = str(root.path.parent / "rc-UID-…")
        found.directories["free there"] = mib(shutil.disk_usage(root.path).free)
        found.warnings += root.warnings
    finally:
        root.remove()
    found.directories["spill"] = settings.spill_dir or found.directories["node"]
    found.directories["python"] = sys.executable


def _versions() -> dict[str, str]:
    """Versions, without importing what is big."""
    found = {"raycluster": __version__, "python": platform.python_version()}
    for package in ("ray", "typer", "rich", "psutil"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    found["kernel"] = platform.release()
    return found


def _fill_in(found: StartEnvironment) -> None:
    """Replace settings that were left open by what was determined."""
    plan = found.plan
    determined: dict[str, tuple[Any, str]] = {}
    if plan is not None:
        determined = {
            "num_cpus": (plan.num_cpus, plan.sources.get("num_cpus", "")),
            "num_gpus": (plan.num_gpus, plan.sources.get("num_gpus", "")),
            "memory": (plan.memory_bytes, plan.sources.get("memory_bytes", "")),
            "object_store_memory": (plan.object_store_bytes, plan.sources.get("object_store_bytes", "")),
        }
    if found.ports is not None:
        determined["master_port"] = (found.ports.get("gcs"), "a free block of ports on this node")
    if found.address is not None:
        determined["interface"] = (found.address.interface, found.address.source)
    if "node" in found.directories:
        determined["temp_dir"] = (str(Path(found.directories["node"]).parent), "local, short and writable")
        determined["spill_dir"] = (found.directories["spill"], "below the temp directory")
    found.settings = [
        Value(one.name, determined[one.name][0], f"this node ({determined[one.name][1]})")
        if one.source == "default" and one.value in (None, "") and one.name in determined
        else one
        for one in found.settings
    ]


def mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
