"""Proof of a head: how a worker that cannot read the record makes sure that it has found its own head.

Both have RAYCLUSTER_TOKEN.  The worker connects and sends 32 random bytes, the nonce.  The head answers with
the address of its GCS and an HMAC-SHA256 of nonce and answer, with the token as the key.  The worker sends
nothing secret before it has checked that.  It then connects to the address in the answer, not to the one that
answered, so that an attacker gains nothing by relaying question and answer.

The head listens on the first free of a few ports that follow from the token (:func:`proof_ports`): without
the token they cannot be predicted.  A connection gets one answer of less than 1 KiB; one that
does not ask within :data:`ASK_TIMEOUT_S` is closed, and when there are too many the oldest is.

See docs/decisions/0016-no-secret-to-a-guessed-address.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence

from ..model.record import HeadInfo, decode
from ..model.value import Value
from ..system.port_locks import UNIT, PortLocks
from ..system.port_probe import any_address, tcp_socket
from ..system.ports import HIGHEST, LOCK_NAME, LOWEST
from ..system.waiting import within

#: How a question begins: another protocol's bytes get no answer.
MAGIC = b"RCPROOF1"
NONCE_BYTES = 32
ASK_BYTES = len(MAGIC) + NONCE_BYTES
MAC_BYTES = 32

#: How long a connection may take to ask, and how many may be open; the oldest gives way to the next.
ASK_TIMEOUT_S, MAX_CONNECTIONS = 5.0, 64

#: How long one question may take in all, and how long an answer may be.
PROOF_TIMEOUT_S, MAX_ANSWER_BYTES = 2.0, 4096

#: How many ports a head may choose from, and its workers ask.
PORTS = 8

#: The fields of HeadInfo in the answer, which also has the cluster's key and the identity's nonce.
_TOLD = (
    *("host", "address_ip", "port", "ray_version", "python_version", "raycluster_version", "auth", "tls"),
    *("node_root", "state", "step", "launch", "on_worker_loss", "head_recovery", "with_dashboard"),
)


class ProvenHead(Value):
    """A head that has shown that it has the token."""

    cluster_key: str
    """As Context.cluster_key: the head's own."""
    head: HeadInfo


def _mac(token: str, use: str, *parts: bytes) -> bytes:
    """HMAC-SHA256 with the token as the key; ``use`` keeps the MACs of different uses apart."""
    import hmac  # not needed by a start that has a record

    message = b"".join(len(part).to_bytes(4, "big") + part for part in (use.encode(), *parts))
    return hmac.digest(token.encode(), message, "sha256")


def proof_ports(token: str) -> tuple[int, ...]:
    """Where a head with this token listens, in the order in which it tries them.

    >>> ports = proof_ports("0123456789abcdef0123456789abcdef")
    >>> len(set(ports)), min(ports) >= 10240, max(ports) < 32768
    (8, True, True)
    """
    found: dict[int, None] = {}
    number = 0
    while len(found) < PORTS:
        digest = _mac(token, "raycluster proof port", number.to_bytes(4, "big"))
        port = LOWEST + int.from_bytes(digest[:8], "big") % (HIGHEST - LOWEST)
        if port % UNIT != UNIT - 1:  # the last port of a unit may be its lock
            found.setdefault(port)
        number += 1
    return tuple(found)


def identity_of(token: str, nonce: str) -> str:
    """The cluster's identity, 128 bits in hex; only those with the token can work it out from the nonce."""
    return _mac(token, "raycluster identity", nonce.encode()).hex()[:32]


# -- the head's side ---------------------------------------------------------------------------------


