"""The variables by which Ray Serve's proxies get the ports of the cluster (private/serve.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HTTP = "RAYCLUSTER_SERVE_HTTP_PORT"
GRPC = "RAYCLUSTER_SERVE_GRPC_PORT"
"""The ports of Serve on this node; where the user has set one, it is the port on all nodes."""

WORKER_HTTP = "RAY_SERVE_WORKER_PROXY_HTTP_PORT"
WORKER_GRPC = "RAY_SERVE_WORKER_PROXY_GRPC_PORT"
"""Serve's own, for proxies that are not on the head."""

CALLBACK = "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"
"""Serve's own: what its controller calls at its start."""
FUNCTION = "raycluster_cli.rayproc.private.serve:in_controller"

STATUS = "RAYCLUSTER_SERVE_STATUS"
"""With --service, on the head: the file in which Serve's controller reports the state of its applications."""

DEFAULT_HOST = "RAY_SERVE_DEFAULT_HTTP_HOST"
REUSE_PORT = "SERVE_SOCKET_REUSE_PORT_ENABLED"
"""Serve's own: where it listens, and whether a port may be shared with other processes of the user."""


def serve_variables(ports: Mapping[str, Any], env: Mapping[str, str], *, is_head: bool) -> dict[str, str]:
    """For worker processes on this node, from its ports by name; the user's own values in ``env`` are kept.

    >>> serve_variables({"serve_http": 20012, "serve_grpc": 20013}, {}, is_head=False)[WORKER_HTTP]
    '20012'
    """
    wanted: dict[str, str] = {CALLBACK: FUNCTION} if is_head else {}
    for ours, of_worker, name in ((HTTP, WORKER_HTTP, "serve_http"), (GRPC, WORKER_GRPC, "serve_grpc")):
        if port := env.get(ours) or ports.get(name):
            wanted[ours] = str(port)
            if not is_head:
                wanted[of_worker] = str(port)
    return {name: value for name, value in wanted.items() if name not in env}


def ports_with_server(ports: Mapping[str, Any]) -> dict[str, Any]:
    """With --service: Serve on the head listens where the server is expected."""
    return {**ports, "serve_http": ports["service"]} if "service" in ports else dict(ports)


def variables_with_server(
    host: str, env: Mapping[str, str], *, own_port: bool = True, status: str = ""
) -> dict[str, str]:
    """With --service: on which addresses Serve listens, where the application does not say.

    ``own_port``: the port is in this node's block, where no other job listens: a new proxy may share it with
    connections that the last one has closed.  One that the user has chosen may be another job's too.
    ``status``: on the head, the file for the state of Serve's applications.
    """
    wanted = {DEFAULT_HOST: host} | ({REUSE_PORT: "1"} if own_port else {})
    wanted = {name: value for name, value in wanted.items() if name not in env}
    return wanted | ({STATUS: status} if status else {})


def ports_for_driver(ports: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """What the driver finds: the ports of the head's node."""
    found = {HTTP: ports.get("serve_http"), GRPC: ports.get("serve_grpc")}
    return {name: str(port) for name, port in found.items() if port and name not in env}
