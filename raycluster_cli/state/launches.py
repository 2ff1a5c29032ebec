"""Requests to submit in the record: what passes between the autoscaler and `raycluster scale JOB --serve`.

======================  ==========================================================================
``launch/serving``      touched by `raycluster scale --serve` while it runs
``launch/N.json``       LaunchRequest: by the autoscaler, where Slurm's commands cannot be used
``launch/N.taken``      the same, once a server has taken it; rename(2), so only one can
``launch/N.reply.json`` LaunchReply: by the server that took it
======================  ==========================================================================
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..model.record import encode, read_json, value_of
from ..model.worker_job import LaunchReply, LaunchRequest
from .files import needs, read_bytes, stamp_of, write_whole

#: squeue's answer is long: some ten thousand jobs.
REPLY_MAX_BYTES = 64 << 20

_REQUEST = re.compile(r"([1-9]\d{0,14})\.json", re.ASCII)
_OF_A_REQUEST = re.compile(r"\d+\.(json|taken|reply\.json)", re.ASCII)


class LaunchFiles:
    """The requests in one record, given its directory.  Writers raise RayclusterError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def say_serving(self) -> None:
        """`raycluster scale --serve` is there; to be called every few seconds."""
        path = made(self.path / "launch") / "serving"
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise needs(path, error, "write") from error

    def end_serving(self) -> None:
        """Nobody serves any more.  Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self.path / "launch" / "serving")

    def serving_stamp(self) -> int | None:
        """When a server last said that it is there, in the file server's nanoseconds; None: there is none."""
        return stamp_of(self.path / "launch" / "serving")

    def write_request(self, request: LaunchRequest) -> None:
        write_whole(made(self.path / "launch") / f"{request.number}.json", encode(request).encode())

    def pending_requests(self) -> list[int]:
        """The numbers of the requests that no server has taken, the oldest first."""
        return sorted(int(match[1]) for name in self._launch_names() if (match := _REQUEST.fullmatch(name)))

    def take_request(self, number: int) -> LaunchRequest | None:
        """The request, which is this server's from now on; None when it is another's, or withdrawn."""
        taken = self.path / "launch" / f"{number}.taken"
        try:
            os.rename(self.path / "launch" / f"{number}.json", taken)
        except OSError:
            return None
        request = value_of(LaunchRequest, read_json(read_bytes(taken)))
        if request is None or not all(isinstance(value, str) for value in request.env.values()):
            return None
        return request

    def withdraw_request(self, number: int) -> bool:
        """True when no server had taken it, and none will."""
        try:
            os.unlink(self.path / "launch" / f"{number}.json")
        except OSError:
            return False
        return True

    def write_reply(self, reply: LaunchReply) -> None:
        write_whole(self.path / "launch" / f"{reply.number}.reply.json", encode(reply).encode())

    def read_reply(self, number: int) -> LaunchReply | None:
        data = read_bytes(self.path / "launch" / f"{number}.reply.json", REPLY_MAX_BYTES)
        return value_of(LaunchReply, read_json(data))

    def forget_request(self, number: int) -> None:
        """Remove a request that has been answered.  Never raises."""
        for name in (f"{number}.json", f"{number}.taken", f"{number}.reply.json"):
            with contextlib.suppress(OSError):
                os.unlink(self.path / "launch" / name)

    def forget_requests(self) -> None:
        """Remove what an autoscaler that has ended has left: nobody waits for the answers any more.

        A server would execute its last request, which holds the environment of the head's job.  Never raises.
        """
        for name in self._launch_names():
            if _OF_A_REQUEST.fullmatch(name):
                with contextlib.suppress(OSError):
                    os.unlink(self.path / "launch" / name)

    def _launch_names(self) -> list[str]:
        try:
            return os.listdir(self.path / "launch")
        except OSError:
            return []


def made(path: Path) -> Path:
    """The directory, made when missing.  Raises RayclusterError."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise needs(path, error, "make") from error
    return path
