"""Watches the files that a running raylet needs: programs that clean /tmp remove them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence

from ..rayproc.started import Started
from ..system.process import Child
from ..system.waiting import done_within, in_thread

#: How often they are looked at: a stat of three names takes 10 µs.
LOOK_S = 10.0

#: After this long a file that is missing is looked for again.
CONFIRM_S = 2.0


def running(children: Mapping[str, Child], started: Started | None) -> Started | None:
    """A node's Ray, while its raylet runs."""
    raylet = children.get("raylet")
    return started if raylet is not None and raylet.running else None


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


async def removed_file(
    started: Callable[[], Started | None],
    restore: Callable[[], None] = lambda: None,
    others: Sequence[str] = (),
) -> str:
    """Returns the first file that was removed while the node's Ray runs; not those that a restart removes.

    ``started``: the node's Ray as it runs now; None while it does not.  ``restore`` makes again what can be
    made again; it is called at each look, and may block as file systems do.  ``others``: files that are
    needed besides those of the session.
    """
    known: Started | None = None
    paths: Sequence[str] = ()
    while True:
        now = started()
        if now is not None and now is not known:
            known, paths = now, (*needed_files(now.session_dir), *others)
        await asyncio.sleep(LOOK_S)
        if await _missing(paths, restore) is None:
            continue
        # A raylet that ends removes its sockets itself: it is gone by then.
        await asyncio.sleep(CONFIRM_S)
        path = await _missing(paths)
        if path is not None and known is not None and started() is known:
            return path


async def _missing(paths: Sequence[str], restore: Callable[[], None] = lambda: None) -> str | None:
    def look() -> str | None:
        restore()
        return first_missing(paths)

    looking = in_thread(look)
    # A file system that hangs says nothing about removed files.
    return looking.result() if await done_within(looking, LOOK_S) else None
