"""The one address of a node, on made-up interfaces and on this machine's own."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.system.network import (
    InterfaceAddress,
    InterfacesDownError,
    NodeAddress,
    addresses_of,
    interface_addresses,
    local_address_towards,
    node_address,
)


def interface(name: str, ip: str, *, is_up: bool = True) -> InterfaceAddress:
    return InterfaceAddress(name, ipaddress.ip_address(ip), is_up)


LO = interface("lo", "127.0.0.1")
LO6 = interface("lo", "::1")
ETH0 = interface("eth0", "10.1.0.17")
ETH0_LINK = interface("eth0", "fe80::1")
IB0 = interface("ib0", "10.2.0.17")
IB0_6 = interface("ib0", "fd00:2::17")
DOCKER = interface("docker0", "172.17.0.1")
NODE = [LO, LO6, DOCKER, ETH0, ETH0_LINK, IB0, IB0_6]


def routes(**ways: str) -> Callable[[str], str | None]:
    """A routing table of host (dots and colons as _) to local address."""
    return lambda host: ways.get("_" + host.replace(".", "_").replace(":", "_").replace("-", "_"))


def choose(
    addresses: list[InterfaceAddress], ways: Mapping[str, str] | None = None, **options: Any
) -> tuple[str, str]:
    options = {"env": {}, "route_to": None, **options}
    found = node_address(addresses=addresses, route=routes(**(ways or {})), **options)
    assert isinstance(found, NodeAddress)
    return found.ip, found.interface


@pytest.mark.parametrize(
    ("ways", "options", "expected"),
    [
        # the way to the head
        ({"_10_2_0_1": "10.2.0.17"}, {"route_to": "10.2.0.1"}, ("10.2.0.17", "ib0")),
        ({"_head": "10.1.0.17"}, {"route_to": "head"}, ("10.1.0.17", "eth0")),
        ({"_fd00_2__1": "fd00:2::17"}, {"route_to": "fd00:2::1"}, ("fd00:2::17", "ib0")),
        # several others: the first that is reached
        ({"_n3": "10.2.0.17"}, {"route_to": ["n2", "n3"]}, ("10.2.0.17", "ib0")),
        # the way leads over an address that others cannot reach: the next hint
        (
            {"_head": "127.0.0.1", "_n17": "10.2.0.17"},
            {"route_to": "head", "env": {"SLURMD_NODENAME": "n17"}},
            ("10.2.0.17", "ib0"),
        ),
        ({"_head": "172.17.0.1", "_192_0_2_1": "10.1.0.17"}, {"route_to": "head"}, ("10.1.0.17", "eth0")),
        ({"_head": "fe80::1", "_192_0_2_1": "10.1.0.17"}, {"route_to": "head"}, ("10.1.0.17", "eth0")),
        # one's own name, as Debian resolves it
        (
            {"_n17": "127.0.1.1", "_10_2_0_9": "10.2.0.17"},
            {"env": {"SLURMD_NODENAME": "n17", "SLURM_LAUNCH_NODE_IPADDR": "10.2.0.9"}},
            ("10.2.0.17", "ib0"),
        ),
        # no way anywhere: the first usable, IPv4 before IPv6
        ({}, {}, ("10.1.0.17", "eth0")),
        ({"_192_0_2_1": "10.2.0.17"}, {}, ("10.2.0.17", "ib0")),
        # named by the user
        ({}, {"interface": "ib0"}, ("10.2.0.17", "ib0")),
        ({}, {"interface": "ib0", "route_to": "fd00:2::1"}, ("fd00:2::17", "ib0")),
        ({"_head": "fd00:2::17"}, {"interface": "ib0", "route_to": "head"}, ("fd00:2::17", "ib0")),
        ({"_head": "10.1.0.17"}, {"interface": "ib0", "route_to": "head"}, ("10.2.0.17", "ib0")),
        ({}, {"network": "10.2.0.0/16"}, ("10.2.0.17", "ib0")),
        ({}, {"network": "10.2.0.99/16"}, ("10.2.0.17", "ib0")),
        ({}, {"network": "fd00:2::/64"}, ("fd00:2::17", "ib0")),
        ({}, {"interface": "ib0", "network": "fd00::/16"}, ("fd00:2::17", "ib0")),
        ({}, {"interface": "docker0"}, ("172.17.0.1", "docker0")),
        ({"_head": "10.1.0.17"}, {"route_to": "head", "network": "10.0.0.0/8"}, ("10.1.0.17", "eth0")),
        # a cluster on this machine alone
        ({}, {"local": True}, ("127.0.0.1", "lo")),
        ({}, {"local": True, "interface": "eth0"}, ("10.1.0.17", "eth0")),
        ({}, {"local": True, "interface": "lo"}, ("127.0.0.1", "lo")),
    ],
)
def test_choice(ways: dict[str, str], options: dict[str, Any], expected: tuple[str, str]) -> None:
    assert choose(NODE, ways, **options) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"interface": "eth9"},
            ["--interface eth9", "eth0 10.1.0.17", "docker0 172.17.0.1 (container bridge)"],
        ),
        ({"interface": "lo"}, ["--interface lo", "(lo 127.0.0.1 (loopback)", "ib0 fd00:2::17"]),
        ({"network": "192.168.0.0/16"}, ["--network 192.168.0.0/16", "ib0 10.2.0.17"]),
        ({"network": "127.0.0.0/8"}, ["--network 127.0.0.0/8", "loopback"]),
        ({"network": "fe80::/10"}, ["link-local"]),
        ({"interface": "eth0", "network": "10.2.0.0/16"}, ["--interface eth0 and --network 10.2.0.0/16"]),
        ({"network": "ten"}, ["--network cannot be read: found 'ten', needed a network such as"]),
        ({"network": "10.0.0.0/33"}, ["--network cannot be read"]),
    ],
)
def test_what_does_not_match_is_an_error_that_lists_the_addresses(
    options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(NODE, **options)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message and "needed" in message


@pytest.mark.parametrize(
    "there", [[], [LO, LO6], [LO, ETH0_LINK, DOCKER], [interface("eth0", "10.1.0.1", is_up=False)]]
)
def test_a_node_without_a_usable_address(there: list[InterfaceAddress]) -> None:
    with pytest.raises(UsageError, match="no address that other nodes can reach: found"):
        choose(there, {"_192_0_2_1": "127.0.0.1"})


@pytest.mark.parametrize(
    ("there", "options", "may_come"),
    [
        ([LO, interface("ib0", "10.2.0.17", is_up=False)], {}, True),
        ([LO, ETH0, interface("ib0", "10.2.0.17", is_up=False)], {"interface": "ib0"}, True),
        ([LO, ETH0, interface("ib0", "10.2.0.17", is_up=False)], {"interface": "eth1"}, False),
        ([LO, interface("eth0", "fe80::1", is_up=False)], {}, False),
    ],
)
def test_an_interface_that_is_down_may_come_up(
    there: list[InterfaceAddress], options: dict[str, Any], may_come: bool
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(there, **options)
    assert isinstance(caught.value, InterfacesDownError) == may_come


def test_a_machine_without_loopback() -> None:
    with pytest.raises(UsageError, match="no loopback address: found eth0"):
        choose([ETH0], local=True)


def test_a_machine_with_ipv6_only() -> None:
    assert choose([LO6, IB0_6], {"_2001_db8__1": "fd00:2::17"}) == ("fd00:2::17", "ib0")
    assert choose([LO6, IB0_6], local=True) == ("::1", "lo")


@pytest.mark.parametrize(
    ("name", "why_not"),
    [
        ("docker0", "container bridge"),
        ("docker_gwbridge", "container bridge"),
        ("br-0123456789ab", "container bridge"),
        ("virbr0", "container bridge"),
        ("cni-podman0", "container bridge"),
        ("podman1", "container bridge"),
        ("lxdbr0", "container bridge"),
        ("flannel.1", "container bridge"),
        ("br0", ""),
        ("br-ex", ""),
        ("bond0", ""),
        ("hsn0", ""),
        ("ens3f0np0", ""),
        ("eth0.100", ""),
        ("veth12", ""),
    ],
)
def test_bridges_of_containers(name: str, why_not: str) -> None:
    assert interface(name, "10.0.0.1").why_not == why_not


def test_environment_matches_unless_the_user_set_it() -> None:
    address = NodeAddress("10.2.0.17", "ib0")
    assert address.environment({}) == {
        "VLLM_HOST_IP": "10.2.0.17",
        "NCCL_SOCKET_IFNAME": "ib0",
        "GLOO_SOCKET_IFNAME": "ib0",
    }
    assert address.environment({"NCCL_SOCKET_IFNAME": "eth", "VLLM_HOST_IP": ""}) == {
        "VLLM_HOST_IP": "10.2.0.17",
        "GLOO_SOCKET_IFNAME": "ib0",
    }


def test_this_machine_knows_the_way_to_itself() -> None:
    assert local_address_towards("127.0.0.1") == "127.0.0.1"
    assert local_address_towards("no-such-host.invalid") is None
    assert local_address_towards("x" * 300) is None
    assert any(address.ip.is_loopback for address in interface_addresses())
    assert node_address(env={}, local=True).ip in ("127.0.0.1", "::1")


def test_addresses_of_hosts() -> None:
    assert "127.0.0.1" in addresses_of(["localhost", "no-such-host.invalid", "", "127.0.0.1"])
    assert addresses_of(["no-such-host.invalid", "x" * 300]) == ()


def test_a_name_server_that_does_not_answer_is_not_waited_for() -> None:
    answered = threading.Event()

    def hangs(host: str, port: int, *, type: int, flags: int) -> list[Any]:
        if not flags:
            answered.wait(60)
        return socket.getaddrinfo(host, port, type=type, flags=flags)

    try:
        assert local_address_towards("localhost", timeout_s=0.05, resolve=hangs) is None
        assert local_address_towards("127.0.0.1", timeout_s=0.0, resolve=hangs) == "127.0.0.1"
    finally:
        answered.set()
