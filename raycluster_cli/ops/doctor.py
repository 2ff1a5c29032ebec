"""Checks before a long job, on this node: what a cluster would meet here, and what to do about it.

Each check asks as the start itself asks (grants, resources, ports, directory, network, limits) and releases
what it took.  Nothing is changed for longer than the check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .checkup import Checkup
from .doctor_host import check_grants, check_limits, check_options, check_state_dir, check_temp_dir
from .doctor_network import check_address, check_names, check_ports, check_proxies
from .doctor_ray import begin_import, check_other_rays, check_python, check_ray
from .doctor_slurm import check_place, check_slurm
from .findings import NodeFindings

Check = Callable[[Checkup], None]


def examine(checkup: Checkup, more: Sequence[tuple[str, Check]] = ()) -> NodeFindings:
    """Make all checks of this node, and ``more`` of them that need other nodes."""
    importing = begin_import(checkup)  # the longest of all, beside the others
    checks: list[tuple[str, Check]] = [
        ("host", check_place),
        ("options", check_options),
        ("python", check_python),
        ("address", check_address),
        ("cpus, memory, gpus", check_grants),
        ("temp directory", check_temp_dir),
        ("limits", check_limits),
        ("ports", check_ports),
        ("names", check_names),
        ("state directory", check_state_dir),
        ("proxies", check_proxies),
        ("other rays", check_other_rays),
        ("slurm", check_slurm),
        *more,
        ("ray", lambda checkup: check_ray(checkup, importing)),
    ]
    for name, check in checks:
        checkup.make(name, check)
    return checkup.report()
