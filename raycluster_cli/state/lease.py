"""The head's lease: of all processes that want to be the head of a record exactly one is, on NFS too.

``head.claim.N`` in the record's directory is a lease; the one with the highest N counts.  It is made with
link(2), so that only one process can succeed, and its holder touches it from time to time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ..model.errors import RayclusterError, UsageError
from ..model.record import Lease, decode, encode
from ..system.proctree import ProcessRef, identify, is_running, kernel_identity
from .files import needs, read_bytes, stamp_of, write_whole

HEARTBEAT_S = 30.0
"""How often the head touches its lease (:meth:`Leases.beat`)."""
KEPT_LEASES = 8
"""This many leases stay in a record."""
LEASE_STALE_S = 180.0
"""A lease not touched for this long has expired, if its holder cannot be seen from this host."""


class Leases:
    """The leases of one record.  All methods block on the file system."""

    def __init__(
        self, path: Path, has_ended: Callable[[], bool], *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """``path`` is the record's directory; ``has_ended`` says whether the cluster's end is recorded."""
        self.path = path
        self._has_ended = has_ended
        self._sleep = sleep
        self._mine: Path | None = None

    def take(
        self,
        *,
        host: str = "",
        pid: int = 0,
        alive: Callable[[ProcessRef], bool] = is_running,
        stale_s: float = LEASE_STALE_S,
    ) -> tuple[Lease, int]:
        """Become the head of this record.

        Returns the new lease and the number of the one before it (0: none).  Raises UsageError, which names
        the present head, when there is one.

        An earlier lease is over when the record has the cluster's end; when its holder ran in the same kernel
        and PID namespace as this process and no longer runs; or when the holder ran elsewhere and has not
        touched its lease for ``stale_s`` (by the file server's clock).
        """
        me = identify(pid or os.getpid())
        mine = Lease(
            host=host or socket.gethostname(),
            pid=me.pid if me else pid,
            create_time=me.start_ticks if me else 0,
            since=time.time(),
            **kernel_identity(),
            nonce=os.urandom(16).hex(),
        )
        for _ in range(20):
            number, holder = self._last()
            if holder is not None and not self._gone(number, holder, alive, stale_s):
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
                raise UsageError(
                    f"this job already has a head: raycluster on {holder.host}, pid {holder.pid}, "
                    f"since {since} ({self.path}).",
                    "Start only one head, or give a second cluster in the same allocation a --name.",
                )
            if self._make(number + 1, mine):
                self._mine = self._path_of(number + 1)
                return mine, number
        raise RayclusterError(
            f"could not become the head of {self.path}: other processes took the lease each time.",
            "Start only one head per job.",
        )

    def beat(self) -> None:
        """Touch the lease; the head does so every HEARTBEAT_S.  Never raises."""
        if self._mine is not None:
            with contextlib.suppress(OSError):
                os.utime(self._mine)

    def remove_old(self) -> None:
        """Remove leases of clusters that ended long before the last one.  Ignores errors.

        The last ones stay: a process that wants to be head may have looked at them just now, and would take
        a number that is free again.
        """
        with contextlib.suppress(OSError, RayclusterError):
            last = self._last_number()
            for name in os.listdir(self.path):
                number = name.removeprefix("head.claim.")
                if name != number and number.isdigit() and int(number) <= last - KEPT_LEASES:
                    os.unlink(self.path / name)

    def last_heartbeat(self) -> float | None:
        """When the head last touched its lease, in Unix seconds of the file server; None without a head."""
        try:
            stamp = stamp_of(self._path_of(self._last_number()))
        except (OSError, RayclusterError):
            return None
        return None if stamp is None else stamp / 1e9

    def holder(self) -> Lease | None:
        """The last lease, whether or not its holder still runs; None without one."""
        return self._last()[1]

    def is_held(
        self, *, alive: Callable[[ProcessRef], bool] = is_running, stale_s: float = LEASE_STALE_S
    ) -> bool:
        """Whether there is a head, by the rules of :meth:`take`.  Never raises."""
        try:
            number, holder = self._last()
            return holder is not None and not self._gone(number, holder, alive, stale_s)
        except RayclusterError:
            return False

    def has_expired(
        self, *, alive: Callable[[ProcessRef], bool] = is_running, stale_s: float = LEASE_STALE_S
    ) -> bool:
        """Whether there was a head, and is none any more, by the rules of :meth:`take`.

        Raises RayclusterError.
        """
        number, holder = self._last()
        return holder is not None and self._gone(number, holder, alive, stale_s)

    def _path_of(self, number: int) -> Path:
        return self.path / f"head.claim.{number}"

    def _last_number(self) -> int:
        """The number of the last lease; 0 without one."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise needs(self.path, error, "read") from error
        numbers = (name[11:] for name in names if name.startswith("head.claim."))
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def _last(self) -> tuple[int, Lease | None]:
        """The last lease and its number; 0 without one."""
        number = self._last_number()
        if not number:
            return 0, None
        for _ in range(20):
            data = read_bytes(self._path_of(number))
            if data:  # whole, or broken for good
                return number, decode(Lease, data)
            self._sleep(0.05)  # only where link(2) is not supported: its maker is about to write it
        return number, None

    def _make(self, number: int, mine: Lease) -> bool:
        """Whether ``mine`` became lease ``number``; link(2) succeeds for one process only, on NFS too."""
        path = self._path_of(number)
        data = encode(mine).encode()
        beside = self.path / f".head.claim.{mine.nonce}"
        write_whole(beside, data)
        try:
            try:
                os.link(beside, path)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise needs(path, error, "write") from error
                with contextlib.suppress(FileExistsError):  # no hard links on this file system: O_EXCL
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        os.write(fd, data)
                    finally:
                        os.close(fd)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        # If an NFS reply is lost, the repeated request fails with EEXIST: the content decides.
        found = decode(Lease, read_bytes(path))
        return found is not None and found.nonce == mine.nonce

    def _gone(self, number: int, holder: Lease, alive: Callable[[ProcessRef], bool], stale_s: float) -> bool:
        if self._has_ended():
            return True
        here = tuple(kernel_identity().values())
        if here[0] and here == (holder.boot_id, holder.pid_namespace):
            return not alive(ProcessRef(holder.pid, holder.create_time))
        try:
            return self._server_now() - os.stat(self._path_of(number)).st_mtime > stale_s
        except OSError:
            return False

    def head_runs_here(self) -> bool | None:
        """Whether the head's raycluster process runs; None when that cannot be seen from this host."""
        with contextlib.suppress(RayclusterError):
            holder = self.holder()
            here = tuple(kernel_identity().values())
            if holder is not None and here[0] and here == (holder.boot_id, holder.pid_namespace):
                return is_running(ProcessRef(holder.pid, holder.create_time))
        return None

    def _server_now(self) -> float:
        """The present time in Unix seconds, by the clock of the file server."""
        probe = self.path / f".now.{os.urandom(8).hex()}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                return os.stat(probe).st_mtime
            finally:
                os.unlink(probe)
        except OSError as error:
            raise needs(probe, error, "write") from error
