"""The head's proof: only who has the token is believed, and a stranger learns and holds up nothing."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from raycluster_cli.model.record import HeadInfo
from raycluster_cli.supervisor import head_proof
from raycluster_cli.supervisor.head_proof import (
    ASK_BYTES,
    MAC_BYTES,
    MAGIC,
    MAX_CONNECTIONS,
    HeadProof,
    ProvenHead,
    ask_for_proof,
    check_answer,
    find_proven_head,
    identity_of,
    proof_ports,
)
from tests.unit.loops import run_loop, skip

TOKEN = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
HERE = "127.0.0.1"
HEAD = HeadInfo(host="n1", address_ip="10.77.0.1", port=20480, identity=identity_of(TOKEN, "nonce"), step="0")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def token() -> str:
    """A token whose ports no other test uses."""
    return secrets.token_hex(32)


@contextlib.asynccontextmanager
async def listening(own: str, *, cluster: str = "bed/7+") -> AsyncIterator[HeadProof]:
    proof = HeadProof(own, cluster, "nonce", lambda: replace(HEAD, identity=identity_of(own, "nonce")))
    assert await proof.listen()
    try:
        yield proof
    finally:
        proof.close()


class Stranger:
    """A listener without the token that keeps every byte it is sent; ``serve`` says what it does then."""

    def __init__(self, serve: Serve | None = None) -> None:
        self.received = bytearray()
        self.serve = serve
        self.port = 0
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> Stranger:
        self._server = await asyncio.start_server(self._accept, HERE, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            data = await reader.read(4096)
            self.received += data
            if self.serve is not None:
                await self.serve(reader, writer)
                writer.close()
            while more := await reader.read(4096):
                self.received += more

    def close(self) -> None:
        self._server.close()


def fits(cluster: str, found: ProvenHead) -> bool:
    return found.cluster_key == cluster


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the deadline is :func:`run`'s."""
    while not condition():
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 600)

    run_loop(bounded())


# -- what is believed --------------------------------------------------------------------------------


def test_a_head_with_the_token_is_believed_and_told_whole() -> None:
    async def test() -> None:
        own = token()
        async with listening(own) as proof:
            assert proof.port in proof_ports(own)
            found = await find_proven_head(HERE, own, lambda _: True)
        assert found is not None
        assert found.cluster_key == "bed/7+"
        assert found.head.address == "10.77.0.1:20480"
        assert found.head.identity == identity_of(own, "nonce")
        assert found.head.step == "0"

    run(test)


@pytest.mark.parametrize("where", range(0, 400, 37))
def test_a_changed_bit_is_not_believed(where: int) -> None:
    proof = HeadProof(TOKEN, "bed/7+", "nonce", lambda: HEAD)
    nonce = bytes(range(32))
    answer = bytearray(proof.answer(nonce))
    assert check_answer(TOKEN, nonce, bytes(answer)) is not None
    answer[where % len(answer)] ^= 1
    assert check_answer(TOKEN, nonce, bytes(answer)) is None


def test_another_token_another_nonce_or_half_an_answer_is_not_believed() -> None:
    proof = HeadProof(TOKEN, "bed/7+", "nonce", lambda: HEAD)
    nonce = bytes(range(32))
    answer = proof.answer(nonce)
    assert check_answer(OTHER, nonce, answer) is None
    assert check_answer(TOKEN, nonce[::-1], answer) is None  # an answer that was heard before
    for size in (0, 1, MAC_BYTES, len(answer) - 1):
        assert check_answer(TOKEN, nonce, answer[:size]) is None


def test_an_answer_holds_neither_the_token_nor_the_identity() -> None:
    answer = HeadProof(TOKEN, "bed/7+", "nonce", lambda: HEAD).answer(bytes(32))
    assert len(answer) < 1024
    assert TOKEN.encode() not in answer
    assert HEAD.identity.encode() not in answer


def test_ports_and_identity_follow_from_the_token_alone() -> None:
    assert proof_ports(TOKEN) == proof_ports(TOKEN)
    assert not set(proof_ports(TOKEN)) & set(proof_ports(OTHER))
    assert identity_of(TOKEN, "a") != identity_of(TOKEN, "b") != identity_of(OTHER, "b")


# -- strangers whom a worker asks --------------------------------------------------------------------


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def say_garbage(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(3000))