class HeadProof:
    """The head's listener.  Nothing that a peer does raises here."""

    def __init__(self, token: str, cluster_key: str, nonce: str, head: Callable[[], HeadInfo]) -> None:
        """``nonce`` is what the cluster's identity was made of; ``head`` gives the head as it is now."""
        self._token = token
        self._cluster_key = cluster_key
        self._nonce = nonce
        self._head = head
        self._locks = PortLocks(LOCK_NAME, abstract=True)
        self._server: asyncio.Server | None = None
        self.open: dict[Question, None] = {}
        """Connections that have not been answered, the oldest first."""
        self.port = 0

    async def listen(self) -> bool:
        """Listen on the first port of :func:`proof_ports` that is free here; False when none is."""
        loop = asyncio.get_running_loop()
        for port in proof_ports(self._token):
            unit = port // UNIT
            if not self._locks.take([unit]):  # another raycluster's
                continue
            sock = tcp_socket()
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((any_address(sock), port))
                self._server = await loop.create_server(lambda: Question(self), sock=sock, backlog=1024)
            except OSError:
                sock.close()
                self._locks.release([unit])
                continue
            self.port = port
            return True
        return False

    def close(self) -> None:
        """Answer no more, and give the port back.  May be called again."""
        if self._server is not None:
            self._server.close()
        for question in list(self.open):
            question.abort()
        self._locks.release_all()

    def answer(self, nonce: bytes) -> bytes:
        """MAC and text for a worker that has sent this nonce."""
        head = self._head()
        facts = {name: getattr(head, name) for name in _TOLD}
        text = json.dumps({"cluster": self._cluster_key, "nonce": self._nonce, **facts}).encode()
        return _mac(self._token, "raycluster head", nonce, text) + text


class Question(asyncio.BufferedProtocol):
    """One connection to the listener.  It reads no more bytes than a question has."""

    def __init__(self, proof: HeadProof) -> None:
        self._proof = proof
        self._buffer = bytearray(ASK_BYTES)
        self._received = 0
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(ASK_TIMEOUT_S, self.abort)
        if len(self._proof.open) >= MAX_CONNECTIONS:
            next(iter(self._proof.open)).abort()
        self._proof.open[self] = None

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._received :]

    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        begun = self._buffer[: min(self._received, len(MAGIC))]
        if not MAGIC.startswith(begun):
            self.abort()
        elif self._received == ASK_BYTES:
            self._transport.pause_reading()  # the buffer is full
            self._transport.write(self._proof.answer(bytes(self._buffer[len(MAGIC) :])))
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._proof.open.pop(self, None)
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        self._proof.open.pop(self, None)


# -- the worker's side -------------------------------------------------------------------------------


def check_answer(token: str, nonce: bytes, answer: bytes) -> ProvenHead | None:
    """The head that has given this answer to our nonce; None unless it has the token."""
    import hmac

    mac, text = answer[:MAC_BYTES], answer[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(token, "raycluster head", nonce, text)):
        return None
    facts = json.loads(text)
    head = decode(HeadInfo, json.dumps({**facts, "identity": identity_of(token, facts["nonce"])}).encode())
    return None if head is None else ProvenHead(str(facts["cluster"]), head)


async def ask_for_proof(
    host: str, port: int, token: str, *, timeout_s: float = PROOF_TIMEOUT_S
) -> ProvenHead | None:
    """The head that proves itself at ``host:port``; None when none does in time."""
    try:
        return await within(_ask(host, port, token), timeout_s)
    except (OSError, asyncio.TimeoutError):
        return None


async def _ask(host: str, port: int, token: str) -> ProvenHead | None:
    nonce = os.urandom(NONCE_BYTES)
    reader, writer = await asyncio.open_connection(host, port, limit=MAX_ANSWER_BYTES)
    try:
        writer.write(MAGIC + nonce)
        answer = b""
        while len(answer) <= MAX_ANSWER_BYTES and (more := await reader.read(MAX_ANSWER_BYTES)):
            answer += more
        return check_answer(token, nonce, answer)
    finally:
        writer.transport.abort()


async def find_proven_head(
    host: str,
    token: str,
    fits: Callable[[ProvenHead], bool],
    *,
    ports: Sequence[int] | None = None,
    timeout_s: float = PROOF_TIMEOUT_S,
) -> ProvenHead | None:
    """The first head on ``host`` that proves itself and ``fits``; all ports are asked at once.

    None when there is none; that takes ``timeout_s`` at most.
    """
    asked = [
        asyncio.ensure_future(ask_for_proof(host, port, token, timeout_s=timeout_s))
        for port in (proof_ports(token) if ports is None else ports)
    ]
    try:
        for answer in asyncio.as_completed(asked):
            found = await answer
            if found is not None and fits(found):
                return found
        return None
    finally:
        await _cancel(asked)


async def _cancel(futures: Iterable[asyncio.Future[ProvenHead | None]]) -> None:
    left = [future for future in futures if not future.done()]
    for future in left:
        future.cancel()
    if left:
        await asyncio.wait(left)
