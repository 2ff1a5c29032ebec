"""host:port as Ray writes it."""

from __future__ import annotations

import ipaddress


def join_host_port(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address.

    >>> join_host_port("fd00::1", 6379)
    '[fd00::1]:6379'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """The host of host:port, without the brackets of IPv6.

    >>> host_of("[fd00::1]:6379")
    'fd00::1'
    """
    return address.rpartition(":")[0].strip("[]")


def port_of(address: str) -> int:
    """The port of host:port.

    >>> port_of("[fd00::1]:6379")
    6379
    """
    return int(address.rpartition(":")[2])


def is_loopback(address: str) -> bool:
    """Whether only programs on the same machine can connect to this address.

    >>> [is_loopback(text) for text in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "gpu01")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
