"""Whether the files that a running raylet cannot do without are still there: cleaners of /tmp remove them."""

from __future__ import annotations

import os
from collections.abc import Sequence

#: How often they are looked at: a stat of three names takes 10 µs.
LOOK_S = 10.0


def needed_files(session_dir: str) -> tuple[str, ...]:
    """The sockets of a node that has just started (raylet and object store), as they lie in its session."""
    sockets = os.path.join(session_dir, "sockets")
    try:
        names = sorted(os.listdir(sockets))
    except OSError:
        return ()
    return tuple(os.path.join(sockets, name) for name in names)


def first_missing(paths: Sequence[str]) -> str | None:
    """The first of ``paths`` that does not exist; None when all do, or the file system does not say."""
    for path in paths:
        try:
            os.lstat(path)
        except FileNotFoundError:
            return path
        except OSError:
            return None
    return None
