"""The probe and the health check against real sockets: servers that answer, and all the others."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from raycluster_cli.rayproc.health import (
    HealthChannel,
    Outcome,
    Probe,
    classify,
    frame,
    request_headers,
    tcp_probe,
)

HOST = "127.0.0.1"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SERVING = bytes.fromhex("00000000020801")
NOT_SERVING = bytes.fromhex("00000000020802")
SETTINGS = frame(4, 0, 0)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def with_server(serve: Serve, use: Callable[[int], Awaitable[None]]) -> None:
    """Run ``use`` with the port of a server."""
    over: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(writer)
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass

    server = await asyncio.start_server(handle, HOST, 0)
    try:
        await asyncio.wait_for(use(server.sockets[0].getsockname()[1]), 10.0)
    finally:
        server.close()
        for writer in over:
            writer.close()


async def frames(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """The next frame: type, flags, stream, payload."""
    head = await reader.readexactly(9)
    payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
    return head[3], head[4], int.from_bytes(head[5:], "big"), payload


def answering(
    message: bytes, *, log: list[tuple[int, int, int, bytes]] | None = None, extra: bytes = b""
) -> Serve:
    """A little gRPC server that answers each request with ``message``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(PREFACE)) == PREFACE
        writer.write(SETTINGS + extra)
        while True:
            kind, flags, stream, payload = await frames(reader)
            if log is not None:
                log.append((kind, flags, stream, payload))
            if kind == 0:  # DATA ends the request
                writer.write(
                    frame(1, 4, stream, b"\x88") + message.replace(b"STRM", stream.to_bytes(4, "big"))
                )

    return serve


def data(message: bytes, flags: int = 0) -> bytes:
    """A DATA frame for the stream that is asked, and the trailers."""
    return len(message).to_bytes(3, "big") + bytes((0, flags)) + b"STRM" + message + TRAILERS


TRAILERS = b"\x00\x00\x0f\x01\x05STRM" + b"\x00\x0bgrpc-status\x010"


def check(serve: Serve, expected: bool, *, times: int = 1, timeout_s: float = 2.0) -> None:
    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        for _ in range(times):
            assert await channel.check(timeout_s=timeout_s) is expected
        channel.close()

    asyncio.run(with_server(serve, use))


# -- the check -----------------------------------------------------------------------------------


def test_serving_is_yes() -> None:
    check(answering(data(SERVING)), True, times=3)


def test_a_padded_answer_is_understood() -> None:
    check(answering(data(b"\x04" + SERVING + b"\0" * 4, flags=8)), True)


def test_a_server_that_asks_for_a_token_runs() -> None:
    """What the GCS of Ray 2.56.1 answers: status and message, without data."""
    headers = b"\x88@\x0ccontent-type\x10application/grpc\x00\x0bgrpc-status\x0216"
    headers += b"\x00\x0cgrpc-message>InvalidAuthToken: Authentication token is missing or incorrect"
    check(answering(len(headers).to_bytes(3, "big") + b"\x01\x05STRM" + headers), True, times=2)


@pytest.mark.parametrize(
    "answer",
    [
        data(NOT_SERVING),
        data(b""),
        TRAILERS,  # an error has no message
        b"\x00\x00\x04\x03\x00STRM\x00\x00\x00\x07",  # RST_STREAM, refused
    ],
    ids=["not serving", "empty", "trailers only", "reset"],
)
def test_every_other_answer_is_no_without_waiting(answer: bytes) -> None:
    began = time.monotonic()
    check(answering(answer), False, times=2, timeout_s=60.0)
    assert time.monotonic() - began < 60.0  # not one time-out was waited for


def test_what_is_sent_is_a_grpc_request() -> None:
    log: list[tuple[int, int, int, bytes]] = []
    check(answering(data(SERVING), log=log, extra=frame(6, 0, 0, b"12345678")), True, times=2)
    assert (6, 1, 0, b"12345678") in log  # the ping is answered
    assert (4, 1, 0, b"") in log  # and the settings are acknowledged
    assert log[0] == (4, 0, 0, struct.pack(">HIHI", 1, 0, 2, 0))
    asked = [(kind, flags, stream) for kind, flags, stream, _ in log if stream]
    assert asked == [(1, 4, 1), (0, 1, 1), (1, 4, 3), (0, 1, 3)]
    block = next(payload for kind, _, _, payload in log if kind == 1)
    assert block.startswith(b"\x83\x86\x04\x1c/grpc.health.v1.Health/Check\x01")
    assert b"application/grpc" in block and b"\x02te\x08trailers" in block
    assert next(payload for kind, _, _, payload in log if kind == 0) == b"\0\0\0\0\0"


