"""Which Ray, Python and raycluster this node has, found out without importing Ray.

Two nodes with the same text can execute the same raylet with the same arguments: the same versions, and the
files under the same paths.  The raylet is told by its size and by a checksum of a small part of it.
"""

from __future__ import annotations

import binascii
import os
import re
import sys
from collections.abc import Mapping

from .._version import __version__
from ..system.programs import find_program

#: How much of the raylet is read at its begin, in its middle and at its end.
_PART_BYTES = 4096


def find_installation(env: Mapping[str, str]) -> str:
    """This node's installation in one line; empty where there is none that can be told.

    Reads five files or directories of the environment.  Blocks as long as their file system does.
    """
    try:
        ray = _package_directory()
        with open(os.path.join(ray, "_version.py"), encoding="utf-8") as file:
            version = dict(re.findall(r"^(version|commit)\s*=\s*[\"']([^\"']+)", file.read(), re.MULTILINE))
        size, checksum = _raylet(os.path.join(ray, "core/src/ray/raylet/raylet"))
        return " ".join(
            (
                f"ray {version['version']} {version['commit']}",
                f"raylet {size} {checksum:08x}",
                f"python {'.'.join(map(str, sys.version_info[:3]))}",
                f"raycluster {__version__}",
                f"{sys.executable} {ray} {os.path.dirname(os.path.dirname(__file__))}",
                "java"
                if find_program("java", env)
                else "no java",  # a raylet is told how to start its workers
            )
        )
    except (OSError, ValueError, KeyError, ImportError):
        return ""


def _package_directory() -> str:
    """Where `import ray` finds it.  Raises ImportError.

    Asks for one path of each directory of sys.path; Python's own search asks for ten in the same place.
    """
    library = os.path.dirname(os.path.abspath(str(os.__file__)))
    for directory in sys.path:
        if directory in (library, f"{library}/lib-dynload") or directory.endswith(".zip"):
            continue
        ray = os.path.join(directory, "ray")
        if os.path.isdir(ray) or not os.path.isabs(directory):
            if os.path.isfile(os.path.join(ray, "__init__.py")) and os.path.isabs(directory):
                return ray
            break
    from importlib.util import (
        find_spec,  # an editable installation, or one with a `ray` that is none before it
    )

    spec = find_spec("ray")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("ray is not installed")
    return spec.submodule_search_locations[0]


def _raylet(path: str) -> tuple[int, int]:
    """Size and checksum of the raylet."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        checksum = 0
        for at in (0, size // 2, max(size - _PART_BYTES, 0)):
            checksum = binascii.crc32(os.pread(file.fileno(), _PART_BYTES, at), checksum)
    return size, checksum


#: Variables that Ray reads, but which name what is this node's own, or a secret.
_OWN = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")


def ray_variables(env: Mapping[str, str]) -> str:
    """A checksum of the variables by which Ray's code changes how a raylet is started."""
    found = sorted(
        f"{name}={text}"
        for name, text in env.items()
        if (name.startswith("RAY_") and name not in _OWN)
        or name in ("LD_PRELOAD", "MALLOC_CONF", "TPU_LOG_DIR")
        or name.startswith(("RAYLET_", "PERFTOOLS_"))
    )
    return f"{binascii.crc32(chr(0).join(found).encode('utf-8', 'surrogateescape')):08x}"
