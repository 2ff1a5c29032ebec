"""Imports go one way, from package to package and from module to module; no module is too long to read.

docs/architecture.md has the picture: `make import-graph` draws it from the same table.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import raycluster_cli

ROOT = Path(raycluster_cli.__file__).parent

#: What each package may import besides itself.  Nothing may import the console script or the public names.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "model": (),
    "config": ("model",),
    "system": ("model",),
    "slurm": ("model", "system"),
    "policy": ("model",),
    "state": ("model", "system"),
    "rayproc": ("model", "system"),
    "node": ("model", "system", "slurm", "state", "rayproc"),
    "service": ("model", "system"),
    "staging": ("model", "system", "state", "rayproc", "node"),
    "supervisor": (
        *("model", "config", "system", "slurm", "policy", "state", "rayproc"),
        *("node", "service", "autoscale", "staging"),
    ),
    "functions": ("model", "config", "system", "slurm", "policy", "state", "rayproc", "node", "supervisor"),
    "autoscale": ("model", "system", "slurm", "policy", "state", "rayproc"),
    "ops": ("model", "config", "system", "slurm", "policy", "state", "rayproc", "node"),
    "api": ("model", "system", "slurm", "policy", "state", "rayproc", "supervisor", "ops"),
    "cli": ("model", "config", "system", "slurm", "policy", "state", "rayproc", "node", "supervisor", "ops"),
}

#: What a user of the package sees at its top, and nothing else.
AT_THE_TOP = {"__init__.py", "__main__.py", "_version.py", "py.typed"}

MAX_LINES = 400

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def statements_in(statement: ast.AST) -> Iterator[ast.AST]:
    """The statements right below one, and the handlers and cases with more of them; no expressions."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        yield from getattr(statement, name, ())


@functools.cache
def imported(module: str) -> frozenset[str]:
    """The package's modules that a module imports: at its top, later, or for type checkers only.

    One that knows another's types depends on it, whether or not it is loaded.
    """
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    if path.parent == ROOT:
        package = []

    def walk(statement: ast.AST) -> Iterator[str]:
        for child in statements_in(statement):
            if isinstance(child, ast.ImportFrom):
                if child.level:
                    base = package[: len(package) - child.level + 1]
                elif (child.module or "").partition(".")[0] == "raycluster_cli":
                    base = []
                else:
                    base = None
                if base is not None:
                    words = (child.module or "").removeprefix("raycluster_cli").lstrip(".").split(".")
                    target = ".".join([*base, *(word for word in words if word)])
                    for alias in child.names:
                        full = f"{target}.{alias.name}".lstrip(".")
                        yield full if full in MODULES else target
            yield from walk(child)

    return frozenset(name for name in walk(ast.parse(path.read_text())) if name in MODULES) - {module}


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_each_package_imports_only_from_those_below_it() -> None:
    wrong = [
        f"{module} imports {needed}"
        for module in MODULES
        if package_of(module) in MAY_IMPORT
        for needed in imported(module)
        if needed != "_version"
        and package_of(needed) != package_of(module)
        and package_of(needed) not in MAY_IMPORT[package_of(module)]
    ]
    assert not wrong


def test_no_modules_import_each_other() -> None:
    graph = {module: set(imported(module)) for module in MODULES}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {module for module, needs in graph.items() if module not in done and needs <= done}
        assert free, f"these import each other: {sorted(set(graph) - done)}"
        done |= free


def test_every_package_has_its_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)
    assert {path.name for path in ROOT.iterdir() if path.is_file()} == AT_THE_TOP


def test_no_module_is_too_long_to_read() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}


def test_the_picture_has_the_imports_of_the_code() -> None:
    from docs import import_graph  # which imports this module

    drawn = import_graph.edges_of_the_picture(import_graph.PICTURE.read_text())
    assert drawn == import_graph.without_shortcuts(import_graph.edges_of_the_code()), "run: make import-graph"
