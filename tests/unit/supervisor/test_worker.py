"""A worker's whole run: it joins, watches its head and its raylet, and ends with the cluster."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import EndReport, NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import NodePhase, Role
from raycluster_cli.rayproc import gcs_monitor
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor import worker
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.parent_link import ParentLink
from raycluster_cli.supervisor.worker import WROTE_BEFORE_S, WorkerRun, check_head_known
from tests.unit.loops import skip
from tests.unit.supervisor.worker_scenes import TEMPLATE, Scene, play

DRIVER_ENDED = EndReport(200.0, 0, "driver", message="the driver ended with code 0")
BROKEN = StartFailure("crashed", "no memory")


async def cluster_ends(scene: Scene) -> None:
    await scene.joined()
    scene.record.write_end(DRIVER_ENDED)
    scene.gcs.stop()


async def head_vanishes(scene: Scene) -> None:
    await scene.joined()
    scene.gcs.stop()


def raylet_dies(code: int, drained: str | None = None) -> Callable[[Scene], Awaitable[None]]:
    async def act(scene: Scene) -> None:
        await scene.joined()
        scene.node.drained = drained
        scene.node.die(code)

    return act


async def nothing_happens(scene: Scene) -> None:
    pass


async def head_recovers_and_ends(scene: Scene) -> None:
    await scene.joined()
    scene.gcs.stop()
    await scene.until(lambda: scene.run.state.away_told)
    scene.gcs.checks = 0
    await scene.gcs.start()
    await scene.until(lambda: scene.gcs.checks and not scene.run.state.away)
    await cluster_ends(scene)


async def head_hangs(scene: Scene) -> None:
    await scene.joined()
    scene.gcs.answers = False
    while scene.run.state.lost is None:
        before = scene.gcs.checks
        await scene.until(lambda before=before: scene.gcs.checks != before or scene.run.state.lost)
        skip(gcs_monitor.CHECK_TIMEOUT_S)


async def told_to_end(scene: Scene) -> None:
    await scene.joined()
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_good_run(tmp_path: Path) -> None:
    played = play(tmp_path, cluster_ends)
    assert (played.code, played.said) == (0, [])
    report, node = played.report, played.node
    assert (report.phase, report.reason) == ("gone", "ended")
    assert report.message == "the cluster ended: the driver ended with code 0"
    assert (report.node_id, report.ip, report.node_root) == ("05", "127.0.0.1", str(tmp_path))
    passed = ["launched", "waiting for head", "head found", "starting ray", "joined", "stopping", "gone"]
    assert [phase for phase in report.phases if phase != "process started"] == passed
    assert node is not None
    assert node.token == (tmp_path / "state" / "bed" / "7" / "token").read_text()
    assert node.done[-3:] == ["start", "start_extras", "stop"]


class Case(NamedTuple):
    """What happens to a worker, and how it ends."""

    act: Callable[[Scene], Awaitable[None]]
    code: int
    phase: str
    message: str
    said: Sequence[str] = ()
    given: Mapping[str, Any] = MappingProxyType({})
    """For play."""


KILLED = "the raylet on n2 was killed by SIGKILL"
FAIL, CONTINUE = {"on_worker_loss": "fail"}, {"on_worker_loss": "continue"}
AGAIN = f"warning: {KILLED}; starting it again in 0.5 s (1 of 3)"
NOT_AGAIN = f"{KILLED}, and did not start again: crashed (no memory)"
AT_ONCE = (
    "raycluster on n1 and all of its processes ended at once without reporting: Slurm kills all when the "
    "first one is killed, and the kernel may when memory is short"
)
REPORTED = "the cluster ended: the disk of n1 is full"


def last_report_of_head(record: Record) -> None:
    record.write_node(
        NodeReport("n1", "head", "stopping", message="the disk of n1 is full", updated=150.0, reason="error")
    )


def head_that_started_later(record: Record) -> None:
    """The report of the head before it."""
    record.write_node(NodeReport("n1", "head", "stopping", message="old", updated=99.0, reason="error"))


def another_host(record: Record) -> None:
    """A head that does not say where it is: nobody can be asked whether its host runs."""
    record.write_node(NodeReport("n1", "head", "joined", updated=150.0))


CASES = {
    "raylet, fail": Case(
        raylet_dies(-9), 5, "failed", KILLED, [f"{KILLED}; exit code 5"], {"head": FAIL, **CONTINUE}
    ),
    "raylet, no restarts": Case(
        raylet_dies(-9),
        *(0, "failed", KILLED, [f"{KILLED}; exit code 0"]),
        {"head": CONTINUE, "max_restarts": 0, **FAIL},
    ),
    "raylet, the head says nothing": Case(
        raylet_dies(-9), 0, "failed", KILLED, [f"{KILLED}; exit code 0"], {"max_restarts": 0, **CONTINUE}
    ),
    "raylet, drained": Case(raylet_dies(0, "it is over"), 0, "gone", "the cluster ended: it is over"),
    "raylet, does not start again": Case(
        raylet_dies(-9),
        *(0, "failed", NOT_AGAIN, [AGAIN, f"{NOT_AGAIN}; exit code 0"]),
        {"head": CONTINUE, "fails": [None, BROKEN]},
    ),
    "raylet, ends before it is watched": Case(
        nothing_happens, 5, "failed", KILLED, [f"{KILLED}; exit code 5"], {"head": FAIL, "dies_at_start": -9}
    ),
    "signal": Case(told_to_end, 143, "gone", "ended by SIGTERM"),
    "head, without a trace": Case(
        head_vanishes,
        *(5, "failed", f"the cluster ended: {AT_ONCE}", [f"the cluster ended: {AT_ONCE}; exit code 5"]),
    ),
    "head, reported": Case(head_vanishes, 0, "gone", REPORTED, (), {"before": last_report_of_head}),
    "head, an old report": Case(
        *(head_vanishes, 5, "failed", f"the cluster ended: {AT_ONCE}"),
        *([f"the cluster ended: {AT_ONCE}; exit code 5"], {"before": head_that_started_later}),
    ),
    "head that recovers, killed at once": Case(
        head_recovers_and_ends,
        *(0, "gone", "the cluster ended: the driver ended with code 0"),
        [
            "warning: the GCS at HEAD is not reachable (Connection refused); waiting "
            "for the head to recover it",
            "the GCS at HEAD is reachable again",
        ],
        {"head": {"head_recovery": True}},
    ),
    "head that recovers, but not in time": Case(
        head_vanishes,
        *(5, "failed", f"the cluster ended: {AT_ONCE}"),
        [
            "warning: the GCS at HEAD is not reachable (Connection refused); waiting "
            "for the head to recover it",
            f"the cluster ended: {AT_ONCE}; exit code 5",
        ],
        {"head": {"head_recovery": True}},
    ),
    "head, silent": Case(
        head_hangs,
        *(5, "failed", "the head at HEAD is lost: no answer to 2 checks of 4 s"),
        ["the head at HEAD is lost: no answer to 2 checks of 4 s; exit code 5"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_how_it_ends(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    played = play(tmp_path, case.act, **case.given)
    address = played.run.cluster.target.address
    assert played.said == [f"raycluster: {line.replace('HEAD', address)}" for line in case.said]
    assert (played.code, played.report.exit_code) == (case.code, case.code)
    assert (played.report.phase, played.report.message) == (case.phase, case.message.replace("HEAD", address))
    assert played.node is not None
    assert played.node.done[-1] == "stop"


def test_a_head_that_left_no_end_gets_one(tmp_path: Path) -> None:
    """For the other workers and for `raycluster why`."""
    play(tmp_path, head_vanishes)
    end = Record.at(tmp_path / "state" / "bed" / "7").read_end()
    assert end is not None
    assert (end.exit_code, end.reason, end.failed_host, end.message) == (
        137,
        "supervisor-killed",
        "n1",
        AT_ONCE,
    )


def test_a_silent_head_may_live_and_gets_none(tmp_path: Path) -> None:
    play(tmp_path, head_hangs)
    assert Record.at(tmp_path / "state" / "bed" / "7").read_end() is None


def test_a_raylet_that_died_is_told_and_started_again(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        await raylet_dies(-9)(scene)
        await scene.until(lambda: scene.node.done.count("start") == 2)
        await cluster_ends(scene)

    played = play(tmp_path, act, head=CONTINUE)
    assert played.code == 0
    assert played.said == [f"raycluster: {AGAIN}"]
    assert played.report.restarts == 1
    assert [(death.name, death.code) for death in played.report.deaths] == [("raylet", -9)]
    assert played.node is not None
    after = played.node.done[played.node.done.index("start_extras") + 1 :]
    assert after == [
        "reset",
        "begin_import",
        "begin_import",
        "measure",
        "claim_ports",
        "start",
        "start_extras",
        "stop",
    ]
    record = Record.at(tmp_path / "state" / "bed" / "7")
    assert record.lost_node_ids() == ["05"]


def test_the_cluster_ends_while_the_raylet_is_started_again(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        await raylet_dies(-9)(scene)
        await scene.until(lambda: scene.node.done.count("start") == 2)
        scene.record.write_end(DRIVER_ENDED)

    played = play(tmp_path, act, head=CONTINUE, hangs=[2])
    assert (played.code, played.report.message) == (0, "the cluster ended: the driver ended with code 0")


def test_a_parent_program_is_told(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        number = theirs.detach()
        played = play(tmp_path, cluster_ends, env={ParentLink.VARIABLE: str(number)})
        told = [json.loads(line) for line in ours.recv(65536).splitlines()]
    address = played.run.cluster.target.address
    assert told == [
        {"event": "ready", "address": address, "environment": {"RAY_ADDRESS": "this node's"}},
        {"event": "ended", "code": 0, "message": "the cluster ended: the driver ended with code 0"},
    ]


@pytest.mark.parametrize(("done", "code"), [(True, 0), (False, 143)])
def test_it_ends_with_the_program_that_started_it(tmp_path: Path, done: bool, code: int) -> None:
    ours, theirs = socket.socketpair()

    async def act(scene: Scene) -> None:
        await scene.joined()
        if done:
            ours.send(ParentLink.DONE)
        ours.close()

    played = play(tmp_path, act, env={ParentLink.VARIABLE: str(theirs.detach())})
    assert (played.code, played.report.reason) == (code, "stop")


@pytest.mark.parametrize(
    ("quick", "doubt", "installed", "first"),
    [
        ("auto", "", "ray 2.60.0", ["measure", "claim_ports", "start"]),
        ("auto", "", "ray 2.59.0", ["begin_import", "measure", "claim_ports"]),  # once the head is known
        ("auto", "an unknown GPU", "ray 2.60.0", ["begin_import", "begin_import", "measure"]),  # at once
        ("node", "", "ray 2.60.0", ["begin_import", "begin_import", "measure"]),
    ],
)
def test_ray_is_not_imported_where_the_heads_template_fits(
    tmp_path: Path, quick: str, doubt: str, installed: str, first: list[str]
) -> None:
    head = {"installation": "ray 2.60.0"}
    given = {"quick": quick, "doubt": doubt, "installed": installed}
    leave = functools.partial(Record.write_template, template=TEMPLATE)
    played = play(tmp_path, cluster_ends, head=head, before=leave, **given)
    assert played.node is not None
    assert played.node.done[:3] == first


@pytest.mark.parametrize(
    ("given", "context", "known"),
    [
        ({}, {}, False),
        ({"master_ip": "n1"}, {}, True),
        ({"name": "tune"}, {}, True),
        ({"cluster": "4711"}, {}, True),
        ({}, {"key_given": True}, True),
        ({}, {"allocation": Allocation("7", ("n1", "n2"))}, True),
    ],
)
def test_a_worker_must_know_which_head_is_meant(
    given: dict[str, Any], context: dict[str, Any], known: bool
) -> None:
    here = {"host": "n2", "state_dir": Path("/nowhere"), "allocation": None, **context}
    one = Context(Settings(**given), {}, role=Role.WORKER, key="7", slurm_cluster="bed", **here)
    if known:
        check_head_known(one)
    else:
        with pytest.raises(UsageError, match="the head is not known"):
            check_head_known(one)


STEP = Allocation("7", ("n1", "n2", "n3"), step_id="0", step_nodes=("n1", "n2", "n3"), node_name="n2")


@pytest.mark.parametrize(
    ("act", "host", "allocation", "cancelled"),
    [
        (head_hangs, "n2", STEP, True),
        (head_hangs, "n3", STEP, False),  # n2 does it
        (head_hangs, "n2", STEP.but(step_nodes=None), False),
        (head_vanishes, "n2", STEP, False),  # its host runs: srun gets to know
        (cluster_ends, "n2", STEP, False),
    ],
)
def test_the_first_worker_left_cancels_a_step_whose_head_does_not_respond(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Scene], Awaitable[None]],
    host: str,
    allocation: Allocation,
    cancelled: bool,
) -> None:
    calls = []

    async def cancel(run: WorkerRun, lost: object, *, lives: Callable[[], bool]) -> None:
        calls.append((run.context.host, lost))

    monkeypatch.setattr(worker, "cancel_step_without", cancel)
    play(tmp_path, act, allocation=allocation, context={"host": host})
    assert calls == ([("n2", {"n1": "127.0.0.1"})] if cancelled else [])


@pytest.mark.parametrize(
    ("phase", "wrote_s", "lives"),
    [
        (NodePhase.STOPPING, 0.0, True),
        (NodePhase.STOPPING, -WROTE_BEFORE_S + 1, True),
        (NodePhase.STOPPING, -WROTE_BEFORE_S - 1, False),
        (NodePhase.JOINED, 0.0, False),  # our report of the loss is not there yet: nobody can compare
        (None, 0.0, False),
    ],
)
def test_a_head_that_writes_after_it_was_lost_lives(
    tmp_path: Path, phase: NodePhase | None, wrote_s: float, lives: bool
) -> None:
    record = Record.create(tmp_path, "bed", "7")
    if phase is not None:
        record.write_node(NodeReport("n2", "worker", phase.value, updated=1.0))
    record.append_event("something", 1.0)
    at = record.path.joinpath("nodes").stat().st_mtime + wrote_s
    os.utime(record.path / "events.log", (at, at))
    run: Any = SimpleNamespace(record=record, context=SimpleNamespace(host="n2"))
    assert WorkerRun._head_lives(run) is lives
    run.record = None
    assert not WorkerRun._head_lives(run)
