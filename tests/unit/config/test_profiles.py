"""Configuration files merged: which value wins, from where it is, and what is wrong in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.config.profiles import Configuration, merge, read_configuration
from raycluster_cli.model.errors import UsageError

SITE: dict[str, Any] = {
    "defaults": {"interface": "ib0", "timeout": 60, "sbatch": "-A site -p cpu", "modules": "raycluster/0.2"},
    "profiles": {"gpu": {"sbatch": "-p gpu --gpus-per-node=4", "on-worker-loss": "continue", "timeout": 600}},
}
USER: dict[str, Any] = {"defaults": {"timeout": 90, "setup": ["ulimit -c 0"], "tls": True}}
PROJECT: dict[str, Any] = {
    "defaults": {"timeout": 120, "sbatch": ["--account=mine"]},
    "profiles": {"gpu": {"timeout": 700}, "empty": {}},
}
FILES = [("/etc/raycluster.toml", SITE), ("config.toml", USER), ("raycluster.toml", PROJECT)]


def values(found: Configuration) -> dict[str, Any]:
    return {name: each.value for name, each in found.settings.items()}


def sbatch(found: Configuration) -> dict[str, Any]:
    return {name: each.value for name, each in found.sbatch.items()}


def test_the_project_overrides_the_user_and_the_user_the_site() -> None:
    found = merge(FILES)
    assert values(found) == {"interface": "ib0", "timeout": 120.0, "tls": True}
    assert found.settings["timeout"].source == "raycluster.toml, [defaults]"
    assert found.settings["interface"].source == "/etc/raycluster.toml, [defaults]"
    assert sbatch(found) == {"account": "mine", "partition": "cpu"}
    assert (found.modules.value, found.setup.value) == (("raycluster/0.2",), ("ulimit -c 0",))
    assert found.files == ("/etc/raycluster.toml", "config.toml", "raycluster.toml")


def test_a_profile_overrides_the_defaults_of_every_file() -> None:
    found = merge(FILES, "gpu")
    assert values(found)["timeout"] == 700.0
    assert values(found)["on_worker_loss"] == "continue"
    assert sbatch(found) == {"account": "mine", "partition": "gpu", "gpus-per-node": "4"}
    assert found.sbatch["partition"].source == "/etc/raycluster.toml, [profiles.gpu]"
    assert values(merge(FILES[:2], "gpu"))["timeout"] == 600.0


def test_a_file_can_choose_the_profile_and_a_given_one_overrides_it() -> None:
    chosen = [*FILES, ("x.toml", {"defaults": {"profile": "gpu"}})]
    found = merge(chosen)
    assert found.settings["profile"] == ("gpu", "x.toml, [defaults]")
    assert values(found)["timeout"] == 700.0
    assert values(merge(chosen, "empty"))["timeout"] == 120.0


def test_worker_groups_are_known() -> None:
    assert merge([("c.toml", {"workers": {"gpu": {"max": 2}}})]).groups_file == "c.toml"
    assert merge(FILES).groups_file == ""


@pytest.mark.parametrize(
    ("defaults", "expected"),
    [
        ({"resources": {"slots": 2}}, {"resources": '{"slots": 2}'}),
        ({"labels": "zone=a"}, {"labels": "zone=a"}),
        ({"memory": "4G", "state-dir": "~/records"}, {"memory": "4G", "state_dir": "~/records"}),
        ({"num_cpus": 4, "idle-timeout": 60}, {"num_cpus": 4, "idle_timeout": "60"}),
    ],
)
def test_values_are_those_of_the_options(defaults: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values(merge([("x.toml", {"defaults": defaults})])) == expected


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ({"defaults": {"tiemout": 1}}, "x.toml, [defaults]: there is no key 'tiemout'", "mean timeout?"),
        ({"defaults": {"on-worker-los": "x"}}, "no key 'on-worker-los'", "mean on-worker-loss?"),
        ({"profiles": {"a": {"zzz": 1}}}, "x.toml, [profiles.a]: there is no key 'zzz'", "sbatch, modules"),
        ({"timeout": 1}, "x.toml: there is no table or key 'timeout' here", "below [defaults]"),
        ({"profile": {"a": {}}}, "no table or key 'profile'", "Did you mean profiles?"),
        ({"profile": "a"}, "no table or key 'profile'", "[defaults]"),
        ({"profils": {"a": {}}}, "no table or key 'profils'", "mean profiles?"),
        ({"defaults": 1}, "defaults must be a table", "[defaults]"),
        ({"profiles": {"a": 1}}, "one table for each profile", "[profiles.gpu]"),
        ({"defaults": {"tls": "yes"}}, "[defaults]: tls is 'yes'; it must be true or false", ""),
        ({"defaults": {"num-cpus": True}}, "num-cpus is True; it must be a whole number", ""),
        ({"defaults": {"timeout": "60"}}, "timeout is '60'; it must be a number", ""),
        ({"defaults": {"interface": ["a"]}}, "interface is ['a']; it must be a text", "quotes"),
        ({"defaults": {"modules": 3}}, "modules is 3", ""),
        ({"defaults": {"sbatch": "word"}}, "x.toml, [defaults]: sbatch: 'word' belongs to no option", ""),
        ({"defaults": {"sbatch": "--wrap=x"}}, "--wrap cannot be given in a file", "Leave it out"),
        ({"defaults": {"local": 2}}, "local cannot be set in a file", "command line"),
        ({"defaults": {"state-dir": "here"}}, "it must be an absolute path", ""),
        (
            {"profiles": {"a": {"state-dir": "/x"}}},
            "state-dir cannot be set in a profile",
            "raycluster status",
        ),
        ({"profiles": {"a": {"profile": "b"}}}, "profile cannot be set in a profile", "[defaults]"),
        ({"workers": {"a": {"maxx": 1}}}, "x.toml, [workers.a]: there is no key 'maxx'", "mean max?"),
    ],
)
def test_what_is_wrong_is_named_with_file_table_and_key(
    content: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        merge([("x.toml", content)])
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("files", "name", "hint"),
    [
        (FILES, "gup", "Did you mean gpu?"),
        (FILES, "xyz", "The profiles are gpu, empty."),
        ([], "gpu", "There is no configuration file"),
        ([("config.toml", USER)], "gpu", "No table [profiles.NAME] is in config.toml"),
        (FILES, "energy", "SBATCH_PROFILE=energy"),
    ],
)
def test_a_profile_that_is_not_there(files: list[tuple[str, Any]], name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"there is no profile '{name}'") as refused:
        merge(files, name)
    assert hint in refused.value.hint


def test_the_file_of_the_command_line_is_the_strongest(tmp_path: Path) -> None:
    for name, timeout in (("a", 1), ("b", 2)):
        (tmp_path / name).write_text(f"[defaults]\ntimeout = {timeout}\n")
    assert values(read_configuration([str(tmp_path / "b")], extra=str(tmp_path / "a"))) == {"timeout": 1.0}


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file of another user")
def test_a_strangers_file_in_a_directory_of_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raycluster.toml"
    path.write_text("")
    os.chown(path, 12345, 12345)
    assert read_configuration([str(path)]).files == (str(path),)
    tmp_path.chmod(0o1777)
    with pytest.raises(UsageError, match="belongs to another user"):
        read_configuration([str(path)])


def test_a_file_that_every_user_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "raycluster.toml"
    path.write_text("")
    path.chmod(0o664)
    assert read_configuration([str(path)]).files == (str(path),)
    path.chmod(0o666)
    with pytest.raises(UsageError, match="every user can write to") as error:
        read_configuration([str(path)])
    assert error.value.hint == f"Run `chmod o-w {path}`."
