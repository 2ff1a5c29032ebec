"""Which variables give Ray Serve the ports of the cluster."""

from __future__ import annotations

import pytest

from raycluster_cli.rayproc.serve_ports import (
    CALLBACK,
    FUNCTION,
    GRPC,
    HTTP,
    STATUS,
    WORKER_GRPC,
    WORKER_HTTP,
    ports_for_driver,
    ports_with_server,
    serve_variables,
    variables_with_server,
)

PORTS = {"serve_http": 20012, "serve_grpc": 20013}


@pytest.mark.parametrize(
    ("is_head", "env", "expected"),
    [
        (True, {}, {CALLBACK: FUNCTION, HTTP: "20012", GRPC: "20013"}),
        (False, {}, {HTTP: "20012", WORKER_HTTP: "20012", GRPC: "20013", WORKER_GRPC: "20013"}),
        # One port for all nodes, the user's: the proxies on workers listen there too.
        (True, {HTTP: "8000"}, {CALLBACK: FUNCTION, GRPC: "20013"}),
        (False, {HTTP: "8000"}, {WORKER_HTTP: "8000", GRPC: "20013", WORKER_GRPC: "20013"}),
        # Serve's own variables are the user's where he has set them; an empty callback is none.
        (False, {WORKER_HTTP: "8001"}, {HTTP: "20012", GRPC: "20013", WORKER_GRPC: "20013"}),
        (True, {CALLBACK: ""}, {HTTP: "20012", GRPC: "20013"}),
    ],
)
def test_variables_of_worker_processes(is_head: bool, env: dict[str, str], expected: dict[str, str]) -> None:
    assert serve_variables(PORTS, env, is_head=is_head) == expected


def test_the_driver_learns_the_ports_of_its_node() -> None:
    assert ports_for_driver(PORTS, {}) == {HTTP: "20012", GRPC: "20013"}
    assert ports_for_driver(PORTS, {HTTP: "8000"}) == {GRPC: "20013"}
    assert ports_for_driver({}, {}) == {}


def test_serve_as_the_server_listens_where_the_server_is_expected() -> None:
    assert ports_with_server({**PORTS, "service": 20011}) == {**PORTS, "service": 20011, "serve_http": 20011}
    assert ports_with_server(PORTS) == PORTS  # a worker
    assert variables_with_server("0.0.0.0", {}) == {
        "RAY_SERVE_DEFAULT_HTTP_HOST": "0.0.0.0",
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "1",
    }
    assert variables_with_server("0.0.0.0", {"SERVE_SOCKET_REUSE_PORT_ENABLED": "0"}) == {
        "RAY_SERVE_DEFAULT_HTTP_HOST": "0.0.0.0"
    }
    chosen = variables_with_server("0.0.0.0", {STATUS: "/tmp/of-another"}, own_port=False, status="/tmp/f")
    assert chosen == {"RAY_SERVE_DEFAULT_HTTP_HOST": "0.0.0.0", STATUS: "/tmp/f"}
