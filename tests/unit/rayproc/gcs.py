"""A stand-in for a GCS: it speaks as much HTTP/2 as a health check needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from raycluster_cli.rayproc.health import frame

SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


class Gcs:
    """Answers health checks, unless ``answers`` is False, and counts them."""

    def __init__(self) -> None:
        self.answers = True
        self.checks = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: list[asyncio.StreamWriter] = []

    async def start(self, port: int = 0) -> None:
        """Listen: on any port at first, on the same one again."""
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", port or self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """As the end of its process: connections are closed, and new ones refused."""
        if self._server is not None:
            self._server.close()
        self.hang_up()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        try:
            await reader.readexactly(24)
            writer.write(frame(4, 0, 0))
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == 0:
                    self.checks += 1
                    if self.answers:
                        stream = int.from_bytes(head[5:9], "big")
                        writer.write(frame(1, 4, stream, b"\x88") + frame(0, 0, stream, SERVING))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    def hang_up(self) -> None:
        for writer in self._open:
            writer.close()


@asynccontextmanager
async def running(gcs: Gcs, port: int = 0) -> AsyncIterator[int]:
    await gcs.start(port)
    try:
        yield gcs.port
    finally:
        gcs.stop()
