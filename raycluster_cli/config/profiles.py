"""What configuration files say, merged: raycluster's settings, and what a job that is submitted gets.

A file has a table [defaults] and any number of tables [profiles.NAME], with the same keys: settings of
raycluster, ``sbatch``, ``modules`` and ``setup``.  A chosen profile overrides [defaults], and
in each of the two a later file overrides an earlier one, key by key; options of sbatch one by one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from ..model.dataclass import dataclass
from ..model.errors import UsageError
from ..model.sbatch_words import option_pairs, split_words
from ..model.settings import Settings
from .toml_file import read_toml
from .worker_groups import TABLE as WORKERS
from .worker_groups import worker_groups

DEFAULTS, PROFILES = "defaults", "profiles"

#: Settings of one start, which no file can have.
ONE_START = ("cluster", "group", "local", "config", "config_files")

#: Options of sbatch that no file can have: `raycluster submit` needs their absence.
REFUSED = ("wrap", "parsable", "test-only", "wait", "quiet", "help", "usage", "version")

#: What sbatch's own --profile can be, where somebody means that one.
_SBATCH_PROFILES = ("all", "none", "energy", "task", "lustre", "filesystem", "network")


class Sourced(NamedTuple):
    """A value, and the file and table that it is from."""

    value: Any
    source: str


NO_WORDS = Sourced((), "")


@dataclass
class Configuration:
    """The values of all files, each with its source."""

    settings: dict[str, Sourced] = field(default_factory=dict)
    """By the names of the fields of Settings."""
    sbatch: dict[str, Sourced] = field(default_factory=dict)
    """By the long names of sbatch's options; the value of a flag is None."""
    modules: Sourced = NO_WORDS
    """Names for `module load`."""
    setup: Sourced = NO_WORDS
    """Lines of the batch script."""
    groups_file: str = ""
    """The file that has worker groups; "" where none has."""
    files: tuple[str, ...] = ()
    """The files that were read, the weakest first."""


def read_configuration(paths: Sequence[str], profile: str = "", extra: str = "") -> Configuration:
    """Read the files, the weakest first; ``extra`` is the file of --config.

    Raises UsageError for a file that cannot be used, for a wrong key or value in any table, and where no file
    has the profile.
    """
    for path in paths:
        _refuse_a_strangers(path)
    files = [(path, read_toml(Path(path))) for path in paths]
    if extra:
        files.append((extra, read_toml(Path(extra).expanduser())))
    return merge(files, profile)


def profile_names(paths: Sequence[str]) -> dict[str, str]:
    """The profiles of these files, each with the first file that has it.  Skips what cannot be read."""
    found: dict[str, str] = {}
    for path in paths:
        try:
            tables = read_toml(Path(path).expanduser()).get(PROFILES)
        except UsageError:
            continue
        for name in tables if isinstance(tables, dict) else ():
            found.setdefault(name, path)
    return found


def merge(files: Sequence[tuple[str, Mapping[str, Any]]], profile: str = "") -> Configuration:
    """The tables of the files (path, content), the weakest first, as one.

    >>> site = {"defaults": {"interface": "ib0", "sbatch": "-p cpu -t 60"}}
    >>> mine = {"profiles": {"gpu": {"sbatch": "-p gpu"}}}
    >>> found = merge([("/etc/raycluster.toml", site), ("raycluster.toml", mine)], "gpu")
    >>> found.settings["interface"]
    Sourced(value='ib0', source='/etc/raycluster.toml, [defaults]')
    >>> {name: each.value for name, each in found.sbatch.items()}
    {'partition': 'gpu', 'time': '60'}
    """
    tables = [(path, _checked(path, content)) for path, content in files]
    found = Configuration(files=tuple(path for path, _ in files))
    for path, content in tables:
        _add(found, content[DEFAULTS], f"{path}, [{DEFAULTS}]")
    chosen = profile or (found.settings["profile"].value if "profile" in found.settings else "")
    if chosen:
        named = [(path, content[PROFILES][chosen]) for path, content in tables if chosen in content[PROFILES]]
        if not named:
            raise _no_such_profile(chosen, tables)
        for path, values in named:
            _add(found, values, f"{path}, [{PROFILES}.{chosen}]")
    found.groups_file = next((path for path, content in reversed(files) if content.get(WORKERS)), "")
    return found


