"""How a worker joins: attempts, token, certificate, the start of Ray; with a node that is none."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raycluster_cli.model.errors import WorkersMissingError
from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.node.accelerators import Accelerators
from raycluster_cli.node.start_spec import StartSpec
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.health import Outcome, Probe
from raycluster_cli.rayproc.plan import TlsFiles
from raycluster_cli.rayproc.started import Started
from raycluster_cli.rayproc.template import Template
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.discovery import ClusterKey, Discovery
from raycluster_cli.supervisor.head_proof import ProvenHead
from raycluster_cli.supervisor.head_record import HeadRecord
from raycluster_cli.supervisor.joining import Attempts, Joined, Joiner
from raycluster_cli.supervisor.report_writer import ReportWriter
from raycluster_cli.supervisor.run import Finished
from raycluster_cli.system.network import NodeAddress
from raycluster_cli.system.report import Report
from tests.unit.loops import run_loop
from tests.unit.supervisor.worker_scenes import TEMPLATE

TOKEN = "0123456789abcdef" * 4
HEAD = HeadInfo(host="n1", address_ip="10.77.0.1", port=20480, identity="the head's", state="up")


class OneStart(NamedTuple):
    """What a start of Ray was asked for, and the token that the node had by then."""

    spec: StartSpec
    template: Template | None
    token: str


@dataclass
class Node:
    """Notes what it is asked to do; ``fails`` are the failures of its first starts."""

    fails: list[StartFailure] = field(default_factory=list)
    hangs: bool = False
    token: str = ""
    tls: TlsFiles | None = None
    address: NodeAddress = field(default_factory=lambda: NodeAddress("10.77.0.2", "eth0", "test"))
    installed: str = "ray 2.60.0"
    has: Accelerators = field(default_factory=Accelerators)
    done: list[str] = field(default_factory=list)
    started: list[OneStart] = field(default_factory=list)

    @property
    def templates(self) -> Node:
        return self

    async def installation(self) -> str:
        return self.installed

    async def accelerators(self) -> Accelerators:
        return self.has

    def begin_import(self) -> None:
        if "import" not in self.done:
            self.done.append("import")

    async def measure(self, *, route_to: str | None) -> None:
        self.done.append(f"measure {route_to}")

    def claim_ports(self, given: dict[str, int]) -> None:
        self.done.append("ports")

    def port_map(self) -> dict[str, Any]:
        return {"metrics_export": 20487}

    async def certify(self, authority: str) -> None:
        self.done.append(f"certify {authority}")

    async def start(self, timeout_s: float, spec: StartSpec, template: Template | None = None) -> Started:
        self.done.append("start")
        self.started.append(OneStart(spec, template, self.token))
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise self.fails.pop(0)
        return None  # type: ignore[return-value]  # the joiner does not look at it


async def reached(host: str, port: int, *, timeout_s: float) -> Probe:
    return Probe(Outcome.REACHED)


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record.create(tmp_path / "state", "bed", "7")
    record.take_lease(host="n1")
    return record


def join(
    node: Node,
    record: Record | None,
    *,
    own_token: str = "",
    proven: ProvenHead | None = None,
    allocation: Allocation | None = None,
    meanwhile: Callable[[], None] | None = None,
    again: bool = False,
    timeout_s: float = 20.0,
    symmetric: bool = False,
    said: io.StringIO | None = None,
    verbose: bool = False,
    **settings: Any,
) -> Joined:
    """What a worker's join gives."""

    async def prove(host: str, token: str, fits: Callable[[ProvenHead], bool]) -> ProvenHead | None:
        return proven

    async def work() -> Joined:
        reports = ReportWriter(None, NodeReport("n2", "worker", "waiting"))
        report = Report(stream=said or io.StringIO(), verbose=verbose)
        head_record = HeadRecord(
            record, reports=reports, report=report, allocation=allocation, symmetric=symmetric, nodes=1
        )
        await head_record.remember_ended_cluster()
        given = Settings(retry_delay=0.2, max_retries=3, **settings)
        discovery = Discovery(
            head_record,
            reports=reports,
            key=ClusterKey("bed", "7"),
            allocation=allocation,
            state_dir=record.path.parents[1] if record is not None else Path("/nowhere"),
            own_token=own_token,
            auth=given.auth,
            master_ip=given.master_ip,
            master_port=given.master_port,
            probe=reached,
            prove=prove,
        )
        joiner = Joiner(
            discovery,
            node,
            settings=given,
            host="n2",
            symmetric=symmetric,
            own_token=own_token,
            reports=reports,
            report=report,
            deadline=asyncio.get_running_loop().time() + timeout_s,
        )
        if meanwhile is not None:
            asyncio.get_running_loop().call_later(0.1, meanwhile)
        try:
            joined = await joiner.join()
            if again:
                await joiner.start_again(joined.target)
            return joined
        finally:
            await reports.close()

    return run_loop(work())


