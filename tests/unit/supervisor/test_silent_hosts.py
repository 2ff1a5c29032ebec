"""When a step is cancelled because srun waits for hosts that have gone; srun is a program of the test's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import HeadInfo, NodeReport
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.supervisor.silent_hosts import (
    CUT_OFF_S,
    HUNG_S,
    cancel_step_without,
    head_host_responds,
    limit_wait_for_hung,
    limit_wait_for_others_steps,
    refuses,
    responds,
)
from raycluster_cli.system.process import Reaper
from tests.unit.loops import run_loop

STEP = Allocation("7", ("n1", "n2", "n3"), step_id="0", step_nodes=("n1", "n2", "n3"), node_name="n1")

LOST = {"n3": "10.0.0.3"}


class Reports:
    """As ReportWriter, of a record that answers at once."""

    def __init__(self, record: Any) -> None:
        self.record = record

    async def ask(self, call: Any, *, timeout_s: float, default: object) -> object:
        return call()


def parts_of(directory: Path, phases: Mapping[str, str], says: str, **context: Any) -> Any:
    """A head on n1, whose srun writes its arguments to the directory and prints ``says``."""
    program = directory / "srun"
    write = f'for word; do echo "$word"; done >{directory}/arguments; env >{directory}/environment'
    program.write_text(f"#!/bin/sh\n{write}\necho {says}\nsleep 60\n")
    program.chmod(0o755)
    reports = {host: NodeReport(host, "worker", phase, updated=9.0) for host, phase in phases.items()}
    given = {"symmetric": True, "allocation": STEP, "keeper": None, "launched": 8.0, **context}
    return SimpleNamespace(
        context=SimpleNamespace(host="n1", env={"PATH": f"{directory}:{os.environ['PATH']}"}, **given),
        hurry=asyncio.Event(),
        reports=Reports(
            SimpleNamespace(read_nodes=lambda: reports, read_node=reports.get, read_end=lambda: True)
        ),
        reaper=Reaper(),
        signals=SimpleNamespace(keeper_gone=False),
        report=SimpleNamespace(say=lambda text: (directory / "said").write_text(text)),
    )


def cancel(
    parts: Any,
    lost: Mapping[str, str] = LOST,
    responding: bool = False,
    others_end_s: float = 30.0,
    lives: Callable[[], bool] | None = None,
) -> bool:
    async def probe(address: str) -> bool:
        return responding

    async def work() -> bool:
        parts.reaper.attach(asyncio.get_running_loop())
        return await cancel_step_without(
            parts, lost, probe=probe, lives=lives, others_end_s=others_end_s, poll_s=0.05
        )

    return run_loop(work())


def test_only_a_host_that_is_gone_keeps_the_step_running(tmp_path: Path) -> None:
    assert cancel(parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready"))
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:3] == ["--jobid=7", "--overlap", "--nodelist=n1"]
    assert arguments[-4:] == ["7.0", str(os.getpid()), "", ""]
    assert (tmp_path / "said").read_text().startswith("n3 does not respond, and srun waits for its task")


def test_variables_of_squeue_and_scancel_do_not_change_what_the_small_step_sees(tmp_path: Path) -> None:
    """With SQUEUE_PARTITION the step would be missing, and srun be ended in place of the step."""
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready")
    parts.context.env.update(SQUEUE_PARTITION="debug", SCANCEL_INTERACTIVE="true", SITE="x")
    assert cancel(parts)
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert "SITE" in names
    assert not {"SQUEUE_PARTITION", "SCANCEL_INTERACTIVE"} & names


@pytest.mark.parametrize(("killed", "last"), [(False, os.getppid), (True, os.getpid)])
def test_it_is_cancelled_when_the_nodes_task_has_ended(
    tmp_path: Path, killed: bool, last: Callable[[], int]
) -> None:
    """The keeper ends last, or else the supervisor, whose parent then has nothing to do with the cluster."""
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready", keeper=object())
    parts.signals.keeper_gone = killed
    assert cancel(parts)
    assert (tmp_path / "arguments").read_text().splitlines()[-3] == str(last())


def test_a_host_that_shows_life_in_the_record_is_only_cut_off_from_here(tmp_path: Path) -> None:
    """Of networks that are not Slurm's: the cluster goes on without this node (--on-worker-loss)."""
    looks = iter([False, True])
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready")
    assert not cancel(parts, lives=lambda: next(looks))
    assert not (tmp_path / "arguments").exists()


@pytest.mark.parametrize(
    ("phases", "lost", "responding", "context"),
    [
        ({"n2": "gone", "n3": "joined"}, {}, False, {}),
        ({"n2": "gone", "n3": "failed"}, LOST, False, {}),
        ({"n2": "joined", "n3": "joined"}, LOST, False, {}),
        ({"n2": "gone", "n3": "joined"}, LOST, True, {}),
        ({"n2": "gone", "n3": "joined"}, LOST, False, {"symmetric": False}),
        ({"n2": "gone", "n3": "joined"}, LOST, False, {"allocation": None}),
    ],
    ids=["nothing lost", "all ended", "n2 still runs", "n3 responds", "a step of its own", "no Slurm"],
)
def test_otherwise_the_step_is_left_alone(
    tmp_path: Path, phases: dict[str, str], lost: dict[str, str], responding: bool, context: dict[str, Any]
) -> None:
    assert not cancel(parts_of(tmp_path, phases, "ready", **context), lost, responding, others_end_s=0.2)
    assert not (tmp_path / "arguments").exists()


