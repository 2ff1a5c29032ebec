"""Plain command lines of head, worker and run, read without Typer.

Building Typer's application costs 0.2 s of CPU and 12 MB on every node of every job (it brings pydantic),
for a line that is nearly always of the same few shapes.  This reader takes what it is sure of, from the
same table of settings; for anything else (an unknown option, a value that does not fit, --help) it says
None, and Typer reads the line, with its own messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from ..model.errors import RayclusterError
from ..model.option_text import FLAGS
from ..model.settings import STARTERS, Settings, option_name, settings_of, variable_name
from ..model.value import Value
from ..state.location import configuration_files


class Line(Value):
    """What a command line says."""

    command: str
    settings: Settings
    driver: tuple[str, ...]


def read_line(arguments: Sequence[str], env: Mapping[str, str]) -> Line | None:
    """The line, as Typer would understand it; None when only Typer can tell.

    >>> read_line(["run", "--timeout=60", "--", "python", "train.py"], {}).driver
    ('python', 'train.py')
    >>> read_line(["run", "--no-such-option"], {})
    """
    if not arguments or arguments[0] not in STARTERS:
        return None
    command, rest = arguments[0], with_bare_values(arguments[1:])
    try:
        values = _from_environment(command, env)
        driver = _options(command, rest, values)
        if values.get("config_files", True) and (
            values.get("config") or values.get("profile") or configuration_files(env)
        ):
            from ..ops.chosen_settings import with_files  # a start without files does not pay for them

            values = with_files(command, values, env).values
        if driver and command == "worker":
            return None
        return Line(command, Settings(**values), tuple(driver))
    except (_NotPlain, RayclusterError):
        return None


class _NotPlain(Exception):
    """Only Typer can tell what is meant, or what is wrong."""


def _options(command: str, rest: list[str], values: dict[str, Any]) -> list[str]:
    """Read options into ``values``; returns what follows them."""
    known = _known(command)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return rest
        if not word.startswith("-") or word == "-":
            return [word, *rest]
        name, equals, value = word.partition("=")
        if name not in known:
            raise _NotPlain
        field, flag, convert = known[name]
        if flag is not None:
            if equals:
                raise _NotPlain
            values[field] = flag
            continue
        if not equals:
            if not rest or rest[0].startswith("-"):
                raise _NotPlain
            value = rest.pop(0)
        values[field] = convert(value)
    return []


def with_bare_values(arguments: Sequence[str]) -> list[str]:
    """A command line in which each option that may stand without a value has one.

    >>> with_bare_values(["run", "--stage-env", "--", "./driver", "--stage-env"])
    ['run', '--stage-env=auto', '--', './driver', '--stage-env']
    """
    words = list(arguments)
    bare = {option_name(one.name): one.metadata["bare"] for one in fields(Settings) if "bare" in one.metadata}
    for number, word in enumerate(words):
        if word == "--":
            break
        if word in bare:
            words[number] = f"{word}={bare[word]}"
    return words


def _known(command: str) -> dict[str, tuple[str, bool | None, Callable[[str], Any]]]:
    """Options: the field, the value when it is a flag, and how its text is read."""
    hints = get_type_hints(Settings)
    known: dict[str, tuple[str, bool | None, Callable[[str], Any]]] = {}
    for one in settings_of(command):
        name = option_name(one.name)
        if hints[one.name] is bool:
            known[name] = (one.name, True, _flag)
            known[f"--no-{name[2:]}"] = (one.name, False, _flag)
        else:
            for alias in (name, *one.metadata.get("aliases", ())):
                known[alias] = (one.name, None, _reader(hints[one.name]))
    return known


def _from_environment(command: str, env: Mapping[str, str]) -> dict[str, Any]:
    hints = get_type_hints(Settings)
    return {
        one.name: _reader(hints[one.name])(text)
        for one in settings_of(command)
        if (text := env.get(variable_name(one.name)))
    }


def _reader(hint: Any) -> Callable[[str], Any]:
    if hint is bool:
        return _flag
    if hint is str:
        return str
    return _float if hint is float else _int


def _flag(text: str) -> bool:
    if text.lower() not in FLAGS:
        raise _NotPlain
    return FLAGS[text.lower()]


def _int(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise _NotPlain
    return int(text)


def _float(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
        raise _NotPlain
    return float(text)