def test_the_token_and_the_identity_come_from_the_record(record: Record) -> None:
    token = record.make_token()
    record.write_head(HEAD)
    node = Node()
    joined = join(node, record)
    assert joined.target.address == "10.77.0.1:20480"
    assert joined.record is record
    assert node.done == ["import", "measure 10.77.0.1", "ports", "start"]
    assert node.started == [OneStart(StartSpec("the head's", gcs_address="10.77.0.1:20480"), None, token)]


def test_a_worker_with_the_heads_installation_waits_for_its_template(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, installation="ray 2.60.0"))
    node = Node()
    join(node, record, meanwhile=lambda: record.write_template(TEMPLATE))
    assert node.done == ["measure 10.77.0.1", "ports", "start"]  # Ray is not imported
    assert node.started[0].template == Template.from_json(json.dumps(TEMPLATE).encode())


def test_a_raylet_that_has_died_is_not_started_by_the_template_again(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, installation="ray 2.60.0"))
    record.write_template(TEMPLATE)
    node = Node()
    join(node, record, again=True)
    assert [one.template is None for one in node.started] == [False, True]


@pytest.mark.parametrize(
    ("head", "settings", "why"),
    [
        (replace(HEAD, installation="ray 2.59.0"), {}, "the installation here (ray 2.60.0) differs"),
        (HEAD, {}, "the head leaves no template"),
        (replace(HEAD, installation="ray 2.60.0"), {"quick": "node"}, "--quick node is given"),
        (replace(HEAD, installation="ray 2.60.0"), {"quick": "ray-start"}, "--quick ray-start is given"),
    ],
)
def test_other_workers_import_ray_at_once(
    record: Record, head: HeadInfo, settings: dict[str, Any], why: str
) -> None:
    record.make_token()
    record.write_head(head)
    record.write_template(TEMPLATE)
    node, said = Node(), io.StringIO()
    join(node, record, said=said, verbose=True, **settings)
    assert node.done[0] == "import"
    assert node.started[0].template is None
    assert f"n2 starts its raylet by Ray's own code: no template is used ({why}" in said.getvalue()


@pytest.mark.parametrize(
    ("has", "of_the_head", "way"),
    [
        (Accelerators(gpus="NVIDIA H200"), "NVIDIA H200", "template"),
        (Accelerators(), "NVIDIA H200", "template"),
        (Accelerators(gpus="NVIDIA H200"), "", "import"),
        (Accelerators(gpus="NVIDIA H200"), "NVIDIA A100", "import"),
        (Accelerators(doubt="this node has /dev/neuron0"), "", "import"),
    ],
)
def test_a_worker_with_other_gpus_than_the_heads_imports_ray_while_its_head_starts(
    record: Record, has: Accelerators, of_the_head: str, way: str
) -> None:
    record.make_token()
    record.write_head(replace(HEAD, installation="ray 2.60.0", gpus=of_the_head))
    record.write_template(TEMPLATE)
    node = Node(has=has)
    join(node, record)
    assert ("import" in node.done) is (way == "import")
    assert (node.started[0].template is None) is (way == "import")


def test_a_head_can_take_its_promise_of_a_template_back(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, installation="ray 2.60.0"))
    record.write_template({**TEMPLATE, "identity": "of an earlier cluster"})
    node = Node()
    join(node, record, meanwhile=lambda: record.write_head(HEAD))
    assert node.started[0].template is None


def test_the_token_of_the_environment_where_the_record_has_none(record: Record) -> None:
    record.write_head(HEAD)
    node = Node()
    join(node, record, own_token=TOKEN)
    assert node.started[0].token == TOKEN


def test_the_records_own_token_counts_where_there_are_two(record: Record) -> None:
    token = record.make_token()
    record.write_head(HEAD)
    node = Node()
    join(node, record, own_token=TOKEN)
    assert node.started[0].token == token


def test_a_proven_head_gets_the_token_that_it_has_proved(record: Record) -> None:
    node = Node()
    joined = join(node, None, own_token=TOKEN, proven=ProvenHead("bed/7+", HEAD), master_ip="10.77.0.1")
    assert joined.target.proven
    assert node.started[0].token == TOKEN
    assert node.started[0].spec.identity == "the head's"


