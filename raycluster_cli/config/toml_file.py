"""One TOML file, read whole, with errors that name the file and the line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ..model.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A configuration file of people is a few kilobytes; more is something else.
MAX_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file.

    Raises UsageError where it is not there, not readable or not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the configuration file {path}: {error.strerror}.",
            hint="Give the path of a TOML file with --config."
            if isinstance(error, FileNotFoundError)
            else "",
        ) from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"the configuration file {path} has more than 1 MiB.")
    try:
        tables: dict[str, Any] = tomllib.loads(data.decode())
        return tables
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the configuration file {path} is not TOML: {error}.", hint="See https://toml.io for the syntax."
        ) from error
