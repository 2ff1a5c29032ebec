"""doctor: a node's address, ports, names and proxies; the network is what a test says it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.ops import doctor_network
from raycluster_cli.ops.checkup import Checkup
from raycluster_cli.ops.doctor_network import check_address, check_names, check_ports, check_proxies
from raycluster_cli.ops.findings import Finding, Verdict
from raycluster_cli.system.network import NodeAddress

HERE = NodeAddress("10.0.0.1", "ib0", "route to n2")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Checkup]:
    """A node in a job of three."""
    checkup = Checkup(Settings(), {"PATH": "/bin"}, tmp_path)
    checkup.host, checkup.address = "n1", HERE
    checkup.allocation = SimpleNamespace(job_nodes=["n1", "n2", "n3"])  # type: ignore[assignment]
    yield checkup
    checkup.report()


def only(checkup: Checkup) -> Finding:
    (finding,) = checkup.findings
    return finding


@pytest.mark.parametrize(
    ("names", "reverse", "verdict", "text"),
    [
        ({"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}, "n1", Verdict.OK, "names resolve"),
        ({"n1": "10.0.0.1", "n3": "10.0.0.3"}, "n1", Verdict.FAIL, "no address is known for n2"),
        ({}, "n1", Verdict.FAIL, "no address is known for n1, n2, n3"),
        (
            {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"},
            "",
            Verdict.NOTE,
            "this node's address has no",
        ),
        (
            {"n1": "192.168.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"},
            *(
                "n1",
                Verdict.NOTE,
                "the node's name resolves to 192.168.0.1 here, not to the address by which",
            ),
        ),
    ],
)
def test_names(
    made: Checkup,
    monkeypatch: pytest.MonkeyPatch,
    names: Mapping[str, str],
    reverse: str,
    verdict: Verdict,
    text: str,
) -> None:
    def resolve(name: str, *_: object, **__: object) -> list[Any]:
        if name not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[name], 0))]

    def back(address: str) -> tuple[str, list[str], list[str]]:
        if not reverse:
            raise socket.herror(1, "Unknown host")
        return reverse, [], []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostbyaddr", back)
    check_names(made)
    assert (only(made).verdict, only(made).text.startswith(text)) == (verdict, True), only(made)


def test_of_many_names_that_are_not_known_some_are_told(
    made: Checkup, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.allocation = SimpleNamespace(job_nodes=[f"n{n}" for n in range(1, 9)])  # type: ignore[assignment]
    monkeypatch.setattr(doctor_network, "addresses_of", lambda name: {"10.0.0.1"} if name == "n1" else set())
    check_names(made)
    assert only(made).text == "no address is known for n2, n3, n4, n5, n6 …"


def test_a_resolver_that_hangs_is_not_waited_for(made: Checkup, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(doctor_network, "LOOKUP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(doctor_network, "addresses_of", lambda name: over.wait(30) and set())
    check_names(made)
    over.set()
    assert only(made).text == "no address is known for n1, n2, n3"
    made.findings.clear()
    monkeypatch.setattr(doctor_network, "addresses_of", lambda name: {"10.0.0.1"})
    over.clear()
    monkeypatch.setattr(socket, "gethostbyaddr", lambda address: over.wait(30))
    check_names(made)
    over.set()
    assert only(made).text == "this node's address has no name (reverse lookup)"


def test_outside_a_job_no_names_are_checked(made: Checkup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_network, "addresses_of", lambda name: set())
    made.allocation = None
    check_names(made)
    assert only(made) == Finding("", Verdict.OK, "checked inside a job only")


@pytest.mark.parametrize("taken", [True, False])
def test_the_port_of_the_head(made: Checkup, taken: bool) -> None:
    made.address = NodeAddress("127.0.0.1", "lo", "test")
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as holder:
        holder.bind(("::" if socket.has_ipv6 else "0.0.0.0", 0))
        holder.listen()
        port = holder.getsockname()[1]
        made.settings = Settings(master_port=port if taken else None)
        check_ports(made)
    if taken:
        text = f"port {port} cannot be used: Address already in use, held by "
        assert (only(made).verdict, only(made).text[: len(text)]) == (Verdict.FAIL, text)
        assert "python" in only(made).text or "pytest" in only(made).text
    else:
        assert only(made).text.startswith("a block is free, with ")


def test_without_an_address_no_ports_are_checked(made: Checkup) -> None:
    made.address = None
    check_ports(made)
    assert made.findings == []


@pytest.mark.parametrize(
    ("source", "others", "text"),
    [
        ("route to n2", ["n2", "n3"], "on ib0, route to the other nodes"),
        ("route to n2", [], "on ib0, route to n2"),
        ("--interface", ["n2"], "on ib0, --interface"),
    ],
)
def test_the_address_is_told_alike_on_all_nodes(
    made: Checkup, monkeypatch: pytest.MonkeyPatch, source: str, others: Sequence[str], text: str
) -> None:
    asked: list[object] = []

    def address(**given: object) -> NodeAddress:
        asked.append(given["route_to"])
        return HERE.but(source=source)

    monkeypatch.setattr(doctor_network, "node_address", address)
    made.allocation = SimpleNamespace(job_nodes=["n1", *others])  # type: ignore[assignment]
    check_address(made)
    assert only(made).text == text
    assert asked == [others[0] if others else None]
    assert made.versions["address"] == "10.0.0.1"


@pytest.mark.parametrize(
    ("env", "verdict", "text"),
    [
        ({}, Verdict.OK, "none set"),
        ({"http_proxy": ""}, Verdict.OK, "none set"),
        ({"HTTPS_PROXY": "x"}, Verdict.NOTE, "https_proxy set; "),
        ({"http_proxy": "x", "all_proxy": "y"}, Verdict.NOTE, "http_proxy, all_proxy set; "),
    ],
)
def test_proxies(made: Checkup, env: Mapping[str, str], verdict: Verdict, text: str) -> None:
    made.env = env
    check_proxies(made)
    assert (only(made).verdict, only(made).text.startswith(text)) == (verdict, True)
