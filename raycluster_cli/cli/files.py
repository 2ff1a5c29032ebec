"""Where the value of a setting on the command line is from."""

from __future__ import annotations

from typing import Any

from ..config.profiles import Configuration

#: Where a command finds the configuration in its context's ``meta``.
CONFIGURATION = "raycluster.configuration"


def source_of(context: Any, name: str) -> str:
    """Where the value of a setting is from: option, variable, the file and its table, or default."""
    source = context.get_parameter_source(name)
    given = {"COMMANDLINE": "option", "ENVIRONMENT": "variable"}.get(source.name if source else "", "")
    if given:
        return given
    configuration = context.meta.get(CONFIGURATION, Configuration())
    if name == "config" and configuration.groups_file:
        return f"{configuration.groups_file}, [workers]"
    found = configuration.settings.get(name)
    return found.source if found else "default"
