"""The examples in docstrings are true.  Those of the module that imports Ray: tests/ray/test_ray_start.py."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import raycluster_cli

MODULES = sorted(
    one.name
    for one in pkgutil.walk_packages(raycluster_cli.__path__, "raycluster_cli.")
    if ".private" not in one.name
)

NOT_HERE = ("__main__",)


@pytest.mark.parametrize("module", [name for name in MODULES if not name.endswith(NOT_HERE)])
def test_examples(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert failed == 0
