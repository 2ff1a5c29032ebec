"""Health checks of a real server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raycluster_cli.model.status import EndDetail
from raycluster_cli.service.probe import NoAnswer, Probe

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(text: str) -> Answer:
    """A server that answers every request with this, and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode())
        await writer.drain()
        writer.close()

    return answer


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def asked(answer: Answer, path: str, timeout_s: float = 5.0, host: str = "127.0.0.1") -> str:
    """What a check of such a server finds; '' when it is well."""
    server = await asyncio.start_server(answer, host)
    try:
        port = server.sockets[0].getsockname()[1]
        try:
            await Probe("127.0.0.1" if host != "127.0.0.1" else host, port, path, timeout_s).check()
        except NoAnswer as error:
            return str(error).replace(str(port), "PORT")
        return ""
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.0 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "GET /health is answered with 503 Service Unavailable"),
        ("HTTP/1.1 302 Found\r\n\r\n", "GET /health is answered with 302 Found"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "GET /health is not answered by HTTP: it says 'SSH-2.0-OpenSSH_9.2'"),
        ("HTTP/1.1 200OK\r\n\r\n", "GET /health is not answered by HTTP: it says 'HTTP/1.1 200OK'"),
        ("", "GET /health is not answered by HTTP: it closes the connection"),
    ],
)
def test_a_path_is_asked_by_http(answer: str, found: str) -> None:
    assert asyncio.run(asked(says(answer), "/health")) == found


def test_without_a_path_a_connection_is_enough() -> None:
    assert asyncio.run(asked(says_nothing, "")) == ""


def test_a_server_that_accepts_and_says_nothing() -> None:
    assert asyncio.run(asked(says_nothing, "/health", 0.05)) == "GET /health is not answered within 0.05 s"


def test_a_server_that_resets_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        writer.close()

    assert "Connection reset by peer" in asyncio.run(asked(answer, "/health"))


def test_nobody_listens() -> None:
    async def work() -> str:
        server = await asyncio.start_server(says_nothing, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(NoAnswer) as found:
            await Probe("127.0.0.1", port).check()
        assert found.value.detail is EndDetail.NOTHING_LISTENS
        return str(found.value).replace(str(port), "PORT")

    assert asyncio.run(work()) == "nothing listens on 127.0.0.1:PORT"


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["127.0.0.2", "127.0.0.3"], "nothing listens on n1:PORT"),
        (["127.0.0.2", "224.0.0.1"], "no connection to n1:PORT: Connection refused, Network is unreachable"),
        (["224.0.0.1"], "no connection to n1:PORT: Network is unreachable"),
    ],
)
def test_a_host_with_several_addresses(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], said: str
) -> None:
    def resolve(host: str, port: int, *_: object, **__: object) -> list[Any]:
        names = [host] if host != "n1" else addresses
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in names]

    async def work() -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]  # nobody listens on it
            with pytest.raises(NoAnswer) as found:
                await Probe("n1", port).check()
        return str(found.value).replace(str(port), "PORT")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert asyncio.run(work()) == said


@pytest.mark.parametrize("path", ["", "/health"])
def test_one_that_listens_only_on_its_own_node_is_told_so(path: str) -> None:
    async def work() -> str:
        server = await asyncio.start_server(says_nothing, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(NoAnswer) as found:
                await Probe("127.0.0.2", port, path).check()  # as the node's own address
        finally:
            server.close()
        return str(found.value)

    text = asyncio.run(work())
    assert "only on 127.0.0.1: give the server the address too (--host {host})" in text


def test_a_body_is_read_to_its_end() -> None:
    async def work() -> tuple[str, bytes]:
        body = "x" * 300_000
        server = await asyncio.start_server(
            says(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"), "127.0.0.1"
        )
        probe = Probe("127.0.0.1", server.sockets[0].getsockname()[1])
        try:
            found = await probe.get("/metrics")
            assert len(probe.own_ports) == 1
            return found
        finally:
            server.close()

    status, body = asyncio.run(work())
    assert status == "200 OK"
    assert body.endswith(b"x" * 300_000)


@pytest.mark.parametrize("path", ["", "/health"])
def test_a_check_leaves_nothing_on_the_servers_port(path: str) -> None:
    """Also of a server that closes the connection: the port can be opened again without SO_REUSEADDR."""

    answer = says("HTTP/1.0 200 OK\r\n\r\n") if path else says_nothing
    ended = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await answer(reader, writer)
        with contextlib.suppress(OSError):  # the connection was reset
            await writer.wait_closed()
        ended += 1

    async def work() -> None:
        server = await asyncio.start_server(counted, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        for _ in range(5):
            await Probe("127.0.0.1", port, path).check()
        while ended < 5:  # the server sees the end of the last one
            await asyncio.sleep(0.005)
        server.close()
        await server.wait_closed()
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))

    asyncio.run(work())


@pytest.mark.parametrize("path", ["", "/health"])
@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_pythons_own_server_has_nothing_to_complain_of(
    path: str, protocol: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It prints a traceback for a connection that is reset while it waits for a request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = protocol

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever, args=(0.005,))
        thread.start()
        for _ in range(5):
            asyncio.run(Probe("127.0.0.1", server.server_port, path).check())
        server.shutdown()
        thread.join()
    assert capfd.readouterr().err == ""


def test_a_body_in_chunks_of_a_server_that_keeps_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n\r\n0\r\n\r\n")
        await reader.read()
        writer.close()

    async def work() -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1")
        try:
            return (await Probe("127.0.0.1", server.sockets[0].getsockname()[1]).get("/metrics"))[1]
        finally:
            server.close()

    assert b"a 1\n" in asyncio.run(work())
