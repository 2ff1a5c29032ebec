"""The copy of the environment on this node, from the first look to the last file: in a process of its own.

A head finds out what there is, chooses the place, reads everything once into its own copy and, where the job
has other nodes, into a pack.  Workers unpack it under the same path.  Whatever is in the way ends with a
reason, and the node uses the shared environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError, in_words
from ..model.value import Value
from ..node.places import NETWORK, mount_of, mountinfo, parse_mountinfo
from ..node.staged_copy import begin_copy, copy_name, open_copy, read_about, write_about
from ..system.removal import remove_tree
from .inventory import Changed, take_inventory
from .note import PACKING, READY, SEARCHING, SHARED, NoHead, NoteWriter, remove_old, wait_for_note
from .pack import BrokenPack, NoPack, copy_and_pack, unpack
from .place import ends_with_job, first_usable, places, problems
from .preparation import path_pairs, prepare
from .sources import Interpreter, find_sources

#: How long a worker of the head's step waits for its first note, and one of another step.
FIRST_NOTE_S, OTHER_STEP_NOTE_S = 60.0, 15.0

#: How long a head may not change its note before workers take it for dead.
SILENT_S = 60.0

#: How long a process waits for another one on this node that makes the same copy.
OTHER_MAKER_S = 1800.0


class NotStaged(Exception):
    """The shared environment is used; the reason in words."""


class Request(Value):
    """What is to be done."""

    value: str
    """Of --stage-env."""
    env: Mapping[str, str]
    host: str
    job: str
    """What a copy belongs to: Slurm cluster, job and restart."""
    note: Path | None
    """Where the head tells its workers; None: this node is alone."""
    is_head: bool
    same_step: bool
    keep: bool = False


class Staged(Value):
    """A complete copy."""

    path: Path
    pairs: tuple[tuple[str, str], ...]
    """(path before, path after)."""
    text: str
    """For the user."""
    keep: bool = False
    """It is left for the job's next cluster."""


Making = Callable[[Path], None]
"""Called with a copy's path before it is made."""


def stage(request: Request, python: Interpreter, making: Making) -> Staged:
    """Find or make this node's copy.  Raises NotStaged."""
    if is_in_container(request.env):
        raise NotStaged("raycluster runs in a container, whose image already is one file")
    try:
        as_role = _as_head if request.is_head or request.note is None else _as_worker
        staged = as_role(request, python, making)
        return staged.but(keep=_is_kept(request, staged.path))
    except Changed as error:
        raise NotStaged(f"the environment changed while it was copied: {error}") from error
    except NoPack as error:
        raise NotStaged(
            f"the file for the other nodes, {request.note}, cannot be written: {error}"
        ) from error
    except (BrokenPack, ValueError) as error:
        raise NotStaged(str(error)) from error
    except RayclusterError as error:
        raise NotStaged(error.message) from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise NotStaged(f"{in_words(error)}{where}") from error


def is_in_container(env: Mapping[str, str]) -> bool:
    """Whether this process runs in a container of a job (apptainer, enroot).

    Not those in which a whole node runs, as with Slurm on Kubernetes.
    """
    names = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER", "ENROOT_ROOTFS", "PYXIS_CONTAINER")
    return any(env.get(name) for name in names) or os.path.exists("/.singularity.d")


def _as_head(request: Request, python: Interpreter, making: Making) -> Staged:
    writer = NoteWriter(request.note)
    try:
        writer.write(state=SEARCHING)
        if request.note is not None:
            with contextlib.suppress(OSError):  # two heads may do so at once
                remove_old(request.note.parent.parent)
        with writer:
            return _found_and_copied(request, python, making, writer)
    except BaseException as error:
        with contextlib.suppress(RayclusterError, OSError):
            writer.write(state=SHARED, why=str(error))
        raise


