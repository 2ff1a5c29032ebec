"""What `raycluster submit` adds for a cluster that can grow: options of the worker jobs, the file's path."""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config.worker_groups import read_worker_groups, worker_options
from ..model.sbatch_words import shell_text, split_words
from ..model.settings import Settings, option_words
from ..slurm.worker_options import options_for_workers


def elastic_options(
    settings: Settings,
    words: Sequence[str],
    env: Mapping[str, str],
    *,
    here: Path,
    template: str | None = None,
) -> list[str]:
    """Options of `raycluster run` that replace those given; none for a cluster of a fixed size.

    ``words``: the options of sbatch, as arguments; ``template``: the text of --template, whose #SBATCH lines
    count where the command line has no such option.  Raises UsageError, also for a wrong file.
    """
    found: list[str] = []
    if settings.config:
        # The job starts in another directory where --chdir says so.
        path = Path(os.path.abspath(here / Path(settings.config).expanduser()))
        read_worker_groups(path)  # an error is reported before the job waits in the queue
        found += option_words("config", str(path))
    if settings.worker_sbatch:
        worker_options(settings.worker_sbatch)
    elif settings.max_nodes is not None:
        given = [*_lines_of(template or ""), *words]
        # Nothing in it is secret: --export, the only option that can hold one, stays with the head's job.
        found += option_words("worker_sbatch", shell_text(options_for_workers(given, env)))
    return found


def _lines_of(template: str) -> list[str]:
    """The options on the #SBATCH lines of a batch script, up to its first command.

    >>> _lines_of("#!/bin/bash\\n#SBATCH -p gpu\\n@SBATCH@\\nsrun true\\n#SBATCH -N 9")
    ['-p', 'gpu']
    """
    words: list[str] = []
    for line in template.splitlines():
        if line.startswith("#SBATCH "):
            words += split_words(line.removeprefix("#SBATCH ").partition(" #")[0])
        elif line.strip() and not line.startswith(("#", "@")):
            break
    return words
