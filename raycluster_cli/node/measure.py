"""This machine's address in the cluster, and what Slurm grants of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..model.address import is_loopback
from ..model.settings import Settings
from ..model.status import Role
from ..model.value import Value
from ..slurm.allocation import Allocation
from ..system.limits import raise_limits
from ..system.network import NodeAddress, node_address
from .grants import HostFacts, read_host
from .memory import is_in_memory
from .resources import ResourcePlan, plan_from_settings


class Measured(Value):
    """What this node grants and the address that the cluster uses for it."""

    address: NodeAddress
    facts: HostFacts
    grant: ResourcePlan
    warnings: tuple[str, ...] = ()


def measure_node(
    *,
    settings: Settings,
    role: Role,
    env: Mapping[str, str],
    allocation: Allocation | None,
    node_ip: str,
    directory: Path,
    route_to: str | None,
) -> Measured:
    """Find the node's address and grants, and raise this process's limits.

    Blocks while the name server does.  Raises UsageError for options that cannot be met.
    """
    if node_ip:
        address = NodeAddress(node_ip, "lo", "a cluster on this machine")
    else:
        address = node_address(
            interface=settings.interface or None,
            network=settings.network or None,
            route_to=route_to,
            env=env,
            local=is_loopback(settings.master_ip),
        )
    facts = read_host(env, allocation)
    grant = plan_from_settings(
        facts,
        settings,
        head=role is Role.HEAD,
        # Where the directory is in memory, spilled objects are charged to the job twice.
        spill_in_memory=is_in_memory(Path(settings.spill_dir) if settings.spill_dir else directory),
    )
    limits = raise_limits(num_cpus=grant.num_cpus)
    return Measured(address, facts, grant, (*grant.warnings, *limits.warnings))
