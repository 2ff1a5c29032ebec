"""A TCP probe, and Ray's gRPC health check on one kept connection.

Ray's GCS and raylets answer ``grpc.health.v1.Health/Check`` on their ports.
The check is one request of fixed bytes and one answer of seven, so the little HTTP/2 that
it needs (RFC 9113) is written here: a worker's GCS monitor imports neither grpcio (plain ``ray``
does not bring it) nor Ray (77 MB).  See docs/decisions/0003.

Hardly anything of the answer's headers is needed: a healthy server's DATA frame holds the message
``status: SERVING``.  Ray 2.56 asks for the token here too, before it looks at the request; a server that
answers so runs, and the token is no business of a health check.  Every other answer (another error,
another status, not HTTP/2) means unhealthy.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from ..model.address import join_host_port
from ..model.value import Value
from ..system.network import plain_host
from ..system.waiting import done_within, in_thread, within

if TYPE_CHECKING:
    import ssl

# --------------------------------------------------------------------------- TCP


class Outcome(str, enum.Enum):
    """The result of an attempt to connect."""

    REACHED = "reached"
    """A process listens there."""
    REFUSED = "refused"
    """The host answers, and no process listens on the port."""
    NO_ROUTE = "no route"
    """The network has no route to it, or a firewall rejects the connection."""
    TIMED_OUT = "timed out"
    """No answer at all: the host is down, or a firewall drops the packets."""
    NAME_UNKNOWN = "name unknown"
    """The host's name cannot be resolved."""
    FAILED = "failed"
    """A problem of this node itself, such as too many open files."""


class Probe(Value):
    outcome: Outcome
    detail: str = ""
    """The system's message, where it says more than the outcome."""


_OUTCOMES = {
    errno.ECONNREFUSED: Outcome.REFUSED,
    errno.ECONNRESET: Outcome.REFUSED,
    errno.EHOSTUNREACH: Outcome.NO_ROUTE,
    errno.ENETUNREACH: Outcome.NO_ROUTE,
    errno.ENETDOWN: Outcome.NO_ROUTE,
    errno.EADDRNOTAVAIL: Outcome.NO_ROUTE,
    errno.EACCES: Outcome.NO_ROUTE,
    errno.EPERM: Outcome.NO_ROUTE,
    errno.ETIMEDOUT: Outcome.TIMED_OUT,
}


def classify(error: BaseException) -> Probe:
    """What an exception of a connect means."""
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return Probe(Outcome.TIMED_OUT)
    if isinstance(error, socket.gaierror):
        return Probe(Outcome.NAME_UNKNOWN, error.strerror or str(error))
    number = error.errno if isinstance(error, OSError) else None
    outcome = _OUTCOMES.get(number or 0, Outcome.FAILED)
    plain = outcome in (Outcome.REFUSED, Outcome.TIMED_OUT) or number == errno.EHOSTUNREACH
    return Probe(outcome, "" if plain else os.strerror(number) if number else str(error))


async def tcp_probe(host: str, port: int, *, timeout_s: float) -> Probe:
    """Whether a process listens at ``host:port``.  Never raises for what the network does.

    The addresses of a name are tried in their order; of several failures the last is returned.
    """
    try:
        return await within(_probe(host, port), timeout_s)
    except (OSError, asyncio.TimeoutError, UnicodeError) as error:
        return classify(error)


async def _probe(host: str, port: int) -> Probe:
    loop = asyncio.get_running_loop()
    found = Probe(Outcome.NAME_UNKNOWN)
    flags = socket.AI_NUMERICHOST if _is_address(host) else 0
    # A numeric address is resolved here and now; a name in a thread, since DNS may hang.
    if flags:
        places = socket.getaddrinfo(plain_host(host), port, type=socket.SOCK_STREAM, flags=flags)
    else:
        places = await in_thread(partial(socket.getaddrinfo, plain_host(host), port, type=socket.SOCK_STREAM))
    for family, kind, proto, _, where in places:
        with socket.socket(family, kind, proto) as sock:
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, where)
            except OSError as error:
                found = classify(error)
                continue
            if sock.getsockname() == sock.getpeername():
                # A closed port of this host in the ephemeral range: TCP connected us to ourselves.
                found = Probe(Outcome.REFUSED)
                continue
            return Probe(Outcome.REACHED)
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
        return True
    except ValueError:
        return False


