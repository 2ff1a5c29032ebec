"""The examples in docstrings are true.  Those of the module that imports Ray: tests/ray/test_ray_start.py."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import raycluster_cli

ROOT = Path(raycluster_cli.__file__).parent

#: Those that have examples.  By their files: pkgutil.walk_packages imports the packages, and with
#: rayproc.private Ray.
MODULES = sorted(
    ".".join((ROOT.name, *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
    if "private" not in path.parts and ">>>" in path.read_text()
)

NOT_HERE = ("__main__",)


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith(NOT_HERE)])
def test_examples(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0
