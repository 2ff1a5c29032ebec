"""The directory for spilled objects (--spill-dir), made on each node before Ray starts there.

Ray makes it in some cases and refuses to start in others: where its objects are not spilled by themselves.
"""

from __future__ import annotations

import contextlib
import os

from ..model.errors import in_words
from .failure import StartFailure

#: Ray makes its directories accessible to all users.
MODE = 0o777


def make_spill_directory(path: str | None) -> None:
    """Make it where one is asked for.  Raises StartFailure."""
    if not path:
        return
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StartFailure("ray", f"--spill-dir {path} cannot be made: {in_words(error)}.") from error
    with contextlib.suppress(PermissionError):  # another user's
        os.chmod(path, MODE)
