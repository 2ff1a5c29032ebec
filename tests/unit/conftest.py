"""How pytest-xdist shares out the unit tests: a module stays in one process, and so does all of system."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import typer.main
import typer.testing

#: Ports are the whole machine's: tests that count those in use must not run at a time.
TOGETHER = Path(__file__).parent / "system"

#: Typer makes all commands anew for each call, which is most of the time that it takes.
typer.main.get_command = functools.cache(typer.main.get_command)
typer.testing._get_command = typer.main.get_command


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.has_plugin("xdist"):
        return  # not there beside the oldest dependencies
    for item in items:
        group = TOGETHER if TOGETHER in item.path.parents else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))
