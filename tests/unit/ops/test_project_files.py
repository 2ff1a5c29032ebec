"""What `raycluster init` writes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raycluster_cli.cli.app import app
from raycluster_cli.config.profiles import read_configuration
from raycluster_cli.config.worker_groups import read_worker_groups
from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.ops.project_files import KINDS, next_steps, project_files, write_files

ALL = project_files(KINDS, "/venvs/my ray/bin/python")


def test_the_files_of_each_kind() -> None:
    always = ["symmetric.sbatch", "driver.py", "raycluster.toml"]
    expected = {
        "gpu": ["gpu.sbatch", "gpus.py"],
        "service": ["service.sbatch", "server.py"],
        "elastic": ["elastic.sbatch", "cluster.toml", "sweep.py"],
        "container": ["container.sbatch"],
    }
    assert [each.name for each in project_files((), "python")] == always
    for kind, more in expected.items():
        assert [each.name for each in project_files((kind,), "python")] == [*always, *more]


@pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.name))
def test_each_names_only_files_that_are_there(file: object) -> None:
    text = next(each.text for each in ALL if each is file)
    assert "examples/" not in text
    assert "slurm/" not in text
    names = {each.name for each in ALL}
    for word in text.replace("`", " ").split():
        if word.endswith((".sbatch", "driver.py", "server.py", "sweep.py", "gpus.py")):
            assert word.strip("\"'(),.") in names


@pytest.mark.parametrize(
    "file", [each for each in ALL if each.name.endswith(".sbatch")], ids=lambda f: f.name
)
def test_scripts_are_bash_and_name_the_environment(file: object) -> None:
    text = next(each.text for each in ALL if each is file)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    line = "command -v raycluster >/dev/null || export PATH='/venvs/my ray/bin':\"$PATH\"\n\n# What to run"
    assert line in text
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    commands = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(comments) > len(commands)


def test_the_drivers_are_programs() -> None:
    for each in ALL:
        if each.name.endswith(".py"):
            compile(each.text, each.name, "exec")


def test_the_configuration_can_be_read(tmp_path: Path) -> None:
    write_files(tmp_path, ALL)
    found = read_configuration([str(tmp_path / "raycluster.toml")], "small")
    assert found.sbatch["nodes"].value == "2"
    assert [group.name for group in read_worker_groups(tmp_path / "cluster.toml")] == ["cpu"]


def test_what_is_commented_out_can_be_read_too(tmp_path: Path) -> None:
    for name in ("raycluster.toml", "cluster.toml"):
        text = next(each.text for each in ALL if each.name == name)
        lines = [
            line[2:] if line.startswith("# ") and ("= " in line or line.startswith("# [")) else line
            for line in text.splitlines()
        ]
        (tmp_path / name).write_text("\n".join(lines))
    found = read_configuration([str(tmp_path / "raycluster.toml")], "gpu")
    assert (found.settings["on_worker_loss"].value, found.modules.value) == ("continue", ("cuda/12.4",))
    assert [group.name for group in read_worker_groups(tmp_path / "cluster.toml")] == ["cpu", "gpu"]


def test_no_file_is_overwritten_unless_told(tmp_path: Path) -> None:
    some = project_files((), "python")
    (tmp_path / "driver.py").write_text("mine")
    with pytest.raises(UsageError, match=r"driver\.py exists already; nothing was written") as refused:
        write_files(tmp_path, some)
    assert "--force" in refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["driver.py"]
    assert write_files(tmp_path, some, force=True) == ["driver.py"]
    assert write_files(tmp_path, some) == []  # they have this text already


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RayclusterError, match="cannot write to"):
        write_files(tmp_path / "file" / "x", ALL)


def test_next_steps_name_the_directory_and_the_kinds() -> None:
    commands = [command for command, _ in next_steps(Path("my project"), ["elastic"])]
    assert commands[0] == "cd 'my project'"
    assert "sbatch elastic.sbatch" in commands
    assert not any("gpu" in command for command in commands)
    assert not any(command.startswith("cd") for command, _ in next_steps(Path("."), []))


def test_the_command(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["init", str(tmp_path / "x"), "--service"])
    assert shown.exit_code == 0, shown.output
    names = {"symmetric.sbatch", "driver.py", "raycluster.toml", "service.sbatch", "server.py"}
    assert {path.name for path in (tmp_path / "x").iterdir()} == names
    assert f"cd {tmp_path}/x" in shown.stdout
    listed = CliRunner().invoke(app, ["init", "--list", str(tmp_path / "y")])
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [each.name for each in ALL]
    assert not (tmp_path / "y").exists()
