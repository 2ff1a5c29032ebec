"""Tests that are coroutines."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: No test of the unit suite takes as long; one that hangs fails by this.
DEADLINE_S = 60.0


def in_loop(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a test in an event loop of its own, with a deadline."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def limited() -> T:
            task = asyncio.ensure_future(test(*args, **kwargs))
            done, _ = await asyncio.wait({task}, timeout=DEADLINE_S)
            assert done, f"still running after {DEADLINE_S:g} s"
            return await task

        return asyncio.run(limited())

    return run
