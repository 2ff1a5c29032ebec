"""`raycluster image-check`: what a container image has, looked at from inside a container of it."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from .._version import __version__
from ..model.errors import UsageError
from ..rayproc.requirements import ray_version

#: The oldest Ray that raycluster runs with.
OLDEST_RAY = (2, 52)


def check_image(state_dir: Path, ray_outside: str = "") -> list[str]:
    """Look at this container: what it has, and warnings.  Raises UsageError where no node can start in it.

    ``ray_outside``: the version of Ray where the job was submitted.
    """
    found = ray_version()
    if not found:
        raise UsageError(
            f"the image has raycluster, but no Ray for its {sys.executable}.",
            "Install it in the image: pip install 'ray>=2.52'.",
        )
    if tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < OLDEST_RAY:
        raise UsageError(
            f"the image has Ray {found}; raycluster needs 2.52 or newer.",
            "Update it in the image: pip install 'ray>=2.52'.",
        )
    for place in ("/tmp", "/dev/shm"):
        if not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(
                f"{place} cannot be written in the container; Ray needs it on each node.",
                f"Mount the node's: --container-mounts={place}:{place}.",
            )
    there = next(one for one in (state_dir, *state_dir.parents) if os.path.exists(one))
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(
            f"the directory of the records is {state_dir}, and {there} cannot be written in the container.",
            "Mount it from a file system that all nodes share: --container-mounts=DIR:DIR.",
        )
    lines = [f"the image has raycluster {__version__}, Ray {found} and Python {platform.python_version()}"]
    if ray_outside and ray_outside != found:
        lines.append(
            f"warning: where the job was submitted, Ray is {ray_outside}; ray.init() from there does not "
            f"connect to Ray {found}"
        )
    return lines
