"""Configuration files on the command line: options beat variables, variables beat files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raycluster_cli.cli.plain import read_line
from raycluster_cli.model.errors import UsageError
from raycluster_cli.ops.chosen_settings import state_dir_of_files, with_files
from raycluster_cli.state.location import configuration_files, configuration_paths
from tests.unit.cli.test_plain import by_typer

FILE = """
[defaults]
timeout = 60
grace = 5
max-retries = 7
[profiles.slow]
timeout = 600
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "raycluster.toml").write_text(FILE)
    return tmp_path


LINES: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("run", {}, {"timeout": 60.0, "grace": 5.0}),
    ("run --timeout=3", {}, {"timeout": 3.0, "grace": 5.0}),
    ("run", {"RAYCLUSTER_TIMEOUT": "4"}, {"timeout": 4.0, "grace": 5.0}),
    ("run --timeout=3", {"RAYCLUSTER_TIMEOUT": "4"}, {"timeout": 3.0}),
    ("run --profile=slow", {}, {"timeout": 600.0, "profile": "slow"}),
    ("run", {"RAYCLUSTER_PROFILE": "slow"}, {"timeout": 600.0}),
    ("worker", {}, {"timeout": 60.0, "max_retries": 7, "grace": 10.0}),
    ("run --no-config-files", {}, {"timeout": 300.0}),
    ("run --no-config-files --profile=none", {}, {"timeout": 300.0}),
    ("run", {"RAYCLUSTER_CONFIG_FILES": "0"}, {"timeout": 300.0}),
]