def _found_and_copied(request: Request, python: Interpreter, making: Making, writer: NoteWriter) -> Staged:
    begun = time.monotonic()
    mounts = parse_mountinfo(mountinfo())
    base = mount_of(os.path.realpath(python.base_prefix), mounts)
    sources = find_sources(python, request.env, is_remote=base.type in NETWORK)
    if not sources:
        raise NotStaged(f"Python and its packages are part of the operating system ({python.prefix})")
    inventory = take_inventory(sources, whole=False, step=writer.moved)
    tail = hashlib.sha256(f"{request.job}\0{inventory.digest}".encode()).hexdigest()[:8]
    name = copy_name(os.geteuid(), tail)
    found = places(request.value, request.env, mounts, size_bytes=0, files=0)
    existing = next((each.path / name for each in found if (each.path / name).is_dir()), None)
    if existing is not None and _waited_for(existing) is not None:
        about = read_about(existing)
        known = {each: about.get(each, 0) for each in ("what", "size_bytes", "files")}
        pairs = path_pairs(sources, str(existing))
        writer.write(state=READY, pack="", path=str(existing), pairs=pairs, python=_identity(python), **known)
        return Staged(existing, tuple(pairs), f"{known['what']} is on {request.host} already: {existing}")
    digest, inventory = inventory.digest, take_inventory(sources, step=writer.moved)
    if inventory.digest != digest:
        raise Changed("files came or went")
    size_bytes, files = inventory.size_bytes, inventory.files
    found = places(request.value, request.env, mounts, size_bytes=size_bytes, files=files)
    existing = next((each.path / name for each in found if (each.path / name).is_dir()), None)
    place = first_usable(found)
    if existing is None and place is None:
        raise NotStaged(f"there is no room for {_megabytes(size_bytes)}: {problems(found)}")
    path = existing or place.path / name  # type: ignore[union-attr]
    pairs = path_pairs(sources, str(path))
    what = f"{sources[0].path} ({_megabytes(size_bytes)}, {files:,} files)"
    common = {
        "path": str(path),
        "pairs": pairs,
        "python": _identity(python),
        "size_bytes": size_bytes,
        "files": files,
        "what": what,
    }
    lock, is_new = _existing_or_new(path, making)
    if not is_new:
        writer.write(state=READY, pack="", **common)
        return Staged(path, tuple(pairs), f"{what} is on {request.host} already: {path}")
    pack = request.note.with_suffix(".pack") if request.note else None
    try:
        outside = prepare(inventory, sources, str(path), writer.moved)
        if pack is not None:
            pack.unlink(missing_ok=True)
            _check_room(pack.parent, size_bytes)
        writer.write(state=PACKING, pack="", **common)
        index = copy_and_pack(inventory, path, pack, progress=lambda _: writer.moved())
        took_s = time.monotonic() - begun
        write_about(path, _about(request, common, path))
        writer.write(state=READY, pack=str(pack or ""), index=index)
    except BaseException:
        remove_tree(path)
        if pack is not None:
            pack.unlink(missing_ok=True)
        raise
    fcntl.flock(lock, fcntl.LOCK_SH)
    stays = f"; {', '.join(outside)} stay{'s' if len(outside) == 1 else ''} on the shared file system"
    memory = " (in memory)" if place is not None and place.in_memory else ""
    text = f"{what} copied to {path}{memory} on {request.host} in {took_s:.1f} s, "
    text += f"{_megabytes(round(size_bytes / took_s))}/s{stays if outside else ''}"
    return Staged(path, tuple(pairs), text)


def _identity(python: Interpreter) -> list[str]:
    return [python.executable, python.prefix, python.version]


