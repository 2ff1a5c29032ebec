"""Which Slurm cluster a process runs in: records of the same job id in two clusters are kept apart by it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .allocation import Allocation

#: The name where there is no Slurm, or none that tells its name.
LOCAL = "local"

#: What slurm.conf is at most: the name stands near its beginning.
_CONF_MAX_CHARACTERS = 1_000_000


def slurm_cluster_name(allocation: Allocation | None, env: Mapping[str, str]) -> str:
    """The cluster's name, in lower case as Slurm gives it to jobs.

    A step that is started from outside of its job (`srun --jobid` on a login node) has no SLURM_CLUSTER_NAME
    (Slurm 22.05); slurm.conf has it.
    """
    if allocation is None:
        return LOCAL
    return allocation.cluster_name or name_in_conf(_conf(env)) or LOCAL


def name_in_conf(text: str) -> str:
    """
    >>> name_in_conf("# ClusterName=old\\nclustername = Tux  # ours\\nSlurmctldHost=login")
    'tux'
    """
    found = re.search(r"^[ \t]*ClusterName[ \t]*=[ \t]*([^\s#]+)", text, re.IGNORECASE | re.MULTILINE)
    return found[1].lower() if found else ""


def _conf(env: Mapping[str, str]) -> str:
    try:
        with Path(env.get("SLURM_CONF") or "/etc/slurm/slurm.conf").open(errors="replace") as file:
            return file.read(_CONF_MAX_CHARACTERS)
    except OSError:
        return ""
