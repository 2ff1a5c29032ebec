"""One health check of a server: over HTTP where it has a path for it, else by a TCP connection.

A connection that the server may close first is reset at its end (SO_LINGER 0).  It would stay in TIME_WAIT on
the server's port for a minute, and Ray Serve could not open it again after a crash (seen with Ray 2.60).  All
others are closed from here in the usual way: servers of Python's http.server, Flask's among them, print a
traceback for each connection that is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
from dataclasses import field

from ..model.address import join_host_port
from ..model.dataclass import dataclass
from ..model.status import EndDetail
from ..model.value import Value
from ..system.network import why_not_connected
from ..system.waiting import within

#: The most that is read of an answer.
_ANSWER_MAX_BYTES = 4 << 20

#: A server that was asked to close the connection and does not: it is closed from here.
_CLOSE_S = 1.0

#: How many of our own connections are remembered, to tell them from clients': more than are made within the
#: minute in which the kernel keeps those that are over.
_OWN_PORTS = 1024


class NoAnswer(Exception):
    """The server has not answered as it should; the text says what was seen, for people."""

    def __init__(self, text: str, detail: EndDetail | None = None) -> None:
        super().__init__(text)
        self.detail = detail


@dataclass
class Probe:
    """Asks one server."""

    host: str
    """Where it is asked: as others reach it."""
    port: int
    path: str = ""
    """Asked by HTTP; empty: a TCP connection is enough."""
    timeout_s: float = 10.0
    own_ports: list[int] = field(default_factory=list)
    """The local ports of the latest connections that were made here."""

    async def check(self) -> None:
        """Raises NoAnswer unless the server is well."""
        if not self.path:
            await self._connected()
            return
        status, _ = await self.get(self.path, body=False)
        if not 200 <= int(status[:3]) < 300:
            detail = EndDetail.NOT_FOUND if status.startswith("404") else None
            raise NoAnswer(f"GET {self.path} is answered with {status}", detail)

    async def get(self, path: str, *, body: bool = True) -> tuple[str, bytes]:
        """(status, body): ("200 OK", b"…").  Raises NoAnswer when there is no answer."""
        try:
            return await within(self._get(path, body), self.timeout_s)
        except asyncio.TimeoutError:
            raise NoAnswer(f"GET {path} is not answered within {self.timeout_s:g} s") from None
        except (OSError, EOFError, ValueError) as error:
            raise NoAnswer(f"GET {path} is not answered by HTTP: {error}") from error

    async def _get(self, path: str, body: bool) -> tuple[str, bytes]:
        reader, writer = await self._open()
        kept = False
        try:
            host = join_host_port(self.host, self.port)
            lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Accept: */*")
            writer.write("\r\n".join((*lines, "User-Agent: raycluster", "", "")).encode())
            line = (await reader.readline()).decode("latin-1").strip()
            version, _, status = line.partition(" ")
            if not version.startswith("HTTP/") or not re.fullmatch(r"\d{3}( .*)?", status, re.ASCII):
                raise ValueError(f"it says {line[:80]!r}" if line else "it closes the connection")
            head = await _head(reader, version)
            found = await _body(reader, head) if body or head.size is not None else b""
            kept = head.kept and (body or head.size is not None)
            return status, found
        finally:
            if not kept:
                _reset(writer)
            await _close(writer)

    async def _connected(self) -> None:
        try:
            _, writer = await within(self._open(), self.timeout_s)
        except asyncio.TimeoutError:
            raise NoAnswer(f"no connection to {self.host}:{self.port} within {self.timeout_s:g} s") from None
        await _close(writer)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError as error:
            why = why_not_connected(error)
            if why == os.strerror(errno.ECONNREFUSED):  # on all addresses of the host
                raise NoAnswer(await self._nobody_listens(), EndDetail.NOTHING_LISTENS) from None
            raise NoAnswer(f"no connection to {self.host}:{self.port}: {why}") from error
        self.own_ports = [*self.own_ports, writer.get_extra_info("sockname")[1]][-_OWN_PORTS:]
        return reader, writer

    async def _nobody_listens(self) -> str:
        """Many servers listen on 127.0.0.1 unless they are told otherwise."""
        text = f"nothing listens on {self.host}:{self.port}"
        if self.host in ("127.0.0.1", "::1", "localhost"):
            return text
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            await _close(writer)
            return (
                f"{text}, only on 127.0.0.1: give the server the address too (--host {{host}}), or "
                "raycluster --service-host 127.0.0.1"
            )
        return text


class _Head(Value):
    """What an answer's head says of the rest."""

    size: int | None
    """Bytes of the body, where they are given."""
    chunked: bool
    kept: bool
    """The server does not close the connection after the answer."""


async def _head(reader: asyncio.StreamReader, version: str) -> _Head:
    size: int | None = None
    chunked, kept = False, version != "HTTP/1.0"
    while line := (await reader.readline()).decode("latin-1").strip().lower():
        name, _, value = line.partition(":")
        if name == "content-length":
            size = min(int(value), _ANSWER_MAX_BYTES)
        chunked = chunked or (name == "transfer-encoding" and "chunked" in value)
        kept = kept and not (name == "connection" and "close" in value)
    return _Head(size, chunked, kept and not reader.at_eof())


async def _body(reader: asyncio.StreamReader, head: _Head) -> bytes:
    """The rest of an answer; of one in chunks with the lines that give their lengths."""
    if head.size is not None:
        return await reader.readexactly(head.size)
    found = b""
    while len(found) < _ANSWER_MAX_BYTES and not (head.chunked and found.endswith(b"0\r\n\r\n")):
        if not (more := await reader.read(1 << 16)):
            break
        found += more
    return found


def _reset(writer: asyncio.StreamWriter) -> None:
    """Let the end of the connection be a reset."""
    linger = struct.pack("ii", 1, 0)
    with contextlib.suppress(OSError):  # closed already, where the server has reset it
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        await within(writer.wait_closed(), _CLOSE_S)
