"""Directories of nodes below a short one, and children that do not outlive their test."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.node.directory import NodeRoot, make_node_root

from .roots import LOCAL


@pytest.fixture
def base() -> Iterator[Path]:
    """A short directory of this test alone: pytest's own are too long for a root."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def make(base: Path) -> Iterator[Callable[..., NodeRoot]]:
    made: list[NodeRoot] = []

    def one(key: str = "1", **options: object) -> NodeRoot:
        values: dict[str, object] = {"env": {}, "role": "worker", "base": base, "mounts": lambda: LOCAL}
        made.append(make_node_root(key, **{**values, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield one
    for each in made:
        each.remove()


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Children that do not outlive the test."""
    made: list[subprocess.Popen[bytes]] = []

    def one(*argv: str, **options: object) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options))  # type: ignore[call-overload]
        return made[-1]

    yield one
    for each in made:
        each.kill()
        each.wait()
