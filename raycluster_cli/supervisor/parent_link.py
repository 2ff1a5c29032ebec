"""The socket to a Python program that started this node through the library, if one did."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Mapping


class ParentLink:
    """Sends events to the program, a JSON object a line; end of file means that the program has ended."""

    VARIABLE = "RAYCLUSTER_PARENT_FD"

    #: What the program sends when it has done its work; a program that died sends nothing.
    DONE = b"done\n"

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> ParentLink:
        """The link that the program left in the environment; one without effect where it left none."""
        text = env.get(cls.VARIABLE, "")
        if not text.isdigit():
            return cls(None)
        link = socket.socket(fileno=int(text))
        link.set_inheritable(False)
        link.setblocking(False)
        return cls(link)

    def attach(self, loop: asyncio.AbstractEventLoop, on_gone: Callable[[bool], None]) -> None:
        """Call ``on_gone(orderly)`` once the program has done its work, or has died."""
        if self._link is None:
            return
        link = self._link

        def readable() -> None:
            with contextlib.suppress(BlockingIOError, InterruptedError):
                text = b""
                with contextlib.suppress(ConnectionError):
                    text = link.recv(4096)
                loop.remove_reader(link)
                on_gone(self.DONE in text)

        loop.add_reader(link, readable)

    def tell(self, **facts: object) -> None:
        """Send the program an event; a program that does not read its events loses them."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(json.dumps(facts).encode() + b"\n")