def _as_worker(request: Request, python: Interpreter, making: Making) -> Staged:
    assert request.note is not None
    begun = time.monotonic()
    first_s = FIRST_NOTE_S if request.same_step else OTHER_STEP_NOTE_S
    try:
        note = wait_for_note(
            request.note,
            lambda note: note.get("state") in (SHARED, PACKING, READY),
            first_s=first_s,
            silent_s=SILENT_S,
        )
        if note["state"] == SHARED:
            raise NotStaged("")  # the head has said why
        path = Path(note["path"])
        if note["python"] != _identity(python):
            raise NotStaged(f"this node's Python is {python.executable}, the head's is {note['python'][0]}")
        lock = _waited_for(path)
        if lock is None:
            found = places(
                str(path.parent),
                request.env,
                parse_mountinfo(mountinfo()),
                size_bytes=note["size_bytes"],
                files=note["files"],
            )
            if found[0].problem:
                raise NotStaged(f"there is no room for the head's copy: {problems(found)}")
            note = wait_for_note(
                request.note,
                lambda note: note.get("state") in (SHARED, READY),
                first_s=SILENT_S,
                silent_s=SILENT_S,
            )
        if note["state"] == SHARED:
            raise NotStaged("")
    except NoHead as error:
        if request.same_step:
            raise NotStaged(str(error)) from error
        return _found_and_copied(request.but(note=None), python, making, NoteWriter(None))
    pairs = tuple((before, after) for before, after in note["pairs"])
    if lock is not None:
        return Staged(path, pairs, f"{note['what']} is on {request.host} already: {path}")
    if not note.get("pack") or not os.path.exists(note["pack"]):
        return _found_and_copied(request.but(note=None), python, making, NoteWriter(None))
    lock, is_new = _existing_or_new(path, making)
    if is_new:
        try:
            unpack(Path(note["pack"]), note["index"], path)
            write_about(path, _about(request, note, path))
        except BaseException:
            remove_tree(path)
            raise
        fcntl.flock(lock, fcntl.LOCK_SH)
    took_s = time.monotonic() - begun
    return Staged(path, pairs, f"{note['what']} unpacked to {path} on {request.host} in {took_s:.1f} s")


def _check_room(directory: Path, size_bytes: int) -> None:
    """Raise NotStaged where the state directory has no room for the pack; quotas show only later."""
    space = os.statvfs(directory)
    free_bytes = space.f_bavail * space.f_frsize
    if free_bytes < size_bytes:
        raise NotStaged(
            f"{directory} has {_megabytes(free_bytes)} free, and the file for the other nodes takes "
            f"{_megabytes(size_bytes)} (--state-dir chooses another file system)"
        )


def _existing_or_new(path: Path, making: Making) -> tuple[int, bool]:
    """(descriptor with the lock, whether the copy is still to be made)"""
    deadline = time.monotonic() + OTHER_MAKER_S
    while time.monotonic() < deadline:
        lock = _waited_for(path)
        if lock is not None:
            return lock, False
        making(path)
        try:
            lock = begin_copy(path)
        except BlockingIOError:
            lock = None
        if lock is not None:
            return lock, True
        if not _is_locked(path):
            remove_tree(path)  # of a maker that was killed
        time.sleep(0.1)
    raise NotStaged(f"{path} was not complete within {OTHER_MAKER_S:g} s")


def _waited_for(path: Path) -> int | None:
    """A complete copy, also when another process on this node is just making it."""
    deadline = time.monotonic() + OTHER_MAKER_S
    while time.monotonic() < deadline:
        try:
            return open_copy(path)
        except BlockingIOError:
            time.sleep(0.1)
    return None


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _is_kept(request: Request, path: Path) -> bool:
    return request.keep or ends_with_job(str(path), request.env.get("SLURM_JOB_ID", ""), mountinfo())


def _about(request: Request, note: Mapping[str, Any], path: Path) -> dict[str, Any]:
    return {
        "schema": 1,
        "job": request.job,
        "keep": _is_kept(request, path),
        "created": time.time(),
        **{each: note[each] for each in ("what", "size_bytes", "files")},
    }


def _megabytes(size_bytes: int) -> str:
    """
    >>> _megabytes(412_345_678)
    '412 MB'
    """
    return f"{size_bytes / 1e6:,.0f} MB"
