"""The server that a driver is (--service): its states, and what the record says of it."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from .address import is_loopback, join_host_port
from .dataclass import dataclass

#: Replaced in the driver's arguments.
PORT_MARK, HOST_MARK = "{port}", "{host}"


class ServiceState(str, enum.Enum):
    """What the server does, as the head sees it."""

    STARTING = "starting"
    """Its process runs and has not answered yet."""
    READY = "ready"
    """It answered the last health check, or missed it only just now."""
    UNHEALTHY = "unhealthy"
    """It was ready, and its health checks have failed for a while."""
    RESTARTING = "restarting"
    """It crashed, hung or lost a node, and is about to be started again."""


@dataclass(frozen=True)
class ServiceReport:
    """What the record says of the server (`service.json`)."""

    state: str
    """Value of ServiceState."""
    since: float
    """Unix seconds by the head's clock at which the state began."""
    ip: str
    """The head's address."""
    port: int
    listens_on: str = ""
    """Where the server is meant to listen (--service-host)."""
    health_path: str = ""
    """Asked by HTTP; empty: a TCP connection is enough."""
    restarts: int = 0
    """How often it was started again."""
    message: str = ""
    """Why it is in this state, as far as that is a problem."""
    ready_at: float = 0.0
    """Unix seconds at which it was first ready; 0: never."""

    @property
    def is_local(self) -> bool:
        """Whether only programs on the head's own node reach it."""
        return is_loopback(self.listens_on)

    @property
    def address(self) -> str:
        """host:port as other nodes and the login node reach it; on the head's node only where it is local.

        >>> ServiceReport("ready", 0.0, "10.1.0.7", 20491).address
        '10.1.0.7:20491'
        >>> ServiceReport("ready", 0.0, "10.1.0.7", 20491, "127.0.0.1").address
        '127.0.0.1:20491'
        """
        return join_host_port(probed_host(self.listens_on, self.ip), self.port)

    @property
    def url(self) -> str:
        return f"http://{self.address}"


def probed_host(listens_on: str, ip: str) -> str:
    """Where a server is reached that listens on this address of a node.

    >>> probed_host("0.0.0.0", "10.1.0.7"), probed_host("127.0.0.1", "10.1.0.7")
    ('10.1.0.7', '127.0.0.1')
    """
    return ip if listens_on in ("", "0.0.0.0", "::") else listens_on


def server_arguments(driver: Sequence[str], host: str, port: int) -> tuple[str, ...]:
    """The driver's arguments with its port and address in them.

    >>> server_arguments(["vllm", "serve", "m", "--port={port}", "--host", "{host}"], "0.0.0.0", 20491)
    ('vllm', 'serve', 'm', '--port=20491', '--host', '0.0.0.0')
    """
    return tuple(word.replace(PORT_MARK, str(port)).replace(HOST_MARK, host) for word in driver)
