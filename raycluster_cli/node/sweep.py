"""The sweep: ends and removes what crashed clusters of this user left on this node.

The kernel drops the lock of a node's directory with the last process that holds it.  A directory of this
user whose lock is free is stale.  Its processes are those in the journal that still have the same start
time, and those that :func:`why_part_of` recognizes.  A shell there, or a ``tail`` of a log, is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ..model.value import Value
from ..system.proctree import (
    PROC,
    ProcessRef,
    Stat,
    all_stats,
    is_running,
    kernel_identity,
    let_go_on,
    send_signal,
)
from ..system.removal import open_directory, remove_tree
from .common_path import remove_common_path
from .directory import ENV_MARK, root_name
from .places import NETWORK, USUAL, asked_for, mount_of, mountinfo, parse_mountinfo, unique

_YOUNG_S = 60.0
"""A root without about.json is left alone for this long: its maker may be about to lock it."""


class Swept(Value):
    """A stale root, and what the sweep did with it."""

    path: Path
    key: str
    ended: tuple[Stat, ...] = ()
    """Processes that were ended."""
    left: tuple[str, ...] = ()
    """What could not be ended or removed."""


def bases(env: Mapping[str, str], extra: Iterable[Path] = ()) -> list[Path]:
    """The directories in which roots of this user may be on this node."""
    return unique([*extra, *asked_for(env), *USUAL])


def sweep_stale(
    env: Mapping[str, str],
    *,
    extra: Iterable[Path] = (),
    only_bases: Sequence[Path] | None = None,
    term_grace_s: float = 0.5,
    kill_wait_s: float = 5.0,
    mounts: Callable[[], str] | None = None,
) -> list[Swept]:
    """End and remove what crashed clusters of this user left on this node.

    Never touches a root whose lock is held, another user's, or a process that is not proven to belong to
    the root.  Costs one directory listing per base when there is nothing to do.
    """
    table = parse_mountinfo((mounts or mountinfo)())
    swept: list[Swept] = []
    prefix = root_name(os.geteuid(), "")
    for base in only_bases if only_bases is not None else bases(env, extra):
        if mount_of(os.path.normpath(base), table).type in NETWORK:
            continue  # no root is made there, and listing it may hang
        real = Path(os.path.realpath(base))
        try:
            names = os.listdir(real)
        except OSError:
            continue
        for name in names:
            tail = name[len(prefix) :]
            if name.startswith(prefix) and len(tail) == 8 and set(tail) <= set("0123456789abcdef"):
                found = sweep_root(real / name, term_grace_s=term_grace_s, kill_wait_s=kill_wait_s)
                if found is not None:
                    swept.append(found)
    return swept


def sweep_root(path: Path, *, term_grace_s: float = 0.5, kill_wait_s: float = 5.0) -> Swept | None:
    """End and remove one stale root; None when it is not there, not ours, or in use."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return None
    lock = _lock_stale(path)
    if lock is None:
        return None
    try:
        about = _read_about(path)
        if not about and time.time() - os.fstat(lock).st_mtime < _YOUNG_S:
            return None  # it is being made
        if _keeper_is_alive(about):
            _continue_keeper(about)
            return None
        ended, alive = _end_processes(path, about, term_grace_s, kill_wait_s)
        left = [f"process {each.pid} ({each.name}) does not end" for each in alive]
        if not alive:
            remove_common_path(path)
            left += remove_tree(path)
        return Swept(path, str(about.get("key", "")), tuple(ended), tuple(left))
    finally:
        os.close(lock)


def _lock_stale(path: Path) -> int | None:
    """Take the lock of a root that no process holds; None when it is in use, or has gone meanwhile."""
    try:
        lock = open_directory(path)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), os.lstat(path)):
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def keeper_is_alive(path: Path) -> bool:
    """Whether the keeper of the root at ``path`` runs: it clears the root itself.

    One that was stopped (SIGSTOP) is continued for that.
    """
    about = _read_about(path)
    alive = _keeper_is_alive(about)
    if alive:
        _continue_keeper(about)
    return alive


def _continue_keeper(about: Mapping[str, object]) -> None:
    """Continue a keeper that was stopped (SIGSTOP): its supervisor, which would do so, has ended."""
    keeper = about.get("keeper")
    if isinstance(keeper, list):
        let_go_on(ProcessRef(*keeper))


def _keeper_is_alive(about: Mapping[str, object]) -> bool:
    """Whether another process is there that clears this root itself."""
    keeper = about.get("keeper")
    if not (isinstance(keeper, list) and len(keeper) == 2 and all(isinstance(n, int) for n in keeper)):
        return False
    if keeper[0] == os.getpid():
        return False  # this process
    return _is_of_this_kernel(about) and is_running(ProcessRef(keeper[0], keeper[1]))


def _is_of_this_kernel(about: Mapping[str, object]) -> bool:
    """Whether the pids noted in a root mean the same processes here and now."""
    return all(about.get(name) == value for name, value in kernel_identity().items())


def _read_about(path: Path) -> dict[str, object]:
    try:
        about = json.loads((path / "about.json").read_text())
        return about if isinstance(about, dict) else {}
    except (OSError, ValueError):
        return {}


def read_journal(path: Path) -> list[ProcessRef]:
    """The processes that were started under a root, oldest first; broken lines are left out."""
    found = []
    try:
        lines = (path / "processes").read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError, IndexError):
            parts = line.split()
            found.append(ProcessRef(int(parts[0]), int(parts[1])))
    return found


