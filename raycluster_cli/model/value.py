"""Small immutable values: what frozen dataclasses are, at a tenth of their cost when a module is imported.

A dataclass compiles six functions of its own (0.3 ms and 6 kB of memory a class); raycluster has
fifty kinds of events and actions, and a start waits for their import.  Here the functions are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

T = TypeVar("T")
V = TypeVar("V", bound="Value")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[T], T]:
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Value:
    """Fields by annotations, in their order, with class attributes as defaults.

    >>> class Point(Value):
    ...     x: float
    ...     y: float = 0.0
    >>> Point(1.0), Point(1.0) == Point(1.0, y=0.0), Point(1.0) == Point(2.0)
    (Point(x=1.0, y=0.0), True, False)
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = (*cls._fields, *cls.__dict__.get("__annotations__", ()))  # noqa: RUF063  # inspect costs more

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **more: Any) -> None:
            names = self._fields
            if len(args) > len(names):
                raise TypeError(f"{type(self).__name__} takes {len(names)} values, {len(args)} were given")
            values = dict(zip(names, args, strict=False))
            for name, value in more.items():
                if name in values or name not in names:
                    raise TypeError(f"{type(self).__name__}: {name!r} is unknown, or given twice")
                values[name] = value
            for name in names:
                if name not in values:
                    if not hasattr(type(self), name):
                        raise TypeError(f"{type(self).__name__}: {name!r} is missing")
                    values[name] = getattr(type(self), name)
            self.__dict__.update((name, values[name]) for name in names)  # in their order: hash counts on it

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{type(self).__name__} cannot be changed")

    def but(self: V, **changes: object) -> V:
        """The same with other values in these fields.

        >>> Value().but(x=1)
        Traceback (most recent call last):
        TypeError: Value: 'x' is unknown, or given twice
        """
        return type(self)(**{**self.__dict__, **changes})

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in self._fields)})"
        )
