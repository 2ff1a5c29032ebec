"""What of an environment is rewritten for its copy, before anything is copied."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from functools import partial

from .inventory import Changed, Entry, Inventory, run_in_threads
from .relocation import (
    Pairs,
    conda_files,
    is_path_file,
    is_script,
    left_outside,
    longest_first,
    moved,
    moved_text,
)
from .sources import Source


def path_pairs(sources: Sequence[Source], copy: str) -> list[tuple[str, str]]:
    """(path before, path after) of each source, also by its real path."""
    return longest_first(
        (before, f"{copy}/{source.target}")
        for source in sources
        for before in (source.path, os.path.realpath(source.path))
    )


def prepare(
    inventory: Inventory, sources: Sequence[Source], copy: str, step: Callable[[], None] = lambda: None
) -> list[str]:
    """Rewrite the entries of an inventory for a copy under ``copy``.

    Returns the directories outside of the copy that .pth files and editable installs name.  Raises OSError,
    Changed, and ValueError for a conda environment whose path is shorter than the copy's.
    """
    pairs = path_pairs(sources, copy)
    roots = [before for before, _ in pairs]
    in_conda = _conda_paths(sources, copy)
    outside: list[str] = []
    tasks = []
    for entry in inventory.entries:
        if entry.kind == "l":
            entry.link = moved(entry.link, pairs)
            continue
        if entry.kind == "d":
            continue
        relative = entry.path.partition("/")[2]
        mode, replaces = in_conda.get(entry.path, ("", ("", "")))
        if mode == "binary":
            entry.replaces = replaces
        elif mode or is_path_file(relative) or is_script(relative, entry.size):
            tasks.append(partial(_rewrite, entry, pairs, roots, outside))
    run_in_threads(tasks, 16, step)
    return sorted(dict.fromkeys(outside))


def _rewrite(entry: Entry, pairs: Pairs, roots: Sequence[str], outside: list[str]) -> None:
    with open(entry.source, "rb") as file:
        before = file.read()
    if len(before) != entry.size:
        raise Changed(f"{entry.source} was changed meanwhile")
    if b"\0" in before[:8192]:
        return  # a program
    outside += left_outside(before, os.path.basename(entry.path), roots)
    after = moved_text(before, pairs)
    if after != before:
        entry.data, entry.size = after, len(after)


def _conda_paths(sources: Sequence[Source], copy: str) -> dict[str, tuple[str, tuple[str, str]]]:
    """{path in the copy: ("text" or "binary", (path before, path after))} of conda environments' files."""
    found = {}
    for source in sources:
        if not source.conda:
            continue
        after = f"{copy}/{source.target}"
        if len(os.fsencode(after)) > len(os.fsencode(source.path)):
            raise ValueError(
                f"{after} is longer than {source.path}, for which the programs of this conda environment "
                "have room"
            )
        metas = []
        for name in sorted(os.listdir(f"{source.path}/conda-meta")):
            if name.endswith(".json"):
                with open(f"{source.path}/conda-meta/{name}", "rb") as file:
                    metas.append(json.load(file))
        for path, (_, mode) in conda_files(metas).items():
            found[f"{source.target}/{path}"] = (mode, (source.path, after))
    return found