EARLIER = replace(HEAD, identity="an earlier head's")
"""Of a cluster under the same key that was killed as a whole: there is no end in the record."""


def killed_as_a_whole(record: Record) -> None:
    """As a head on another host that has touched its lease hours ago."""
    lease = max(record.path.glob("head.claim.*"))
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "boot_id": "another"}))
    os.utime(lease, (1.0, 1.0))


@pytest.mark.parametrize("token", ["of the record", "of the environment"])
def test_no_token_for_whoever_listens_where_the_head_of_a_killed_cluster_was(
    record: Record, token: str
) -> None:
    """The port follows from the job's id, and another user can know it."""
    record.write_head(EARLIER)
    killed_as_a_whole(record)
    if token == "of the record":
        record.make_token()
    node = Node()
    with pytest.raises(WorkersMissingError, match=r"10\.77\.0\.1:20480: no head \(something"):
        join(node, record, own_token=TOKEN if token == "of the environment" else "")
    assert (node.token, node.started) == ("", [])


@pytest.mark.parametrize("gone_for_s", [0.0, 0.2])
def test_a_head_that_starts_where_the_head_of_a_killed_cluster_was_is_joined(
    record: Record, gone_for_s: float
) -> None:
    """At the address that the worker has read before: the port follows from the job's id."""
    record.write_head(EARLIER)
    killed_as_a_whole(record)

    def write() -> None:
        record.make_token()
        record.write_head(HEAD)

    class Meanwhile(Node):
        async def measure(self, *, route_to: str | None) -> None:
            if record.leases.has_expired():
                record.take_lease(host="n1")
                asyncio.get_running_loop().call_later(gone_for_s, write) if gone_for_s else write()

    node = Meanwhile()
    join(node, record)
    assert [one.spec.identity for one in node.started] == ["the head's"]
    assert node.token == record.read_token()


def test_the_own_clusters_head_follows_another_at_the_address_that_was_given(record: Record) -> None:
    """First the head of a cluster with a --name listens there; its record has another token."""
    other = Record.create(record.path.parents[1], "bed", "7", "a")
    other.take_lease(host="n1")
    other.write_head(replace(HEAD, identity="the other's"))
    other.make_token()

    class Follows(Node):
        async def start(self, timeout_s: float, spec: StartSpec, template: Template | None = None) -> Started:
            if not self.started:
                record.make_token()
                record.write_head(HEAD)
                self.fails.append(StartFailure("ray", "the GCS is gone"))
            return await super().start(timeout_s, spec, template)

    node = Follows()
    joined = join(node, record, master_ip="10.77.0.1", master_port=20480)
    assert [one.spec.identity for one in node.started] == ["the other's", "the head's"]
    assert [one.token for one in node.started] == [other.read_token(), record.read_token()]
    assert joined.record is record


def test_a_head_in_the_record_without_any_token(record: Record) -> None:
    record.write_head(HEAD)
    node = Node()
    with pytest.raises(
        WorkersMissingError, match=r"attempts 1 to 3 10\.77\.0\.1:20480: no token \(the record"
    ):
        join(node, record)
    assert node.started == []


def test_a_task_of_the_heads_step_waits_no_longer_for_a_token_than_files_take(record: Record) -> None:
    """Its attempts are not counted: it waits as long as the head does, 300 s."""
    record.write_head(HEAD)
    with pytest.raises(WorkersMissingError, match="no token"):
        join(Node(), record, symmetric=True, timeout_s=300.0)
    with pytest.raises(WorkersMissingError, match="no token"):
        join(Node(), None, symmetric=True, timeout_s=300.0, master_ip="10.77.0.1", master_port=20480)


def test_a_token_that_is_seen_late_is_waited_for(record: Record) -> None:
    record.write_head(HEAD)
    node = Node()
    join(node, record, symmetric=True, meanwhile=record.make_token)
    assert len(node.started) == 1


def test_what_a_record_without_a_head_may_mean_is_said_once(record: Record) -> None:
    said = io.StringIO()
    with pytest.raises(WorkersMissingError, match="the record names none"):
        join(Node(), record, symmetric=True, timeout_s=20.0, said=said)
    (line,) = said.getvalue().splitlines()
    assert f"n2 sees no head in {record.path}, " in line
    assert "If that is not the same directory on all nodes" in line
    said = io.StringIO()
    with pytest.raises(WorkersMissingError):
        join(Node(), record, timeout_s=20.0, said=said)
    assert said.getvalue() == "", "the head of another step may start later"


