"""Which ports Serve's controller uses: stand-ins for its options of pydantic 2 and 1, no cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.rayproc.private.serve import WithPorts, choose, listen_where_told
from raycluster_cli.rayproc.private.serve_report import write
from raycluster_cli.rayproc.serve_ports import (
    DEFAULT_HOST,
    GRPC,
    HTTP,
    REUSE_PORT,
    STATUS,
    WORKER_GRPC,
    WORKER_HTTP,
)
from raycluster_cli.service.serve import ServeReports

OURS = {HTTP: "20012", GRPC: "20013"}
SERVICE = {**OURS, STATUS: "/tmp/rc-0-1/serve.json"}


def options(port: int, *given: str, old: bool = False) -> Any:
    return SimpleNamespace(port=port, **{"__fields_set__" if old else "model_fields_set": set(given)})


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("http", "env", "port", "given"),
    [
        ((8000, "host"), OURS, 20012, {}),
        ((8000, "host", "port"), OURS, 8000, {WORKER_HTTP: "8000"}),
        ((7000, "port"), OURS, 7000, {WORKER_HTTP: "7000"}),
        # The user's own port for proxies on workers.
        ((7000, "port"), {**OURS, WORKER_HTTP: "7001"}, 7000, {}),
        ((8000,), {GRPC: "20013"}, 8000, {}),
        # With --service 8000 is what a configuration file says that says nothing of ports.
        ((8000, "host", "port"), SERVICE, 20012, {}),
        ((7000, "port"), SERVICE, 7000, {WORKER_HTTP: "7000"}),
        ((8000, "port"), {**SERVICE, HTTP: "8000"}, 8000, {WORKER_HTTP: "8000"}),
    ],
)
def test_a_port_that_is_given_is_kept(
    http: tuple[Any, ...], env: dict[str, str], port: int, given: dict[str, str], old: bool
) -> None:
    arguments = {"http_options": options(*http, old=old), "grpc_options": options(9000, old=old)}
    assert choose(arguments, env) == given
    assert (arguments["http_options"].port, arguments["grpc_options"].port) == (port, 20013)


def test_both_ports_may_be_given() -> None:
    arguments = {"http_options": options(1, "port"), "grpc_options": options(2, "port")}
    assert choose(arguments, OURS) == {WORKER_HTTP: "1", WORKER_GRPC: "2"}
    assert choose({"http_options": options(8000), "grpc_options": None}, OURS) == {}


@pytest.mark.parametrize(
    ("own", "on_head"),
    [("7000", {}), ("20012", {"runtime_env": {"env_vars": {REUSE_PORT: "0"}}})],
)
def test_proxies_on_workers_are_told_the_applications_port(own: str, on_head: dict[str, Any]) -> None:
    """And no proxy shares a port that is not the cluster's with the proxies of another."""
    asked: list[dict[str, Any]] = []
    actor_class = SimpleNamespace(options=lambda **options: asked.append(options) or "an actor")
    with_ports = WithPorts(actor_class, {WORKER_HTTP: "7000"}, head_node_id="aa", own_port=own)
    assert with_ports.options(name="SERVE_PROXY_ACTOR-aa", num_cpus=0) == "an actor"
    with_ports.options(name="SERVE_PROXY_ACTOR-bb", num_cpus=0)
    assert asked == [
        {"name": "SERVE_PROXY_ACTOR-aa", "num_cpus": 0, **on_head},
        {
            "name": "SERVE_PROXY_ACTOR-bb",
            "num_cpus": 0,
            "runtime_env": {"env_vars": {WORKER_HTTP: "7000", REUSE_PORT: "0"}},
        },
    ]


@pytest.mark.parametrize(
    ("host", "told", "service", "found"),
    [
        ("0.0.0.0", "127.0.0.1", True, "127.0.0.1"),
        ("::", "127.0.0.1", True, "127.0.0.1"),
        ("10.0.0.1", "127.0.0.1", True, "10.0.0.1"),
        ("0.0.0.0", "0.0.0.0", True, "0.0.0.0"),
        ("127.0.0.1", "0.0.0.0", True, "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1", False, "0.0.0.0"),
    ],
)
def test_a_server_for_its_own_node_is_not_opened_by_a_default(
    host: str, told: str, service: bool, found: str
) -> None:
    http = SimpleNamespace(host=host)
    listen_where_told(http, {DEFAULT_HOST: told, **({STATUS: "/tmp/f"} if service else {})})
    assert http.host == found


def test_a_report_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    write(str(tmp_path / "gone" / "serve.json"), {"applications": []})
    write(str(tmp_path / "serve.json"), {"applications": []})
    verdict = ServeReports(tmp_path / "serve.json").verdict(since=0.0, ready=False)
    assert verdict.why == "Ray Serve has no application yet"
    assert [file.name for file in tmp_path.iterdir()] == ["serve.json"]