@pytest.mark.parametrize(("line", "env", "expected"), LINES)
def test_both_readers_put_files_below_variables_and_options(
    line: str, env: dict[str, str], expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_line(line.split(), env)
    assert plain is not None
    assert {name: getattr(plain.settings, name) for name in expected} == expected
    assert by_typer(line.split(), env, monkeypatch) == plain


def test_a_mistyped_key_is_left_to_typer_which_names_it(project: Path) -> None:
    (project / "raycluster.toml").write_text("[defaults]\ntiemout = 3\n")
    assert read_line(["run"], {}) is None
    with pytest.raises(UsageError, match=r"raycluster\.toml, \[defaults\]: there is no key 'tiemout'"):
        with_files("run", {}, {})


def test_a_value_that_cannot_be_is_told_with_its_file(project: Path) -> None:
    (project / "raycluster.toml").write_text("[defaults]\ntimeout = -3\n")
    with pytest.raises(UsageError, match=r"raycluster\.toml, \[defaults\]: --timeout is -3"):
        with_files("run", {}, {})
    assert with_files("run", {"timeout": 3.0}, {}).values == {"timeout": 3.0}


@pytest.mark.parametrize(
    ("given", "config"),
    [({}, "raycluster.toml"), ({"local": 2}, None), ({"config": "other.toml"}, "other.toml")],
)
def test_worker_groups_of_the_project(project: Path, given: dict[str, Any], config: str | None) -> None:
    (project / "raycluster.toml").write_text("[workers.gpu]\nmax = 3\n")
    (project / "other.toml").write_text("[workers.cpu]\nmax = 3\n")
    assert with_files("run", given, {}).values.get("config") == config


def test_worker_groups_of_a_site_are_refused(project: Path) -> None:
    (project / "site.toml").write_text("[workers.gpu]\nmax = 3\n")
    with pytest.raises(UsageError, match="worker groups are those of a project"):
        with_files("run", {}, {"RAYCLUSTER_SITE_FILE": str(project / "site.toml")})


def test_where_files_are(project: Path) -> None:
    env = {"HOME": "/h", "XDG_CONFIG_HOME": "/x", "RAYCLUSTER_SITE_FILE": "/s.toml"}
    assert configuration_paths(env) == ["/s.toml", "/x/raycluster/config.toml", "raycluster.toml"]
    assert configuration_paths({}) == ["/etc/raycluster.toml", "raycluster.toml"]
    del env["RAYCLUSTER_SITE_FILE"]
    assert configuration_files({**env, "XDG_CONFIG_HOME": "relative"}) == ["raycluster.toml"]


def test_a_site_file_that_is_not_there_is_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env = {"RAYCLUSTER_SITE_FILE": "/no/site.toml"}
    message = "RAYCLUSTER_SITE_FILE is '/no/site.toml'; there is no such file."
    with pytest.raises(UsageError) as error:
        with_files("run", {}, env)
    assert error.value.message == message
    assert read_line(["run"], env) is None
    assert state_dir_of_files(env) == ""  # status and stop go on
    assert f"warning: {message}" in capsys.readouterr().err


def test_every_command_finds_the_records(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from raycluster_cli.cli.app import app

    records = project / "records"
    records.mkdir()
    (project / "raycluster.toml").write_text(f'[defaults]\nstate-dir = "{records}"\n')
    shown = CliRunner().invoke(app, ["status"], env={"RAYCLUSTER_STATE_DIR": None})
    assert f"No clusters in {records}" in shown.output
    assert state_dir_of_files({}) == str(records)
    (project / "raycluster.toml").write_text("[defaults]\ntiemout = 3\n")
    assert state_dir_of_files({}) == ""
    assert "warning: raycluster.toml, [defaults]: there is no key 'tiemout'" in capsys.readouterr().err


def test_the_dry_run_shows_every_value_with_its_source(project: Path) -> None:
    from raycluster_cli.cli.app import app

    (project / "raycluster.toml").write_text(
        '[profiles.slow]\nsbatch = "-p cpu -t 60"\ntimeout = 600\nsetup = ["ulimit -c 0"]\n'
    )
    words = ["submit", "--profile", "slow", "-p", "debug", "--dry-run", "--", "true"]
    shown = CliRunner().invoke(app, words, env={"SBATCH_TIMELIMIT": None, "SBATCH_PARTITION": None})
    assert shown.exit_code == 0, shown.output
    assert "#SBATCH --time=60\n#SBATCH -p debug\n" in shown.stdout
    assert " run --no-config-files --timeout=600 \\\n" in shown.stdout
    assert "\nulimit -c 0\n" in shown.stdout
    for line in (
        "--partition=debug  (option)",
        "--time=60  (raycluster.toml, [profiles.slow])",
        "--timeout=600  (raycluster.toml, [profiles.slow])",
        "--profile=slow  (option)",
        "setup=ulimit -c 0  (raycluster.toml, [profiles.slow])",
    ):
        assert line in shown.stderr.splitlines()


def test_init_does_not_write_to_the_state_directory_of_a_file(project: Path) -> None:
    from raycluster_cli.cli.app import app

    site = project / "site.toml"
    site.write_text(f'[defaults]\nstate-dir = "{project}/records"\n')
    (project / "raycluster.toml").unlink()
    done = CliRunner().invoke(app, ["init"], env={"RAYCLUSTER_SITE_FILE": str(site)})
    assert done.exit_code == 0, done.output
    assert (project / "symmetric.sbatch").exists()
    assert not (project / "records").exists()


@pytest.mark.parametrize(("line", "warnings"), [("status", 1), ("env", 0), ("init --list", 0)])
def test_only_commands_that_look_at_clusters_warn_of_a_wrong_file(
    project: Path, line: str, warnings: int
) -> None:
    from raycluster_cli.cli.app import app

    (project / "raycluster.toml").write_text("[defaults]\ntimout = 3\n")
    done = CliRunner().invoke(app, line.split())
    assert done.stderr.count("warning: raycluster.toml, [defaults]: there is no key") == warnings


@pytest.mark.parametrize(
    ("content", "words", "start"),
    [
        ('memory = "lots"', [], "raycluster.toml, [defaults]: --memory is 'lots'"),
        ('memory = "lots"', ["--memory=more"], "--memory is 'more'"),
        ("", ["-W"], "sbatch's -W cannot be given"),
        ("", ["--wrap=hostname"], "sbatch's --wrap cannot be given: its command would run instead of the"),
        ("resources = { a = 0.5 }", [], "raycluster.toml, [defaults]: --resources: found a=0.5"),
    ],
)
def test_what_cannot_be_submitted_names_the_file_that_it_is_from(
    project: Path, content: str, words: list[str], start: str
) -> None:
    from raycluster_cli.cli.app import app

    (project / "raycluster.toml").write_text(f"[defaults]\n{content}\n")
    done = CliRunner().invoke(app, ["submit", *words, "--dry-run", "--", "true"], standalone_mode=False)
    assert isinstance(done.exception, UsageError)
    assert done.exception.message.startswith(start)
