"""When a worker's log monitor starts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raycluster_cli.model.status import Role
from raycluster_cli.node import extras
from raycluster_cli.node.extras import LogMonitor
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.rayproc.started import Started


class Companion:
    """Notes what it is asked for; there is none until then."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def there(self) -> Companion:
        self.done.append("begun")
        return self

    async def ready(self, timeout_s: float) -> None:
        pass

    async def start_extra(self, what: str, *_: object) -> dict[str, Any]:
        self.done.append(what)
        return {"processes": []}

    async def drop(self) -> None:
        self.done.append("dropped")


def told(root: Path) -> None:
    with open(root / "work.gate", "wb") as gate:
        gate.write(b".")


def logged(root: Path) -> None:
    (root / "session_1/logs/worker-ab-01000000-1.out").touch()


def gate_is_there(root: Path) -> bool:
    return "work.gate" in os.listdir(root)


@pytest.mark.parametrize("begin", [told, logged])
def test_it_starts_with_the_first_worker_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(extras, "LOOK_S", 0.05 if begin is logged else 60.0)
    (tmp_path / "session_1/logs").mkdir(parents=True)
    (tmp_path / "session_1/logs/raylet.out").touch()
    companion = Companion()

    async def work() -> None:
        monitor = LogMonitor(
            host="n2",
            companion=cast(Any, companion),
            processes=cast(Any, SimpleNamespace()),
            report=cast(Any, SimpleNamespace()),
            on_failure=lambda what, error: pytest.fail(f"{what}: {error!r}"),
        )
        plan = NodePlan(Role.WORKER, "10.0.0.2", "10.0.0.1:1", {}, str(tmp_path), 1, 1, 1)
        started = Started("template", {}, "session_1", f"{tmp_path}/session_1", "", "", "", {})
        monitor.start_with_work(plan, started)
        while not gate_is_there(tmp_path):
            await asyncio.sleep(0.01)
        assert companion.done == []
        begin(tmp_path)
        while companion.done[-1:] != ["dropped"]:
            await asyncio.sleep(0.01)
        assert companion.done == ["begun", "log_monitor", "dropped"]
        monitor.cancel()
        monitor.start_with_work(plan, started)  # after a restart of the raylet
        await asyncio.sleep(0)
        monitor.cancel()

    asyncio.run(asyncio.wait_for(work(), 30))
