"""RAYCLUSTER_ variables: which are known, and what is said of the others."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import raycluster_cli
from raycluster_cli.model.settings import Settings, variable_name
from raycluster_cli.model.variables import OWN, unknown_variables


def test_every_variable_that_the_package_uses_is_known() -> None:
    package = Path(raycluster_cli.__file__).parent
    used = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r"[\"'](RAYCLUSTER_[A-Z_]+)[\"']", path.read_text())
    }
    used -= {"RAYCLUSTER_TIMOUT"}  # an example
    assert used >= OWN
    assert unknown_variables(dict.fromkeys(used, "1")) == ""


def test_all_settings_are_known() -> None:
    assert unknown_variables({variable_name(one.name): "1" for one in fields(Settings)}) == ""


def test_names_that_have_only_the_prefix_in_common() -> None:
    assert (
        unknown_variables({"RAYCLUSTER_FOO": "1"}) == "RAYCLUSTER_FOO has no effect: no option has this name"
    )


def test_one_warning_for_all() -> None:
    assert unknown_variables({"RAYCLUSTER_TIMOUT": "1", "RAYCLUSTER_NETWROK": "x"}) == (
        "RAYCLUSTER_NETWROK, RAYCLUSTER_TIMOUT have no effect: no option has these names; "
        "did you mean RAYCLUSTER_NETWORK, RAYCLUSTER_TIMEOUT?"
    )
