"""Programs in PATH: what a shell runs, and what is not found."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.system.programs import find_program, missing_interpreter


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH of three directories, of which the first does not exist; tool is in both others."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "b/tool").chmod(0o700)
    (tmp_path / "a/directory").mkdir()
    return ":".join(str(tmp_path / name) for name in ("missing", "a", "b"))


def test_the_first_that_can_be_run(path: str, tmp_path: Path) -> None:
    assert find_program("tool", {"PATH": path}) == f"{tmp_path}/b/tool"


@pytest.mark.parametrize("name", ["directory", "nothing", ""])
def test_what_is_not_a_program(name: str, path: str) -> None:
    assert find_program(name, {"PATH": path}) is None


def test_a_path_is_not_looked_up(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_program("b/tool", {"PATH": path}) == "b/tool"
    assert find_program("a/tool", {"PATH": path}) is None  # not executable


def test_an_empty_path_is_not_the_working_directory(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "b")
    assert find_program("tool", {"PATH": ""}) is None


def test_without_path_the_systems_own_directories() -> None:
    assert find_program("sh", {}) in ("/bin/sh", "/usr/bin/sh")


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"#!/bin/sh\n", ""),
        (b"#!/bin/sh", ""),
        (b"#! /no/such/python -u\n", "/no/such/python"),
        (b"#!/bin/sh\r\n", "/bin/sh\r"),
        (b"#!/no/\xff\n", "/no/\udcff"),
        (b"#!\n", ""),
        (b"\x7fELF", ""),
        (b"", ""),
    ],
)
def test_the_interpreter_of_a_script_is_looked_for(tmp_path: Path, content: bytes, missing: str) -> None:
    (tmp_path / "script").write_bytes(content)
    assert missing_interpreter(str(tmp_path / "script")) == missing


def test_a_file_that_cannot_be_read_names_no_interpreter(tmp_path: Path) -> None:
    assert missing_interpreter(str(tmp_path / "nothing")) == ""