async def never_stop(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            writer.write(bytes(65536))
            await writer.drain()


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("serve", [say_nothing, say_garbage, never_stop, hang_up])
def test_a_stranger_gets_a_nonce_and_is_not_believed(serve: Serve) -> None:
    async def test() -> None:
        stranger = await Stranger(serve).start()
        try:
            asking = asyncio.ensure_future(ask_for_proof(HERE, stranger.port, TOKEN, timeout_s=60.0))
            while len(stranger.received) < ASK_BYTES and not asking.done():
                await asyncio.sleep(0.001)
            if serve is say_nothing:
                skip(60.0)
            assert await asking is None
        finally:
            stranger.close()
        assert stranger.received.startswith(MAGIC)
        assert len(stranger.received) == ASK_BYTES
        for secret in (TOKEN.encode(), bytes.fromhex(TOKEN)):
            assert secret not in stranger.received

    run(test)


def test_nobody_there() -> None:
    async def test() -> None:
        with socket.create_server((HERE, 0)) as closed:
            port = closed.getsockname()[1]
        assert await ask_for_proof(HERE, port, TOKEN) is None

    run(test)


def test_strangers_on_all_other_ports_do_not_hold_up_the_head_that_proves_itself() -> None:
    async def test() -> None:
        own = token()
        async with listening(own) as proof:
            strangers = [await Stranger(say_nothing).start() for _ in range(7)]
            ports = [*(stranger.port for stranger in strangers), proof.port]
            try:
                # Deadlines of a minute: only asking all at once ends in time.
                found = await find_proven_head(HERE, own, lambda _: True, ports=ports, timeout_s=55.0)
            finally:
                for stranger in strangers:
                    stranger.close()
            assert found is not None

    run(test)


def test_a_relay_leads_to_the_head_and_to_nobody_else() -> None:
    """Who passes the question on can only deliver the true address."""

    async def test() -> None:
        own = token()
        async with listening(own) as proof:

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection(HERE, proof.port)
                back.write(bytes(stranger.received))
                writer.write(await there.read())
                back.close()

            stranger = await Stranger(relay).start()
            try:
                found = await ask_for_proof(HERE, stranger.port, own)
            finally:
                stranger.close()
            assert found is not None
            assert found.head.address == HEAD.address

    run(test)


def test_of_two_heads_with_one_token_the_one_that_fits_is_found() -> None:
    async def test() -> None:
        own = token()
        async with listening(own, cluster="bed/7+") as one, listening(own, cluster="bed/8+") as other:
            assert one.port != other.port
            for cluster in ("bed/7+", "bed/8+"):
                found = await find_proven_head(
                    HERE, own, lambda each, wanted=cluster: each.cluster_key == wanted
                )
                assert found is not None
                assert found.cluster_key == cluster
            assert await find_proven_head(HERE, own, lambda each: each.cluster_key == "bed/9+") is None

    run(test)


# -- strangers who ask the head ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * ASK_BYTES, b"RCPROOF2" + bytes(32), bytes(1 << 20)]
)
def test_garbage_is_hung_up_on_without_an_answer(said: bytes) -> None:
    async def test() -> None:
        async with listening(token()) as proof:
            reader, writer = await asyncio.open_connection(HERE, proof.port)
            answer = b"?"
            with contextlib.suppress(ConnectionError):
                writer.write(said)
                answer = await reader.read()
            assert answer in (b"", b"?")
            writer.close()
            await until(lambda: not proof.open)

    run(test)


def test_a_connection_that_does_not_ask_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_proof, "ASK_TIMEOUT_S", 0.05)

    async def test() -> None:
        async with listening(token()) as proof:
            reader, writer = await asyncio.open_connection(HERE, proof.port)
            writer.write(MAGIC)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            await until(lambda: not proof.open)

    run(test)


def test_more_silent_connections_than_there_is_room_for_do_not_keep_a_worker_out() -> None:
    async def test() -> None:
        own = token()
        async with listening(own) as proof:
            silent = [await asyncio.open_connection(HERE, proof.port) for _ in range(MAX_CONNECTIONS * 2)]
            await until(lambda: len(proof.open) == MAX_CONNECTIONS)
            assert await ask_for_proof(HERE, proof.port, own) is not None
            for _, writer in silent:
                writer.close()

    run(test)


def test_a_taken_port_is_passed_over_and_a_closed_one_given_back() -> None:
    async def test() -> None:
        own = token()
        stranger = await Stranger().start(proof_ports(own)[0])
        try:
            async with listening(own) as proof:
                assert proof.port == proof_ports(own)[1]
        finally:
            stranger.close()
        async with listening(own) as again:
            assert again.port in proof_ports(own)[:2]

    run(test)


def test_all_ports_taken() -> None:
    async def test() -> None:
        own = token()
        strangers = [await Stranger().start(port) for port in proof_ports(own)]
        try:
            assert not await HeadProof(own, "bed/7+", "nonce", lambda: HEAD).listen()
        finally:
            for stranger in strangers:
                stranger.close()

    run(test)
