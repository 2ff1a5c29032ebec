"""Command lines in this process, with the errors and exit codes of the console script."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Mapping
from unittest import mock

from raycluster_cli.cli.app import run_command_line
from raycluster_cli.supervisor.launch import Launcher


def run_line(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """What a command prints, and its exit code; ``env`` is all that it has of an environment."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with (
        mock.patch.object(sys, "argv", ["raycluster", *words]),
        mock.patch.dict(os.environ, env or {}, clear=env is not None),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_command_line(Launcher(dict(os.environ)))
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(words, code or 0, out.getvalue(), err.getvalue())
