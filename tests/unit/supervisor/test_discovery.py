"""Where a worker looks for its head, and which address it takes for the right one.  Without Ray and Slurm."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.rayproc.health import Outcome, Probe
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor import discovery
from raycluster_cli.supervisor.discovery import (
    AttemptFailed,
    ClusterKey,
    Discovery,
    Target,
    numeric_address,
)
from raycluster_cli.supervisor.head_proof import ProvenHead
from raycluster_cli.supervisor.head_record import HeadRecord
from raycluster_cli.supervisor.report_writer import ReportWriter
from raycluster_cli.supervisor.run import Finished
from raycluster_cli.system.report import Report
from tests.unit.loops import in_loop, run_loop

TOKEN = "0123456789abcdef" * 4
KEY = ClusterKey("bed", "7")
HEAD = HeadInfo(
    host="n1",
    address_ip="10.77.0.1",
    port=20480,
    identity="the head's",
    state="up",
    step="0",
    launch="0-42657",
)


def allocation() -> Allocation:
    """Of n2, the second node of a step of two."""
    found = Allocation.from_environ(
        {
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NODELIST": "n[1-2]",
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_PROCID": "1",
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": "1",
            "SLURMD_NODENAME": "n2",
            "SLURM_CLUSTER_NAME": "bed",
            "SLURM_STEP_LAUNCHER_PORT": "42657",
        }
    )
    assert found is not None
    return found


@dataclass
class World:
    """The network and the file system around one worker."""

    state_dir: Path
    listening: set[str] = field(default_factory=set)
    """host:port of what answers a TCP connect."""
    proven: dict[str, ProvenHead] = field(default_factory=dict)
    """By host, the head that proves itself there."""
    probed: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def probe(self, host: str, port: int, *, timeout_s: float) -> Probe:
        self.probed.append(f"{host}:{port}")
        return Probe(Outcome.REACHED if f"{host}:{port}" in self.listening else Outcome.REFUSED)

    async def prove(self, host: str, token: str, fits: Callable[[ProvenHead], bool]) -> ProvenHead | None:
        assert token == TOKEN
        self.asked.append(host)
        found = self.proven.get(host)
        return found if found is not None and fits(found) else None

    async def resolve(self, host: str) -> str:
        return {"n1": "10.77.0.1", "n9": "10.77.0.9"}.get(host, host)

    def record(self, key: str = "7", *, head: HeadInfo | None = None) -> Record:
        record = Record.create(self.state_dir, "bed", key)
        if head is not None:
            record.take_lease(host=head.host)
            record.write_head(head)
        return record

    def find(
        self,
        record: Record | None,
        *,
        symmetric: bool = True,
        found: Callable[[Discovery, Target], None] | None = None,
        wait_s: float = 0.3,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
        **options: Any,
    ) -> Target:
        """What Discovery finds within ``wait_s``."""

        async def look() -> Target:
            reports = ReportWriter(None, NodeReport("n2", "worker", "waiting"))
            head_record = HeadRecord(
                record,
                reports=reports,
                report=Report(stream=io.StringIO()),
                allocation=allocation(),
                symmetric=symmetric,
                nodes=2,
            )
            await head_record.remember_ended_cluster()
            discovery = Discovery(
                head_record,
                reports=reports,
                state_dir=self.state_dir,
                probe=self.probe,
                resolve=self.resolve,
                prove=self.prove,
                **{"key": KEY, "allocation": allocation(), **options},
            )
            other = asyncio.ensure_future(meanwhile()) if meanwhile else None
            until = asyncio.get_running_loop().time() + wait_s
            try:
                target = await discovery.find_head(until, until)
                if found is not None:
                    found(discovery, target)
                return target
            finally:
                if other is not None:
                    await other
                await reports.close()

        return run_loop(look())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state")


def failure(world: World, record: Record | None, **options: Any) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as failed:
        world.find(record, **options)
    return failed.value


# -- with a record -----------------------------------------------------------------------------------


def test_the_record_names_the_head(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    target = world.find(world.record(head=HEAD), own_token=TOKEN)
    assert (target.address, target.head, target.proven) == ("10.77.0.1:20480", HEAD, False)
    assert world.asked == []


def test_a_record_without_head_leads_nowhere(world: World) -> None:
    """Neither a port that follows from the job nor anything else is tried: somebody else may listen there."""
    failed = failure(world, world.record())
    assert (failed.where, failed.kind) == (str(world.state_dir / "bed" / "7"), "no head")
    assert (world.probed, world.asked) == ([], [])


def test_a_head_that_names_itself_late_is_found(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    record = world.record()

    async def later() -> None:
        await asyncio.sleep(0.1)
        record.write_head(HEAD)

    assert world.find(record, meanwhile=later, wait_s=20.0).head == HEAD
    assert world.asked == []


@pytest.mark.parametrize("port", [None, 20480])
def test_a_name_that_does_not_resolve_is_not_needed(world: World, port: int | None) -> None:
    """--master-ip $SLURMD_NODENAME, where Slurm's names are not the network's: the record has the address."""
    world.listening = {"10.77.0.1:20480"}
    record = world.record()

    async def later() -> None:
        await asyncio.sleep(0.1)
        record.write_head(HEAD)

    options: dict[str, Any] = {"master_ip": "no-such-name", "master_port": port, "own_token": TOKEN}
    target = world.find(record, symmetric=False, meanwhile=later, wait_s=20.0, **options)
    assert (target.address, target.head) == ("10.77.0.1:20480", HEAD)


@in_loop
async def test_a_name_server_that_does_not_respond(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(discovery, "RESOLVE_S", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60) and [])
    try:
        assert await numeric_address("n1.example.org") == "n1.example.org"  # the probe says why
    finally:
        released.set()


def test_a_head_of_another_step_is_not_ours(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    record = world.record(head=replace(HEAD, step="1", launch="1-42657"))
    assert failure(world, record).kind == "no head"
    assert world.find(record, symmetric=False).head is not None


ENDED = EndReport(1.0, 0, "driver", "", "the driver exited with code 0")


@pytest.mark.parametrize("launch", ["", "0-39114", "0-39114-1795404913"])
def test_a_job_id_that_comes_again_does_not_end_the_new_run(world: World, launch: str) -> None:
    """A record of an earlier job with the same id has ended, or its head failed to start."""
    record = world.record(head=replace(HEAD, identity="the earlier one's", launch=launch))
    record.write_end(ENDED)
    for step in {"0", launch or "0"}:
        record.write_refusal(step, ENDED)
    world.listening = {"10.77.0.1:20480"}
    assert failure(world, record).kind == "no head"

    async def new_head() -> None:
        await asyncio.sleep(0.1)
        record.take_lease(host="n1")
        record.write_head(HEAD)

    target = world.find(record, meanwhile=new_head, wait_s=20.0)
    assert target.head is not None
    assert target.head.identity == HEAD.identity


def test_a_task_that_comes_when_its_own_cluster_has_ended(world: World) -> None:
    record = world.record(head=HEAD)
    record.write_end(ENDED)
    with pytest.raises(Finished, match="the driver exited"):
        world.find(record)


def test_a_head_that_failed_to_start_ends_the_tasks_of_its_launch(world: World) -> None:
    record = world.record()
    record.write_refusal("0-42657", EndReport(1.0, 2, "error", "n1", "port 6818 is in use"))
    with pytest.raises(Finished, match="the cluster did not start: port 6818 is in use"):
        world.find(record)


class Probed:
    """As slurm.task_probe.TaskProbe, of which the answer is known."""

    def __init__(self, *ended: str) -> None:
        self._ended = ended
        self.asked: list[str] = []

    def ended(self, hosts: Sequence[str]) -> list[str]:
        self.asked += hosts
        return [host for host in hosts if host in self._ended]

    def close(self) -> None:
        pass


async def read_as_first_worker(record: Record, probed: Probed, node: str = "n2") -> HeadInfo | None:
    reports = ReportWriter(None, NodeReport("n2", "worker", "waiting"))
    head_record = HeadRecord(
        record,
        reports=reports,
        report=Report(stream=io.StringIO()),
        allocation=allocation().but(node_name=node),
        symmetric=True,
        nodes=2,
        task_probe=probed,  # type: ignore[arg-type]
    )
    try:
        return await head_record.read_head()
    finally:
        await reports.close()


@pytest.mark.parametrize(
    ("state", "ended", "node", "known"),
    [
        ("starting", ["n1"], "n2", True),
        ("starting", [], "n2", False),
        ("starting", ["n1"], "n9", False),  # the first workers ask, and write the end
        ("up", ["n1"], "n2", False),  # its Ray ran: what it left is known otherwise
    ],
)
def test_a_head_that_was_killed_with_its_keeper_during_its_start(
    world: World, state: str, ended: list[str], node: str, known: bool
) -> None:
    record, probed = world.record(head=replace(HEAD, state=state)), Probed(*ended)
    read = read_as_first_worker(record, probed, node)
    if not known:
        assert run_loop(read) is not None
        assert record.read_end() is None
        assert bool(probed.asked) == (state == "starting" and node == "n2")
        return
    with pytest.raises(Finished, match="the head's task on n1 ended during its start") as finished:
        run_loop(read)
    assert (int(finished.value.end.code), finished.value.end.failed_host) == (5, "n1")
    end = record.read_end()
    assert end is not None
    assert (end.exit_code, end.reason, end.failed_host) == (137, "supervisor-killed", "n1")


def test_the_end_that_a_head_has_written_itself_is_not_replaced(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file server that answers late: the first look for the end gives none."""
    record = world.record(head=replace(HEAD, state="starting"))
    own = EndReport(1.0, 3, "error", "n1", "The head did not start.")
    record.write_end(own)
    read, looks = Record.read_end, [0, 1]
    monkeypatch.setattr(Record, "read_end", lambda self: read(self) if looks.pop() == 0 else None)
    with pytest.raises(Finished, match="The head did not start"):
        run_loop(read_as_first_worker(record, Probed("n1")))
    monkeypatch.undo()
    assert record.read_end() == own


