"""What the caller asks for, as settings of `raycluster run` and as options of sbatch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, get_type_hints

from ..model.errors import UsageError
from ..model.option_text import parse_flag
from ..model.settings import Settings, option_words, settings_of, variable_name
from ..ops.chosen_settings import Chosen, with_files, with_variable
from ..ops.job_profile import refuse_words
from ..ops.submit import CommandLine, split_line

#: What a value of each type of setting is called, and which Python types it may have.
_TYPES: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    str: ("a string", (str,)),
    float: ("a number", (int, float)),
}
_WHOLE = ("a whole number", (int,))


# What sbatch(1) takes.
_NODES = re.compile(r"0*[1-9]\d*[kKmM]?(-\d+[kKmM]?)?(:\d+)?(,\d+(-\d+)?(:\d+)?)*")
_GPUS = re.compile(r"([^\s:,=]+:)?\d+(,([^\s:,=]+:)?\d+)*")
_CPUS = re.compile(r"0*[1-9]\d*")
_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|unlimited|infinite", re.IGNORECASE)


def settings_dictionary(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The caller's settings, none as an empty dictionary.  Raises UsageError for another type."""
    if settings is not None and not isinstance(settings, Mapping):
        raise UsageError(f"settings is {settings!r}; it must be a dictionary, such as {{'min_workers': 2}}.")
    return dict(settings or {})


def settings_from(given: Mapping[str, Any], command: str, *, service: bool = False) -> Settings:
    """Settings by their names, with underscores.  Raises UsageError for what is no setting of ``command``.

    >>> settings_from({"min_workers": 2}, "submit").min_workers
    2
    """
    known = {one.name for one in settings_of(command)} - {"local", "service", "state_dir"}
    hints = get_type_hints(Settings)
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, sorted(known), 1, 0.6)
            raise UsageError(
                f"{name!r} is no setting of a cluster.",
                f"Did you mean {near[0]!r}?" if near else "`raycluster run --help` lists them.",
            )
        kind, types = _TYPES.get(hints[name], _WHOLE)
        if not isinstance(value, types) or (isinstance(value, bool) and types != (bool,)):
            raise UsageError(f"the setting {name} is {value!r}; it must be {kind}.")
    return Settings(**given, service=service)


def settings_with_files(
    given: Mapping[str, Any],
    command: str,
    env: Mapping[str, str],
    *,
    profile: str = "",
    service: bool = False,
) -> Chosen:
    """Settings by their names; below them RAYCLUSTER_ variables, then configuration files and the profile.

    Raises UsageError, also for a variable that cannot be used: else each node would find that.
    """
    settings_from(given, command, service=service)
    if not isinstance(profile, str):
        raise UsageError(f"the profile is {profile!r}; it must be the name of one.")
    if profile and given.get("profile", profile) != profile:
        raise UsageError(f"the profile is {profile!r}, and {given['profile']!r} in settings.", "Give one.")
    named = settings_of_variables(env, command, given)
    if profile:
        named["profile"] = profile
    values = {**named, **given, **({"service": True} if service else {})}
    try:
        chosen = with_files(command, values, env)
        Settings(**chosen.values)
    except UsageError as error:
        raise with_variable(error, named) from error.__cause__
    if chosen.values.get("service") and not service:
        source = (
            variable_name("service")
            if "service" in named
            else chosen.configuration.settings["service"].source
        )
        raise UsageError(
            f"{source}: service is on, but no server was given.",
            'Give its command: service=["vllm", "serve", "M"].',
        )
    return chosen


def settings_of_variables(
    env: Mapping[str, str], command: str, given: Collection[str] = ()
) -> dict[str, Any]:
    """The settings of a command that RAYCLUSTER_ variables give, and not the caller.  Raises UsageError.

    The directory of the records is not among them: it is looked for by itself.

    >>> settings_of_variables({"RAYCLUSTER_TIMEOUT": "60", "RAYCLUSTER_TLS": "on"}, "run")
    {'timeout': 60.0, 'tls': True}
    """
    hints = get_type_hints(Settings)
    found: dict[str, Any] = {}
    for one in settings_of(command):
        variable = variable_name(one.name)
        text = env.get(variable)
        if not text or one.name in given or one.name in ("local", "state_dir"):
            continue
        hint = hints[one.name]
        try:
            found[one.name] = (
                text if hint is str else parse_flag(variable, text) if hint is bool else _number(text, hint)
            )
        except ValueError as error:
            kind, _ = _TYPES.get(hint, _WHOLE)
            raise UsageError(f"{variable} is {text!r}; it must be {kind}.") from error
    return found


