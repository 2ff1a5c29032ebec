"""Imports of the package go one way, and what starts a node imports nothing that it does not use."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raycluster_cli

PACKAGE = Path(raycluster_cli.__file__).parent
MODULES = sorted(
    {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/*.py")}
)


@functools.cache
def imported(module: str) -> set[str]:
    """The package's modules that a module imports, at its top or later, but for type checkers only."""

    def walk(node: ast.AST, level: int) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and child.level == level:
                if child.module:
                    yield child.module.partition(".")[0]
                else:
                    yield from (alias.name for alias in child.names)
            yield from walk(child, level)

    if (PACKAGE / f"{module}.py").exists():
        found = set(walk(ast.parse((PACKAGE / f"{module}.py").read_text()), 1))
    else:
        found = {
            name for path in (PACKAGE / module).glob("*.py") for name in walk(ast.parse(path.read_text()), 2)
        }
    return found & set(MODULES)


def test_imports_go_one_way() -> None:
    graph = {module: imported(module) for module in MODULES}
    done: set[str] = set()
    while len(done) < len(graph):
        free = {module for module, needs in graph.items() if module not in done and needs <= done}
        assert free, f"these import each other: {sorted(set(graph) - done)}"
        done |= free


def test_the_documentation_has_every_module_in_the_order_of_imports() -> None:
    text = (PACKAGE.parent / "docs" / "how-it-works.md").read_text()
    rows = [line.split("|")[1] for line in text[text.index("| Module |") :].splitlines() if "|" in line][2:]
    row_of = {
        name.strip().replace("\\", ""): number for number, row in enumerate(rows) for name in row.split(",")
    }
    assert set(MODULES) - {"__init__"} == set(row_of)
    for module, row in row_of.items():
        assert all(row_of[needed] <= row for needed in imported(module)), module


@pytest.mark.parametrize("module", ["launch", "plain", "head", "worker", "lifecycle", "local"])
def test_a_supervisor_imports_neither_ray_nor_rich_nor_typer(module: str) -> None:
    code = f"import sys, raycluster_cli.{module}; print(*(set(sys.modules) & {{'ray', 'rich', 'typer'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
