"""What is remembered of a submitted job."""

from __future__ import annotations

import os
import time
from pathlib import Path

from raycluster_cli.state.submitted import KEEP_S, output_of, remember


def test_the_output_of_a_submitted_job_is_found_again(tmp_path: Path) -> None:
    state = tmp_path / "below" / "state"
    remember(state, "7", "/shared/train-7.out", ["python", "train.py"])
    assert output_of(state, "7") == "/shared/train-7.out"
    assert output_of(state, "8") == ""
    assert (state / "submitted" / "7").stat().st_mode & 0o777 == 0o600


def test_old_files_are_removed_with_the_next_job(tmp_path: Path) -> None:
    assert remember(tmp_path, "7", "/a", []) == ""
    old = time.time() - KEEP_S - 10
    os.utime(tmp_path / "submitted" / "7", (old, old))
    remember(tmp_path, "8", "/b", [])
    assert [path.name for path in (tmp_path / "submitted").iterdir()] == ["8"]


def test_what_cannot_be_written_or_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert remember(tmp_path / "file", "7", "/a", []) == f"{tmp_path}/file: File exists"
    assert output_of(tmp_path / "file", "7") == ""
    (tmp_path / "submitted").mkdir()
    for text in ("", "[]", "{}", '{"output'):
        (tmp_path / "submitted" / "7").write_text(text)
        assert output_of(tmp_path, "7") == ""
