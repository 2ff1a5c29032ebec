"""Node names in Slurm's notation; that they read back is tested in tests/unit/slurm."""

from __future__ import annotations

import pytest

from raycluster_cli.model.hostlist import format_hostlist


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        (["n1"], "n1"),
        (["n1", "n2", "n3", "n7", "login"], "n[1-3,7],login"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n8", "n9", "n10"], "n[8-10]"),
        (["n8", "n09", "n10"], "n[8,09-10]"),
        (["n3", "n2", "n1"], "n[3,2,1]"),
        (["a1", "b1", "a2"], "a1,b1,a2"),
        (["g1.example.org", "g2.example.org"], "g[1-2].example.org"),
        (["gpu-a", "gpu-b"], "gpu-a,gpu-b"),
        (["r1n1", "r1n2", "r2n1"], "r1n[1-2],r2n1"),
        ([], ""),
    ],
)
def test_format_hostlist(hosts: list[str], text: str) -> None:
    assert format_hostlist(hosts) == text
