"""The directory for spilled objects (--spill-dir), made on each node before Ray starts there.

Ray makes it in some cases and refuses to start in others: where its objects are not spilled by themselves.
"""

from __future__ import annotations

import os

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
