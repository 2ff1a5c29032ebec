"""What a client on a node needs to talk to the node's cluster: written there once Ray runs.

``client.json`` in the node's directory (mode 0600, and gone with it) holds the variables that the
driver has: the cluster's address, the path of its token, TLS, network interfaces, the environment
of its Python.  `raycluster attach`, `exec` and `submit-job` read it on the node itself, so that no
secret and no address travels by a command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..model.errors import RayclusterError

NAME = "client.json"

#: Of the job's environment what makes its Python the one that is found.
PYTHON = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LD_LIBRARY_PATH", "PYTHONPATH")

#: Marks of raycluster's own processes and variables of another cluster's driver: never handed on.
#: What carries RAYCLUSTER_NODE_ROOT is taken for a process of the node and ended with it.
PRIVATE = (
    *("RAYCLUSTER_NODE_ROOT", "RAYCLUSTER_NODE_NAME", "RAYCLUSTER_NODE_IP", "RAYCLUSTER_KEY"),
    *("RAYCLUSTER_PARENT_FD", "RAYCLUSTER_TOKEN", "RAYCLUSTER_DRIVER_RESTARTS"),
)


def write_client(
    root: Path, driver: Mapping[str, str], own: Iterable[str], unset: Iterable[str] = ()
) -> None:
    """Write what a client needs.  Raises OSError.

    ``driver`` is the whole environment of a driver here; ``own`` names those variables of it that
    raycluster has set, ``unset`` those that it has taken out.
    """
    wanted = {name for name in (*own, *PYTHON) if name not in PRIVATE}
    text = json.dumps(
        {
            "set": {name: driver[name] for name in sorted(wanted) if name in driver} | _path(driver),
            "unset": [*unset],
        }
    )
    beside = root / f".{NAME}.{secrets.token_hex(4)}"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
    beside.replace(root / NAME)


def _path(driver: Mapping[str, str]) -> dict[str, str]:
    """PATH with the cluster's own Python and `ray` first, also where raycluster was called by its path."""
    bin_dir = os.path.dirname(sys.executable)
    parts = [part for part in driver.get("PATH", os.defpath).split(":") if part != bin_dir]
    return {"PATH": ":".join([bin_dir, *parts])}


def client_environment_here(root: Path, base: Mapping[str, str], host: str) -> dict[str, str]:
    """``base`` made into the environment of a client of the node whose directory is ``root``.

    Raises RayclusterError when the node has none (yet, or any more).
    """
    try:
        found = json.loads((root / NAME).read_text())
        change, unset = dict(found["set"]), list(found["unset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RayclusterError(
            f"Ray does not run on {host}: {root / NAME} is not there.",
            "It comes once the node has joined, and goes with it: `raycluster status JOB` shows each node.",
        ) from error
    env = {name: value for name, value in base.items() if name not in unset and name not in PRIVATE}
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE", "RAY_JOB_ID"):
        env.pop(name, None)  # of another cluster
    return env | change


def remove_client(root: Path) -> None:
    """The node has no Ray any more."""
    with contextlib.suppress(OSError):
        (root / NAME).unlink()
