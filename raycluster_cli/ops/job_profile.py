"""What configuration files add to a job that is submitted, and where each of its values is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..config.profiles import REFUSED, Configuration
from ..model.errors import UsageError
from ..model.sbatch_words import Pair, option_pairs
from ..model.settings import Settings, option_name, option_words, settings_of, variable_name
from ..model.variables import CONTAINER
from ..slurm.worker_options import INPUT_VARIABLES
from .environment import Value

#: Options of sbatch of which a job has one: one that is typed replaces a file's of the same group.
_ONE_OF = (
    {"mem", "mem-per-cpu", "mem-per-gpu"},
    {"gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "gres"},
    {"exclusive", "oversubscribe"},
    {"requeue", "no-requeue"},
)

#: Settings that are not passed on to the job: they decide which values are, and from where.
_RESOLVED = ("config", "profile", "config_files", *CONTAINER)


def job_options(
    found: Configuration, words: Sequence[str], env: Mapping[str, str]
) -> list[tuple[str, str | None]]:
    """The files' options of sbatch, as name and value, that no typed word and no variable replaces.

    >>> from raycluster_cli.config.profiles import merge
    >>> found = merge([("x.toml", {"defaults": {"sbatch": "-p cpu -t 60 --mem=4G"}})])
    >>> job_options(found, ["-p", "gpu", "--mem-per-cpu=1G"], {})
    [('--time', '60')]
    """
    typed = _typed(words)
    variables = {name for variable, name in INPUT_VARIABLES.items() if env.get(variable)}
    replaced = typed | variables
    replaced |= {name for group in _ONE_OF if group & replaced for name in group}
    return [(f"--{name}", each.value) for name, each in found.sbatch.items() if name not in replaced]


def refuse_words(words: Sequence[str]) -> None:
    """Raise UsageError for options of sbatch with which no cluster starts, or sbatch does not end.

    >>> refuse_words(["-N", "2", "-W"])
    Traceback (most recent call last):
    raycluster_cli.model.errors.UsageError: --wait cannot be given for a cluster. Leave it out.
    """
    for name, _ in _pairs(words):
        if name.removeprefix("--") in REFUSED:
            raise UsageError(f"{name} cannot be given for a cluster.", "Leave it out.")


def options_of_files(found: Configuration, settings: Settings, given: Sequence[str]) -> list[str]:
    """The options of `raycluster run` that carry the files' settings into the job.

    ``given``: the options that the job has already.  The job reads no files then: what it does is decided
    when it is submitted.
    """
    if not found.files and settings.config_files:
        return []
    names = {word.partition("=")[0] for word in given}
    options = [
        word
        for one in settings_of("run")
        if one.name in found.settings and one.name not in (*_RESOLVED, "local")
        for word in option_words(one.name, getattr(settings, one.name))
        if not {word.partition("=")[0], *one.metadata.get("aliases", ()), *_both(one.name)} & names
    ]
    return ["--no-config-files", *options]


def job_values(found: Configuration) -> list[Value]:
    """What the files give a job besides settings."""
    options = [Value(f"sbatch --{name}", each.value, each.source) for name, each in found.sbatch.items()]
    others = (("modules", found.modules), ("setup", found.setup))
    return [
        *options,
        *(
            Value(name, each.value if isinstance(each.value, str) else list(each.value), each.source)
            for name, each in others
            if each.value
        ),
    ]


def with_sources(
    found: Configuration,
    settings: Settings,
    words: Sequence[str],
    env: Mapping[str, str],
    source: Callable[[str], str],
) -> list[tuple[str, str, str]]:
    """Every value of a job that is no default: option, value and source.

    ``source`` of a setting: option, variable, default, or a file and its table.
    """
    kept = dict(job_options(found, words, env))
    rows = [(name, value or "", "option") for name, value in _pairs(words)]
    rows += [
        (f"--{name}", env[variable], f"variable {variable}")
        for variable, name in INPUT_VARIABLES.items()
        if env.get(variable) and name not in _typed(words)
    ]
    rows += [
        (f"--{name}", each.value or "", each.source)
        for name, each in found.sbatch.items()
        if f"--{name}" in kept
    ]
    for one in settings_of("run"):
        if one.name != "local" and (origin := source(one.name)) != "default":
            origin = f"variable {variable_name(one.name)}" if origin == "variable" else origin
            for word in option_words(one.name, getattr(settings, one.name)):
                name, _, value = word.partition("=")
                rows.append((name, value, origin))
    for name, each in (("modules", found.modules), ("setup", found.setup)):
        if each.value:
            text = each.value if isinstance(each.value, str) else "; ".join(each.value)
            rows.append((name, text, each.source))
    return rows


def _both(name: str) -> tuple[str, str]:
    option = option_name(name)
    return option, f"--no-{option[2:]}"


def _typed(words: Sequence[str]) -> set[str]:
    return {name[2:] for name, _ in _pairs(words)}


def _pairs(words: Sequence[str]) -> list[Pair]:
    """The options that were typed, by their long names; those that raycluster does not know as they are."""
    pairs = option_pairs(words, lenient=True)
    return [(name if name.startswith("-") else f"--{name}", value) for name, value in pairs]
