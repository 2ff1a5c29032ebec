"""Checks of a node's network: address, ports, names, proxies."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import TimeoutError as TooLong

from ..system.network import node_address
from ..system.port_probe import port_error, port_holder
from ..system.ports import claim_ports
from .checkup import Checkup
from .findings import Verdict

#: A resolver that does not answer takes 5 s and more for a name.
LOOKUP_TIMEOUT_S = 5.0


def check_address(checkup: Checkup) -> None:
    checkup.address = node_address(
        interface=checkup.settings.interface or None,
        network=checkup.settings.network or None,
        route_to=checkup.settings.master_ip or (checkup.others[0] if checkup.others else None),
        env=checkup.env,
    )
    # Other on each node: not a part of the text.
    checkup.add(
        Verdict.OK, f"on {checkup.address.interface}, {_same(checkup.address.source, checkup.others)}"
    )
    checkup.versions["address"] = checkup.address.ip


def check_ports(checkup: Checkup) -> None:
    if checkup.address is None:
        return
    wanted = checkup.settings.master_port
    if wanted is not None and (error := port_error(wanted)) is not None:
        holder = port_holder(wanted)
        checkup.add(
            Verdict.FAIL,
            f"port {wanted} cannot be used: {error.strerror}{f', held by {holder}' if holder else ''}",
            "Leave --master-port out: a free port is found.",
        )
        return
    with claim_ports(f"doctor/{os.getpid()}", address=checkup.address.ip, head=True) as claim:
        for warning in claim.warnings:
            checkup.add(Verdict.WARNING, warning)
        if not claim.warnings:
            low, high = claim.ports.worker_low, claim.ports.worker_high
            checkup.add(Verdict.OK, f"a block is free, with {high - low + 1} ports for worker processes")


def check_names(checkup: Checkup) -> None:
    """Every node's name resolves to an address, and our own address to a name."""
    asked = [checkup.host, *checkup.others[:200]]
    answers = dict(zip(asked, _look_up(checkup, asked), strict=True))
    unknown = [name for name in asked if not answers[name]]
    if checkup.allocation is not None and unknown:
        checkup.add(
            Verdict.FAIL,
            f"no address is known for {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
            "Nodes must resolve each other's names (DNS or /etc/hosts), or give --master-ip as a number.",
        )
        return
    if checkup.address is None or checkup.allocation is None:
        checkup.add(Verdict.OK, "checked inside a job only")
        return
    name = _within(checkup, lambda: socket.gethostbyaddr(checkup.address.ip)[0] if checkup.address else "")
    if name is None:
        checkup.add(
            Verdict.NOTE,
            "this node's address has no name (reverse lookup)",
            "It can slow down logins and make MPI warn; Ray does not need it.",
        )
    elif checkup.address.ip not in answers[checkup.host]:
        checkup.add(
            Verdict.NOTE,
            f"the node's name resolves to {' '.join(sorted(answers[checkup.host]))} here, not to the address "
            "by which it reaches the others",
        )
    else:
        checkup.add(Verdict.OK, "names resolve to addresses and back")


def _look_up(checkup: Checkup, names: Sequence[str]) -> Iterator[set[str]]:
    waiting = [checkup.lookups.submit(addresses_of, name) for name in names]
    deadline = time.monotonic() + LOOKUP_TIMEOUT_S
    for one in waiting:
        try:
            yield one.result(max(deadline - time.monotonic(), 0.0))
        except TooLong:
            yield set()


def _within(checkup: Checkup, call: Callable[[], str]) -> str | None:
    try:
        return checkup.lookups.submit(call).result(LOOKUP_TIMEOUT_S)
    except (OSError, TooLong):
        return None


def check_proxies(checkup: Checkup) -> None:
    names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
    found = [name for name in names if checkup.env.get(name) or checkup.env.get(name.upper())]
    if not found:
        checkup.add(Verdict.OK, "none set")
        return
    checkup.add(
        Verdict.NOTE,
        f"{', '.join(found)} set; the cluster's nodes are added to no_proxy for Ray and the driver",
        "Requests to servers of your own on a node use the proxy unless no_proxy names the node.",
    )


def addresses_of(name: str) -> set[str]:
    """The addresses of a name; empty when there are none."""
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def _same(source: str, hosts: Sequence[str]) -> str:
    """A source of an address without the name of another node, which differs from node to node."""
    for host in hosts:
        if source.endswith(f" {host}"):
            return f"{source.removesuffix(host)}the other nodes"
    return source
