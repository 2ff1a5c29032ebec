"""Dataclasses whose functions are shared, at a tenth of what they cost when a module is imported.

Python's dataclass compiles up to six functions for each class: 0.3 ms for one of five fields, 1.7 ms for one
of sixty.  The supervisor of every node imports some thirty before it does anything.  Python makes only the
fields here, so `fields`, `replace`, `asdict` and `field` are those of `dataclasses`; the functions are below.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, *, frozen=False, eq=True):
        """As dataclasses.dataclass, for classes whose fields are all values of ``__init__``.

        >>> @dataclass(frozen=True)
        ... class Point:
        ...     '''Metres.'''
        ...     x: float
        ...     y: float = 0.0
        >>> dataclasses.replace(Point(1.0), y=2.0), Point(1.0) == Point(1.0, y=0.0)
        (Point(x=1.0, y=2.0), True)
        """
        if cls is None:
            return lambda each: dataclass(each, frozen=frozen, eq=eq)
        cls = dataclasses.dataclass(cls, init=False, repr=False, eq=False)
        cls._own_fields = dataclasses.fields(cls)
        passed_on = any("InitVar" in str(one.type) for one in cls.__dataclass_fields__.values())
        if passed_on or any(not one.init or one.kw_only for one in cls._own_fields):
            raise TypeError(f"{cls.__name__}: each field has to be an argument that has a position")
        added = {"__init__": _init, "__repr__": _repr}
        if eq:
            added |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        if frozen:
            added |= {"__setattr__": _refuse, "__delattr__": _refuse}
        for name, function in added.items():
            if name not in cls.__dict__:  # what the class says itself stays
                setattr(cls, name, function)
        return cls


def _init(self: Any, *args: Any, **given: Any) -> None:
    wanted = self._own_fields
    if len(args) > len(wanted):
        raise TypeError(f"{type(self).__name__} takes {len(wanted)} values, {len(args)} were given")
    values = {one.name: value for one, value in zip(wanted, args, strict=False)}
    for one in wanted[len(args) :]:
        if one.name in given:
            values[one.name] = given.pop(one.name)
        elif one.default is not MISSING:
            values[one.name] = one.default
        elif one.default_factory is not MISSING:
            values[one.name] = one.default_factory()
        else:
            raise TypeError(f"{type(self).__name__}: {one.name!r} is missing")
    for name in given:
        raise TypeError(f"{type(self).__name__}: {name!r} is unknown, or given twice")
    self.__dict__.update(values)
    if hasattr(self, "__post_init__"):
        self.__post_init__()


def _repr(self: Any) -> str:
    shown = (f"{one.name}={getattr(self, one.name)!r}" for one in self._own_fields if one.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple(getattr(self, one.name) for one in self._own_fields if one.compare)


def _eq(self: Any, other: object) -> Any:
    if type(self) is not type(other):
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _refuse(self: Any, name: str, *_: object) -> None:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
