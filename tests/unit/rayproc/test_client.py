"""client.json: the environment of a program that attaches to a node."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.rayproc.client import read_client, remove_client, write_client


def test_what_a_client_gets(tmp_path: Path) -> None:
    driver = {
        "PATH": "/job/bin:/bin",
        "HOME": "/home/x",
        "RAY_ADDRESS": "10.0.0.1:20480",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/tmp/rc-1-a/token",
        "RAYCLUSTER_NODE_ROOT": "/tmp/rc-1-a",
    }
    own = ["RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAYCLUSTER_NODE_ROOT", "no_proxy"]
    write_client(tmp_path, driver, own, ["ROCR_VISIBLE_DEVICES"])
    assert stat.S_IMODE((tmp_path / "client.json").stat().st_mode) == 0o600
    base = {
        "HOME": "/home/y",
        "ROCR_VISIBLE_DEVICES": "0",
        "RAY_AUTH_TOKEN": "of another cluster",
        "RAYCLUSTER_NODE_ROOT": "/tmp/rc-1-b",
        "RAYCLUSTER_TOKEN": "secret",
    }
    assert read_client(tmp_path, base, "n1") == {
        "HOME": "/home/y",
        "PATH": f"{os.path.dirname(sys.executable)}:/job/bin:/bin",
        "RAY_ADDRESS": "10.0.0.1:20480",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/tmp/rc-1-a/token",
    }
    remove_client(tmp_path)
    with pytest.raises(RayclusterError, match="Ray is not running on n1"):
        read_client(tmp_path, base, "n1")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"set": {}}', '{"set": 1, "unset": []}'])
def test_a_broken_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "client.json").write_text(text)
    with pytest.raises(RayclusterError, match=r"client\.json cannot be read") as caught:
        read_client(tmp_path, {}, "n1")
    assert "raycluster status" in caught.value.hint


def test_removing_what_is_not_there(tmp_path: Path) -> None:
    remove_client(tmp_path)
    remove_client(tmp_path / "nowhere")
