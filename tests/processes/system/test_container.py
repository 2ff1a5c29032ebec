"""Into the namespaces of another process, as attach and exec do where the node is in a container."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raycluster_cli.system.container import Container, container_of
from raycluster_cli.system.proctree import ProcessRef, Stat, descendants, identify
from tests.waiting import wait_until

UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "--uts", "--pid", "--fork"]
BOXED = "hostname box; mount -t tmpfs none /mnt; echo inside > /mnt/file; cd /mnt; echo up; read -r _"

possible = pytest.mark.skipif(
    not shutil.which("unshare") or subprocess.run([*UNSHARE, "true"], check=False).returncode != 0,
    reason="this machine lets nobody make a user namespace",
)

# A container is found by its process's number in it and the time of its start: these tests run one after the
# other, as all of this directory do (tests/sharing.py).


@contextmanager
def boxed() -> Iterator[Stat]:
    """A shell in namespaces of its own, as this process sees it; in its own it is process 1."""
    with subprocess.Popen(
        [*UNSHARE, "sh", "-c", BOXED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as outer:
        assert outer.stdin is not None
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        try:
            yield wait_until(lambda: descendants(outer.pid), timeout_s=10, what="the shell")[0]
        finally:
            outer.stdin.close()


@possible
def test_a_process_is_found_by_the_number_that_it_has_in_its_container() -> None:
    with boxed() as shell:
        container = container_of(ProcessRef(1, shell.start_ticks))
    assert container == Container(shell.pid, ("user", "mnt", "uts", "pid"))


@possible
def test_a_command_runs_in_the_container_in_the_directory_of_its_raycluster() -> None:
    with boxed() as shell:
        container = container_of(ProcessRef(1, shell.start_ticks))
        assert container is not None
        wait_until(container.can_be_entered, timeout_s=60, what="a command in the container")
        argv = container.command(["sh", "-c", "hostname; cat file; exit 4"])
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (container.root / "mnt/file").read_text() == "inside\n"
    assert (done.returncode, done.stdout) == (4, "box\ninside\n"), done.stderr


@possible
def test_one_that_has_ended_cannot_be_entered() -> None:
    with boxed() as shell:
        container = container_of(ProcessRef(1, shell.start_ticks))
    assert container is not None
    wait_until(lambda: not container.can_be_entered(), timeout_s=30, what="the end of the container")


def test_no_container_and_no_such_process() -> None:
    me = identify(os.getpid())
    assert me is not None
    assert container_of(me) is None
    assert container_of(ProcessRef(me.pid, me.start_ticks + 1)) is None
