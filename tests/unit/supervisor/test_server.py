"""The driver as a server: what is told of its URL, and of one that cannot be ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.service import ServiceState
from raycluster_cli.model.settings import Settings
from raycluster_cli.policy import actions as do
from raycluster_cli.policy.head_state import HeadState
from raycluster_cli.supervisor.head_entry import HeadEntry
from raycluster_cli.supervisor.server import Server, end_server


class Ended:
    """A driver after its end: its code, and what is left."""

    def __init__(self, code: int | None, *left: str) -> None:
        self.code = code
        self.left = left

    async def stop(self, number: int, grace_s: float) -> int | None:
        return self.code

    def processes(self) -> list[Any]:
        return [SimpleNamespace(name=name, pid=70 + number) for number, name in enumerate(self.left)]


@pytest.mark.parametrize(
    ("driver", "told"),
    [
        (Ended(-15), ""),
        (Ended(None, "vllm"), "not even SIGKILL ended vllm (70), which may hold port 20011 of the next one"),
        (Ended(-9, "vllm", "ray::Engine"), "not even SIGKILL ended vllm (70), ray::Engine (71), which may"),
        (Ended(None), "not even SIGKILL ended the previous server, which may hold port 20011"),
    ],
)
def test_a_server_that_does_not_end_is_told(driver: Any, told: str) -> None:
    found = asyncio.run(end_server(driver, 1.0, 20011))
    assert found.startswith(told) and bool(found) == bool(told)


def test_the_url_is_told_once_for_each_start() -> None:
    said: list[str] = []
    parts: Any = SimpleNamespace(
        settings=Settings(service=True),
        report=SimpleNamespace(say=said.append),
        reports=SimpleNamespace(record=None),
    )
    node: Any = SimpleNamespace(
        address=SimpleNamespace(ip="10.0.0.1"), ports=SimpleNamespace(ports=SimpleNamespace(service=20011))
    )
    state = HeadState()
    entry = HeadEntry(lambda _: None)
    server = Server(parts, entry, state=lambda: state, node=lambda: node, driver=lambda: None)
    for service in (ServiceState.READY, ServiceState.UNHEALTHY, ServiceState.READY):
        server.report(do.ReportServer(service))
    assert said == ["the server's URL: http://10.0.0.1:20011"]
    state = replace(state, driver_restarts=1)
    server.report(do.ReportServer(ServiceState.READY))
    assert len(said) == 2
