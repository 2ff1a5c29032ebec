"""What is in use in a cluster, in its record: written only while somebody watches.

``raycluster monitor`` touches ``watching`` every few seconds.  While that file is fresh the head writes
``usage.json`` and each node its ``usage/HOST.json``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..model.record import ClusterUsage, NodeUsage, decode
from .files import part, read_bytes, stamp_of, write_whole
from .secrets import Secrets


class UsageFiles(Secrets):
    """The usage files of a record, and the file by which a watcher asks for them."""

    def watch(self) -> bool:
        """Let head and nodes know that somebody watches; to be called every few seconds.  Never raises.

        Of another user's record, at which root looks, it changes nothing and returns False.
        """
        try:
            if os.stat(self.path).st_uid != os.geteuid():
                return False
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.path / "watching", flags, 0o600)
            try:
                os.utime(fd)
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def watching_stamp(self) -> int | None:
        """When somebody last said that they watch, in the file server's nanoseconds; None: never."""
        return stamp_of(self.path / "watching")

    def write_usage(self, usage: ClusterUsage) -> None:
        write_whole(self.path / "usage.json", self._encoded(usage))

    def read_usage(self) -> ClusterUsage | None:
        return decode(ClusterUsage, read_bytes(self.path / "usage.json"))

    def write_node_usage(self, host: str, usage: NodeUsage) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path / "usage", 0o700)
        write_whole(self.path / "usage" / f"{part(host, 'host name')}.json", self._encoded(usage))

    def read_node_usages(self) -> dict[str, NodeUsage]:
        """By host."""
        found: dict[str, NodeUsage] = {}
        with contextlib.suppress(OSError), os.scandir(self.path / "usage") as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.endswith(".json"):
                    usage = decode(NodeUsage, read_bytes(Path(entry.path)))
                    if usage is not None:
                        found[entry.name[:-5]] = usage
        return found