def test_a_cluster_that_ends_is_known(world: World) -> None:
    record = world.record(head=HEAD)

    async def end() -> None:
        await asyncio.sleep(0.1)
        record.write_end(EndReport(1.0, 0, "driver", "", "the driver exited with code 0"))

    with pytest.raises(Finished, match="the driver exited"):
        world.find(record, meanwhile=end, wait_s=20.0)


# -- an address given by hand ------------------------------------------------------------------------


@pytest.mark.parametrize("ip", ["10.77.0.1", "n1", "10.99.0.1"])
def test_the_records_address_is_taken_also_where_another_was_given(world: World, ip: str) -> None:
    world.listening = {"10.77.0.1:20480", "10.99.0.1:20480"}
    target = world.find(world.record(head=HEAD), master_ip=ip, master_port=20480)
    assert target.address == "10.77.0.1:20480"


def test_an_address_at_which_the_record_has_no_head_is_another_clusters(world: World) -> None:
    world.listening = {"10.77.0.1:20480", "10.77.0.9:6379"}
    failed = failure(world, world.record(head=HEAD), master_ip="n9", master_port=6379, own_token=TOKEN)
    assert (failed.where, failed.kind) == ("10.77.0.9:6379", "wrong cluster")
    assert "has this cluster's head at 10.77.0.1:20480" in failed.message
    assert world.asked == []


