"""What one of Slurm's commands answers, for commands that people run: waits for it, with a deadline."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence

from ..system.programs import find_program

#: subprocess.run, or a stand-in for it.
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def answer_of(
    command: Sequence[str], env: Mapping[str, str], *, timeout_s: float, run: Run = subprocess.run
) -> subprocess.CompletedProcess[str] | None:
    """The ended command with its outputs; None when it is missing, cannot be started or takes longer.

    Blocks meanwhile: not for an event loop, which has :func:`.command.run_command`.
    """
    program = find_program(command[0], env)
    if program is None:
        return None
    try:
        return run(
            [program, *command[1:]],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
