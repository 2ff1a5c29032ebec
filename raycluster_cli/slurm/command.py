"""Runs one of Slurm's commands for a supervisor: off its event loop, with a deadline."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO

from ..model.errors import RayclusterError
from ..system.process import Reaper
from ..system.waiting import find_within

#: How long scontrol or srun may take; slurmctld can be busy, and the cluster works without the answer.
COMMAND_TIMEOUT_S = 30.0

#: How long output may arrive after the command has ended: a site's wrapper of srun can leave a process behind
#: that keeps the pipe open.
DRAIN_S = 0.5


async def run_command(
    command: Sequence[str],
    env: Mapping[str, str],
    reaper: Reaper,
    *,
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> tuple[int, str]:
    """Exit code and output (stdout and stderr together) of a command; times in it are Unix seconds.

    Raises RayclusterError when the command is not in PATH, cannot be started or takes longer than
    ``timeout_s``; it is killed then, as it is when the caller is cancelled.
    """
    name = command[0]
    program = await find_within(name, env, timeout_s=timeout_s)
    if program is None:
        raise RayclusterError(f"{name} was not found in PATH (in a container it is often missing).")
    try:
        child = reaper.spawn(
            [program, *command[1:]],
            name,
            env={**env, "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise RayclusterError(f"{name} could not be started: {error.strerror}.") from error
    assert child.stdout is not None
    output = bytearray()
    reading = asyncio.ensure_future(_read_all(child.stdout, output))
    try:
        await asyncio.wait({child.exited}, timeout=timeout_s)
        answered = child.exited.done()
        if answered:
            await asyncio.wait({reading}, timeout=DRAIN_S)
    finally:
        code = await child.stop(0.0, ask=0)
        reading.cancel()
    if code is None or not answered:
        raise RayclusterError(f"{name} did not answer within {timeout_s:g} s.")
    return code, output.decode("utf-8", "replace")


async def _read_all(stdout: IO[bytes], output: bytearray) -> None:
    """Put the output of a child into ``output`` until all have closed it, or until cancelled."""
    stream = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), stdout)
    try:
        while chunk := await stream.read(65536):
            output += chunk
    finally:
        pipe.close()
