"""The secrets of a cluster in its record, and keeping them out of everything else that is written there.

``token`` is the cluster's authentication token, ``authority`` the key and certificate that sign the nodes'
certificates (--tls).  Both have mode 0600; a reader refuses a file that others could have read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError, UsageError
from ..model.record import encode
from ..model.text import hide
from .files import needs, read_bytes, user, write_whole


class Secrets:
    """The secrets in a record's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hidden: tuple[str, ...] = ()

    def hide(self, secret: str) -> None:
        """From here on no report and no event that this object writes holds ``secret``."""
        if secret and secret not in self._hidden:
            self._hidden = (*self._hidden, secret)

    def masked(self, text: str) -> str:
        """The text without the secrets that are known here."""
        return hide(text, *self._hidden)

    def _encoded(self, value: Any) -> bytes:
        return self.masked(encode(value)).encode()

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    def make_token(self) -> str:
        """A new token, 256 random bits in hex, in a file that only this user can read.

        Made by the head after take_lease().  From here on nothing that this object writes holds it.
        """
        token = os.urandom(32).hex()
        path = self.token_path
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._check_token_mode(os.fstat(fd))
                os.write(fd, token.encode())
            finally:
                os.close(fd)
        except FileExistsError as error:
            raise RayclusterError(
                f"{path} is there already; only the head makes it, once, after it has claimed the record.",
                "Start only one head per job.",
            ) from error
        except OSError as error:
            raise needs(path, error, "write") from error
        except UsageError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        self.hide(token)
        return token

    def read_token(self) -> str | None:
        """The token; None when there is none yet.  UsageError when others could have read it."""
        try:
            fd = os.open(self.token_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(f"{self.token_path} is a symbolic link; a file is needed.") from error
            return None
        try:
            self._check_token_mode(os.fstat(fd))
            token = os.read(fd, 4096).decode("ascii", "replace").strip()
        except OSError:
            return None
        finally:
            os.close(fd)
        if len(token) < 64:  # still being written
            return None
        self.hide(token)
        return token

    def write_authority(self, pem: str) -> None:
        """The authority that signs the certificates of the cluster's nodes (tls.py)."""
        write_whole(self.path / "authority", pem.encode())

    def read_authority(self) -> str | None:
        """What write_authority wrote; None when there is none (yet).  UsageError as for the token."""
        path = self.path / "authority"
        try:
            self._check_token_mode(os.lstat(path), path)
        except OSError:
            return None
        data = read_bytes(path)
        return data.decode("ascii", "replace") if data else None

    def _check_token_mode(self, found: os.stat_result, path: Path | None = None) -> None:
        path = path or self.token_path
        if found.st_uid != os.geteuid():
            raise UsageError(
                f"{path} belongs to {user(found.st_uid)}, not to {user(os.geteuid())}.",
                "Do not use this record; give another --state-dir.",
            )
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise UsageError(
                f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); 0600 is needed.",
                "End this cluster: its token may be known.  Another --state-dir may be needed.",
            )
