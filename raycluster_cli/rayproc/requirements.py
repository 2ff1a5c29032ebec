"""What options need of the installed Ray, found out without importing it."""

from __future__ import annotations

import re

from ..model.errors import UsageError

#: First version of Ray whose GCS can keep its state on disk.
RECOVERY_SINCE = (2, 58)

#: Of the packages that ray[default] brings, one that nothing else needs (ray/dashboard/optional_deps.py).
DASHBOARD_NEEDS = "aiohttp_cors"


def refuse_recovery(ray_version: str) -> None:
    """Raise UsageError when this Ray cannot keep the GCS's state on disk.

    >>> refuse_recovery("2.60.0")
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", ray_version)[:2])
    if numbers < RECOVERY_SINCE:
        needed = ".".join(str(number) for number in RECOVERY_SINCE)
        raise UsageError(
            f"--head-recovery needs Ray {needed} or newer, whose GCS keeps its state in RocksDB; "
            f"this is Ray {ray_version}.",
            "Update Ray, or leave the option out: the job then ends when its head is lost.",
        )


def has_dashboard() -> bool:
    """Whether this Python has what Ray's dashboard needs."""
    from importlib import util  # not at the start of every head

    return util.find_spec(DASHBOARD_NEEDS) is not None


def ray_version() -> str:
    """Of this Python's Ray; '' when there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ray")
    except PackageNotFoundError:
        return ""