def test_a_report_that_the_directory_shows_late_is_read(tmp_path: Path) -> None:
    """As on NFS."""
    parts = parts_of(tmp_path, {"n2": "joined", "n3": "joined"}, "ready")
    parts.reports.record.read_node = lambda host: replace(
        parts.reports.record.read_nodes()[host], phase="gone" if host == "n2" else "joined"
    )
    assert cancel(parts, others_end_s=0.2)


def test_in_a_hurry_no_report_is_waited_for(tmp_path: Path) -> None:
    parts = parts_of(tmp_path, {"n2": "joined", "n3": "joined"}, "ready")
    parts.hurry.set()
    assert not cancel(parts)
    parts.reports.record.read_end = None  # is not asked for
    limit(parts, 60.0)
    assert not (tmp_path / "arguments").exists()


def limit(
    parts: Any, patience_s: float, stayed: Mapping[str, str] | None = None, responding: bool = True
) -> None:
    async def probe(address: str) -> bool:
        return responding

    async def work() -> None:
        parts.reaper.attach(asyncio.get_running_loop())
        await limit_wait_for_hung(parts, stayed, probe=probe, patience_s=patience_s)

    run_loop(work())


def test_a_worker_that_reports_no_end_is_waited_for_with_a_limit(tmp_path: Path) -> None:
    limit(parts_of(tmp_path, {"n1": "joined", "n2": "gone", "n3": "joined", "n9": "joined"}, "ready"), 0.2)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[-4:] == ["7.0", str(os.getpid()), "", ""]
    assert f"sleep {HUNG_S}" in arguments
    assert (tmp_path / "said").read_text().startswith("n3 has not reported its end, and srun waits")


@pytest.mark.parametrize(
    ("phases", "context"),
    [
        ({"n2": "gone", "n3": "failed"}, {}),
        ({"n2": "gone"}, {}),
        ({"n2": "gone", "n3": "joined"}, {"launched": 10.0}),
        ({"n2": "gone", "n3": "joined"}, {"symmetric": False}),
        ({"n2": "gone", "n3": "joined"}, {"allocation": None}),
    ],
    ids=["all ended", "n3 never reported", "n3 in an earlier cluster", "a step of its own", "no Slurm"],
)
def test_otherwise_srun_waits_without_a_limit(
    tmp_path: Path, phases: dict[str, str], context: dict[str, Any]
) -> None:
    limit(parts_of(tmp_path, phases, "ready", **context), 0.2)
    assert not (tmp_path / "arguments").exists()


@pytest.mark.parametrize(
    ("stayed", "responding", "limited"),
    [
        ({"n3": "10.0.0.3"}, False, True),
        ({"n3": "10.0.0.3"}, True, False),
        ({"n9": "10.0.0.9"}, False, False),
    ],
    ids=["cut off", "slow", "a worker job"],
)
def test_srun_may_not_hear_of_the_end_of_a_worker_that_was_cut_off(
    tmp_path: Path, stayed: dict[str, str], responding: bool, limited: bool
) -> None:
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "gone"}, "ready")
    limit(parts, 60.0, stayed, responding)
    assert (tmp_path / "arguments").exists() == limited
    if limited:
        assert f"sleep {CUT_OFF_S}" in (tmp_path / "arguments").read_text().splitlines()


@pytest.mark.parametrize(
    ("stayed", "responding", "step", "of_head", "ended"),
    [
        ({"n3": "10.0.0.3"}, False, "1", None, ["7.1"]),
        ({"n3": "10.0.0.3"}, False, "1", "0", ["7.1"]),
        ({"n3": "10.0.0.3"}, False, "1", "1", []),  # the head's program may go on after its cluster
        ({"n3": "10.0.0.3"}, True, "1", None, []),
        ({"n9": "10.0.0.9"}, False, "1", None, []),
        ({"n3": "10.0.0.3"}, False, "", None, []),
        ({}, False, "1", None, []),
    ],
    ids=[
        *("cut off", "the head in another step", "the head in the same step", "responds"),
        *("without a report", "in a batch script", "all have left"),
    ],
)
def test_a_step_of_workers_apart_from_their_head(
    tmp_path: Path,
    stayed: dict[str, str],
    responding: bool,
    step: str,
    of_head: str | None,
    ended: list[str],
) -> None:
    head = Allocation("7", ("n1", "n2", "n3"), node_name="n1", step_id=of_head)
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready", symmetric=False, allocation=head)
    reports = parts.reports.record.read_nodes()
    reports["n3"] = replace(reports["n3"], step=step, launcher_ip="10.0.0.1", launcher_port=4711)

    async def probe(address: str) -> bool:
        return responding

    async def work() -> None:
        parts.reaper.attach(asyncio.get_running_loop())
        await limit_wait_for_others_steps(parts, stayed, probe=probe)

    run_loop(work())
    arguments = tmp_path / "arguments"
    assert (arguments.read_text().splitlines()[-4:-3] if arguments.exists() else []) == ended


