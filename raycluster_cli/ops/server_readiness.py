"""Waiting from outside until a server (--service) is ready: `submit --wait-ready`, `url --wait`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import ExitCode, RayclusterError
from ..model.service import ServiceState
from ..model.text import printable
from ..state.record import Record
from .logs import Source, job_output

#: Between two looks into the record, and between two questions to Slurm: the controller is shared.
LOOK_S, ASK_SLURM_S = 0.5, 5.0

#: How much of the end of the output is read for its last line.
_END_BYTES = 8192

#: How many of the server's last lines are shown when it has failed.
LAST_LINES = 10

#: What `url` exits with while the server is not ready, by its state.
CODES = {
    ServiceState.READY.value: ExitCode.OK,
    ServiceState.STARTING.value: ExitCode.WORKERS_MISSING,
    ServiceState.RESTARTING.value: ExitCode.WORKERS_MISSING,
    ServiceState.UNHEALTHY.value: ExitCode.UNHEALTHY,
}


@dataclass(frozen=True)
class Waited:
    """What came of the wait."""

    status: ClusterStatus | None
    """None: nothing is known of the job (any more)."""
    ready: bool = False

    @property
    def is_over(self) -> bool:
        return self.status is None or self.status.is_over

    @property
    def code(self) -> int:
        """0 when it is ready; the job's code when it has ended, and never 0; else that of `url`."""
        if self.ready:
            return int(ExitCode.OK)
        if self.status is None or self.status.is_over:
            return (self.status.exit_code if self.status else None) or int(ExitCode.FAILURE)
        service = self.status.service
        return int(CODES.get(service.state, ExitCode.FAILURE) if service else ExitCode.WORKERS_MISSING)


def is_ready(status: ClusterStatus) -> bool:
    return status.service is not None and status.service.state == ServiceState.READY.value


def await_ready(
    look: Callable[[], ClusterStatus | None],
    tell: Callable[[ClusterStatus], object],
    *,
    timeout_s: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> Waited:
    """Look again and again until the server is ready, its cluster is over, or the time is.

    ``look`` gives None for a job of which nothing is known; ``tell`` is called with each status before that.
    Raises RayclusterError for a cluster whose driver is not a server.
    """
    deadline = None if timeout_s is None else clock() + timeout_s
    unknown_since: float | None = None
    while True:
        status = look()
        if status is None:  # a job that was submitted just now, or that Slurm has forgotten
            unknown_since = clock() if unknown_since is None else unknown_since
        else:
            unknown_since = None
            if is_ready(status):
                return Waited(status, ready=True)
            if status.is_over:
                return Waited(status)
            refuse_other_drivers(status)
            tell(status)
        if unknown_since is not None and clock() - unknown_since > 60.0:
            return Waited(None)
        if deadline is not None and clock() >= deadline:
            return Waited(status)
        sleep(LOOK_S)


def refuse_other_drivers(status: ClusterStatus) -> None:
    """Raise RayclusterError when the driver runs and is not a server."""
    if status.phase in (ClusterPhase.RUNNING, ClusterPhase.DEGRADED) and not status.is_service:
        raise RayclusterError(
            f"cluster {status.title} has no server: it was started without --service.",
            "Start it with --service, and give the server {port} as its port.",
        )


def last_line(status: ClusterStatus, state_dir: Path, env: Mapping[str, str]) -> str:
    """What the server said last; '' when that is not known."""
    lines = _end_of_output(status, state_dir, env)
    return lines[-1] if lines else ""


def last_lines(status: ClusterStatus, state_dir: Path, env: Mapping[str, str]) -> list[str]:
    """The last lines of the server's output."""
    return _end_of_output(status, state_dir, env)[-LAST_LINES:]


def _end_of_output(status: ClusterStatus, state_dir: Path, env: Mapping[str, str]) -> list[str]:
    if not status.record:
        return []
    with contextlib.suppress(RayclusterError, OSError):
        path = job_output(Record.open(Path(status.record)), state_dir, env)
        source = Source(path, "driver")
        with open(path, "rb") as file:
            file.seek(max(file.seek(0, 2) - _END_BYTES, 0))
            found = [line.strip() for line in file.read().replace(b"\r", b"\n").splitlines()]
        return [printable(line.decode("utf-8", "replace")) for line in found if line and source.wants(line)]
    return []
