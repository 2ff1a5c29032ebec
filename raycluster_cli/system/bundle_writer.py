"""Writes the bundle of modules that starts read (module_bundle.py), when it is missing or out of date."""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SourceFileLoader
from importlib.util import cache_from_source
from types import ModuleType

from .module_bundle import MAGIC, PACKAGE, is_installed, open_bundle, places, python, roots, times

#: Packages of raycluster whose modules a start may need; rayproc.private is for processes that import Ray.
PACKAGES = (
    *("", "model", "config", "system", "slurm", "policy", "state", "rayproc"),
    *("node", "supervisor", "cli"),
)

#: Not parts of Python's library, though they may lie below it.
_FOREIGN = ("site-packages", "dist-packages")

#: A file that is so old and still has its first name was left by a writer that was killed.
UNFINISHED_S = 3600.0

#: What comes before the code in a compiled module (PEP 552).
PYC_HEADER_BYTES = 16

#: (root, path below it, is a package)
Place = tuple[str, str, bool]


def refresh_bundle(env: Mapping[str, str], modules: Mapping[str, ModuleType]) -> str:
    """Write a bundle if there is none that is up to date; returns its path, or ''.

    ``modules``: what a start has imported; those of Python's library are taken.  Does nothing where
    PYTHONDONTWRITEBYTECODE is set, and in a checkout.  Raises OSError for files that cannot be read.
    """
    if sys.dont_write_bytecode or not is_installed(PACKAGE):
        return ""
    wanted = dict(own_modules()) | dict(library_modules(modules))
    compiled = extensions(modules)
    for path in places(env):
        with contextlib.suppress(OSError, ValueError, EOFError, TypeError, KeyError):
            bundle = open_bundle(path)
            if bundle is None:
                continue
            bundle.close()
            # Starts differ in what they import: what one of them needed stays.
            tables = bundle.tables
            kept = {name: place[:3] for name, place in tables["modules"].items() if place[0] == "library"}
            wanted, compiled = kept | wanted, tables["extensions"] | compiled
            if tables["sources"] == source_stamps(wanted) and tables["extensions"] == compiled:
                return ""
    stamps = source_stamps(wanted)
    wanted = in_order(wanted, list(modules))
    for path in places(env):
        try:
            write_bundle(path, wanted, compiled, stamps)
        except OSError:
            continue  # a directory that this user may not write to
        return path
    return ""


def in_order(wanted: Mapping[str, Place], imported: Iterable[str]) -> dict[str, Place]:
    """What this start has imported comes first, in its order; then what other starts need, a worker's first.

    >>> places = {name: ("raycluster", f"{name}/x.py", False) for name in ("cli", "b", "a", "policy")}
    >>> [*in_order(places, ["a", "sys", "b"])]
    ['a', 'b', 'policy', 'cli']
    """
    rank = {name: number for number, name in enumerate(imported)}

    def key(name: str) -> tuple[int, bool]:
        return rank.get(name, len(rank)), wanted[name][1].split("/")[0].split(".")[0] in ("cli", "config")

    return {name: wanted[name] for name in sorted(wanted, key=key)}


def own_modules() -> Iterator[tuple[str, Place]]:
    """raycluster's own modules."""
    for package in PACKAGES:
        for file in sorted(os.listdir(f"{PACKAGE}/{package}")):
            stem, suffix = os.path.splitext(file)
            if suffix == ".py" and (package or not stem.startswith("__main")):
                words = [os.path.basename(PACKAGE), package, "" if stem == "__init__" else stem]
                below = f"{package}/{file}" if package else file
                yield ".".join(word for word in words if word), ("raycluster", below, stem == "__init__")


def library_modules(modules: Mapping[str, ModuleType]) -> Iterator[tuple[str, Place]]:
    """Those of Python's library that are files with source."""
    library = roots()["library"]
    for name, module in list(modules.items()):
        spec = getattr(module, "__spec__", None)
        if spec is None or spec.name != name or not isinstance(spec.loader, SourceFileLoader):
            continue
        below = _below(library, spec.origin)
        if below:
            yield name, ("library", below, spec.submodule_search_locations is not None)


def extensions(modules: Mapping[str, ModuleType]) -> dict[str, tuple[str, str]]:
    """The compiled modules of Python's library: by name, root and path below it."""
    library = roots()["library"]
    return {
        name: ("library", below)
        for name, module in list(modules.items())
        if (spec := getattr(module, "__spec__", None)) is not None
        and spec.name == name
        and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))
        and (below := _below(library, spec.origin))
    }


def _below(library: str, origin: str | None) -> str:
    """The path below the library; '' for a file elsewhere, or of an installed package."""
    below = str(origin).removeprefix(f"{library}/")
    return "" if below == origin or below.split("/")[0] in _FOREIGN else below


def source_stamps(modules: Mapping[str, Place]) -> dict[str, tuple[int, int]]:
    """Time (ns) and size of each module's source.  Raises OSError."""
    there = roots()
    found = {name: os.stat(f"{there[root]}/{below}") for name, (root, below, _) in modules.items()}
    return {name: (stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def write_bundle(
    path: str,
    modules: Mapping[str, Place],
    compiled: Mapping[str, tuple[str, str]],
    stamps: Mapping[str, tuple[int, int]],
) -> None:
    """Write the bundle as a whole: a reader sees the old one or the new one.  Raises OSError."""
    there = roots()
    directories = [("raycluster", package) for package in PACKAGES]
    seen = times(dict.fromkeys([*directories, ("library", "os.py")], 0))
    table, chunks, offset = {}, [], 0
    for name, (root, below, is_package) in modules.items():
        file = f"{there[root]}/{below}"
        try:
            code = _compiled(name, file)
        except (SyntaxError, ValueError):
            continue  # left to Python
        table[name] = (root, below, is_package, offset, len(code))
        chunks.append(code)
        offset += len(code)
    tables = {
        "python": python(),
        "times": seen,
        "sources": dict(stamps),
        "modules": table,
        "extensions": dict(compiled),
    }
    head = marshal.dumps(tables)
    whole = len(MAGIC) + 16 + len(head) + offset
    sizes = len(head).to_bytes(8, "little") + whole.to_bytes(8, "little")
    _clear_unfinished(path)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file_:
            file_.write(b"".join([MAGIC, sizes, head, *chunks]))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _compiled(name: str, file: str) -> bytes:
    """A module's code as text of marshal.  Raises OSError, SyntaxError, ValueError."""
    code = SourceFileLoader(name, file).get_code(name)
    with contextlib.suppress(OSError, ValueError, EOFError, TypeError, NotImplementedError):
        with open(cache_from_source(file), "rb") as compiled:
            text = compiled.read()[PYC_HEADER_BYTES:]
        if marshal.loads(text) == code:
            return text  # two thirds as long as what marshal makes of code that was loaded
    return marshal.dumps(code)


def _clear_unfinished(path: str) -> None:
    """Remove what writers have left that were killed.  Raises OSError for a directory that is not there."""
    directory, name = os.path.split(path)
    for file in os.listdir(directory):
        if file.startswith(f"{name}."):
            with contextlib.suppress(OSError):
                if os.stat(f"{directory}/{file}").st_mtime < time.time() - UNFINISHED_S:
                    os.unlink(f"{directory}/{file}")