def test_a_step_that_cannot_be_ended_does_not_keep_the_next_one(tmp_path: Path) -> None:
    head = Allocation("7", ("n1", "n2", "n3"), node_name="n1")
    parts = parts_of(tmp_path, {"n2": "joined", "n3": "joined"}, "", symmetric=False, allocation=head)
    (tmp_path / "srun").write_text(
        f'#!/bin/sh\ncase "$*" in *" 7.1 "*) exit 1;; *" 7.2 "*) echo "$*" >{tmp_path}/arguments;; esac\n'
        "echo ready\nsleep 60\n"
    )
    reports = parts.reports.record.read_nodes()
    for host, step in (("n2", "1"), ("n3", "2")):
        reports[host] = replace(reports[host], step=step)

    async def probe(address: str) -> bool:
        return False

    async def work() -> None:
        parts.reaper.attach(asyncio.get_running_loop())
        await limit_wait_for_others_steps(parts, {"n2": "10.0.0.2", "n3": "10.0.0.3"}, probe=probe)

    with pytest.raises(RayclusterError, match="did not begin"):
        run_loop(work())
    assert (tmp_path / "arguments").exists()
    assert "n3 does not respond" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("stayed", [{}, {"n2": "10.0.0.2"}], ids=["none", "cut off"])
@pytest.mark.parametrize("broken", ["no record", "its end is not there", "it hangs"])
def test_without_a_record_of_the_end_nobody_is_waited_for(
    tmp_path: Path, broken: str, stayed: dict[str, str]
) -> None:
    """The workers cannot read it either, and may need longer than the limit."""

    class Hangs(Reports):
        async def ask(self, call: Any, *, timeout_s: float, default: object) -> object:
            return default

    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready")
    if broken == "no record":
        parts.reports.record = None
    elif broken == "it hangs":
        parts.reports = Hangs(parts.reports.record)
    else:
        parts.reports.record.read_end = lambda: None
    limit(parts, 60.0, stayed, responding=False)
    assert not (tmp_path / "arguments").exists()


def test_a_worker_that_ends_meanwhile_is_not_waited_for_longer(tmp_path: Path) -> None:
    """The other reports are not looked at again, and this one is opened (NFS shows times late)."""
    parts = parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "ready")
    before = parts.reports.record.read_nodes()
    answers = iter([("n3", before["n3"]), ("n3", replace(before["n3"], phase="gone"))])
    lists = iter([before])

    def read_node(host: str) -> NodeReport:
        expected, report = next(answers)
        assert host == expected
        return report

    parts.reports.record.read_nodes, parts.reports.record.read_node = (lambda: next(lists)), read_node
    limit(parts, 60.0)
    assert not (tmp_path / "arguments").exists()
    assert next(answers, None) is None


def test_an_srun_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(RayclusterError, match="did not begin"):
        cancel(parts_of(tmp_path, {"n2": "gone", "n3": "joined"}, "error"))


def test_a_host_that_refuses_responds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = int(server.getsockname()[1])
        assert run_loop(responds("127.0.0.1", port))
        assert not run_loop(refuses("127.0.0.1", port))
    assert run_loop(responds("127.0.0.1", port))
    assert run_loop(refuses("127.0.0.1", port))
    assert run_loop(responds("no-such-host.invalid", timeout_s=60.0))


def test_a_host_that_says_nothing_does_not_respond() -> None:
    """As one without power: nothing answers the first packet.  Linux drops it when the backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        port = int(server.getsockname()[1])
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        assert not run_loop(responds("127.0.0.1", port, timeout_s=0.03))
        assert not run_loop(refuses("127.0.0.1", port, timeout_s=0.03))


def test_a_head_whose_host_misses_one_packet_has_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])

    async def answer(address: str, port: int) -> bool:
        return next(answers)

    monkeypatch.setattr("raycluster_cli.supervisor.silent_hosts.responds", answer)
    assert asyncio.run(head_host_responds("10.0.0.1", None))


@pytest.mark.parametrize(("open_port", "found"), [(9, True), (20001, True), (20000, False)])
def test_a_head_behind_a_firewall_is_seen_by_its_raylets_port(
    monkeypatch: pytest.MonkeyPatch, open_port: int, found: bool
) -> None:
    async def answers(address: str, port: int) -> bool:
        return port == open_port

    monkeypatch.setattr("raycluster_cli.supervisor.silent_hosts.responds", answers)
    head = HeadInfo("n1", "10.0.0.1", 20000, ports={"node_manager": 20001})
    assert run_loop(head_host_responds("10.0.0.1", head)) is found
    assert run_loop(head_host_responds("10.0.0.1", None)) is (open_port == 9)
