"""A file system that shows a directory and answers late, as a shared one does: FUSE, by mfusepy.

    python -m benchmarks.slow_files SOURCE MOUNT FIGURES

Each operation waits for as long as FIGURES says (:class:`SharedFigures`), which may change meanwhile.  The
kernel keeps no attributes and nothing about names that are not there, and a name that is there for a second.
Runs until SIGTERM.
"""

from __future__ import annotations

import errno
import functools
import mmap
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from subprocess import Popen, run
from typing import Any

#: What the file of figures holds: the latency in seconds and how many operations there were.
_LAYOUT = struct.Struct("dq")

#: So many operations wait at the same time.
THREADS = 64

#: How long the mount may take to appear.
MOUNT_S = 10.0


class SharedFigures:
    """The latency and the count of operations, shared by the server and who measures."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _LAYOUT.size)

    @property
    def latency_s(self) -> float:
        return float(_LAYOUT.unpack(self._map)[0])

    @latency_s.setter
    def latency_s(self, seconds: float) -> None:
        self._map[:8] = struct.pack("d", seconds)

    @property
    def operations(self) -> int:
        return int(_LAYOUT.unpack(self._map)[1])

    def count(self) -> None:
        self._map[8:16] = struct.pack("q", self.operations + 1)


@contextmanager
def mounted(source: Path, mount: Path, figures: Path) -> Iterator[SharedFigures]:
    """The file system, while the context lasts.  Raises RuntimeError where it cannot be mounted."""
    shared = SharedFigures(figures)
    mount.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "benchmarks.slow_files", str(source), str(mount), str(figures)]
    server = Popen(argv, cwd=Path(__file__).resolve().parents[1])
    try:
        deadline = time.monotonic() + MOUNT_S
        while not os.path.ismount(mount):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{mount} was not mounted: is there /dev/fuse, and mfusepy with libfuse?")
            time.sleep(0.05)
        yield shared
    finally:
        run(["umount", "--lazy", str(mount)], check=False)
        server.terminate()
        server.wait()


def _type_of(entry: os.DirEntry[str]) -> int:
    """The bits of st_mode that say what an entry is."""
    if entry.is_symlink():
        return stat.S_IFLNK
    return stat.S_IFDIR if entry.is_dir(follow_symlinks=False) else stat.S_IFREG


def serve(source: str, mount: str, figures: SharedFigures) -> None:
    """Answer the kernel until the end."""
    mfusepy: Any = import_module("mfusepy")  # of the extra `bench`

    def late(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def after_a_while(*args: Any) -> Any:
            figures.count()
            if (latency_s := figures.latency_s) > 0:
                time.sleep(latency_s)
            return method(*args)

        return after_a_while

    class Through(mfusepy.Operations):  # type: ignore[misc]
        """A directory passed through; each operation is late."""

        use_ns = True

        @late
        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            found = os.lstat(source + path)
            names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size")
            times = {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}
            return {name: getattr(found, name) for name in names} | times

        @late
        def access(self, path: str, amode: int) -> int:
            if not os.access(source + path, amode):
                raise OSError(errno.EACCES, path)
            return 0

        @late
        def readdir(self, path: str, fh: int) -> Iterable[str | tuple[str, dict[str, int], int]]:
            """Says what is a directory, as NFS, Lustre and GPFS do."""
            with os.scandir(source + path) as entries:
                found = [(entry.name, {"st_mode": _type_of(entry)}, 0) for entry in entries]
            return [".", "..", *found]

        @late
        def readlink(self, path: str) -> str:
            return os.readlink(source + path)

        @late
        def open(self, path: str, flags: int) -> int:
            return os.open(source + path, flags)

        @late
        def create(self, path: str, mode: int, fi: object = None) -> int:
            return os.open(source + path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

        @late
        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return os.pread(fh, size, offset)

        @late
        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            return os.pwrite(fh, data, offset)

        @late
        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            os.truncate(source + path, length)
            return 0

        @late
        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        @late
        def rename(self, old: str, new: str) -> int:
            os.rename(source + old, source + new)
            return 0

        @late
        def unlink(self, path: str) -> int:
            os.unlink(source + path)
            return 0

        @late
        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(source + path, mode)
            return 0

        @late
        def chmod(self, path: str, mode: int) -> int:
            os.chmod(source + path, mode)
            return 0

    with suppress(PermissionError):  # a file server has processors of its own
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    with suppress(RuntimeError):  # after SIGTERM
        mfusepy.FUSE(
            Through(),
            mount,
            foreground=True,
            nothreads=False,
            allow_other=True,
            attr_timeout=0,
            entry_timeout=1,
            negative_timeout=0,
            max_threads=THREADS,
            fsname="slow",
        )


if __name__ == "__main__":
    serve(sys.argv[1].rstrip("/"), sys.argv[2], SharedFigures(Path(sys.argv[3])))
