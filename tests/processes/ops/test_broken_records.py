"""Whatever the files of a record hold, the commands that look at clusters read on."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from raycluster_cli.cli.changes import Changes
from raycluster_cli.cli.cluster_table import cluster_lines
from raycluster_cli.cli.screen import View, facts, live_screen, report
from raycluster_cli.cli.timeline import timing_lines
from raycluster_cli.model.cluster_status import ClusterPhase
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import (
    ClusterUsage,
    EndReport,
    HeadInfo,
    Lease,
    NodeReport,
    NodeUsage,
    StopRequest,
    decode,
)
from raycluster_cli.ops.clusters import find_record, read_all
from raycluster_cli.ops.inside import choose_node, live_head
from raycluster_cli.ops.logs import event_lines, job_output, kept_files
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.status_json import cluster_json, list_json, prometheus_text
from raycluster_cli.ops.stop import Outcome, Surroundings, running_clusters, stop_cluster
from raycluster_cli.ops.tunnel import tunnel_to
from raycluster_cli.ops.why import page, why_json
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.catalogue import prune, record_of
from raycluster_cli.state.lease import Leases
from raycluster_cli.state.record import Record
from raycluster_cli.state.submitted import output_of
from tests.unit.records_by_hand import write_record

FILES = (
    *("head.json", "nodes/n002.json", "end.json", "stop.json", "usage.json", "usage/n002.json"),
    *("events.log", "events.log.1", "head.claim.1", "head.claim.2", "refused/0.json", "watching", "token"),
)

#: What the files are read as.
KINDS = {
    "head.json": HeadInfo,
    "nodes/n002.json": NodeReport,
    "end.json": EndReport,
    "stop.json": StopRequest,
    "usage.json": ClusterUsage,
    "usage/n002.json": NodeUsage,
    "head.claim.1": Lease,
    "head.claim.2": Lease,
    "refused/0.json": EndReport,
}

#: Numbers that no clock, disk or parser has.
NUMBERS = ("NaN", "9" * 400, "-62135596801", "253402300799", '"1"')
TEXTS = ('""', '"\\ud800"', '"\\u0000"', '"../x"', json.dumps("x" * 3000))
OTHERS = ("null", "[]", "{}", '["\\ud800"]', '{"total": 1, "used": []}', '{"x": null}')

json_values = some.recursive(
    some.none()
    | some.booleans()
    | some.integers()
    | some.floats(allow_nan=True, allow_infinity=True)
    | some.text(max_size=20),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
#: No command of Slurm is found with it.
NOWHERE = {"PATH": "/no/such/directory"}

#: `make unit-long` tries more.
EXAMPLES = int(os.environ.get("RAYCLUSTER_EXAMPLES", "12"))

#: Health checks of hypothesis are about its speed, which is not what is tested.
ANY = [*HealthCheck]

raw = some.binary(max_size=60) | some.sampled_from(
    [b"", b"{", b"[" * 3000, b"\0" * 100, b"\xff\xfe{}", b'{"schema": 99}', b'{"t": 1e999, "text": 1}\n']
)


def look_at_everything(state_dir: Path, key: str = "4711") -> None:
    """All that the commands do with a record; only errors with a message for people may come out."""
    record = Record.open(state_dir / "bed" / key)
    status = read_cluster(record, {key: Job(key, key, "RUNNING")}, events=5)
    json.dumps(cluster_json(status, timing=True))
    prometheus_text(status)
    Changes().lines(status)
    facts(status)
    for lines in (
        live_screen(status, 80, 24, View(keys=True)),
        report(status, 100),
        timing_lines(status, 80),
        cluster_lines([status], 80),
    ):
        assert all("\x1b" not in line.plain for line in lines)
    json.dumps(list_json(read_all(state_dir, {})))
    running_clusters(state_dir, None)
    post = post_mortem(record)
    json.dumps(why_json(post))
    page(post)
    list(event_lines(record, 10))
    kept_files(record, "n002", "raylet")
    record.read_refusal("0")
    record.leases.last_heartbeat()
    output_of(state_dir, key)
    prune(state_dir, now=time.time())
    calls: list[Callable[[], object]] = [
        record.read_token,
        record.leases.holder,
        lambda: live_head(record),
        lambda: choose_node(record),
        lambda: find_record(state_dir, "", {}),
        lambda: record_of(state_dir, "another-name"),
        lambda: tunnel_to(status.dashboard, status.head_host) if status.dashboard else None,
        lambda: job_output(record, state_dir, NOWHERE),
    ]
    for call in calls:
        with contextlib.suppress(RayclusterError):
            call()


def mutations(value: Any) -> Iterator[str]:
    """The JSON of a value with one part, at any depth, replaced by what has gone wrong before."""
    if isinstance(value, dict):
        for name, part in value.items():
            before = json.dumps({other: each for other, each in value.items() if other != name})[:-1]
            for text in mutations(part):
                yield f"{before}{', ' if len(value) > 1 else ''}{json.dumps(name)}: {text}}}"
        yield from OTHERS
    elif isinstance(value, list):
        for number, part in enumerate(value):
            for text in mutations(part):
                yield f"[{', '.join([*map(json.dumps, value[:number]), text])}]"
        yield from OTHERS
    else:
        yield from TEXTS if isinstance(value, str) else NUMBERS


def each_once(name: str, texts: Iterator[str]) -> Iterator[str]:
    """Contents of a file that are read as different values; all that cannot be read are one."""
    seen = set()
    for text in texts:
        value = repr(decode(KINDS[name], text.encode())) if name in KINDS else text
        if value not in seen:
            seen.add(value)
            yield text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A state directory with one cluster, and what each of its files held at first."""
    state_dir = tmp_path_factory.mktemp("state")
    record = write_record(state_dir, 2)
    usage = record.read_usage()
    assert usage is not None
    record.write_usage(dataclasses.replace(usage, when=time.time() + 3600))  # fresh for as long as this takes
    record.request_stop("test")
    record.write_end(EndReport(time.time() - 100, 5, "worker-lost", "n002", "worker n002 is lost"))
    record.write_refusal("0", EndReport(1.0, 1))
    found = {name: path.read_bytes() for name in FILES if (path := record.path / name).exists()}
    (record.path / "end.json").unlink()
    (record.path / "stop.json").unlink()
    return state_dir, found


