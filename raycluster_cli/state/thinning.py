"""Thins out the record of a cluster that lives for weeks: files of worker jobs that are over.

Each node of a worker job leaves a report (``nodes/``), most of them a notice (``notices/``) or a loss
(``lost/``), and the head lists these directories as long as it runs.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from ..model.record import NodeReport, decode
from .files import read_bytes

#: The newest reports of worker jobs that are kept, and how old a file is at least that goes.
KEEP, KEEP_S = 100, 3600.0

#: Most files that go at a time: each takes some milliseconds on a shared file system.
AT_ONCE = 500

#: A report of a worker job's node, HOST.JOB.json; a host's own name can look like it.
_OF_A_JOB = re.compile(r".+\.\d+(_\d+)?\.json", re.ASCII)


def thin_out(record: Path, hosts: Collection[str], node_ids: Collection[str], now: float) -> set[str]:
    """Remove what worker jobs have left that are over; returns the names of the files, without .json.

    ``hosts`` and ``node_ids``: names and Ray's ids of the nodes in the cluster, whose files stay.  ``now``:
    Unix seconds.  Never raises.
    """
    old = [*_reports(record, hosts), *_by_node_id(record / "notices", node_ids)]
    old += _by_node_id(record / "lost", node_ids)
    removed: set[str] = set()
    for changed, path in old:
        if len(removed) >= AT_ONCE:
            break
        if changed < now - KEEP_S:
            with contextlib.suppress(OSError):
                os.unlink(path)
                removed.add(_name(path))
    return removed


def _reports(record: Path, hosts: Collection[str]) -> Iterator[tuple[float, str]]:
    """Reports of worker jobs' nodes that are not in the cluster, without the newest ones."""
    found = [one for one in _files(record / "nodes") if _OF_A_JOB.fullmatch(os.path.basename(one[1]))]
    for changed, path in sorted(found, reverse=True)[KEEP:]:
        if _name(path) in hosts:
            continue
        report = decode(NodeReport, read_bytes(Path(path)))
        if report is not None and report.job:
            yield changed, path


def _by_node_id(directory: Path, node_ids: Collection[str]) -> list[tuple[float, str]]:
    return [one for one in _files(directory) if _name(one[1]) not in node_ids]


def _name(path: str) -> str:
    return os.path.basename(path).removesuffix(".json")


def _files(directory: Path) -> list[tuple[float, str]]:
    """The files of a directory, each with the time of its last change."""
    found: list[tuple[float, str]] = []
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it may be replaced meanwhile
                found.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    return found
