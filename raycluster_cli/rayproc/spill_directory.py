"""The directory for spilled objects (--spill-dir), made on each node before Ray starts there.

Ray makes it in some cases and refuses to start in others: where its objects are not spilled by themselves.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from ..model.errors import in_words
from .failure import StartFailure

#: As /tmp has it: clusters of several users may share the directory, and none can replace another's files.
MODE = 0o1777


def make_spill_directory(path: str | None) -> None:
    """Make it where one is asked for.  One that is there keeps its mode.  Raises StartFailure."""
    if not path or os.path.isdir(path):
        return
    try:
        os.makedirs(path)
        os.chmod(path, MODE)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.isdir(path):
            return  # another node or cluster was faster
        raise StartFailure("ray", f"--spill-dir {path} cannot be made: {in_words(error)}.") from error


@contextlib.contextmanager
def mode_kept(path: str | None) -> Iterator[None]:
    """Its mode is afterwards what it was before: a worker of Ray's opens it to all users (0777)."""
    mode = _mode_of(path)
    try:
        yield
    finally:
        if path and mode is not None and _mode_of(path) not in (mode, None):
            with contextlib.suppress(OSError):
                os.chmod(path, mode)


def _mode_of(path: str | None) -> int | None:
    """The mode of a directory of this user's; None where there is none."""
    if not path:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return stat.S_IMODE(found.st_mode) if found.st_uid == os.geteuid() else None
