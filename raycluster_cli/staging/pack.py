"""An environment is read once: into the copy on this node, and into one file from which other nodes unpack.

The file (a pack) is the contents one after the other, then an index.  A chunk is some MB of it, read, checked
and written by one thread: one large sequential read instead of an open, a read and a close for each file.
"""

from __future__ import annotations

import binascii
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from ..model.dataclass import dataclass
from ..model.errors import in_words
from .inventory import Changed, Entry, Inventory, run_in_threads
from .relocation import moved_binary

CHUNK_BYTES = 2 << 20

#: Threads that read from the shared file system, and that unpack.
READERS, UNPACKERS = 32, 8


class BrokenPack(Exception):
    """A pack is not what its maker wrote."""


class NoPack(Exception):
    """A pack cannot be written."""


@dataclass
class Chunk:
    """A part of the pack."""

    at: int
    size: int
    pieces: list[tuple[int, int, int]]
    """(number of the entry, where in its file, bytes)"""
    checksum: int = 0


@dataclass
class Layout:
    """Where the content of each file is in the pack."""

    chunks: list[Chunk] = field(default_factory=list)
    size_bytes: int = 0

    @classmethod
    def of(cls, entries: Sequence[Entry], chunk_bytes: int = CHUNK_BYTES) -> Layout:
        """Files one after the other; a large one has several chunks, unless paths in it are replaced."""
        layout = cls()
        chunk = Chunk(0, 0, [])
        for number, entry in enumerate(entries):
            if entry.kind != "f":
                continue
            at = 0
            while True:
                room = chunk_bytes - chunk.size
                piece = entry.size - at if entry.replaces else min(room, entry.size - at)
                chunk.pieces.append((number, at, piece))
                chunk.size += piece
                at += piece
                if chunk.size >= chunk_bytes:
                    layout._add(chunk)
                    chunk = Chunk(layout.size_bytes, 0, [])
                if at >= entry.size:
                    break
        if chunk.pieces:
            layout._add(chunk)
        return layout

    def _add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.size_bytes += chunk.size


Progress = Callable[[int], None]
"""Called with bytes that were copied."""


def copy_and_pack(
    inventory: Inventory,
    target: Path,
    pack: Path | None,
    *,
    progress: Progress = lambda _: None,
    threads: int = READERS,
) -> dict[str, Any]:
    """Read the environment into ``target``, and into the file ``pack`` where one is wanted.

    Returns what :func:`unpack` needs beside the
    path.  Raises OSError, Changed, NoPack.
    """
    entries = inventory.entries
    layout = Layout.of(entries)
    make_tree(entries, target)
    fd = os.open(pack, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600) if pack else -1
    try:

        def read(chunk: Chunk) -> None:
            data = _read_chunk(chunk, entries)
            chunk.checksum = binascii.crc32(data)
            _write_chunk(chunk, entries, target, data)
            if fd >= 0:
                _write_pack(fd, data, chunk.at)
            progress(chunk.size)

        run_in_threads(
            [lambda chunk=chunk: read(chunk) for chunk in layout.chunks],  # type: ignore[misc]
            threads,
        )
        if fd < 0:
            return {}
        index = json.dumps(
            {
                "entries": [
                    (each.path, each.kind, each.mode, each.size, each.mtime_ns, each.link) for each in entries
                ],
                "chunks": [(each.at, each.size, each.pieces, each.checksum) for each in layout.chunks],
            }
        ).encode("utf-8", "surrogateescape")
        _write_pack(fd, index, layout.size_bytes)
    finally:
        if fd >= 0:
            os.close(fd)
    return {
        "index_at": layout.size_bytes,
        "index_bytes": len(index),
        "index_checksum": binascii.crc32(index),
    }


def unpack(
    pack: Path,
    note: dict[str, Any],
    target: Path,
    *,
    progress: Progress = lambda _: None,
    threads: int = UNPACKERS,
) -> None:
    """Make the copy of a pack.  Raises OSError, BrokenPack."""
    fd = os.open(pack, os.O_RDONLY | os.O_CLOEXEC)
    try:
        index = _read_all(fd, note["index_bytes"], note["index_at"])
        if len(index) != note["index_bytes"] or binascii.crc32(index) != note["index_checksum"]:
            raise BrokenPack(f"{pack} is not complete")
        found = json.loads(index.decode("utf-8", "surrogateescape"))
        entries = [
            Entry(path, "", kind, mode, size, mtime_ns, link)
            for path, kind, mode, size, mtime_ns, link in found["entries"]
        ]
        layout = Layout([Chunk(*each) for each in found["chunks"]], note["index_at"])
        make_tree(entries, target)

        def write(chunk: Chunk) -> None:
            data = _read_all(fd, chunk.size, chunk.at)
            if len(data) != chunk.size or binascii.crc32(data) != chunk.checksum:
                raise BrokenPack(f"{pack} is damaged at byte {chunk.at}")
            _write_chunk(chunk, entries, target, data)
            progress(chunk.size)

        run_in_threads(
            [lambda chunk=chunk: write(chunk) for chunk in layout.chunks],  # type: ignore[misc]
            threads,
        )
    finally:
        os.close(fd)


def make_tree(entries: Sequence[Entry], target: Path) -> None:
    """The directories and symbolic links of a copy."""
    for entry in entries:
        if entry.kind == "d":
            os.makedirs(target / entry.path, exist_ok=True)
    for entry in entries:
        if entry.kind == "l":
            os.symlink(entry.link, target / entry.path)


def _read_chunk(chunk: Chunk, entries: Sequence[Entry]) -> bytes:
    parts: list[bytes] = []
    directory, fd = "", -1
    try:
        for number, at, size in chunk.pieces:
            entry = entries[number]
            if entry.data is not None:
                parts.append(entry.data[at : at + size])
                continue
            where, _, name = entry.source.rpartition("/")
            if where != directory:
                if fd >= 0:
                    os.close(fd)
                    fd = -1
                fd = os.open(where or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                directory = where
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=fd)
            try:
                data = _read_all(file, size, at)
            finally:
                os.close(file)
            if len(data) != size:
                raise Changed(f"{entry.source} was changed meanwhile")
            parts.append(moved_binary(data, *entry.replaces) if entry.replaces else data)
    except FileNotFoundError as error:
        raise Changed(f"{error.filename} was removed meanwhile") from error
    finally:
        if fd >= 0:
            os.close(fd)
    return b"".join(parts)


def _write_chunk(chunk: Chunk, entries: Sequence[Entry], target: Path, data: bytes) -> None:
    view, done = memoryview(data), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    for number, at, size in chunk.pieces:
        entry = entries[number]
        fd = os.open(f"{target}/{entry.path}", flags, entry.mode)
        try:
            _write_all(fd, view[done : done + size], at)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        done += size


def _write_pack(fd: int, data: bytes, at: int) -> None:
    try:
        _write_all(fd, data, at)
    except OSError as error:
        raise NoPack(in_words(error)) from error


def _read_all(fd: int, size: int, at: int) -> bytes:
    """``size`` bytes, fewer only at the end of the file."""
    data = os.pread(fd, size, at)
    if len(data) == size:
        return data
    parts = [data]
    got = len(data)
    while got < size and (data := os.pread(fd, size - got, at + got)):
        parts.append(data)
        got += len(data)
    return b"".join(parts)


def _write_all(fd: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