def _number(text: str, hint: Any) -> int | float:
    return float(text) if hint is float else int(text)


def run_words(given: Mapping[str, Any]) -> list[str]:
    """The options of `raycluster run` for these settings.

    >>> run_words({"min_workers": 2, "auth": False})
    ['--min-workers=2', '--no-auth']
    """
    names = [one.name for one in fields(Settings)]
    return [word for name in names if name in given for word in option_words(name, given[name])]


def sbatch_line(
    nodes: int | str | None,
    time: str,
    gpus_per_node: int | str | None,
    cpus_per_node: int | None,
    sbatch: Sequence[str],
    driver: Sequence[str],
) -> CommandLine:
    """The options of sbatch, and the driver.  Raises UsageError.

    >>> sbatch_line(2, "1:00:00", 4, None, ["--mem=200G"], []).words
    ('--nodes=2', '--time=1:00:00', '--gpus-per-node=4', '--mem=200G')
    """
    if isinstance(sbatch, str):
        raise UsageError(f"sbatch is {sbatch!r}; it must be a list of options, such as ['--mem=200G'].")
    check_size(nodes, gpus_per_node, cpus_per_node, time)
    given: dict[str, object] = {
        "--nodes": nodes,
        "--time": time,
        "--gpus-per-node": gpus_per_node,
        "--cpus-per-task": cpus_per_node,
    }
    if strange := [word for word in sbatch if not isinstance(word, str)]:
        raise UsageError(f"sbatch has {strange[0]!r}; its options must be strings, such as '--mem=200G'.")
    words = [f"{name}={value}" for name, value in given.items() if value not in (None, "")]
    if stray := [word for word in sbatch if word == "--"]:
        raise UsageError(f"sbatch has the word {stray[0]!r}, which is no option.")
    refuse_words(sbatch)
    return split_line([*words, *sbatch, "--", *driver], set(), set())


def check_size(
    nodes: object = None, gpus_per_node: object = None, cpus_per_node: object = None, time: object = ""
) -> None:
    """Raise UsageError for a size of the job that sbatch would not take.

    >>> check_size(nodes="2-4", gpus_per_node="a100:4", time="1-12:00:00")
    >>> check_size(nodes=-1)
    Traceback (most recent call last):
    raycluster_cli.model.errors.UsageError: nodes is -1; it must be a whole number, 1 or more, or text \
such as '2-4'.
    """
    for name, value, least, text, example in (
        ("nodes", nodes, 1, _NODES, ", or text such as '2-4'"),
        ("gpus_per_node", gpus_per_node, 0, _GPUS, ", or text such as 'a100:4'"),
        ("cpus_per_node", cpus_per_node, 1, _CPUS, ""),
    ):
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= least
        is_text = isinstance(value, str) and text.fullmatch(value)
        if value is not None and not is_number and not is_text:
            raise UsageError(f"{name} is {value!r}; it must be a whole number, {least} or more{example}.")
    is_minutes = isinstance(time, int) and not isinstance(time, bool) and time > 0
    if time not in (None, "") and not is_minutes and not (isinstance(time, str) and _TIME.fullmatch(time)):
        raise UsageError(f"time is {time!r}; it must be a time of sbatch, such as '2:00:00' or '1-12'.")


def check_command(command: Sequence[str], name: str) -> tuple[str, ...]:
    """A command as its words.  Raises UsageError for a string, which no shell would split.

    >>> check_command(["python", "train.py"], "run")
    ('python', 'train.py')
    """
    if isinstance(command, str) or not command:
        raise UsageError(f'{name} needs a command as a list of words: ["python", "train.py"].')
    return tuple(str(word) for word in command)
