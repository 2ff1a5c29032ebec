"""This node's address: one, chosen once and used for everything.

A node of a cluster has several: management, high-speed network, container bridges.  Ray, vLLM, NCCL and Gloo
each guess on their own and differ.  Here the address is the one that the user names (an interface, a
network), or else the one from which the head is reached, which the kernel's routing table knows: connecting
a UDP socket sends nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..model.errors import UsageError
from ..model.value import Value

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Bridges of container and VM runtimes: the same address on every node, and no way to another node.
_BRIDGE = re.compile(
    r"(docker|virbr|cni|podman|lxcbr|lxdbr|incusbr|flannel|cali|cilium|nerdctl|weave|kube-|cbr|mpqemubr)\S*"
    r"|br-[0-9a-f]{12}"
)

#: How long the name server may take to resolve one name.  Without an answer the name is not used.
RESOLVE_S = 10.0

# Documentation addresses (RFC 5737, RFC 3849): no host has them, so only the default route matches.
_ELSEWHERE = ("192.0.2.1", "2001:db8::1")


def plain_host(host: str) -> str | bytes:
    """A host for `socket.getaddrinfo`: for a text Python would import what international names need.

    >>> plain_host("10.0.0.1"), plain_host("büro")
    (b'10.0.0.1', 'büro')
    """
    return host.encode() if host.isascii() else host


class InterfaceAddress(Value):
    """One address of one interface of this node."""

    interface: str
    ip: IPAddress
    is_up: bool = True

    @property
    def why_not(self) -> str:
        """Why other nodes cannot use it; empty where they can."""
        if self.ip.is_loopback:
            return "loopback"
        if self.ip.is_link_local:
            return "link-local"
        if self.ip.is_unspecified or self.ip.is_multicast:
            return "no host's address"
        if not self.is_up:
            return "down"
        if _BRIDGE.fullmatch(self.interface):
            return "container bridge"
        return ""


class InterfacesDownError(UsageError):
    """No address is usable, and some would be if their interface were up: that may change in seconds."""


class NodeAddress(Value):
    """The address of this node, its interface, and why it was chosen (for the log)."""

    ip: str
    interface: str
    source: str = ""

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """The variables that make vLLM, NCCL and Gloo use this address, without those that the user has set.

        They are true on this node only, since interfaces can have other names on other nodes.  So they go to
        this node's Ray processes and to the driver, not into runtime environments.
        """
        wanted = {
            "VLLM_HOST_IP": self.ip,
            "NCCL_SOCKET_IFNAME": self.interface,
            "GLOO_SOCKET_IFNAME": self.interface,
        }
        return {name: value for name, value in wanted.items() if value and not env.get(name)}


def node_address(
    *,
    interface: str | None = None,
    network: str | None = None,
    route_to: str | Sequence[str] | None = None,
    env: Mapping[str, str],
    local: bool = False,
    addresses: Sequence[InterfaceAddress] | None = None,
    route: Callable[[str], str | None] | None = None,
) -> NodeAddress:
    """Choose this node's address.  Raises UsageError, which lists the addresses, where none is usable.

    Raises InterfacesDownError where an interface that is down may be the reason.

    In order: the named interface and network; the address from which ``route_to`` (the head; on the head the
    other nodes) is reached; the one that this node's name in Slurm stands for; the one towards the host that
    ran srun; that of the default route; any.  Never loopback (unless ``local``: a cluster on this machine
    alone), link-local or a container bridge, except a bridge named by ``interface`` or ``network``.

    ``addresses`` and ``route`` (host to local address) replace the kernel's.  Resolving a name takes
    RESOLVE_S at most: call this in a thread (:func:`.waiting.in_thread`).
    """
    there = interface_addresses() if addresses is None else list(addresses)
    ask = local_address_towards if route is None else route
    targets = [route_to] if isinstance(route_to, str) else list(route_to or ())
    if interface or network:
        return _named(there, interface or "", network or "", targets, local, ask)
    if local:
        return _local(there)
    usable = [a for a in there if not a.why_not]
    hints = [(target, f"the way to {target}") for target in targets if target]
    if env.get("SLURMD_NODENAME"):
        # A node's own name leads to its own address; 127.0.1.1, as on Debian, is not usable and is skipped.
        hints.append((env["SLURMD_NODENAME"], f"the address of {env['SLURMD_NODENAME']}"))
    if env.get("SLURM_LAUNCH_NODE_IPADDR"):
        hints.append((env["SLURM_LAUNCH_NODE_IPADDR"], "the way to the host of srun"))
    hints += [(elsewhere, "the default route") for elsewhere in _ELSEWHERE]
    for target, source in hints:
        found = _match(usable, ask(target))
        if found:
            return NodeAddress(str(found.ip), found.interface, source)
    if usable:
        first = min(usable, key=lambda a: a.ip.version)
        return NodeAddress(str(first.ip), first.interface, "the first usable address")
    raise _none_usable(there)(
        f"this node has no address that other nodes can reach: found {describe(there)}; "
        "needed one that is not loopback, link-local or a container's bridge.",
        "Choose one with --interface, or use `raycluster run --local N` on a single machine.",
    )


def _none_usable(addresses: Iterable[InterfaceAddress]) -> type[UsageError]:
    """Which error says that none of these can be used."""
    return InterfacesDownError if any(a.why_not == "down" for a in addresses) else UsageError


def _named(
    there: Sequence[InterfaceAddress],
    interface: str,
    network: str,
    targets: Sequence[str],
    local: bool,
    ask: Callable[[str], str | None],
) -> NodeAddress:
    """An address of the interface and in the network that the user named."""
    wanted = parse_network(network) if network else None
    by_name = [a for a in there if not interface or a.interface == interface]
    matching = [a for a in by_name if wanted is None or a.ip in wanted]
    usable = [a for a in matching if _may_be_named(a, local)]
    option = " and ".join(
        ([f"--interface {interface}"] if interface else []) + ([f"--network {network}"] if network else [])
    )
    if not usable:
        bad = f" ({describe(matching)})" if matching else ""
        raise _none_usable(by_name)(
            f"no usable address of this node fits {option}{bad}: found {describe(there)}; "
            "needed one that other nodes can reach.",
            "Choose one of these, or leave the option out.",
        )
    for target in targets:
        found = _match(usable, ask(target))
        if found:
            return NodeAddress(str(found.ip), found.interface, option)
    # A head that is named by an IPv6 address is reached by IPv6 only.
    version = next((ip.version for ip in map(_parse_ip, targets) if ip is not None), 4)
    first = min(usable, key=lambda a: a.ip.version != version)
    return NodeAddress(str(first.ip), first.interface, option)


def _may_be_named(address: InterfaceAddress, local: bool) -> bool:
    why_not = address.why_not
    return not why_not or why_not == "container bridge" or (local and why_not == "loopback")


def _local(there: Sequence[InterfaceAddress]) -> NodeAddress:
    loopback = [a for a in there if a.ip.is_loopback]
    for address in sorted(loopback, key=lambda a: a.ip.version):
        return NodeAddress(str(address.ip), address.interface, "a cluster on this machine")
    raise UsageError(
        f"this machine has no loopback address: found {describe(there)}; needed 127.0.0.1 or ::1.",
        "Bring up the interface lo.",
    )


def _match(addresses: Iterable[InterfaceAddress], text: str | None) -> InterfaceAddress | None:
    wanted = _parse_ip(text or "")
    return next((a for a in addresses if a.ip == wanted), None) if wanted else None


def _parse_ip(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(
            f"--network cannot be read: found {text[:80]!r}, "
            "needed a network such as 10.1.0.0/16 or fd00:1::/64."
        ) from None


def describe(addresses: Iterable[InterfaceAddress]) -> str:
    """The addresses of a node in one line, each with the reason why it is not usable.

    >>> describe([InterfaceAddress("lo", ipaddress.ip_address("127.0.0.1"))])
    'lo 127.0.0.1 (loopback)'
    """
    words = [f"{a.interface} {a.ip}" + (f" ({a.why_not})" if a.why_not else "") for a in addresses]
    return ", ".join(words) or "none"


def interface_addresses() -> list[InterfaceAddress]:
    """All addresses of this node, in the kernel's order of interfaces."""
    import psutil  # here, since every command imports this module and few need it

    up = {name: stats.isup for name, stats in psutil.net_if_stats().items()}
    found = []
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            ip = _parse_ip(entry.address) if entry.family in (socket.AF_INET, socket.AF_INET6) else None
            if ip is not None:
                found.append(InterfaceAddress(name, ip, up.get(name, True)))
    return found


