"""Small immutable values: made, compared, hashed and shown as frozen dataclasses are."""

from __future__ import annotations

from typing import Any

import pytest

from raycluster_cli.model.value import Value


class Point(Value):
    x: int
    y: int = 0


class Other(Value):
    x: int
    y: int = 0


class Named(Point):
    name: str = "origin"


def test_equal_by_kind_and_fields() -> None:
    assert Point(1) == Point(x=1, y=0) == Point(1, 0)
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert len({Point(1), Point(y=0, x=1), Other(1)}) == 2


def test_fields_of_the_parent_come_first() -> None:
    assert repr(Named(1, name="a")) == "Named(x=1, y=0, name='a')"


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="Point cannot be changed"):
        Point(1).x = 2  # type: ignore[misc]


def test_the_same_with_other_values() -> None:
    assert Named(1, name="a").but(y=2) == Named(1, 2, "a")
    with pytest.raises(TypeError, match="Point: 'z' is unknown"):
        Point(1).but(z=2)


@pytest.mark.parametrize(
    ("args", "more", "text"),
    [
        ((), {}, "'x' is missing"),
        ((1, 2, 3), {}, "takes 2 values, 3 were given"),
        ((1,), {"x": 2}, "'x' is unknown, or given twice"),
        ((1,), {"z": 2}, "'z' is unknown, or given twice"),
    ],
)
def test_wrong_arguments(args: tuple[int, ...], more: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        Point(*args, **more)
