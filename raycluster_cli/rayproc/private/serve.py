"""Ray Serve's ports: those of the cluster where the application gives none; and what its controller reports.

Serve has variables for the ports of proxies on worker nodes (RAY_SERVE_WORKER_PROXY_HTTP_PORT, …_GRPC_PORT);
serve_ports.py sets them.  There are none for the head's proxy, and those for workers override a port that
the application gives.  Serve's controller calls :func:`in_controller` in its own process on the head
before it starts proxies (RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH), which sets both right.

A configuration file and `serve start` (Ray 2.60: `ServeDeploySchema.http_options`, `scripts.start`) name
Serve's own default, 8000, as if it had been given.  With --service the server is expected on another port, so
8000 counts as not given there; `--service-port 8000` makes it that port.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Mapping
from typing import Any

from ...model.address import is_loopback
from ..serve_ports import DEFAULT_HOST, GRPC, HTTP, REUSE_PORT, STATUS, WORKER_GRPC, WORKER_HTTP
from .serve_report import keep_reporting

SERVE = logging.getLogger("ray.serve")
NEEDED = {"http_options", "grpc_options", "proxy_actor_class", "head_node_id"}
"""Parameters of Serve's ProxyStateManager, which are private."""

DEFAULTS = {HTTP: 8000, GRPC: 9000}
"""The ports that Serve's own files and programs name where the user gives none."""


def in_controller() -> None:
    """What Serve's controller calls when it starts."""
    use_ports_of_cluster()
    if path := os.environ.get(STATUS):
        keep_reporting(path)


def use_ports_of_cluster() -> None:
    """Let the proxies of this controller listen on the cluster's ports, unless others are given."""
    try:
        from ray.serve._private import proxy_state

        manager: Any = proxy_state.ProxyStateManager
        started = manager.__init__
        signature = inspect.signature(started)
        if missing := NEEDED - set(signature.parameters):
            raise AttributeError(f"ProxyStateManager has no {', '.join(sorted(missing))}")
    except (ImportError, AttributeError) as error:
        SERVE.warning(f"raycluster: Serve's ports are its defaults, since this Ray is not known: {error!r}")
        return

    @functools.wraps(started)
    def start(*positional: Any, **named: Any) -> None:
        bound = signature.bind(*positional, **named)
        bound.apply_defaults()
        given = choose(bound.arguments, os.environ)
        listen_where_told(bound.arguments["http_options"], os.environ)
        if given:
            actor_class = bound.arguments["proxy_actor_class"]
            bound.arguments["proxy_actor_class"] = WithPorts(
                actor_class, given, bound.arguments["head_node_id"], os.environ.get(HTTP, "")
            )
        started(*bound.args, **bound.kwargs)

    manager.__init__ = start


def choose(arguments: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, str]:
    """Set the ports that are not given, and return the variables for proxies on workers with those that are.

    ``arguments`` are ProxyStateManager's; a user's own variables for workers stay as they are.
    """
    given: dict[str, str] = {}
    for option, name, of_workers in (
        ("http_options", HTTP, WORKER_HTTP),
        ("grpc_options", GRPC, WORKER_GRPC),
    ):
        options, port = arguments[option], env.get(name, "")
        if options is None or not port.isdigit():
            continue
        by_default = STATUS in env and options.port == DEFAULTS[name] != int(port)
        if by_default or "port" not in fields_set(options):
            options.port = int(port)
        elif of_workers not in env:
            given[of_workers] = str(options.port)
    return given


def listen_where_told(options: Any, env: Mapping[str, str]) -> None:
    """With --service-host 127.0.0.1 Serve listens nowhere else, although configuration files name 0.0.0.0."""
    host = env.get(DEFAULT_HOST, "")
    if STATUS in env and is_loopback(host) and options is not None and options.host in ("0.0.0.0", "::"):
        SERVE.warning(f"raycluster: Serve listens on {host} (--service-host) and not on {options.host}.")
        options.host = host


def fields_set(options: Any) -> set[str]:
    """The fields that were given to a model of pydantic 2, or of pydantic 1 (Serve before 2.56)."""
    found = getattr(options, "model_fields_set", None)
    return set(options.__fields_set__ if found is None else found)


class WithPorts:
    """Serve's class of proxy actors, with the application's own ports on workers too.

    A port that the application gives is in no block of the cluster's: the proxy does not share it with those
    of other jobs, since the kernel would give each of the two some of the other's requests.
    """

    def __init__(
        self, actor_class: Any, given: Mapping[str, str], head_node_id: str, own_port: str = ""
    ) -> None:
        """``own_port``: the cluster's port for Serve on the head."""
        self._actor_class = actor_class
        self._workers = {**given, REUSE_PORT: "0"}
        self._head = {} if given.get(WORKER_HTTP, own_port) == own_port else {REUSE_PORT: "0"}
        self._head_node_id = head_node_id

    def options(self, **options: Any) -> Any:
        """As an actor class's.  A proxy's name ends in the id of its node."""
        on_head = str(options.get("name", "")).endswith(self._head_node_id)
        if variables := self._head if on_head else self._workers:
            options.setdefault("runtime_env", {"env_vars": variables})
        return self._actor_class.options(**options)
