"""Our dataclasses do what Python's do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field
from typing import Any

import pytest

from raycluster_cli.model.dataclass import dataclass


@dataclass(frozen=True)
class Ours:
    """Frozen."""

    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Pythons:
    """Frozen."""

    x: float
    y: float = 0.0
    tags: list[str] = field(default_factory=list, repr=False, compare=False)


@dataclass
class Mutable:
    """Not frozen, with a check and a representation of its own."""

    x: int
    doubled: int = 0

    def __post_init__(self) -> None:
        self.doubled = 2 * self.x

    def __repr__(self) -> str:
        return "own"


def outcome(of: Callable[[Any], Any], kind: Any) -> Any:
    """What a call returns; the kind of its error where it raises one."""
    try:
        return of(kind)
    except (TypeError, FrozenInstanceError) as error:
        return type(error)


CASES: dict[str, Callable[[Any], Any]] = {
    "by position": lambda kind: dataclasses.astuple(kind(1.0, 2.0)),
    "by name": lambda kind: dataclasses.astuple(kind(y=2.0, x=1.0)),
    "with defaults": lambda kind: dataclasses.asdict(kind(1.0)),
    "a list of its own": lambda kind: kind(1.0).tags is kind(1.0).tags,
    "one is missing": lambda kind: kind(y=1.0),
    "one is unknown": lambda kind: kind(1.0, z=1.0),
    "one is given twice": lambda kind: kind(1.0, x=1.0),
    "too many": lambda kind: kind(1.0, 2.0, [], 3.0),
    "repr": lambda kind: repr(kind(1.0, 2.0)).partition("(")[1:],
    "equal": lambda kind: kind(1.0) == kind(1.0, tags=["a"]),
    "not equal": lambda kind: kind(1.0) == kind(2.0),
    "equal to another kind": lambda kind: kind(1.0) == 1.0,
    "hash": lambda kind: hash(kind(1.0, 2.0)),
    "replace": lambda kind: dataclasses.astuple(dataclasses.replace(kind(1.0), y=3.0)),
    "replace what is unknown": lambda kind: dataclasses.replace(kind(1.0), z=3.0),
    "fields": lambda kind: [each.name for each in dataclasses.fields(kind)],
    "set": lambda kind: setattr(kind(1.0), "x", 2.0),
    "delete": lambda kind: delattr(kind(1.0), "x"),
    "copy": lambda kind: copy.copy(kind(1.0, 2.0)) == kind(1.0, 2.0),
    "pickle": lambda kind: pickle.loads(pickle.dumps(kind(1.0, 2.0))) == kind(1.0, 2.0),
}


@pytest.mark.parametrize("name", CASES)
def test_as_pythons(name: str) -> None:
    assert outcome(CASES[name], Ours) == outcome(CASES[name], Pythons)


def test_what_can_be_changed() -> None:
    one = Mutable(2)
    assert (one.doubled, repr(one)) == (4, "own")
    one.x = 3
    assert one != Mutable(2)
    with pytest.raises(TypeError):
        hash(one)


def test_fields_that_are_no_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="has to be an argument"):

        @dataclass
        class Wrong:
            """With a field that is not given."""

            x: int = field(default=0, init=False)


def test_arguments_that_are_no_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="has to be an argument"):

        @dataclass
        class Wrong:
            """Its first argument would be taken for the field."""

            given: dataclasses.InitVar[int]
            x: int = 0
