"""The hosts on which worker jobs may run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from raycluster_cli.slurm.partition_hosts import MOST_HOSTS, hosts_in, hosts_of_groups, partitions_of
from raycluster_cli.system.process import Reaper

SINFO = "cpu*|n[1-3]\ngpu|g[1-2]\ngpu|g7\nfat|n3\nnone|(null)\n"


@pytest.mark.parametrize(
    ("partitions", "hosts"),
    [
        ([""], ("n1", "n2", "n3")),
        (["gpu"], ("g1", "g2", "g7")),
        (["cpu", "fat"], ("n1", "n2", "n3")),
        (["none"], ()),
        (["unknown"], ()),
        ([], ()),
    ],
)
def test_the_hosts_of_partitions(partitions: list[str], hosts: tuple[str, ...]) -> None:
    assert hosts_in(SINFO, partitions) == hosts


def test_too_many_hosts_for_an_environment() -> None:
    assert len(hosts_in(f"cpu*|n[1-{MOST_HOSTS}]", [""])) == MOST_HOSTS
    assert hosts_in(f"cpu*|n[0-{MOST_HOSTS}]", [""]) == ()


def test_the_partitions_of_groups() -> None:
    assert partitions_of([]) == set()
    assert partitions_of([("--partition=a", "--partition=b,c"), ("--mem=1G",)]) == {"b", "c", ""}


@pytest.mark.parametrize(
    ("script", "timeout_s", "hosts"),
    [
        ("echo 'gpu*|g[1-2]'", 60.0, ("g1", "g2")),
        ("echo no; exit 1", 60.0, ()),
        ("exec sleep 600", 0.05, ()),
        (None, 60.0, ()),
    ],
)
def test_slurm_is_asked(tmp_path: Path, script: str | None, timeout_s: float, hosts: tuple[str, ...]) -> None:
    if script is not None:
        (tmp_path / "sinfo").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "sinfo").chmod(0o755)

    async def ask() -> tuple[str, ...]:
        env = {"PATH": f"{tmp_path}:{os.defpath}"} if script is not None else {"PATH": str(tmp_path)}
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        return await hosts_of_groups([("--mem=1G",)], env, reaper, timeout_s=timeout_s)

    assert asyncio.run(ask()) == hosts
