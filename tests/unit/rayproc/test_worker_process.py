"""What is put right in a worker process whose environment is a copy of another node's."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from raycluster_cli.rayproc.serve_ports import CALLBACK, FUNCTION
from raycluster_cli.rayproc.worker_process import MARK, correct, keep_callback, tell_start


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"VLLM_HOST_IP": "10.0.0.1", MARK: "10.0.0.1"}, {"VLLM_HOST_IP": "10.0.0.2", MARK: "10.0.0.2"}),
        # Some variables of the driver, on the head at 10.0.0.9, were copied: the mark is this node's own.
        ({"VLLM_HOST_IP": "10.0.0.9", MARK: "10.0.0.2"}, {"VLLM_HOST_IP": "10.0.0.2", MARK: "10.0.0.2"}),
        ({"VLLM_HOST_IP": "10.0.0.9"}, {"VLLM_HOST_IP": "10.0.0.9"}),
        ({"VLLM_HOST_IP": "192.168.0.1"}, {"VLLM_HOST_IP": "192.168.0.1"}),
        (
            {"VLLM_HOST_IP": "192.168.0.1", MARK: "10.0.0.1"},
            {"VLLM_HOST_IP": "192.168.0.1", MARK: "10.0.0.1"},
        ),
        ({MARK: "10.0.0.1"}, {MARK: "10.0.0.1"}),
        ({}, {}),
    ],
)
def test_only_an_address_that_we_have_set_is_changed(given: dict[str, str], expected: dict[str, str]) -> None:
    correct(given, ["x.py", "--node-id=1", "--node-ip-address=10.0.0.2", "--gcs-address=10.0.0.9:6379"])
    assert given == expected


def test_the_supervisor_that_waits_is_told(tmp_path: Path) -> None:
    gate = tmp_path / "work.gate"
    tell_start([f"--temp-dir={tmp_path}"])  # nobody waits
    os.mkfifo(gate)
    tell_start([f"--temp-dir={tmp_path}"])  # nobody reads
    fd = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    try:
        tell_start(["worker_process.py", "--node-ip-address=10.0.0.1", f"--temp-dir={tmp_path}"])
        assert os.read(fd, 10) == b"."
    finally:
        os.close(fd)


def test_serves_callback_is_kept_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {CALLBACK: FUNCTION}
    keep_callback(here)
    assert here == {CALLBACK: FUNCTION}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    keep_callback(here)
    assert here == {}
    users = {CALLBACK: "mine:callback"}
    keep_callback(users)
    assert users == {CALLBACK: "mine:callback"}
