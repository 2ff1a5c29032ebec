"""Programs that take the place of Slurm's commands in tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from raycluster_cli.system.process import Reaper

T = TypeVar("T")


def programs(directory: Path, **scripts: str) -> dict[str, str]:
    """An environment in whose PATH these shell scripts come first."""
    for name, script in scripts.items():
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


def with_reaper(call: Callable[[Reaper], Awaitable[T]]) -> T:
    """What ``call`` returns, run in an event loop with a reaper."""

    async def work() -> T:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        return await call(reaper)

    return asyncio.run(work())