@contextlib.contextmanager
def replaced(whole: tuple[Path, dict[str, bytes]], name: str, data: bytes) -> Any:
    """The cluster with one file of another content."""
    state_dir, _ = whole
    path = state_dir / "bed" / "4711" / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(data)
    try:
        yield state_dir
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is empty may be about to be written, and is read again; not here."""
    defaults = Leases.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "sleep", lambda seconds: None)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("token", "watching")])
def test_every_part_of_every_file_may_be_odd(whole: tuple[Path, dict[str, bytes]], name: str) -> None:
    values = json.loads(whole[1].get(name, b'{"t": 1.0, "text": "x"}').split(b"\n")[0])
    for text in each_once(name, mutations(values)):
        with replaced(whole, name, text.encode()) as state_dir:
            look_at_everything(state_dir)


@pytest.mark.parametrize("name", FILES)
def test_a_file_may_hold_anything(whole: tuple[Path, dict[str, bytes]], name: str) -> None:
    known = whole[1].get(name, b"")

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(
        raw
        | json_values.map(lambda value: json.dumps(value).encode())
        | some.integers(0, max(len(known), 1)).map(lambda cut: known[:cut])
    )
    def one(data: bytes) -> None:
        with replaced(whole, name, data) as state_dir:
            look_at_everything(state_dir)

    one()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["directory", "link to itself", "pipe"])
def test_a_file_may_be_something_else(tmp_path: Path, name: str, kind: str) -> None:
    record = write_record(tmp_path, 3)
    path = record.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    look_at_everything(tmp_path)


@pytest.mark.parametrize("data", ["", "{", "[]", "7", '{"output": 3}', '{"output": null}', "\0", "[" * 9999])
def test_what_submit_remembered_may_be_anything(tmp_path: Path, data: str) -> None:
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "4711").write_text(data)
    assert isinstance(output_of(tmp_path, "4711"), str)


def test_one_broken_record_does_not_hide_the_others(tmp_path: Path) -> None:
    for number, odd in enumerate((*NUMBERS, *TEXTS, *OTHERS)):
        record = write_record(tmp_path, 2, key=f"broken-{number}")
        text = f'{{"host": "a", "address_ip": "b", "port": 1, "started": {odd}}}'
        (record.path / "head.json").write_text(text)
    write_record(tmp_path, 2, key="good")
    states = {status.job: status.phase.value for status in read_all(tmp_path, None)}
    assert states["good"] == "running"


@pytest.mark.parametrize("text", ['{"when": "yesterday", "exit_code": []}', "[]", "\0", ""])
def test_an_end_that_cannot_be_read_is_an_end_all_the_same(tmp_path: Path, text: str) -> None:
    record = write_record(tmp_path, 2)
    path = record.path / "end.json"
    path.write_text(text)
    assert read_cluster(record).phase is ClusterPhase.RUNNING  # it may be about to be written
    os.utime(path, (time.time() - 60, time.time() - 60))
    status = read_cluster(record)
    assert (status.phase, status.exit_code) == (ClusterPhase.FAILED, 1)
    told: list[str] = []
    around = Surroundings({}, say=told.append, query=lambda: None)
    assert stop_cluster(record, around) is Outcome.OVER
    assert "it has ended, but how cannot be read" in told[0]