@pytest.mark.parametrize(
    ("own_token", "why"), [("", "no token (something listens"), (TOKEN, "no proof (something listens")]
)
def test_who_only_listens_at_the_address_is_not_joined(world: World, own_token: str, why: str) -> None:
    world.listening = {"10.77.0.9:6379"}
    failed = failure(world, world.record(), master_ip="n9", master_port=6379, own_token=own_token)
    assert failed.where == "10.77.0.9:6379"
    assert str(failed).startswith(why)
    assert "RAYCLUSTER_TOKEN" in str(failed)


def test_nobody_listens_at_the_address(world: World) -> None:
    failed = failure(world, None, master_ip="n9", master_port=6379)
    assert (failed.where, str(failed)) == ("10.77.0.9:6379", "refused")


def test_without_authentication_there_is_no_secret_to_keep(world: World) -> None:
    world.listening = {"10.77.0.9:6379"}
    target = world.find(None, master_ip="n9", master_port=6379, auth=False)
    assert target == Target("10.77.0.9", 6379)


def test_a_head_of_another_record_of_the_users(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    other = world.record("12", head=HEAD)
    failed = failure(world, world.record(), master_ip="n1", master_port=20480)
    assert failed.kind == "wrong cluster"
    assert "the head of 12" in failed.message

    def found(discovery: Discovery, target: Target) -> None:
        assert discovery.record is not None
        assert discovery.record.path == other.path

    outside = ClusterKey("local", "laptop-1", certain=False)
    target = world.find(
        None, master_ip="n1", master_port=20480, key=outside, allocation=None, symmetric=False, found=found
    )
    assert target.head == HEAD


def test_a_record_that_no_head_holds_does_not_vouch_for_an_address(world: World) -> None:
    """Its head is gone; whoever has the port now is somebody else."""
    record = world.record("12")
    record.write_head(HEAD)
    world.listening = {"10.77.0.1:20480"}
    outside = ClusterKey("local", "laptop-1", certain=False)
    failed = failure(
        world, None, master_ip="n1", master_port=20480, key=outside, allocation=None, symmetric=False
    )
    assert str(failed).startswith("no token")


# -- a head that proves itself -----------------------------------------------------------------------


def test_without_a_record_the_head_proves_itself(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    world.proven["10.77.0.1"] = ProvenHead("bed/7+", HEAD)
    target = world.find(None, own_token=TOKEN)
    assert target == Target("10.77.0.1", 20480, HEAD, proven=True)


def test_a_record_that_may_be_shared_is_given_its_time_first(world: World) -> None:
    world.proven["10.77.0.1"] = ProvenHead("bed/7+", HEAD)
    assert failure(world, world.record(), own_token=TOKEN).kind == "no head"
    assert world.asked == []


def test_the_address_in_the_proof_is_taken_not_the_one_that_was_asked(world: World) -> None:
    world.listening = {"10.77.0.1:20480", "10.77.0.9:20480"}
    world.proven["10.77.0.9"] = ProvenHead("bed/7+", HEAD)
    target = world.find(None, own_token=TOKEN, master_ip="n9", master_port=20480)
    assert target.address == "10.77.0.1:20480"


@pytest.mark.parametrize(
    ("cluster", "changes", "options"),
    [
        ("bed/8+", {}, {}),
        ("bed/7+other", {}, {}),
        ("bed/7+", {"launch": "1-42657"}, {}),
        ("bed/7+", {}, {"master_ip": "n1", "master_port": 6379}),
    ],
    ids=["job", "name", "step", "port"],
)
def test_a_proven_head_of_another_cluster_is_not_joined(
    world: World, cluster: str, changes: dict[str, Any], options: dict[str, Any]
) -> None:
    """One token for all of a user's clusters is no mistake."""
    world.listening = {"10.77.0.1:20480", "10.77.0.1:6379"}
    world.proven["10.77.0.1"] = ProvenHead(cluster, replace(HEAD, **changes))
    failure(world, None, own_token=TOKEN, **options)
    assert world.asked


def test_outside_slurm_token_and_port_decide(world: World) -> None:
    world.listening = {"10.77.0.1:20480"}
    world.proven["10.77.0.1"] = ProvenHead("local/desk-12+", HEAD)
    outside = ClusterKey("local", "laptop-1", certain=False)
    target = world.find(
        None,
        own_token=TOKEN,
        master_ip="n1",
        master_port=20480,
        key=outside,
        allocation=None,
        symmetric=False,
    )
    assert target.proven
