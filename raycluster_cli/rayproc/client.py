"""``client.json``: how a program that attaches to a node later gets the environment of a client.

It is in the node's directory (mode 0600) while Ray runs there, and holds the variables that the driver
has: the cluster's address, the path of its token, TLS, network interfaces, the environment of its Python.
`raycluster attach`, `exec` and `submit-job` read it on the node itself, so that no command line shows
a secret or an address.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..model.errors import RayclusterError

NAME = "client.json"

#: Variables of the job that decide which Python is found, and its packages.
PYTHON = ("PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "LD_LIBRARY_PATH", "PYTHONPATH")

#: Variables of raycluster's own processes: a client never gets them.
#: A process with RAYCLUSTER_NODE_ROOT counts as part of the node and is ended with it.
PRIVATE = (
    *("RAYCLUSTER_NODE_ROOT", "RAYCLUSTER_NODE_NAME", "RAYCLUSTER_NODE_IP", "RAYCLUSTER_KEY"),
    *("RAYCLUSTER_PARENT_FD", "RAYCLUSTER_TOKEN", "RAYCLUSTER_DRIVER_RESTARTS"),
)


def write_client(
    root: Path, driver: Mapping[str, str], own: Iterable[str], unset: Iterable[str] = ()
) -> None:
    """Write client.json into the node's directory ``root``.  Raises OSError.

    ``driver`` is the whole environment of a driver here; ``own`` names the variables of it that
    raycluster has set, ``unset`` those that it has taken out.
    """
    wanted = {name for name in (*own, *PYTHON) if name not in PRIVATE}
    text = json.dumps(
        {
            "set": {name: driver[name] for name in sorted(wanted) if name in driver} | _path(driver),
            "unset": [*unset],
        }
    )
    beside = root / f".{NAME}.{os.urandom(4).hex()}"
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


def read_client(root: Path, base: Mapping[str, str], host: str) -> dict[str, str]:
    """``base`` changed into the environment of a client, by client.json of the node directory ``root``.

    Raises RayclusterError when the node has none (not yet, or no longer); ``host`` is for the message.
    """
    change, unset = read_changes(root, host)
    return {name: value for name, value in base.items() if name not in unset} | change


def read_changes(root: Path, host: str) -> tuple[dict[str, str], list[str]]:
    """(variables to set, variables to take out) for a client; as :func:`read_client`."""
    try:
        found = json.loads((root / NAME).read_text())
        change, unset = dict(found["set"]), list(found["unset"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RayclusterError(
            f"Ray is not running on {host}: {root / NAME} cannot be read.",
            "The file exists from when the node has joined until it ends: `raycluster status JOB` shows each "
            "node.",
        ) from error
    # The last ones may be of another cluster.
    gone = [*unset, *PRIVATE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_NAMESPACE", "RAY_JOB_ID"]
    return change, [name for name in gone if name not in change]


def remove_client(root: Path) -> None:
    """Ray no longer runs on this node.  Never raises: the whole directory is removed in the end."""
    with contextlib.suppress(OSError):
        (root / NAME).unlink()
