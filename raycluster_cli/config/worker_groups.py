"""The worker groups of a configuration file: its tables [workers.NAME]."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..model.custom import check_labels, check_resources
from ..model.errors import UsageError
from ..model.option_text import parse_size_bytes
from ..model.sbatch_words import Pair, option_pairs, option_word, split_words
from ..model.time_span import parse_span_s
from ..model.worker_group import WorkerGroup
from .toml_file import read_toml

#: The table of the file that holds the groups.
TABLE = "workers"

#: Options of sbatch that a group cannot have, and what to do instead.
REFUSED = {
    "nodes": "Use nodes_per_job.",
    "array": "Use max: raycluster submits as many jobs as are needed.",
    **dict.fromkeys(
        ("ntasks", "ntasks-per-node", "ntasks-per-gpu", "gpus-per-task"),
        "A worker has one task on each node: use --cpus-per-task and --gpus-per-node.",
    ),
    "gpus": "Use --gpus-per-node.",
    "clusters": "Worker jobs run in the Slurm cluster of the head's job.",
    **dict.fromkeys(
        (
            "wrap",
            "parsable",
            "wait",
            "test-only",
            "job-name",
            "output",
            "error",
            "export",
            "export-file",
            "chdir",
        ),
        "raycluster sets it itself; leave it out.",
    ),
    **dict.fromkeys(
        ("dependency", "begin", "hold", "requeue"), "A worker job is submitted when work waits for it."
    ),
}

#: Those with which the jobs are not the ones that raycluster counts and cancels.
_UNCOUNTED = ("nodes", "array", "ntasks", "ntasks-per-node", "wrap", "parsable", "wait", "test-only")


def read_worker_groups(path: Path) -> tuple[WorkerGroup, ...]:
    """The groups of a file, in its order; none where it has no [workers.NAME].  Raises UsageError."""
    return worker_groups(read_toml(path), str(path))


def worker_groups(tables: Mapping[str, Any], source: str) -> tuple[WorkerGroup, ...]:
    """The groups in the tables of the file that messages call ``source``.

    >>> worker_groups({"workers": {"gpu": {"sbatch": "-p gpu", "max": 8}}}, "cluster.toml")[0].sbatch
    ('--partition=gpu',)
    """
    found = tables.get(TABLE, {})
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise UsageError(
            f"{source}: {TABLE} must hold one table for each worker group.", "For example [workers.gpu]."
        )
    return tuple(_group(name, keys, f"{source}, [{TABLE}.{name}]") for name, keys in found.items())


def _group(name: str, keys: Mapping[str, Any], where: str) -> WorkerGroup:
    for key in keys:
        if key not in _KEYS:
            from difflib import get_close_matches

            near = [known for known in _KEYS if key.startswith(f"{known}_")]
            near = near or get_close_matches(key, _KEYS, 1, 0.6)
            raise UsageError(
                f"{where}: there is no key {key!r}.",
                f"Did you mean {near[0]}?" if near else f"The keys are {', '.join(_KEYS)}.",
            )
    if "max" not in keys:
        raise UsageError(f"{where}: max is missing.", "Give the most workers of this group, such as max = 8.")
    values = {}
    for key, value in keys.items():
        field, read = _KEYS[key]
        values[field] = read(value, f"{where}: {key}")
    each = values.get("nodes_per_job", 1)
    if 0 < values["max_workers"] < each:
        raise UsageError(
            f"{where}: max is {values['max_workers']}, and one job has {each} nodes.",
            f"max counts nodes: give {each} or a multiple of it.",
        )
    try:
        return WorkerGroup(name=name, **values)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}.".replace("..", "."), error.hint) from error


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{where} is {value!r}; it must be a whole number, 0 or more.")
    return value


def _span_s(value: object, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    if isinstance(value, str):
        return parse_span_s(where, value)
    raise UsageError(f'{where} is {value!r}; it must be seconds, or a time such as "10m".')


def _sbatch(value: object, where: str) -> tuple[str, ...]:
    """One text as on a command line, or a list of options."""
    if isinstance(value, str):
        words = []
    elif isinstance(value, list) and all(isinstance(each, str) for each in value):
        words = list(value)
    else:
        raise UsageError(
            f"{where} is {value!r}; it must be a text or a list of options.",
            'For example sbatch = "--partition=gpu --gpus-per-node=4".',
        )
    try:
        pairs = option_pairs(split_words(value) if isinstance(value, str) else words)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", error.hint) from error
    return _allowed(pairs, where, REFUSED)


def worker_options(text: str) -> tuple[str, ...]:
    """The options of --worker-sbatch, which may name an output of their own.  Raises UsageError."""
    hint = "Each worker job of --max-nodes has one node and one task; --config has groups of other kinds."
    return _allowed(
        option_pairs(split_words(text)),
        "--worker-sbatch",
        {**dict.fromkeys(_UNCOUNTED, hint), "clusters": REFUSED["clusters"]},
    )


def _allowed(pairs: Sequence[Pair], where: str, refused: Mapping[str, str]) -> tuple[str, ...]:
    for name, _ in pairs:
        if name in refused:
            raise UsageError(f"{where}: --{name} cannot be given for a worker group.", refused[name])
    return tuple(option_word(name, value) for name, value in pairs)


def _resources(value: object, where: str) -> dict[str, float]:
    """What a node has, in Ray's terms; memory in bytes or as a size such as "64G"."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is {value!r}; it must be a table.", "For example { CPU = 16, GPU = 4 }.")
    sizes = {
        name: float(parse_size_bytes(f"{where}.{name}", str(each)))
        for name, each in value.items()
        if name in ("memory", "object_store_memory")
    }
    own = {name: _amount(each, f"{where}.{name}") for name, each in value.items() if name in ("CPU", "GPU")}
    try:
        others = check_resources({name: each for name, each in value.items() if name not in {**sizes, **own}})
    except UsageError as error:
        raise UsageError(error.message.replace("--resources", where, 1), error.hint) from error
    return {**own, **sizes, **others}


def _amount(value: object, where: str) -> float:
    return float(_count(value, where))


def _labels(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise UsageError(f"{where} is {value!r}; it must be a table of texts.", 'For example { zone = "a" }.')
    try:
        return check_labels(value)
    except UsageError as error:
        raise UsageError(error.message.replace("--labels", where, 1), error.hint) from error


#: The keys of a group: the field of WorkerGroup, and how the value is read.
_KEYS: dict[str, tuple[str, Callable[[object, str], Any]]] = {
    "sbatch": ("sbatch", _sbatch),
    "min": ("min_workers", _count),
    "max": ("max_workers", _count),
    "idle_timeout": ("idle_timeout_s", _span_s),
    "drain_before": ("drain_before_s", _span_s),
    "nodes_per_job": ("nodes_per_job", _count),
    "resources": ("resources", _resources),
    "labels": ("labels", _labels),
}