def _checked(path: str, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The two kinds of tables of a file, with values as raycluster has them."""
    for name in content:
        if name not in (DEFAULTS, PROFILES, WORKERS):
            known = sorted(_keys())
            is_key = name.replace("-", "_") in known and not isinstance(content[name], dict)
            hint = (
                f"Put it below [{DEFAULTS}]."
                if is_key
                else _suggestion(name, [DEFAULTS, PROFILES, WORKERS], "tables")
            )
            raise UsageError(f"{path}: there is no table or key {name!r} here.", hint)
    defaults, profiles = content.get(DEFAULTS, {}), content.get(PROFILES, {})
    if not isinstance(defaults, dict):
        raise UsageError(f"{path}: {DEFAULTS} must be a table.", f"For example [{DEFAULTS}].")
    if not isinstance(profiles, dict) or not all(isinstance(each, dict) for each in profiles.values()):
        raise UsageError(
            f"{path}: {PROFILES} must hold one table for each profile.", f"For example [{PROFILES}.gpu]."
        )
    worker_groups(content, path)  # raises UsageError for a wrong one
    return {
        DEFAULTS: _values(defaults, f"{path}, [{DEFAULTS}]", is_profile=False),
        PROFILES: {
            name: _values(table, f"{path}, [{PROFILES}.{name}]", is_profile=True)
            for name, table in profiles.items()
        },
    }


def _values(table: Mapping[str, Any], where: str, *, is_profile: bool) -> dict[str, Any]:
    known = _keys()
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in ONE_START:
            raise UsageError(f"{where}: {key} cannot be set in a file.", "Give it on the command line.")
        if name not in known:
            raise UsageError(f"{where}: there is no key {key!r}.", _suggestion(name, sorted(known), "keys"))
        if is_profile and name in ("profile", "state_dir"):
            raise UsageError(
                f"{where}: {key} cannot be set in a profile.",
                f"Put it below [{DEFAULTS}]"
                + (": `raycluster status` has to find the records too." if name == "state_dir" else "."),
            )
        values[name] = known[name](value, f"{where}: {key}")
    return values


def _add(found: Configuration, values: Mapping[str, Any], source: str) -> None:
    for name, value in values.items():
        if name == "sbatch":
            found.sbatch |= {option: Sourced(text, source) for option, text in value}
        elif name in ("modules", "setup"):
            setattr(found, name, Sourced(value, source))
        else:
            found.settings[name] = Sourced(value, source)


def _no_such_profile(name: str, tables: Sequence[tuple[str, Mapping[str, Any]]]) -> UsageError:
    known = list(dict.fromkeys(each for _, content in tables for each in content[PROFILES]))
    if not tables:
        hint = "There is no configuration file; `raycluster init` writes one."
    elif not known:
        hint = f"No table [{PROFILES}.NAME] is in {', '.join(path for path, _ in tables)}."
    else:
        hint = _suggestion(name, known, "profiles")
    if name in _SBATCH_PROFILES:
        hint += f" For sbatch's own option set SBATCH_PROFILE={name}."
    return UsageError(f"there is no profile {name!r}.", hint)


def _suggestion(name: str, known: Sequence[str], kind: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name.replace("-", "_"), known, 1, 0.6)
    if near:
        return f"Did you mean {near[0].replace('_', '-') if kind == 'keys' else near[0]}?"
    if kind == "keys":
        return "The keys are sbatch, modules, setup and the options of `raycluster run`."
    return f"The {kind} are {', '.join(known)}."


def _refuse_a_strangers(path: str) -> None:
    """Raise UsageError for a file that any user may have written: its lines run as this user."""
    try:
        found = os.stat(path)
        around = os.stat(os.path.dirname(path) or ".")
    except OSError:
        return  # reading it says why
    if found.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"every user can write to the configuration file {path}, and what it says runs as you.",
            f"Run `chmod o-w {path}`.",
        )
    if found.st_uid not in (0, os.geteuid()) and around.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"the configuration file {path} belongs to another user (uid {found.st_uid}), in a directory in "
            "which everybody can write.",
            "Start in another directory, or give the file with --config if you trust it.",
        )


def _keys() -> dict[str, Callable[[object, str], Any]]:
    """Every key of a table, and how its value is read: (value, where) -> value; raises UsageError."""
    hints = get_type_hints(Settings)
    known: dict[str, Callable[[object, str], Any]] = {}
    for one in fields(Settings):
        if one.name not in ONE_START:
            kind = hints[one.name]
            known[one.name] = {bool: _flag, float: _number, str: _text}.get(kind, _count)
    known["state_dir"] = _absolute
    return known | {
        "resources": _pairs,
        "labels": _pairs,
        "sbatch": _sbatch,
        "modules": _words,
        "setup": _lines,
        "container_mounts": _commas,
    }


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{where} is {value!r}; it must be true or false.")
    return value


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"{where} is {value!r}; it must be a whole number.")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{where} is {value!r}; it must be a number.")
    return float(value)


def _text(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UsageError(f"{where} is {value!r}; it must be a text.", 'Write it in quotes: "…".')
    return str(value)


def _absolute(value: object, where: str) -> str:
    text = _text(value, where)
    if not os.path.isabs(os.path.expanduser(text)):
        raise UsageError(f"{where} is {text!r}; it must be an absolute path, or begin with ~/.")
    return text


def _pairs(value: object, where: str) -> str:
    """Resources and labels: a table, or the text of the option."""
    return json.dumps(value) if isinstance(value, dict) else _text(value, where)


def _list(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"{where} is {value!r}; it must be a text or a list of texts.")
    return tuple(value)


def _commas(value: object, where: str) -> str:
    """A list, or the text of the option."""
    return _text(value, where) if isinstance(value, (str, int)) else ",".join(_list(value, where))


def _words(value: object, where: str) -> tuple[str, ...]:
    return tuple(value.split()) if isinstance(value, str) else _list(value, where)


def _lines(value: object, where: str) -> tuple[str, ...]:
    return tuple(value.splitlines()) if isinstance(value, str) else _list(value, where)


def _sbatch(value: object, where: str) -> list[tuple[str, str | None]]:
    """Options of sbatch: one text as on a command line, or a list."""
    try:
        pairs = option_pairs(split_words(value) if isinstance(value, str) else _list(value, where))
    except UsageError as error:
        message = error.message if error.message.startswith(where) else f"{where}: {error.message}"
        raise UsageError(message, error.hint) from error
    for name, _ in pairs:
        if name in REFUSED:
            raise UsageError(f"{where}: --{name} cannot be given in a file.", "Leave it out.")
    return pairs