def processes_of(path: Path, journal: Iterable[ProcessRef] = ()) -> list[Stat]:
    """The live processes of this user that belong to a root, and their descendants.

    Never this process and its ancestors.
    """
    job = str(_read_about(path).get("slurm_job", ""))
    stats = {each.pid: each for each in all_stats() if each.state not in "ZX"}
    spared = set()
    pid = os.getpid()
    while pid in stats and pid not in spared:
        spared.add(pid)
        pid = stats[pid].parent
    known = {(ref.pid, ref.start_ticks) for ref in journal}
    ours = {
        pid
        for pid, each in stats.items()
        if pid not in spared
        and _is_of_this_user(pid)
        and ((pid, each.start_ticks) in known or why_part_of(pid, str(path), job))
    }
    grown = True
    while grown:  # add descendants: only their ancestor shows what they belong to
        more = {
            each.pid
            for each in stats.values()
            if each.parent in ours and each.pid not in ours | spared and _is_of_this_user(each.pid)
        }
        grown = bool(more)
        ours |= more
    return [stats[pid] for pid in sorted(ours)]


def why_part_of(pid: int, root: str, job: str = "") -> str:
    """Why a process is part of the cluster whose directory is ``root``; empty: it is not.

    - it was started with RAYCLUSTER_NODE_ROOT set to the root (Ray's worker processes overwrite this), and
      not in another Slurm job than ``job``: sbatch hands a driver's environment on to the jobs it submits;
    - an option on its command line names a path below the root (``--temp-dir=ROOT``: Ray's daemons);
    - it has a file below the root open for writing (logs of Ray's processes and of what they start);
    - its program lies below the root (a runtime environment's Python);
    - its working directory lies below the root and it has no terminal.

    Reading a file there does not count: that may be a person with ``tail -f``.
    """
    here = PROC / str(pid)
    inside = root + "/"

    def below(text: str) -> bool:
        return text.removesuffix(" (deleted)") == root or text.startswith(inside)

    with contextlib.suppress(OSError):
        environ = (here / "environ").read_bytes().split(b"\0")
        jobs = {word[13:].decode() for word in environ if word.startswith(b"SLURM_JOB_ID=")}
        if f"{ENV_MARK}={root}".encode() in environ and jobs <= {job}:
            return "environment"
    with contextlib.suppress(OSError):
        for word in (here / "cmdline").read_bytes().decode("utf-8", "replace").split("\0"):
            option, equals, value = word.partition("=")
            if equals and option.startswith("-") and below(value):
                return "command line"
    with contextlib.suppress(OSError):
        if below(os.readlink(here / "exe")):
            return "program"
    with contextlib.suppress(OSError, ValueError, IndexError):
        terminal = (here / "stat").read_text(errors="replace").rpartition(")")[2].split()[4]
        if terminal == "0" and below(os.readlink(here / "cwd")):
            return "working directory"
    with contextlib.suppress(OSError):
        for name in os.listdir(here / "fd"):
            with contextlib.suppress(OSError, ValueError):
                if below(os.readlink(here / "fd" / name)) and _opened_for_writing(here / "fdinfo" / name):
                    return "open file"
    return ""


def _opened_for_writing(fdinfo: Path) -> bool:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)
    return False


def _is_of_this_user(pid: int) -> bool:
    """Real and effective user are ours: a set-user-id program that we started is not."""
    try:
        with open(PROC / str(pid) / "status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return [int(each) for each in line.split()[1:3]] == [os.getuid(), os.geteuid()]
    except OSError:
        pass
    return False


def _end_processes(
    path: Path, about: Mapping[str, object], term_grace_s: float, kill_wait_s: float
) -> tuple[list[Stat], list[Stat]]:
    """(ended, still there): SIGTERM, a short grace, then SIGKILL until nothing is found any more."""
    journal = read_journal(path) if _is_of_this_kernel(about) else []
    seen: dict[ProcessRef, Stat] = {}
    start = time.monotonic()
    found = processes_of(path, journal)
    while found:
        waited = time.monotonic() - start
        if waited > term_grace_s + kill_wait_s:
            break
        number = signal.SIGTERM if waited < term_grace_s else signal.SIGKILL
        for each in found:
            if number == signal.SIGKILL or each.ref not in seen:
                _signal(each.ref, number)
            seen[each.ref] = each
        wait_until = time.monotonic() + (term_grace_s if number == signal.SIGTERM else 1.0)
        while time.monotonic() < wait_until and any(is_running(each.ref) for each in found):
            time.sleep(0.01)
        # With those seen before: an orphan's parent may have been all that showed what it belongs to.
        found = processes_of(path, [*journal, *seen])
    return [each for ref, each in seen.items() if not is_running(ref)], found


def _signal(ref: ProcessRef, number: int) -> None:
    """Signal exactly this process: by descriptor, so that its pid cannot become another's in between."""
    try:
        fd = os.pidfd_open(ref.pid)
    except ProcessLookupError:
        return
    except (OSError, AttributeError):  # before Linux 5.3
        send_signal(ref, number)
        return
    try:
        if is_running(ref):
            signal.pidfd_send_signal(fd, number)
    except (ProcessLookupError, PermissionError):
        pass
    finally:
        os.close(fd)
