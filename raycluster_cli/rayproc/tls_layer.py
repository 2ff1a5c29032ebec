"""TLS between a protocol and its connection: asyncio has none in a supervisor (supervisor.launch)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any


class TlsLayer(asyncio.Transport, asyncio.Protocol):
    """The client's end of TLS: the connection's protocol, and the transport of the protocol above it."""

    def __init__(self, above: asyncio.Protocol, context: ssl.SSLContext, server_name: str) -> None:
        super().__init__()
        self._above = above
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=server_name)
        self._connection: asyncio.Transport
        self._up = False
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done after the handshake; has its error (ssl.SSLError, ConnectionError) if it failed."""

    # -- the connection's protocol ---------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._connection = transport
        self._step(self._tls.do_handshake)

    def data_received(self, data: bytes) -> None:
        self._received.write(data)
        if not self._up:
            self._step(self._tls.do_handshake)
        if self._up:
            self._step(self._read)

    def connection_lost(self, error: Exception | None) -> None:
        if self._up:
            self._above.connection_lost(error)
        elif not self.ready.done():
            self.ready.set_exception(error or ConnectionResetError("the peer closed the connection"))

    def _step(self, call: Callable[[], object]) -> None:
        """One call of ssl, which may need more from the other end, and what it wants to send."""
        try:
            call()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._flush()  # the other end is told why
            if not self.ready.done():
                self.ready.set_exception(error)
            self._connection.abort()
            return
        else:
            if not self._up and not self.ready.done():
                self._up = True
                self.ready.set_result(None)
                self._above.connection_made(self)
        self._flush()

    def _read(self) -> None:
        while data := self._tls.read(65536):
            self._above.data_received(data)
        self._connection.close()  # the other end has ended TLS

    def _flush(self) -> None:
        if data := self._to_send.read():
            self._connection.write(data)

    # -- the transport of the protocol above -----------------------------------------------------

    def write(self, data: Any) -> None:
        self._tls.write(data)
        self._flush()

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._connection.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._connection.get_extra_info(name, default)


async def start_tls(above: asyncio.Protocol, context: ssl.SSLContext, host: str, port: int) -> TlsLayer:
    """Connect ``above`` to host:port, and check who answers.  Raises OSError, ssl.SSLError among them."""
    loop = asyncio.get_running_loop()
    _, layer = await loop.create_connection(lambda: TlsLayer(above, context, host), host, port)
    try:
        await layer.ready
    except BaseException:
        layer.abort()
        raise
    return layer
