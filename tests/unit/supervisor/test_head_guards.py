"""What a head watches while it runs: questions that Ray does not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.policy import events as on
from raycluster_cli.supervisor.head_guards import HeadGuards


class Silent:
    """A companion whose GCS does not answer."""

    async def had_driver(self, timeout_s: float) -> bool:
        raise RayclusterError("the GCS did not answer within 1 s.")


def test_a_question_that_ray_does_not_answer_is_written_down_once() -> None:
    notes: list[str] = []
    posted: list[object] = []
    run: Any = SimpleNamespace(
        node=SimpleNamespace(companion=Silent()),
        report=SimpleNamespace(note=notes.append),
        post=posted.append,
    )
    guards = HeadGuards(run)

    async def ask() -> None:
        for _ in range(3):
            await guards.ask_for_driver()

    asyncio.run(ask())
    assert posted == [on.DriverKnown(None)] * 3
    assert notes == ["Ray did not say whether a driver has connected: the GCS did not answer within 1 s."]
