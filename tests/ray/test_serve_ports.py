"""Which ports Serve's controller uses: stand-ins for its options of pydantic 2 and 1, no cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.rayproc.private.serve import WithPorts, choose
from raycluster_cli.rayproc.serve_ports import GRPC, HTTP, WORKER_GRPC, WORKER_HTTP

OURS = {HTTP: "20012", GRPC: "20013"}


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


def test_only_proxies_on_workers_are_told_the_applications_port() -> None:
    asked: list[dict[str, Any]] = []
    actor_class = SimpleNamespace(options=lambda **options: asked.append(options) or "an actor")
    with_ports = WithPorts(actor_class, {WORKER_HTTP: "7000"}, head_node_id="aa")
    assert with_ports.options(name="SERVE_PROXY_ACTOR-aa", num_cpus=0) == "an actor"
    with_ports.options(name="SERVE_PROXY_ACTOR-bb", num_cpus=0)
    assert asked == [
        {"name": "SERVE_PROXY_ACTOR-aa", "num_cpus": 0},
        {
            "name": "SERVE_PROXY_ACTOR-bb",
            "num_cpus": 0,
            "runtime_env": {"env_vars": {WORKER_HTTP: "7000"}},
        },
    ]
