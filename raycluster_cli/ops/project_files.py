"""The files of `raycluster init`: batch scripts, a driver and configuration for a new project."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..model.errors import RayclusterError, UsageError

#: What a line of the scripts of slurm/ says in a project: there is neither slurm/ nor examples/.
_RENAMED = (
    ("sbatch slurm/", "sbatch "),
    (" slurm/", " "),
    ("examples/minimal.py", "driver.py"),
    ("examples/openai_server.py", "server.py"),
    ("examples/", ""),
)

#: Where the line for the Python environment goes in a script.
_BEFORE = "# What to run"


@dataclass(frozen=True)
class ProjectFile:
    """One file."""

    name: str
    text: str
    about: str
    """What it is for, in a few words."""


#: Name, where its text is in this package, what it is for, and the option that adds it; "" for always.
_FILES = (
    ("symmetric.sbatch", "scripts/symmetric.sbatch", "batch script: a cluster of three nodes", ""),
    ("driver.py", "templates/driver.txt", "example: a greeting from every node", ""),
    ("raycluster.toml", "templates/raycluster.toml", "settings and profiles of the project", ""),
    ("gpu.sbatch", "scripts/gpu.sbatch", "batch script: GPU nodes", "gpu"),
    ("gpus.py", "templates/gpus.txt", "example: shows every GPU once", "gpu"),
    ("service.sbatch", "templates/service.sbatch", "batch script: a server", "service"),
    ("server.py", "templates/server.txt", "example: a server of OpenAI's protocol", "service"),
    ("elastic.sbatch", "templates/elastic.sbatch", "batch script: a cluster that grows", "elastic"),
    ("cluster.toml", "templates/cluster.toml", "worker groups of a cluster that grows", "elastic"),
    ("sweep.py", "templates/sweep.txt", "example: many small trials", "elastic"),
    ("container.sbatch", "scripts/container.sbatch", "batch script: Ray in a container", "container"),
)

#: The options of `raycluster init` that add files.
KINDS = ("gpu", "service", "elastic", "container")


def kind_of(name: str) -> str:
    """The option that adds a file, such as "gpu"; "" for one that is always written."""
    return next(kind for each, _, _, kind in _FILES if each == name)


def project_files(kinds: Sequence[str], python: str) -> list[ProjectFile]:
    """The files for these kinds (of KINDS).  ``python``: the Python whose environment the scripts use."""
    found = []
    for name, source, about, kind in _FILES:
        if not kind or kind in kinds:
            text = files(__package__).joinpath(source).read_text()
            for old, new in _RENAMED:
                text = text.replace(old, new)
            if name.endswith(".sbatch"):
                text = text.replace(_BEFORE, _environment(python) + _BEFORE, 1)
            found.append(ProjectFile(name, text, about))
    return found


def _environment(python: str) -> str:
    """Lines for a script; an environment that is active when it is submitted comes first."""
    path = f'export PATH={shlex.quote(os.path.dirname(python))}:"$PATH"'
    return (
        "# If no environment with raycluster is active, use the one in which `raycluster init` was called.\n"
        f"command -v raycluster >/dev/null || {path}\n\n"
    )


def write_files(directory: Path, wanted: Sequence[ProjectFile], *, force: bool = False) -> list[str]:
    """Write the files, all or none; returns the names of those that were there and had another text.

    Raises UsageError where such a file is there, unless ``force`` is given.
    """
    try:
        changed = [
            each.name
            for each in wanted
            if os.path.lexists(directory / each.name) and _text(directory / each.name) != each.text
        ]
        if changed and not force:
            several = len(changed) > 1
            raise UsageError(
                f"{', '.join(str(directory / name) for name in changed)} "
                f"{'exist' if several else 'exists'} already; nothing was written.",
                f"Give another directory, or --force to overwrite {'them' if several else 'it'}.",
            )
        directory.mkdir(parents=True, exist_ok=True)
        for each in wanted:
            (directory / each.name).write_text(each.text)
    except OSError as error:
        raise RayclusterError(
            f"cannot write to {error.filename or directory}: {error.strerror}.", "Give another directory."
        ) from error
    return changed


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None  # a directory, or no text: certainly another one


def next_steps(directory: Path, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """The commands to run next, each with what it does."""
    go = [] if directory == Path(".") else [(f"cd {shlex.quote(str(directory))}", "")]
    more = {
        "gpu": ("sbatch gpu.sbatch", "on GPU nodes"),
        "service": ("sbatch service.sbatch", "a server; `raycluster url` prints its address"),
        "elastic": ("sbatch elastic.sbatch", "grows while tasks wait; change cluster.toml first"),
        "container": ("IMAGE=ray.sif sbatch container.sbatch", "in a container"),
    }
    return [
        *go,
        ("raycluster run --local 2 -- python driver.py", "on this machine, without Slurm"),
        ("sbatch symmetric.sbatch", "as a batch script, on three nodes"),
        ("raycluster submit --profile small --follow -- python driver.py", "without a script"),
        *(more[kind] for kind in KINDS if kind in kinds),
        ("raycluster status", "your clusters"),
    ]