def local_address_towards(
    host: str, *, timeout_s: float = RESOLVE_S, resolve: Callable[..., list[Any]] = socket.getaddrinfo
) -> str | None:
    """The local address that the kernel uses to reach a host; None where there is no route.

    For this node itself it is its own address.  Nothing is sent, but a name is resolved, with ``resolve`` (as
    socket.getaddrinfo); None when it is unknown, or the name server does not answer within ``timeout_s``.
    """
    for family, kind, protocol, _, address in _resolved(host.strip("[]"), timeout_s, resolve):
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.connect(address)
                return str(sock.getsockname()[0])
        except OSError:
            continue
    return None


def _resolved(host: str, timeout_s: float, resolve: Callable[..., list[Any]]) -> list[Any]:
    """The addresses of a host as getaddrinfo has them; none when they are not known in time."""
    found: list[list[Any]] = []

    def ask(flags: int = 0) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found.append(resolve(plain_host(host), 9, type=socket.SOCK_DGRAM, flags=flags))

    ask(socket.AI_NUMERICHOST)
    if not found:  # a name; the thread is left behind if the name server hangs
        asking = threading.Thread(target=ask, name=f"resolve {host[:80]}", daemon=True)
        asking.start()
        asking.join(timeout_s)
    return found[0] if found else []


def addresses_of(names: Iterable[str]) -> tuple[str, ...]:
    """The addresses of hosts, as this node resolves them, without the names that it cannot resolve.

    Blocks as long as the name server does: use :func:`.waiting.in_thread`.
    """
    found: list[str] = []
    for name in names:
        try:
            places = socket.getaddrinfo(plain_host(name), None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            continue
        found += [str(place[4][0]).partition("%")[0] for place in places]
    return tuple(dict.fromkeys(found))


def why_not_connected(error: OSError) -> str:
    """Why a connection failed, in the system's words; asyncio has others, and no number for several hosts.

    >>> why_not_connected(ConnectionRefusedError(111, "Connect call failed ('10.0.0.1', 6379)"))
    'Connection refused'
    >>> why_not_connected(TimeoutError(110, "no connection to n1:6379 in 4 s"))
    'no connection to n1:6379 in 4 s'
    """
    text = error.strerror or str(error) or type(error).__name__
    if "Connect call failed" not in text:
        return text
    numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno (\d+)\]", text))
    return ", ".join(dict.fromkeys(map(os.strerror, numbers))) or text
