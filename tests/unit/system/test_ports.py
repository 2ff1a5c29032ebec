"""Port claims with real sockets and real processes, in a range and under a lock name of each test's own."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.system.port_locks import UNIT
from raycluster_cli.system.port_map import LAYOUT
from raycluster_cli.system.ports import FIXED, claim_ports, derived_gcs_ports

from .conftest import HIGH, LOW, Claimer, everything, worker_ports

# -- the map -------------------------------------------------------------------------------------


def test_a_head_has_every_port_and_a_thousand_for_worker_processes(claim: Claimer) -> None:
    ports = claim().ports
    assert ports.worker_list is None
    assert len(worker_ports(ports)) == 1008
    assert all(vars(ports)[name] for name in LAYOUT)
    assert len(set(everything(ports))) == len(everything(ports))
    assert min(everything(ports)) >= LOW and max(everything(ports)) < HIGH
    assert ports.as_dict()["gcs"] == ports.gcs
    assert "worker_list" not in ports.as_dict()
    assert json.loads(json.dumps(ports.as_dict())) == ports.as_dict()


def test_a_worker_has_none_of_the_heads_own(claim: Claimer) -> None:
    ports = claim(head=False).ports
    assert ports.gcs == ports.dashboard == ports.ray_client_server == ports.dashboard_metrics == 0
    assert "gcs" not in ports.as_dict()
    assert ports.node_manager and ports.dashboard_agent_listen and len(worker_ports(ports)) == 1008


def test_fewer_worker_ports_make_smaller_blocks(claim: Claimer) -> None:
    ports = claim(worker_ports=100).ports
    assert len(worker_ports(ports)) == UNIT - FIXED
    assert len([claim(worker_ports=100) for _ in range(31)]) == 31


# -- where ---------------------------------------------------------------------------------------


def test_the_heads_gcs_is_where_workers_derive_it(claim: Claimer) -> None:
    for key in ("1", "4711", "12.r3", "abc"):
        made = claim(key)
        assert derived_gcs_ports(key, lowest=LOW, highest=HIGH)[0] == made.ports.gcs
        made.close()


def test_derived_ports_do_not_change_between_versions() -> None:
    """Head and workers of one cluster may run different patch versions: these numbers are a protocol."""
    assert derived_gcs_ports("123", highest=32768) == [29312, 30336, 31360, 20096]
    assert derived_gcs_ports("123.r1", highest=32768, count=2) == [26240, 27264]


def test_blocks_above_ray_s_own_worker_ports_come_first() -> None:
    starts = derived_gcs_ports("1", count=100, highest=32768)
    assert len(starts) == len(set(starts)) == 21
    assert all(start >= 20000 for start in starts[:12])
    assert all(10240 <= start < 20000 for start in starts[12:])


def test_a_worker_on_the_heads_host_leaves_the_heads_place_free(claim: Claimer) -> None:
    workers = [claim(head=False).ports.node_manager - 1 for _ in range(2)]
    # Here there are only four blocks, and workers must take some; of the default range's they take others.
    assert len(set(workers)) == 2
    name = claim.lock_name  # type: ignore[attr-defined]
    with claim_ports("k", address="127.0.0.1", head=False, lock_name=name, highest=32768) as made:
        assert made.ports.node_manager - 1 not in derived_gcs_ports("k", highest=32768)


def test_an_ephemeral_range_that_begins_low_is_warned_of(claim: Claimer, tmp_path: Path) -> None:
    (tmp_path / "sys/net/ipv4").mkdir(parents=True)
    (tmp_path / "sys/net/ipv4/ip_local_port_range").write_text("1024\t65535\n")
    name = claim.lock_name  # type: ignore[attr-defined]
    with claim_ports("1", address="127.0.0.1", head=True, lock_name=name, proc=tmp_path) as made:
        assert "from 1024 up" in made.warnings[0]
        # Not always the first: these are the real ports of this machine, and somebody may use them.
        assert made.ports.gcs in derived_gcs_ports("1", count=100, proc=tmp_path)
    (tmp_path / "sys/net/ipv4/ip_local_port_range").write_text("16000\t65535\n")
    with claim_ports("1", address="127.0.0.1", head=True, lock_name=name, proc=tmp_path) as made:
        assert made.warnings == ()
        assert made.ports.worker_high < 16000


# -- ports that others use -----------------------------------------------------------------------


@pytest.mark.parametrize("where", ["0.0.0.0", "127.0.0.1", "127.0.0.2", "::", "::1"])
def test_a_block_with_a_listener_on_any_address_is_left_to_it(
    claim: Claimer, listen: Callable[..., socket.socket], where: str
) -> None:
    first = derived_gcs_ports("1", lowest=LOW, highest=HIGH)
    listen(first[0] + 700, where, v6only=":" in where)
    assert claim().ports.gcs == first[1]


def test_an_outgoing_connection_takes_its_port_too(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    first = derived_gcs_ports("1", lowest=LOW, highest=HIGH)
    server = listen(0, "127.0.0.1")
    out = listen(first[0] + 20, "127.0.0.1", listening=False)
    out.connect(server.getsockname())
    assert claim().ports.gcs == first[1]


def test_what_a_finished_server_left_in_time_wait_does_not_matter(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    first = derived_gcs_ports("1", lowest=LOW, highest=HIGH)[0]
    server = listen(first + 5, "127.0.0.1")
    with socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        accepted.close()  # the server's end closes first: TIME_WAIT is at its port
        assert client.recv(1) == b""
    server.close()
    assert claim().ports.gcs == first


def test_when_every_block_has_holes_the_one_with_the_fewest_is_taken(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    starts = derived_gcs_ports("1", lowest=LOW, highest=HIGH)
    taken = [start + 500 + n for n, start in enumerate(starts)]
    taken += [start + 1 for start in starts[:2]] + [starts[3] + 9]
    for port in taken:
        listen(port)
    made = claim()
    assert made.ports.gcs == starts[2]  # the only one with a single hole
    assert made.ports.worker_list is not None and taken[2] not in made.ports.worker_list
    assert (made.ports.worker_low, made.ports.worker_high) == (starts[2] + FIXED, starts[2] + 1023)
    assert len(worker_ports(made.ports)) == 1007
    assert made.ports.as_dict()["worker_list"] == list(made.ports.worker_list)
    assert made.warnings == ()  # 1,000 were wanted


def test_a_hole_among_the_fixed_ports_moves_them(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    starts = derived_gcs_ports("1", lowest=LOW, highest=HIGH)
    for start in starts:
        listen(start)
    made = claim()
    assert made.ports.gcs == starts[0] + 1
    assert starts[0] not in everything(made.ports)
    assert len(set(everything(made.ports))) == len(everything(made.ports))


def test_a_full_node_gives_the_largest_run_with_a_warning(claim: Claimer) -> None:
    for _ in range(3):
        claim()
    claim(worker_ports=300)  # 3 units of the last block's 8
    made = claim()
    assert (
        len(worker_ports(made.ports)) == 5 * UNIT - FIXED or len(worker_ports(made.ports)) == 3 * UNIT - FIXED
    )
    assert (
        f"only {len(worker_ports(made.ports))} ports are free for worker processes, 1000 were wanted"
        in made.warnings[0]
    )


def test_a_claim_does_not_listen(claim: Claimer) -> None:
    made = claim()
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", made.ports.gcs))


# -- ports given by hand -------------------------------------------------------------------------


def test_a_given_port_is_used_and_the_rest_is_chosen_around_it(claim: Claimer) -> None:
    first = derived_gcs_ports("1", lowest=LOW, highest=HIGH)[0]
    made = claim(given={"gcs": first + 400, "dashboard": 0})
    assert made.ports.gcs == first + 400
    assert made.ports.node_manager not in range(first, first + 1024)
    assert made.ports.dashboard


def test_a_given_port_that_is_taken_names_its_holder(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    listen(11000)
    name = Path("/proc/self/comm").read_text().strip()
    expected = rf"port 11000, given as the GCS port, is in use by {name} \(pid {os.getpid()}\)\. Give another"
    with pytest.raises(UsageError, match=expected):
        claim(given={"gcs": 11000})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gcs": 70000}, "the GCS port is 70000; a port is a number from 1 to 65535"),
        ({"redis": 11000}, "'redis' is not one of Ray's ports, which are gcs, "),
        ({"gcs": 11000, "dashboard": 11000}, "given as both the GCS port and the dashboard port"),
        ({"worker_low": 11000}, "must be given together"),
        ({"worker_low": 11010, "worker_high": 11000}, "lowest first"),
        ({"gcs": 11005, "worker_low": 11000, "worker_high": 11010}, "is among the worker ports"),
    ],
)
def test_given_ports_that_make_no_sense(claim: Claimer, given: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        claim(given=given)


def test_given_worker_ports_are_used_as_they_are(
    claim: Claimer, listen: Callable[..., socket.socket]
) -> None:
    made = claim(given={"worker_low": 11000, "worker_high": 11063})
    assert (made.ports.worker_low, made.ports.worker_high, made.ports.worker_list) == (11000, 11063, None)
    assert made.warnings == ()
    made.close()
    listen(11007)
    made = claim(given={"worker_low": 11000, "worker_high": 11063})
    assert "1 port of the worker ports 11000-11063 cannot be used, the first (11007)" in made.warnings[0]


def test_a_given_port_in_another_block_or_among_ephemeral_ones_is_warned_of(claim: Claimer) -> None:
    other = claim("other")
    made = claim(given={"gcs": other.ports.worker_low + 3})
    assert "is in a block that another raycluster" in made.warnings[0]
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    made = claim(given={"dashboard": port})
    assert "in the range of outgoing connections" in made.warnings[0]


def test_an_address_of_another_host_is_refused(claim: Claimer) -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1 is not an address of this node"):
        claim(address="192.0.2.1")
    assert claim(address="::1").ports.gcs


def test_without_ipv6_ports_are_tested_on_ipv4(
    claim: Claimer, listen: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_ipv6", False)
    first = derived_gcs_ports("1", lowest=LOW, highest=HIGH)
    listen(first[0] + 30, "127.0.0.1")
    assert claim().ports.gcs == first[1]
