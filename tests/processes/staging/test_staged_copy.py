"""A copy of the environment that another process uses stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from raycluster_cli.node.staged_copy import (
    remove_own_copy,
)
from tests.unit.staging.test_staged_copy import NAME, made


def test_a_copy_that_others_use_stays(tmp_path: Path) -> None:
    os.close(made(tmp_path / NAME))
    code = (
        "import sys, pathlib, raycluster_cli.node.staged_copy as s; s.open_copy(pathlib.Path(sys.argv[1]));"
    )
    code += "print('locked', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        remove_own_copy(str(tmp_path / NAME / "env"))
        assert (tmp_path / NAME).exists()
        other.communicate()
    remove_own_copy(str(tmp_path / NAME / "env"))
    assert not (tmp_path / NAME).exists()
