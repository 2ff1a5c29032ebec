"""What the files of a record hold: older and newer ones are read, broken ones are told apart."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from raycluster_cli.model.record import (
    EndReport,
    HeadInfo,
    NodeReport,
    ProcessDeath,
    decode,
    encode,
)

HEAD = HeadInfo(
    "n1", "10.0.0.1", 20480, step="0", state="up", min_workers=2, grace_s=30.0, driver=("python", "x.py")
)
NODE = NodeReport(
    "n2", "worker", "failed", phases={"joined": 5.0}, deaths=(ProcessDeath("raylet", 7, -9, 4.0),)
)
END = EndReport(9.0, 5, "worker-lost", "n2", "worker n2 is lost")


@pytest.mark.parametrize("value", [HEAD, NODE, END], ids=lambda value: type(value).__name__)
def test_what_is_written_is_read(value: Any) -> None:
    assert decode(type(value), encode(value).encode()) == value


def test_a_head_of_version_0_1() -> None:
    old = {
        "schema": 1,
        "host": "n1",
        "address_ip": "10.0.0.1",
        "port": 20480,
        "extra": {"state": "up", "step": None, "on_worker_loss": "wait:60", "worker_hosts": "n[2-3]"},
    }
    old["extra"]["step"] = "3"  # type: ignore[index]
    found = decode(HeadInfo, json.dumps(old).encode())
    assert found == HeadInfo(
        "n1", "10.0.0.1", 20480, state="up", step="3", on_worker_loss="wait:60", worker_hosts="n[2-3]"
    )


def test_a_head_of_version_0_1_outside_slurm_has_no_step() -> None:
    old = {"schema": 1, "host": "n1", "address_ip": "::1", "port": 1, "extra": {"step": None}}
    found = decode(HeadInfo, json.dumps(old).encode())
    assert found is not None
    assert found.step == ""


def test_a_node_of_version_0_1() -> None:
    death = {"name": "raylet", "pid": 7, "code": -9, "when": 4.0}
    old = {
        "schema": 1,
        "host": "n2",
        "role": "worker",
        "phase": "failed",
        "extra": {"deaths": [death], "oom_kills": 2, "reason": "raylet-lost", "log": "/l", "het_group": 1},
    }
    found = decode(NodeReport, json.dumps(old).encode())
    assert found is not None
    assert (found.deaths, found.oom_kills) == ((ProcessDeath("raylet", 7, -9, 4.0),), 2)
    assert (found.reason, found.log, found.het_group) == ("raylet-lost", "/l", 1)


def test_an_end_of_version_0_1() -> None:
    old = b'{"schema":1,"when":9.0,"exit_code":5,"reason":"worker-lost","culprit_host":"n2","extra":{}}'
    assert decode(EndReport, old) == EndReport(9.0, 5, "worker-lost", "n2")


def test_fields_of_a_newer_version_are_ignored() -> None:
    text = encode(END).replace('"when"', '"shape":{"x":[1]},"when"')
    assert decode(EndReport, text.encode()) == END


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"3",
        b'{"when":1.0',
        b'{"exit_code":5}',
        b'{"when":NaN,"exit_code":5}',
        b'{"when":Infinity,"exit_code":5}',
        b'{"when":1e308,"exit_code":5}',
        b'{"when":1e999,"exit_code":5}',
        b'{"when":%s,"exit_code":5}' % (b"9" * 400),
        b'{"when":1.0,"exit_code":"5"}',
        b'{"when":1.0,"exit_code":true}',
        b'{"when":1.0,"exit_code":5.5}',
        b'{"when":1.0,"exit_code":5,"message":["x"]}',
        b'{"when":' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_broken_files_are_no_end(text: bytes) -> None:
    assert decode(EndReport, text) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phases", {"joined": "late"}),
        ("phases", {"joined": 1e300}),
        ("deaths", [{"name": "raylet"}]),
        ("deaths", {"name": "raylet"}),
        ("oom_kills", "2"),
        ("restarts", None),
    ],
)
def test_broken_fields_of_a_node(field: str, value: object) -> None:
    values = {**dataclasses.asdict(NODE), field: value}
    assert decode(NodeReport, json.dumps(values).encode()) is None
