"""This program as a driver of a cluster: from where that works, and what is checked before `ray.init`.

A driver needs a Ray node on its own machine.  From any other machine that reaches the head, Ray's client
server is the way (`ray://`), where the cluster was started with it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from ..model.address import join_host_port
from ..model.errors import RayclusterError, UsageError
from ..model.record import HeadInfo
from ..ops.inside import live_head, sees_directory
from ..rayproc.adopted import adopt, restore
from ..rayproc.client import PYTHON, read_changes
from ..state.record import Record

#: How long a connection to the head's node may take.
CONNECT_S = 5.0

#: How long Ray's client server may take to start: the head is ready before it.
CLIENT_SERVER_S = 60.0

POLL_S = 0.5


@dataclass(frozen=True)
class Route:
    """How this machine reaches a cluster."""

    address: str
    """For ray.init: host:port, or ray://host:port."""
    environment: Mapping[str, str]
    """Variables that a driver here needs."""
    is_node: bool
    """Whether a node of the cluster is on this machine."""
    host: str
    """What is connected to, and its port."""
    port: int

    @property
    def is_client(self) -> bool:
        return self.address.startswith("ray://")


def route_to(record: Record, env: Mapping[str, str], *, client_server_s: float = 0.0) -> Route:
    """How this machine reaches a running cluster; connects only to ask for its client server.

    ``client_server_s``: how long that may take to start, where it is known that there is one.
    Raises RayclusterError when the cluster does not run.
    """
    head = live_head(record)
    for report in record.read_nodes().values():
        if sees_directory(record, report, env):
            change, _ = read_changes(Path(report.node_root), report.host)
            wanted = {name: text for name, text in change.items() if name not in PYTHON}
            return Route(head.address, wanted, True, head.address_ip, head.port)
    port = head.ports.get("ray_client_server")
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(record.token_path)} if head.auth else {}
    if isinstance(port, int) and port and _listens(head.address_ip, port, client_server_s):
        address = f"ray://{join_host_port(head.address_ip, port)}"
        return Route(address, {"RAY_ADDRESS": address, **own}, False, head.address_ip, port)
    return Route(head.address, {"RAY_ADDRESS": head.address, **own}, False, head.address_ip, head.port)


def _listens(host: str, port: int, wait_s: float) -> bool:
    """Whether a port can be connected to, at the latest after ``wait_s`` seconds."""
    deadline = time.monotonic() + wait_s
    while reach(host, port) is not None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(POLL_S, left_s))
    return True


def reach(host: str, port: int) -> OSError | None:
    """Why a port cannot be connected to; None when it can."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError as error:
        return error
    return None


def check(route: Route, head: HeadInfo, record: Record) -> None:
    """Raise RayclusterError, with what to do instead, where `ray.init` from here would fail or hang."""
    name = record.path.name
    inside = 'cluster.run(["python", "driver.py"]) runs a driver inside the job.'
    if importlib.util.find_spec("ray") is None:
        raise UsageError("Ray is not installed in this Python.", inside)
    _check_versions(
        head, metadata.version("ray"), platform.python_version(), is_client=route.is_client, hint=inside
    )
    if error := reach(route.host, route.port):
        raise RayclusterError(
            f"{join_host_port(route.host, route.port)}, cluster {name}, cannot be reached from "
            f"{socket.gethostname()}: {error.strerror or error}.",
            inside,
        )
    if not route.is_node and not route.is_client:
        raise RayclusterError(
            f"{socket.gethostname()} is no node of cluster {name}, and a driver needs a Ray node on its own "
            "machine.",
            f'{inside} Or start the cluster with settings={{"client_server": True}}: then it works by ray://.',
        )
    if route.is_client:
        if head.tls:
            raise RayclusterError(f"cluster {name} uses TLS, and only its nodes have keys.", inside)
        if importlib.util.find_spec("grpc") is None:
            raise UsageError("ray:// needs ray[client].", f"pip install 'ray[client]'. Or: {inside}")
    if head.auth and not route.is_node and not record.token_path.is_file():
        raise RayclusterError(f"the cluster's token, {record.token_path}, cannot be read from here.", inside)


def _check_versions(head: HeadInfo, ray: str, python: str, *, is_client: bool, hint: str) -> None:
    """Ray compares its own version, and Python's: whole for a driver, without the last number for ray://."""
    if head.ray_version and ray != head.ray_version:
        raise RayclusterError(f"this Python has Ray {ray}, and the cluster Ray {head.ray_version}.", hint)
    theirs = head.python_version
    if is_client:
        python, theirs = python.rpartition(".")[0], theirs.rpartition(".")[0]
    if theirs and python != theirs:
        raise RayclusterError(f"this is Python {python}, and the cluster has Python {theirs}.", hint)


class Connection:
    """This program as a driver of a cluster."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._replaced: dict[str, str | None] = {}

    def open(self, options: Mapping[str, Any]) -> Any:
        """``ray.init``; returns its result.  Raises RayclusterError."""
        import ray

        if ray.is_initialized():
            raise UsageError("this program is connected to a Ray cluster.", "Call ray.shutdown() first.")
        self._replaced = adopt(self._route.environment, os.environ)
        try:
            return ray.init(address=self._route.address, **options)
        except BaseException as error:
            restore(self._replaced, os.environ)
            if isinstance(error, (ConnectionError, RuntimeError)):
                raise RayclusterError(f"ray.init({self._route.address!r}) failed: {error}") from error
            raise

    def close(self) -> None:
        """``ray.shutdown``; the variables of this process are then as they were."""
        import ray

        ray.shutdown()
        restore(self._replaced, os.environ)