def test_a_long_authority_stays_within_one_length_byte() -> None:
    assert b"\x01\x7e" in request_headers("x" * 300, secure=True)


def test_answers_are_credited_before_the_window_is_used_up() -> None:
    log: list[tuple[int, int, int, bytes]] = []
    check(answering(data(b"\xff" + SERVING + b"\0" * 255, flags=8), log=log), True, times=70)
    credits = [int.from_bytes(payload, "big") for kind, _, stream, payload in log if (kind, stream) == (8, 0)]
    assert credits and 8192 <= credits[0] < 9000


def test_many_checks_at_once_and_answers_cut_anywhere() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        out = bytearray(SETTINGS)
        waiting = 0
        while True:
            kind, _, stream, _ = await frames(reader)
            if kind == 0:
                out += data(SERVING).replace(b"STRM", stream.to_bytes(4, "big"))
                waiting += 1
            if waiting == 5:
                for n in range(len(out)):
                    writer.write(out[n : n + 1])
                    await writer.drain()
                    await asyncio.sleep(0)
                waiting = 0

    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        assert all(await asyncio.gather(*(channel.check(timeout_s=5.0) for _ in range(5))))
        channel.close()

    asyncio.run(with_server(serve, use))


# -- servers that are not well -------------------------------------------------------------------


def test_a_silent_server_is_no_after_the_time_and_can_be_asked_again() -> None:
    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        began = time.monotonic()
        assert not await channel.check(timeout_s=0.03)
        assert not await channel.check(timeout_s=0.03)
        assert time.monotonic() - began > 0.05
        assert not channel.closed.is_set()
        assert channel._asked == {}
        channel.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    asyncio.run(with_server(serve, use))


def test_a_late_answer_to_an_earlier_check_is_not_taken_for_the_present_one() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(SETTINGS)
        while True:
            kind, _, stream, _ = await frames(reader)
            if kind == 0 and stream == 3:
                writer.write(data(SERVING).replace(b"STRM", (1).to_bytes(4, "big")))

    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        assert not await channel.check(timeout_s=0.02)
        assert not await channel.check(timeout_s=0.1)
        channel.close()

    asyncio.run(with_server(serve, use))


