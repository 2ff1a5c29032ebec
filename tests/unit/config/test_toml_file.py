"""One TOML file, with errors that name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.config.toml_file import read_toml
from raycluster_cli.model.errors import UsageError


def test_a_file_becomes_tables(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('[workers.gpu]\nmax = 8\nsbatch = ["--partition=gpu"]\n')
    assert read_toml(path) == {"workers": {"gpu": {"max": 8, "sbatch": ["--partition=gpu"]}}}


@pytest.mark.parametrize("content", [b"max = ", b"\xff\xfe", b"a" * (1 << 20) + b" = 1"])
def test_what_is_not_toml_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cluster.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"cluster\.toml"):
        read_toml(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        read_toml(tmp_path / "none.toml")


def test_a_message_is_a_sentence_before_its_hint(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_toml(tmp_path)
    assert str(error.value) == f"cannot read the configuration file {tmp_path}: Is a directory."