# --------------------------------------------------------------------------- gRPC over HTTP/2

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS, _PADDED = 4, 8
_MAX_FRAME_BYTES = 16384
_LAST_STREAM = 2**31 - 3
_SERVING = b"\x00\x00\x00\x00\x02\x08\x01"
"""A gRPC message of 2 bytes: HealthCheckResponse { status: SERVING }."""
_UNAUTHENTICATED = b"\x0bgrpc-status\x0216"
"""A gRPC status (16) in HPACK, as gRPC's C++ library writes it: a literal, not Huffman coded."""
_ASK_ALL = b"\x00\x00\x00\x00\x00"
"""An empty HealthCheckRequest: the server as a whole."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame: length (24 bits), type, flags, stream, payload."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """An HPACK string, not Huffman coded; at most 126 bytes."""
    data = text.encode()[:126]
    return bytes((len(data),)) + data


def request_headers(authority: str, secure: bool) -> bytes:
    """The header block of a check: HPACK (RFC 7541) with indexed names, nothing added to tables."""
    return b"".join(
        (
            b"\x83",  # :method POST
            b"\x87" if secure else b"\x86",  # :scheme https, http
            b"\x04" + _text("/grpc.health.v1.Health/Check"),  # :path
            b"\x01" + _text(authority),  # :authority
            b"\x0f\x10" + _text("application/grpc"),  # content-type
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


class HealthChannel(asyncio.Protocol):
    """One kept connection to a GCS or raylet, over which its health is asked.

    ``closed`` is set the moment the connection ends: at once when the peer's process dies (its kernel sends
    FIN or RST), after about ten seconds without any answer from its host (TCP keepalive;
    a process that is merely stopped or slow does not matter to it).
    """

    def __init__(self, authority: str, secure: bool) -> None:
        self.closed = asyncio.Event()
        self.error = ""
        """Why the connection ended."""
        self._headers = request_headers(authority, secure)
        self._stream = -1
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._received = b""
        self._greeted = False
        self._uncredited_bytes = 0
        self._transport: asyncio.Transport

    @classmethod
    async def connect(
        cls, host: str, port: int, *, timeout_s: float, context: ssl.SSLContext | None = None
    ) -> HealthChannel:
        """Connect; raises OSError (TimeoutError too) as classify() understands it."""
        authority = join_host_port(host, port)
        channel = cls(authority, context is not None)
        try:
            await within(channel._connect(host, port, context), timeout_s)
        except asyncio.TimeoutError as error:  # before 3.11 not an OSError
            raise TimeoutError(errno.ETIMEDOUT, f"no connection to {authority} in {timeout_s:g} s") from error
        return channel

    async def _connect(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        if context is None:
            await asyncio.get_running_loop().create_connection(lambda: self, host, port)
        else:
            from .tls_layer import start_tls  # with the ssl module: only where it is used

            context.set_alpn_protocols(["h2"])
            await start_tls(self, context, host, port)

    async def check(self, timeout_s: float) -> bool:
        """One check.  False for a server that is not healthy, no answer in time, or a closed connection."""
        if self.closed.is_set():
            return False
        self._stream += 2
        if self._stream > _LAST_STREAM:
            self._end("all stream numbers are used")
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        stream, self._asked[self._stream] = self._stream, answer
        self._transport.write(
            frame(_HEADERS, _END_HEADERS, stream, self._headers) + frame(_DATA, _END_STREAM, stream, _ASK_ALL)
        )
        try:
            if await done_within(answer, timeout_s):
                return answer.result()
        finally:
            self._asked.pop(stream, None)
        if not self.closed.is_set():
            self._transport.write(frame(_RST_STREAM, 0, stream, (8).to_bytes(4, "big")))  # CANCEL
        return False

    async def closed_within(self, timeout_s: float) -> bool:
        """Whether the connection ends within the time."""
        try:
            await within(self.closed.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    def close(self) -> None:
        """End the connection.  May be called again."""
        self._end("closed here")

    # -- asyncio.Protocol ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sock: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                ("TCP_KEEPIDLE", 4),
                ("TCP_KEEPINTVL", 2),
                ("TCP_KEEPCNT", 3),
                ("TCP_USER_TIMEOUT", 10_000),
            ):
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        # Settings: no push (2 = 0), and no header table at our end (1 = 0), since we do not read headers.
        settings = b"\x00\x01\x00\x00\x00\x00" + b"\x00\x02\x00\x00\x00\x00"
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(_SETTINGS, 0, 0, settings))

    def data_received(self, data: bytes) -> None:
        self._received += data
        while len(self._received) >= 9 and not self.closed.is_set():
            length = int.from_bytes(self._received[:3], "big")
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big") & 0x7FFFFFFF
            # A server's first frame must be SETTINGS; another protocol's bytes are told by this.
            if length > _MAX_FRAME_BYTES or (not self._greeted and kind != _SETTINGS):
                self._end("the answer is not HTTP/2")
                return
            if len(self._received) < 9 + length:
                return
            payload = self._received[9 : 9 + length]
            self._received = self._received[9 + length :]
            self._greeted = True
            self._frame(kind, flags, stream, payload)

    def eof_received(self) -> None:
        self._end("the peer closed the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self._end(str(error) if error else "the peer closed the connection")

    # -- frames --------------------------------------------------------------------------------

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._end("the peer ends the connection (GOAWAY)")
        elif kind == _DATA:
            self._credit(len(payload))
            if flags & _PADDED and payload:
                payload = payload[1 : len(payload) - payload[0]]
            self._answer(stream, payload == _SERVING)
        elif kind == _RST_STREAM:
            self._answer(stream, False)
        elif kind == _HEADERS and flags & _END_STREAM:  # an error, or the trailers after an answer
            self._answer(stream, _UNAUTHENTICATED in payload)

    def _answer(self, stream: int, healthy: bool) -> None:
        future = self._asked.get(stream)
        if future is not None and not future.done():
            future.set_result(healthy)

    def _credit(self, size: int) -> None:
        """Give back what the answers use of the connection's window (64 KiB), now and then."""
        self._uncredited_bytes += size
        if self._uncredited_bytes >= 8192:
            self._transport.write(frame(_WINDOW_UPDATE, 0, 0, self._uncredited_bytes.to_bytes(4, "big")))
            self._uncredited_bytes = 0

    def _end(self, why: str) -> None:
        if self.closed.is_set():
            return
        self.error = why
        self.closed.set()
        for future in self._asked.values():
            if not future.done():
                future.set_result(False)
        self._transport.abort()
