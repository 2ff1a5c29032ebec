"""The log archive: logs of a node, copied to the record before the node's directory is removed.

Bounded: of each file the last part, of a node at most MAX_NODE_BYTES in all, the most useful
files (raylet, GCS, errors) first.  A thousand nodes that fail together must not fill a
shared file system.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..model.errors import RayclusterError
from .places import RAY_DIR

MAX_FILE_BYTES = 256 * 1024
MAX_NODE_BYTES = 4 * 1024 * 1024

#: The order in which files are taken until the node's share is used up.
_FIRST = (
    "raylet.err",
    "gcs_server.err",
    "ray-start.log",
    "companion.log",
    "raylet.out",
    "gcs_server.out",
    "dashboard_agent.log",
    "runtime_env_agent.log",
    "dashboard.log",
    "log_monitor.log",
)


def copy_logs(root: Path, target: Path) -> int:
    """Copy the ends of the logs below a node's directory; returns the bytes copied.

    Raises RayclusterError when the target cannot be written.
    """
    try:
        return _copy_logs(root, target)
    except OSError as error:
        raise RayclusterError(f"{target}: {error.strerror}.") from error


def _copy_logs(root: Path, target: Path) -> int:
    left = MAX_NODE_BYTES
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken: set[str] = set()
    for path in _logs(root):
        if left <= 0:
            break
        if path.name in taken:
            continue  # of an earlier session
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                take = min(size, MAX_FILE_BYTES, left)
                file.seek(size - take)
                data = file.read(take)
        except OSError:
            continue  # rotated away, or its disk is the one that failed
        if data:
            (target / path.name).write_bytes(data)
            taken.add(path.name)
            left -= len(data)
    return MAX_NODE_BYTES - left


def _logs(root: Path) -> Iterator[Path]:
    """The logs of a node's directory, the most useful first, worker processes' last and newest first."""
    found = {path for path in root.glob("*.log") if path.is_file()}
    ray = root / RAY_DIR
    found |= {path for path in ray.glob("*.log") if path.is_file()}
    for logs in ray.glob("session_*/logs"):
        if not logs.parent.is_symlink():  # session_latest
            found |= {path for path in logs.glob("*") if path.is_file() and not path.is_symlink()}

    def rank(path: Path) -> tuple[int, float]:
        kind = len(_FIRST) + (0 if path.suffix == ".err" else 1)
        if path.name in _FIRST:
            kind = _FIRST.index(path.name)
        try:
            return kind, -path.stat().st_mtime
        except OSError:
            return len(_FIRST) + 2, 0.0

    yield from sorted(found, key=rank)
