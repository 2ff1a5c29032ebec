"""Numbers with their sources: of several that limit a node's share, the smallest counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..model.value import Value

MIB = 1024**2


class Figure(Value):
    """A number and where it was read."""

    value: int
    source: str


class Grant(Value):
    """What one kind of thing this node grants: the smallest of the candidates."""

    value: int
    source: str
    candidates: tuple[Figure, ...] = ()
    """Every figure found, the smallest too."""
    ray_would_assume: int | None = None
    """What Ray would take by itself; None where that is not known without Ray."""
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For ``raycluster env --json``."""
        return {
            "value": self.value,
            "source": self.source,
            "candidates": [{"value": figure.value, "source": figure.source} for figure in self.candidates],
            "ray_would_assume": self.ray_would_assume,
        }


def smallest(
    candidates: Sequence[Figure], ray_would_assume: int | None = None, warnings: Sequence[str] = ()
) -> Grant:
    least = min(candidates, key=lambda figure: figure.value)
    return Grant(least.value, least.source, tuple(candidates), ray_would_assume, tuple(warnings))


def read(path: Path) -> str | None:
    """The text of a file of the kernel's, without the white space around it; None when it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
