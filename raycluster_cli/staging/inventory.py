"""All files of an environment, found by many threads at once, and a hash over their metadata.

On a shared file system each question takes its time, however many are asked at once.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..model.dataclass import dataclass
from .sources import Source

#: Questions that are open at once.
THREADS = 48

#: Names of files, never of directories.
FILES = (".py", ".pyi", ".so", ".h", ".hpp", ".html", ".txt", ".md")

#: Names of a directory that one thread asks for.
_NAMES = 24

#: Changed when copies of an older raycluster shall not be used.
FORMAT = 1


@dataclass
class Entry:
    """A file, directory or symbolic link."""

    path: str
    """Relative to the copy."""
    source: str
    """Absolute; where it is read from."""
    kind: str
    """"f", "d" or "l"."""
    mode: int = 0o755
    size: int = 0
    mtime_ns: int = 0
    link: str = ""
    replaces: tuple[str, str] | None = None
    """(path before, path after) that is replaced in a binary file while it is read (conda)."""
    data: bytes | None = None
    """The content, where it is not that of the source."""


@dataclass
class Inventory:
    """What there is to copy."""

    entries: list[Entry]
    digest: str
    """Hex, over the paths of all but what Python compiles, and the metadata of what installers write."""

    @property
    def size_bytes(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def files(self) -> int:
        return sum(entry.kind != "d" for entry in self.entries)


class Changed(Exception):
    """The environment was changed while it was read."""


def run_in_threads(
    tasks: Iterable[Callable[[], Iterable[Callable[[], object]] | None]],
    threads: int,
    step: Callable[[], None] = lambda: None,
) -> None:
    """Run tasks, and the tasks that they return, in threads; the first exception of one is raised.

    ``step`` is called after each task, by its thread.
    """
    waiting = deque(tasks)
    condition = threading.Condition()
    running = 0
    failures: list[BaseException] = []

    def work() -> None:
        nonlocal running
        while True:
            with condition:
                while not waiting and running and not failures:
                    condition.wait()
                if failures or not waiting:
                    condition.notify_all()
                    return
                task = waiting.popleft()
                running += 1
            more: Iterable[Callable[[], object]] | None = None
            try:
                more = task()
                step()
            except BaseException as error:
                failures.append(error)
            with condition:
                running -= 1
                waiting.extend(more or ())  # type: ignore[arg-type]
                condition.notify_all()

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    if failures:
        raise failures[0]


def tells_changes(path: str) -> bool:
    """Whether a file's size and time say that an environment was changed: what installers write.

    >>> tells_changes("env/lib/python3.11/site-packages/ray-2.60.0.dist-info/RECORD")
    True
    >>> tells_changes("env/lib/python3.11/site-packages/ray/__init__.py")
    False
    """
    return path.endswith(("/RECORD", "/pyvenv.cfg", ".pth", "/conda-meta/history"))


def take_inventory(
    sources: Sequence[Source],
    threads: int = THREADS,
    *,
    whole: bool = True,
    step: Callable[[], None] = lambda: None,
) -> Inventory:
    """Find all files of the sources.  Raises OSError.

    Not ``whole``: only their names, and what :func:`tells_changes`; the digest is the same, at a tenth of
    the questions to the file system.
    """
    found: list[Entry] = []
    run_in_threads(
        [lambda source=source: _listed(source, "", found, whole) for source in sources],  # type: ignore[misc]
        threads,
        step,
    )
    found.sort(key=lambda entry: entry.path)
    for source in sources:
        found.insert(0, Entry(source.target, source.path, "d"))
    digest = hashlib.sha256(repr((FORMAT, [(s.path, s.target) for s in sources])).encode())
    for entry in found:
        if "__pycache__" in entry.path:
            continue  # Python makes these from the other files, also when a start imports a module first
        row = (entry.path, *((entry.size, entry.mtime_ns) if tells_changes(entry.path) else ()))
        digest.update(os.fsencode(repr(row)))
    return Inventory(found, digest.hexdigest())


def _listed(source: Source, below: str, found: list[Entry], whole: bool) -> list[Callable[[], object]]:
    """Read one directory; returns the tasks that follow from it."""
    directory = os.path.join(source.path, below) if below else source.path
    files: list[str] = []
    tasks: list[Callable[[], object]] = []
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    close = _Close(fd)
    with os.scandir(fd) as entries:
        for entry in entries:
            relative = f"{below}/{entry.name}" if below else entry.name
            if relative in source.skip or (source.only and not below and entry.name not in source.only):
                continue
            if not whole and entry.name == "__pycache__":
                continue  # no part of the digest
            # Some file systems do not say what an entry is, and asking is what takes time.
            is_file = not whole and entry.name.endswith(FILES)
            if not is_file and entry.is_dir(follow_symlinks=False):
                found.append(Entry(f"{source.target}/{relative}", f"{directory}/{entry.name}", "d"))
                tasks.append(lambda relative=relative: _listed(source, relative, found, whole))  # type: ignore[misc]
            elif whole or tells_changes(f"{source.target}/{relative}"):
                files.append(entry.name)
            else:
                found.append(Entry(f"{source.target}/{relative}", f"{directory}/{entry.name}", "f"))
    groups = [files[at : at + _NAMES] for at in range(0, len(files), _NAMES)]
    close.users = len(groups)
    if not groups:
        os.close(fd)
    prefix = f"{source.target}/{below}" if below else source.target
    for names in groups:
        tasks.append(
            lambda names=names: _looked_at(close, names, prefix, directory, found)  # type: ignore[misc]
        )
    return tasks


class _Close:
    """A descriptor that is closed after its last use."""

    def __init__(self, fd: int) -> None:
        self.fd, self.users, self._lock = fd, 0, threading.Lock()

    def done(self) -> None:
        with self._lock:
            self.users -= 1
            if self.users == 0:
                os.close(self.fd)


def _looked_at(close: _Close, names: Sequence[str], prefix: str, directory: str, found: list[Entry]) -> None:
    try:
        for name in names:
            status = os.stat(name, dir_fd=close.fd, follow_symlinks=False)
            path, source = f"{prefix}/{name}", f"{directory}/{name}"
            if stat.S_ISLNK(status.st_mode):
                link = os.readlink(name, dir_fd=close.fd)
                found.append(Entry(path, source, "l", 0, 0, 0, link))
            elif stat.S_ISREG(status.st_mode):
                mode = stat.S_IMODE(status.st_mode) & 0o755 | 0o600
                found.append(Entry(path, source, "f", mode, status.st_size, status.st_mtime_ns))
    finally:
        close.done()
