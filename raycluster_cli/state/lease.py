"""The place of the head: of all that ask for it at once exactly one gets it, on NFS too.

``head.claim.N`` in the record's directory says who is head; the highest N counts.  It is made
with link(2), so that only one can win, and touched by its holder now and then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from ..model.errors import RayclusterError, UsageError
from ..model.record import Lease, decode, encode
from ..system.proctree import ProcessRef, identify, is_running, kernel_identity
from .files import needs, read_bytes, write_whole

HEARTBEAT_S = 30.0
"""How often the head touches its claim (:meth:`Leases.beat`)."""
CLAIM_STALE_S = 180.0
"""A claim of a process that cannot be seen from here counts as gone after this long without a beat."""


class Leases:
    """The claims to be head in one record."""

    def __init__(self, path: Path, has_ended: Callable[[], bool]) -> None:
        """``path`` is the record's directory; ``has_ended`` tells whether the record says how it ended."""
        self.path = path
        self._has_ended = has_ended
        self._claim: Path | None = None

    def take(
        self,
        *,
        host: str = "",
        pid: int = 0,
        alive: Callable[[ProcessRef], bool] = is_running,
        stale_s: float = CLAIM_STALE_S,
    ) -> tuple[Lease, int]:
        """Become the head of this record, or UsageError naming the one that is.

        Returns the claim and the number of the one before it (0: there was none).

        The earlier holder is gone when the record says how it ended; when it ran under the
        same kernel and pid namespace and no such process lives; or when it ran elsewhere and
        has not touched its claim for ``stale_s`` (by the file server's clock).
        """
        me = identify(pid or os.getpid())
        mine = Lease(
            host=host or socket.gethostname(),
            pid=me.pid if me else pid,
            create_time=me.start_ticks if me else 0,
            since=time.time(),
            **kernel_identity(),
            nonce=secrets.token_hex(16),
        )
        for _ in range(20):
            number, holder = self._last_claim()
            if holder is not None and not self._gone(number, holder, alive, stale_s):
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
                raise UsageError(
                    f"this job already has a head: raycluster on {holder.host}, pid {holder.pid}, "
                    f"since {since} ({self.path}).",
                    "Start only one head, or give a second cluster of the same allocation a --name.",
                )
            if self._make_claim(number + 1, mine):
                self._claim = self._claim_path(number + 1)
                return mine, number
        raise RayclusterError(
            f"could not become the head of {self.path}: others claimed it again and again.",
            "Start only one head per job.",
        )

    def beat(self) -> None:
        """Touch the claim; the head does so every HEARTBEAT_S.  Never raises."""
        if self._claim is not None:
            with contextlib.suppress(OSError):
                os.utime(self._claim)

    def heard(self) -> float | None:
        """When the head last touched its claim, in the file server's Unix seconds; None: no head yet."""
        try:
            return os.stat(self._claim_path(self._last_claim_number())).st_mtime
        except (OSError, RayclusterError):
            return None

    def holder(self) -> Lease | None:
        """Who last claimed to be head (alive or not)."""
        return self._last_claim()[1]

    def _claim_path(self, number: int) -> Path:
        return self.path / f"head.claim.{number}"

    def _last_claim_number(self) -> int:
        """The highest claim's number; 0: none yet."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise needs(self.path, error, "read") from error
        claims = (name[11:] for name in names if name.startswith("head.claim."))
        return max((int(number) for number in claims if number.isdigit()), default=0)

    def _last_claim(self) -> tuple[int, Lease | None]:
        """The highest claim's number (0: none yet) and holder."""
        number = self._last_claim_number()
        if not number:
            return 0, None
        for _ in range(20):
            claim = decode(Lease, read_bytes(self._claim_path(number)))
            if claim is not None:
                return number, claim
            time.sleep(0.05)  # only where link(2) is missing: its maker is about to fill it
        return number, None

    def _make_claim(self, number: int, mine: Lease) -> bool:
        """Whether ``mine`` became claim ``number``: link(2) lets only one win, on NFS too."""
        path = self._claim_path(number)
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
                with contextlib.suppress(FileExistsError):  # no hard links here: O_EXCL instead
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        os.write(fd, data)
                    finally:
                        os.close(fd)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        # An NFS reply can be lost and the repeated request then fail with EEXIST: what is there counts.
        found = decode(Lease, read_bytes(path))
        return found is not None and found.nonce == mine.nonce

    def _gone(self, number: int, holder: Lease, alive: Callable[[ProcessRef], bool], stale_s: float) -> bool:
        if self._has_ended():
            return True
        here = tuple(kernel_identity().values())
        if here[0] and here == (holder.boot_id, holder.pid_namespace):
            return not alive(ProcessRef(holder.pid, holder.create_time))
        try:
            return self._server_now() - os.stat(self._claim_path(number)).st_mtime > stale_s
        except OSError:
            return False

    def head_runs_here(self) -> bool | None:
        """Whether the head's raycluster process lives, where that can be seen from here; else None."""
        with contextlib.suppress(RayclusterError):
            holder = self.holder()
            here = tuple(kernel_identity().values())
            if holder is not None and here[0] and here == (holder.boot_id, holder.pid_namespace):
                return is_running(ProcessRef(holder.pid, holder.create_time))
        return None

    def _server_now(self) -> float:
        """Unix seconds by the clock that stamps the files here."""
        probe = self.path / f".now.{secrets.token_hex(8)}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                return os.stat(probe).st_mtime
            finally:
                os.unlink(probe)
        except OSError as error:
            raise needs(probe, error, "write") from error