def test_without_authentication_no_token_is_used(record: Record) -> None:
    record.write_head(replace(HEAD, auth=False))
    node = Node()
    join(node, record, own_token=TOKEN)
    assert node.started[0].token == ""


def test_with_tls_the_authority_comes_from_the_record(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, tls=True))
    node = Node()
    with pytest.raises(WorkersMissingError, match="no keys"):
        join(node, record)
    record.write_authority("PEM")
    join(node, record)
    assert node.done[-2:] == ["certify PEM", "start"]


def test_a_head_that_recovers_is_waited_for_by_the_raylet(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, head_recovery=True))
    node = Node()
    join(node, record)
    assert node.started[0].spec.gcs_reconnect_s == 60


def test_a_worker_is_started_for_as_many_nodes_as_the_head_waits_for(record: Record) -> None:
    """Ray gets other settings in clusters of more than 256 nodes."""
    record.make_token()
    record.write_head(replace(HEAD, expected_workers=511))
    node = Node()
    join(node, record)
    assert node.started[0].spec.expected_nodes == 512


def test_with_a_dashboard_the_agent_starts_with_the_raylet(record: Record) -> None:
    record.make_token()
    record.write_head(replace(HEAD, with_dashboard=True))
    node = Node()
    join(node, record)
    assert node.started[0].spec.agent_at_once


def test_a_start_that_fails_is_tried_again_with_new_ports(record: Record) -> None:
    record.make_token()
    record.write_head(HEAD)
    node = Node(fails=[StartFailure("timed out", "No answer.")])
    join(node, record)
    assert node.done == [
        "import",
        "measure 10.77.0.1",
        "ports",
        "start",
        "measure 10.77.0.1",
        "ports",
        "start",
    ]


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (
            StartFailure("version mismatch", "The head has Ray 2.41.0."),
            "version mismatch (The head has Ray 2.41.0)",
        ),
        (StartFailure("wrong cluster", "Another answers."), "wrong cluster (Another answers)"),
        (StartFailure("auth", "Refused."), "wrong cluster (it refuses this cluster's token"),
    ],
)
def test_what_the_next_attempt_would_only_meet_again_ends_the_join(
    record: Record, failure: StartFailure, told: str
) -> None:
    record.make_token()
    record.write_head(HEAD)
    node = Node(fails=[failure])
    with pytest.raises(WorkersMissingError) as error:
        join(node, record)
    assert f"n2 did not join a head: attempt 1 10.77.0.1:20480: {told}" in error.value.message
    assert "RAYCLUSTER_TOKEN" in error.value.hint
    assert len(node.started) == 1


def test_a_cluster_that_ends_during_the_start_ends_it(record: Record) -> None:
    record.make_token()
    record.write_head(HEAD)
    node = Node(hangs=True)
    with pytest.raises(Finished) as finished:
        join(node, record, meanwhile=lambda: record.write_end(EndReport(1.0, 0, "driver", "", "it is over")))
    assert (int(finished.value.end.code), finished.value.end.reason) == (0, "ended")


def test_started_again_against_the_same_head(record: Record) -> None:
    record.make_token()
    record.write_head(HEAD)
    node = Node()
    join(node, record, again=True)
    assert [one.spec.gcs_address for one in node.started] == ["10.77.0.1:20480"] * 2


@pytest.mark.parametrize(
    ("start_time", "ended", "late"), [(None, 1000.0, True), (900, 1000.0, True), (5000, 1000.0, False)]
)
def test_a_worker_that_comes_after_the_end(
    record: Record, start_time: int | None, ended: float, late: bool
) -> None:
    """The end of an earlier job with the same id is not that of ours."""
    record.write_head(HEAD)
    record.write_end(EndReport(ended, 0, "driver", "", "it is over"))
    allocation = Allocation("7", ("n1", "n2"), node_name="n2", start_time=start_time)
    expected = Finished if late else WorkersMissingError
    with pytest.raises(expected):
        join(Node(), record, allocation=allocation)


def test_equal_reasons_are_told_once() -> None:
    attempts = Attempts()
    for where, why in (("a:1", "refused"), ("a:1", "refused"), ("b:2", "timed out")):
        attempts.failed(where, why)
    assert str(attempts) == "attempts 1 to 2 a:1: refused; attempt 3 b:2: timed out"
