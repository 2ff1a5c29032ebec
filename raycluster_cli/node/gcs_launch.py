"""Starts a GCS again exactly as it was started before (--head-recovery)."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ..model.address import host_of, port_of
from ..model.errors import RayclusterError
from ..model.value import Value
from ..rayproc.daemon_signals import ignore_user_signals
from ..rayproc.health import Outcome, tcp_probe
from ..system.process import Child, Reaper

#: How long a GCS that was started again may take to listen.
GCS_START_S = 20.0


class GcsLaunch(Value):
    """How a running GCS was started, read from /proc."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    output: str
    error: str

    @classmethod
    def of(cls, pid: int) -> GcsLaunch:
        """Raises OSError when the process has ended."""
        proc = Path(f"/proc/{pid}")
        argv = (proc / "cmdline").read_bytes().split(b"\0")[:-1]
        if not argv:  # it has ended, or is about to execute its program
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        pairs = [pair.partition(b"=") for pair in (proc / "environ").read_bytes().split(b"\0") if pair]
        return cls(
            argv=tuple(os.fsdecode(part) for part in argv),
            env={os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs},
            cwd=os.readlink(proc / "cwd"),
            output=os.readlink(proc / "fd/1"),
            error=os.readlink(proc / "fd/2"),
        )

    def spawn(self, reaper: Reaper) -> Child:
        """The same program with the same arguments, environment and logs.  Raises OSError."""
        outputs: list[int] = []
        try:
            for path in (self.output, self.error):
                outputs.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            return reaper.spawn(
                self.argv,
                "gcs_server",
                env=dict(self.env),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                start_new_session=True,
                preexec_fn=ignore_user_signals,
            )
        finally:
            for fd in outputs:
                os.close(fd)

    async def listening(self, child: Child, address: str, timeout_s: float = GCS_START_S) -> None:
        """Wait until the new GCS listens at host:port; it is ended when it does not (RayclusterError)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            probe = await tcp_probe(host_of(address), port_of(address), timeout_s=1.0)
            if probe.outcome is Outcome.REACHED:
                return
            if not child.running or loop.time() > deadline:
                await child.stop(0.0)
                raise RayclusterError("the GCS did not start again.", f"Its log is {self.error}.")
            await asyncio.sleep(0.02)
