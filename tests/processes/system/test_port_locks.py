"""Port locks with real sockets and real processes: two claims never share a port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.system.port_locks import UNIT
from raycluster_cli.system.port_probe import port_error
from raycluster_cli.system.ports import FIXED, derived_gcs_ports
from tests.unit.system.conftest import HIGH, LOW, Claimer, everything, worker_ports


@pytest.mark.parametrize("abstract", [True, False], ids=["abstract sockets", "guard ports"])
def test_claims_do_not_overlap_until_given_back(claim: Claimer, abstract: bool) -> None:
    made = [claim("same", abstract=abstract) for _ in range(4)]
    blocks = [set(everything(each.ports)) for each in made]
    assert all(not a & b for n, a in enumerate(blocks) for b in blocks[:n])
    with pytest.raises(RayclusterError, match=r"no free ports on this node: .* at least one is needed"):
        claim("same", abstract=abstract)
    first = made[0].ports
    made[0].close()
    made[0].close()
    assert claim("same", abstract=abstract).ports == first


def test_without_abstract_sockets_ports_are_guarded_by_ports(claim: Claimer) -> None:
    made = claim(abstract=False)
    ports = made.ports
    assert ports.worker_list is not None
    assert len(worker_ports(ports)) == 1024 - FIXED - 8
    guards = [port for port in range(ports.gcs, ports.gcs + 1024) if port_error(port)]
    assert len(guards) == 8 and all(port % UNIT == UNIT - 1 for port in guards)
    assert not set(guards) & set(everything(ports))
    made.close()
    assert not any(port_error(port) for port in guards)


def test_abstract_sockets_refused_by_the_kernel_are_noticed(
    claim: Claimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    def no_unix(family: int = -1, *args: int) -> socket.socket:
        if family == socket.AF_UNIX:
            raise PermissionError(1, "Operation not permitted")
        return real(family, *args)

    monkeypatch.setattr(socket, "socket", no_unix)
    assert claim().ports.worker_list is not None


CHILD = """
    import json, sys
    from raycluster_cli.system.ports import claim_ports
    name, key = sys.argv[1:3]
    print("ready", flush=True); sys.stdin.readline()
    made = claim_ports(key, address="127.0.0.1", head=True, lowest=11264, highest=15360, lock_name=name)
    print(json.dumps(made.ports.as_dict()), flush=True)
    sys.stdin.readline()
"""


def start_children(name: str, count: int) -> list[subprocess.Popen[str]]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), name, "same"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(count)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    return children


def test_claims_of_several_processes_at_the_same_moment_and_a_killed_holder(claim: Claimer) -> None:
    children = start_children(claim.lock_name, 4)  # type: ignore[attr-defined]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
        maps = [json.loads(child.stdout.readline()) for child in children if child.stdout]
        assert len({each["gcs"] for each in maps}) == 4  # all four blocks, one each
        with pytest.raises(RayclusterError, match="no free ports"):
            claim()
        children[2].send_signal(signal.SIGKILL)
        children[2].wait()
        assert claim().ports.gcs == maps[2]["gcs"]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_forked_child_keeps_the_claim_and_an_executed_one_does_not(claim: Claimer) -> None:
    made = claim(worker_ports=0)
    asleep = subprocess.Popen(["sleep", "60"], close_fds=False)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        options = {"worker_ports": 0, "lowest": made.ports.gcs, "highest": made.ports.gcs + UNIT}
        made.close()
        with pytest.raises(RayclusterError, match="no free ports"):
            claim(**options)
        os.close(write)
        os.waitpid(child, 0)
        assert claim(**options).ports.gcs == made.ports.gcs
    finally:
        asleep.kill()
        asleep.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")
def test_the_locks_hold_between_users(claim: Claimer) -> None:
    mine = claim("same").ports.gcs
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(write, str(claim("same").ports.gcs).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        theirs = int(file.read())
    os.waitpid(child, 0)
    assert theirs == derived_gcs_ports("same", lowest=LOW, highest=HIGH)[1] != mine
