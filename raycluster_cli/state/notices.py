"""Notices in the record: a worker tells the head that its node will go, and when.

``notices/NODE_ID.json``, by a worker in a job of its own; the head asks Ray to drain that node.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..model.dataclass import dataclass
from ..model.record import decode, encode
from .files import needs, part, read_bytes, write_whole


@dataclass(frozen=True)
class Notice:
    """A node will go."""

    node_id: str
    """Ray's."""
    deadline: float
    """Unix seconds by the node's clock at which it is gone at the latest."""
    why: str = ""


def write_notice(record: Path, notice: Notice) -> None:
    """Give notice of a node.  Raises RayclusterError."""
    path = record / "notices" / f"{part(notice.node_id, 'node id')}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise needs(path.parent, error, "make") from error
    write_whole(path, encode(notice).encode())


def read_notices(record: Path, known: frozenset[str] = frozenset()) -> list[Notice]:
    """The notices of other nodes than the ``known``."""
    try:
        names = [name for name in os.listdir(record / "notices") if name.endswith(".json")]
    except OSError:
        return []
    fresh = [name for name in names if not name.startswith(".") and name[:-5] not in known]
    found = (decode(Notice, read_bytes(record / "notices" / name)) for name in fresh)
    return [notice for notice in found if notice is not None]