@pytest.mark.parametrize("how", ["FIN", "RST", "GOAWAY"])
def test_closed_is_set_at_once_also_under_a_check(how: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SETTINGS)
        await reader.readexactly(len(PREFACE) + 9 + 12 + 9)
        if how == "RST":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "GOAWAY":
            writer.write(frame(7, 0, 0, b"\0" * 8))
            await reader.read()
        writer.close()

    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        began = time.monotonic()
        assert not await channel.check(timeout_s=60.0)
        assert channel.closed.is_set()
        assert channel.error
        assert not await channel.check(timeout_s=60.0)
        assert time.monotonic() - began < 60.0  # not one time-out was waited for
        channel.close()

    asyncio.run(with_server(serve, use))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46" + b"\0" * 9,
        frame(0, 0, 1, SERVING),
    ],
    ids=["HTTP/1.1", "ssh", "TLS alert", "no settings first"],
)
def test_another_protocol_is_told_from_a_health_server(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()

    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        assert not await channel.check(timeout_s=5.0)
        assert channel.error == "the answer is not HTTP/2"
        assert channel.closed.is_set()

    asyncio.run(with_server(serve, use))


def test_a_channel_that_has_used_all_stream_numbers_closes() -> None:
    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        channel._stream = 2**31 - 5
        assert await channel.check(timeout_s=2.0)
        assert not await channel.check(timeout_s=2.0)
        assert channel.closed.is_set()

    asyncio.run(with_server(answering(data(SERVING)), use))


def test_the_connection_is_watched_by_the_kernel() -> None:
    async def use(port: int) -> None:
        channel = await HealthChannel.connect(HOST, port, timeout_s=2.0)
        sock = channel._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert (
            5 < idle + interval * count < 15
        )  # a cable pulled for 5 s is survived, a dead host known by 15 s
        channel.close()

    asyncio.run(with_server(answering(data(SERVING)), use))


# -- connecting ----------------------------------------------------------------------------------


def test_connecting_to_nobody_raises_what_classify_understands() -> None:
    async def refused() -> None:
        with pytest.raises(OSError) as caught:
            await HealthChannel.connect(HOST, closed_port(), timeout_s=2.0)
        assert classify(caught.value).outcome is Outcome.REFUSED

    asyncio.run(refused())


def test_connecting_to_a_host_that_drops_everything_times_out() -> None:
    with FullListener() as server:
        port = server.getsockname()[1]

        async def silent() -> None:
            with pytest.raises(TimeoutError) as caught:
                await HealthChannel.connect(HOST, port, timeout_s=0.05)
            assert isinstance(caught.value, OSError)
            assert classify(caught.value).outcome is Outcome.TIMED_OUT

        asyncio.run(silent())


class FullListener:
    """A server whose queue is full: the kernel drops further connects, as a firewall would."""

    def __enter__(self) -> socket.socket:
        self.server = socket.socket()
        self.server.bind((HOST, 0))
        self.server.listen(0)
        self.clients = [socket.socket() for _ in range(4)]
        for client in self.clients:
            client.setblocking(False)
            client.connect_ex(self.server.getsockname())
        time.sleep(0.05)
        return self.server

    def __exit__(self, *_: object) -> None:
        for sock in [self.server, *self.clients]:
            sock.close()


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


# -- the probe -----------------------------------------------------------------------------------


def test_a_probe_tells_reached_refused_and_timed_out() -> None:
    async def use(port: int) -> None:
        assert await tcp_probe(HOST, port, timeout_s=2.0) == Probe(Outcome.REACHED)
        assert await tcp_probe("localhost", port, timeout_s=5.0) == Probe(Outcome.REACHED)
        assert await tcp_probe(HOST, closed_port(), timeout_s=2.0) == Probe(Outcome.REFUSED)
        assert await tcp_probe("::1", closed_port(), timeout_s=2.0) == Probe(Outcome.REFUSED)
        with FullListener() as server:
            probe = await tcp_probe(HOST, server.getsockname()[1], timeout_s=0.05)
            assert probe.outcome is Outcome.TIMED_OUT

    asyncio.run(with_server(answering(b""), use))


def test_a_name_server_that_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are resolved in a thread: signals and everything else go on meanwhile."""
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60) and [])
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    async def probe() -> Probe:
        ticking = asyncio.ensure_future(tick())
        found = await tcp_probe("head.example.org", 6379, timeout_s=0.1)
        ticking.cancel()
        return found

    try:
        assert asyncio.run(probe()).outcome is Outcome.TIMED_OUT
    finally:
        released.set()
    assert ticks


def test_a_name_that_cannot_be_one_is_unknown() -> None:
    probe = asyncio.run(tcp_probe("no such host.invalid", 1, timeout_s=5.0))
    assert probe.outcome is Outcome.NAME_UNKNOWN
    assert probe.detail


@pytest.mark.parametrize(
    ("error", "probe"),
    [
        (OSError(errno.ECONNREFUSED, "x"), Probe(Outcome.REFUSED)),
        (OSError(errno.EHOSTUNREACH, "x"), Probe(Outcome.NO_ROUTE)),
        (OSError(errno.ENETUNREACH, "x"), Probe(Outcome.NO_ROUTE, "Network is unreachable")),
        (OSError(errno.ETIMEDOUT, "x"), Probe(Outcome.TIMED_OUT)),
        (OSError(errno.EPERM, "x"), Probe(Outcome.NO_ROUTE, "Operation not permitted")),
        (asyncio.TimeoutError(), Probe(Outcome.TIMED_OUT)),
        (TimeoutError(), Probe(Outcome.TIMED_OUT)),
        (
            socket.gaierror(-2, "Name or service not known"),
            Probe(Outcome.NAME_UNKNOWN, "Name or service not known"),
        ),
        (OSError(errno.EMFILE, "x"), Probe(Outcome.FAILED, "Too many open files")),
    ],
)
def test_errors_are_put_in_their_kind(error: BaseException, probe: Probe) -> None:
    assert classify(error) == probe
