"""Whether a driver works from this machine: checked before `ray.init`."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from raycluster_cli import RayclusterError
from raycluster_cli.api.client import Route, check, route_to
from raycluster_cli.model.record import HeadInfo
from raycluster_cli.state.record import Record

RAY = metadata.version("ray")
HEAD = HeadInfo("n1", "127.0.0.1", 1, ray_version=RAY, python_version=platform.python_version(), auth=False)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record.create(tmp_path / "state", "bed", "7")


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def route(port: int, *, is_node: bool = False) -> Route:
    return Route(f"127.0.0.1:{port}", {}, is_node, "127.0.0.1", port)


def test_from_a_node_it_works(record: Record, port: int) -> None:
    check(route(port, is_node=True), HEAD, record)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            replace(HEAD, ray_version="1.0"),
            f"this Python has Ray {RAY}, and the cluster Ray 1.0.",
        ),
        (replace(HEAD, python_version="3.8.1"), f"this is Python {platform.python_version()}, and the"),
        (HEAD, f"{socket.gethostname()} is no node of cluster 7, and a driver needs a Ray node on its own"),
    ],
)
def test_why_it_does_not_work(record: Record, port: int, head: HeadInfo, message: str) -> None:
    with pytest.raises(RayclusterError) as error:
        check(route(port), head, record)
    assert error.value.message.startswith(message)
    assert 'cluster.run(["python", "driver.py"])' in error.value.hint


def test_a_head_that_cannot_be_reached(record: Record) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    with pytest.raises(
        RayclusterError, match=rf"127.0.0.1:{free}, cluster 7, cannot be reached from .*refused"
    ):
        check(route(free), HEAD, record)


def test_the_client_server_is_the_way_where_it_listens(record: Record, port: int) -> None:
    record.write_head(replace(HEAD, auth=True, port=4, ports={"ray_client_server": port}))
    found = route_to(record, {})
    assert found.address == f"ray://127.0.0.1:{port}"
    assert found.environment == {
        "RAY_ADDRESS": found.address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(record.token_path),
    }
    record.write_head(replace(HEAD, port=4, ports={}))
    assert route_to(record, {}).address == "127.0.0.1:4"
