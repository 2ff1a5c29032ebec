"""The settings of a command: what was given, and below it what configuration files say."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ..config.profiles import Configuration, read_configuration
from ..model.errors import UsageError
from ..model.settings import STARTERS, Settings, option_name, settings_of, variable_name
from ..model.variables import CONTAINER
from ..state.location import PROJECT_FILE, configuration_files
from ..system.report import say


class Chosen(NamedTuple):
    """Values for Settings, and the files that are below them."""

    values: dict[str, Any]
    configuration: Configuration


def with_files(command: str, given: Mapping[str, Any], env: Mapping[str, str]) -> Chosen:
    """Put the values of configuration files below those given by options and variables.

    Raises UsageError, which names the file, for what is wrong in it.
    """
    if not given.get("config_files", True):
        return Chosen(dict(given), Configuration())
    extra, profile = given.get("config", ""), given.get("profile", "")
    paths = configuration_files(env)
    if not (paths or extra or profile):
        return Chosen(dict(given), Configuration())
    found = read_configuration(paths, profile, extra)
    if found.groups_file and found.groups_file not in (PROJECT_FILE, extra):
        raise UsageError(
            f"{found.groups_file}: worker groups are those of a project.",
            f"Put [workers.NAME] into {PROJECT_FILE} or the file of --config.",
        )
    known = {one.name for one in settings_of(command)}
    if command in STARTERS:  # they may be in the container already
        known -= {*CONTAINER}
    values = {name: each.value for name, each in found.settings.items() if name in known} | dict(given)
    if found.groups_file and "config" in known and not extra and given.get("local") is None:
        values["config"] = found.groups_file
    try:
        Settings(**values)
    except UsageError as error:
        raise with_source(error, found, given) from error.__cause__
    return Chosen(values, found)


def state_dir_of_files(env: Mapping[str, str]) -> str:
    """The directory of the records by the configuration files; "" where none sets it.

    A file with an error gives a warning; it does not keep commands from showing or stopping a cluster.
    """
    try:
        paths = configuration_files(env)
        found = read_configuration(paths).settings.get("state_dir") if paths else None
    except UsageError as error:
        say(f"warning: {error}")
        return ""
    return found.value if found else ""


def with_source(error: UsageError, found: Configuration, given: Collection[str]) -> UsageError:
    """The error, with the file that the option in it is from.

    ``given``: the settings that an option or a variable has.

    >>> from raycluster_cli.config.profiles import merge
    >>> found = merge([("x.toml", {"defaults": {"memory": "lots", "sbatch": "--tiem=3"}})])
    >>> with_source(UsageError("--memory is 'lots'."), found, []).message
    "x.toml, [defaults]: --memory is 'lots'."
    >>> with_source(UsageError("sbatch: unrecognized option '--tiem=3'"), found, []).message
    "x.toml, [defaults]: sbatch: unrecognized option '--tiem=3'"
    """
    ours = [
        each.source
        for name, each in found.settings.items()
        if name not in given and error.message.startswith((f"{option_name(name)} ", f"{option_name(name)}:"))
    ]
    sbatchs = [
        each.source
        for name, each in found.sbatch.items()
        if re.search(rf"unrecognized option '?--{re.escape(name)}\b", error.message)
    ]
    sources = [*ours, *sbatchs]
    return UsageError(f"{sources[0]}: {error.message}", error.hint) if sources else error


def with_variable(error: UsageError, variables: Collection[str]) -> UsageError:
    """The error, with the variable in place of the option that it begins with.

    ``variables``: the settings that have their values from variables.

    >>> with_variable(UsageError("--num-cpus is -3; it must be 0 or more."), ["num_cpus"]).message
    'RAYCLUSTER_NUM_CPUS is -3; it must be 0 or more.'
    """
    for name in variables:
        option = option_name(name)
        if error.message.startswith((f"{option} ", f"{option}:")):
            return UsageError(variable_name(name) + error.message[len(option) :], error.hint)
    return error
