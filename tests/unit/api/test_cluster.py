"""The life of a cluster's object: started, ready, ended, by whatever ends the program."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli import (
    ClusterPhase,
    ClusterStatus,
    HeadStartError,
    NodeStatus,
    RayclusterError,
    SlurmCluster,
    UsageError,
    WorkersMissingError,
)
from raycluster_cli.api import slurm_cluster
from raycluster_cli.api.async_cluster import AsyncSlurmCluster
from raycluster_cli.api.cluster import Cluster
from raycluster_cli.api.display import MOST_NODES, as_html
from raycluster_cli.model.record import HeadInfo
from raycluster_cli.model.status import NodePhase, Role
from raycluster_cli.model.worker_group import GroupsReport, WorkerGroup
from raycluster_cli.ops.stop import Outcome
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles


def status(phase: ClusterPhase, message: str = "", exit_code: int | None = None) -> ClusterStatus:
    return ClusterStatus("7", "", phase, (), 3, started=1.0, message=message, exit_code=exit_code)


PENDING = status(ClusterPhase.PENDING, "waiting in Slurm's queue (Resources)")
RUNNING = status(ClusterPhase.RUNNING)


class Scripted(Cluster):
    """Its states come one after the other; the last stays."""

    def __init__(
        self, states: Sequence[ClusterStatus | None] = (RUNNING,), start_timeout_s: float | None = None
    ) -> None:
        self.said: list[str] = []
        super().__init__(state_dir="/none", progress=self.said.append, start_timeout_s=start_timeout_s)
        self.states = list(states)
        self.ends = 0

    def _begin(self) -> None:
        self._name = "7"

    def _look(self) -> ClusterStatus | None:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def _sleep(self, seconds: float, what: str = "wait for") -> None:
        super()._sleep(0.0, what)  # the next state is there when it is looked for

    def _end(self) -> None:
        self.ends += 1
        if self.states[0].is_over:  # as `raycluster stop` says it
            self._tell(f"7 has ended already: {self.states[0].headline}")


def test_it_waits_tells_and_ends_once() -> None:
    with Scripted([PENDING, PENDING, RUNNING]) as cluster:
        assert cluster.job_id == "7"
        assert [text.rpartition(" (")[0] for text in cluster.said] == [
            "cluster 7: waiting in Slurm's queue (Resources)",
            "cluster 7: 0 nodes ready, no driver",
        ]
        assert cluster.ends == 0
    assert cluster.ends == 1


def test_an_exception_of_the_body_ends_it_and_stays() -> None:
    cluster = Scripted()
    with pytest.raises(LookupError), cluster:
        raise LookupError
    assert cluster.ends == 1


@pytest.mark.parametrize(
    ("code", "kind"), [(3, HeadStartError), (4, WorkersMissingError), (2, UsageError), (0, RayclusterError)]
)
def test_one_that_ends_before_it_is_ready(code: int, kind: type[RayclusterError]) -> None:
    cluster = Scripted([PENDING, status(ClusterPhase.FAILED, "it failed.", code)])
    with pytest.raises(kind) as error:
        cluster.start()
    assert type(error.value) is kind
    assert error.value.message.startswith("cluster 7 ended before it was ready: it failed")
    assert error.value.hint == "More: raycluster why 7"
    assert cluster.ends == 1
    assert [text.rpartition(" (")[0] for text in cluster.said] == [f"cluster 7: {PENDING.headline}"]


def test_a_cause_that_repeats_the_headline_is_told_once() -> None:
    said = "1 of 2 workers did not join within 8 s"
    ended = status(ClusterPhase.FAILED, f"{said} (exit code 4)", 4)
    cluster = Scripted([replace(ended, cause=f"Workers were missing at the deadline: {said}.")])
    with pytest.raises(WorkersMissingError) as error:
        cluster.start()
    assert error.value.message == f"cluster 7 ended before it was ready: {said} (exit code 4)."


def test_one_that_is_not_ready_in_time() -> None:
    cluster = Scripted([PENDING], start_timeout_s=0.0)
    with pytest.raises(WorkersMissingError, match=r"not ready within 0 s: waiting in Slurm's queue"):
        cluster.start()
    assert cluster.ends == 1


def test_what_needs_a_cluster_says_that_there_is_none() -> None:
    cluster = SlurmCluster(state_dir="/none")
    assert repr(cluster) == "<SlurmCluster: not started>"
    for call in (lambda: cluster.job_id, cluster.status, cluster.url, lambda: cluster.run(["true"])):
        with pytest.raises(UsageError, match="this cluster is not started"):
            call()
    cluster.stop()


def test_a_second_start_is_refused() -> None:
    with Scripted() as cluster, pytest.raises(UsageError, match="started already: 7"):
        cluster.start()
    assert cluster.ends == 1


@pytest.mark.parametrize(("attached", "expected"), [(False, ["scancel 7"]), (True, [])])
def test_only_a_job_of_its_own_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attached: bool, expected: list[str]
) -> None:
    """Of an attached cluster the job may be a shell with other work in it."""
    told: list[str] = []
    record = Record.create(tmp_path, "bed", "7")
    cluster = SlurmCluster(state_dir=tmp_path, progress=None)
    cluster._name, cluster._is_attached = "7", attached
    monkeypatch.setattr(slurm_cluster, "named", lambda *_: ([record], []))
    monkeypatch.setattr(slurm_cluster, "stop_cluster", lambda *_, **__: Outcome.ENDED)
    monkeypatch.setattr(slurm_cluster, "cancel_job", lambda job, _: told.append(f"scancel {job}"))
    monkeypatch.setattr(SlurmCluster, "_job_ended", lambda _: bool(told))
    cluster.stop()
    assert told == expected


def test_the_size_of_a_worker_group(tmp_path: Path) -> None:
    record = Record.create(tmp_path, "bed", "7")
    record.write_head(HeadInfo("n1", "10.77.0.1", 20480))
    cluster = SlurmCluster(state_dir=tmp_path, progress=None)
    cluster._name = "7"
    with pytest.raises(UsageError, match="cluster 7 has no worker groups: its size is fixed"):
        cluster.scale(4)
    WorkerJobFiles(record.path).write_groups(GroupsReport((WorkerGroup("gpu", max_workers=8),)))
    assert [group.range for group in cluster.scale()] == ["0..8"]
    assert [group.range for group in cluster.scale(4)] == ["4"]
    assert [group.range for group in cluster.scale("gpu=1..6")] == ["1..6"]
    assert [group.range for group in asyncio.run(_twin(cluster).scale())] == ["1..6"]


def _twin(cluster: SlurmCluster) -> AsyncSlurmCluster:
    twin = AsyncSlurmCluster.__new__(AsyncSlurmCluster)
    twin._cluster = cluster
    return twin


def test_a_handler_of_the_program_for_sigterm_stays() -> None:
    def own(*_: object) -> None:
        return

    before = signal.signal(signal.SIGTERM, own)
    try:
        with Scripted():
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


class Held:
    """In the place of a SlurmCluster: its calls end once they are cancelled."""

    def __init__(self) -> None:
        self.cluster = Scripted([PENDING])
        self.thread = ""

    def start(self) -> None:
        self.thread = threading.current_thread().name
        self.cluster.start()


def test_a_cancelled_start_has_ended_the_job() -> None:
    held = Held()
    twin = _twin(held)  # type: ignore[arg-type]

    async def main() -> None:
        task = asyncio.ensure_future(twin.start())
        deadline = time.monotonic() + 60
        while not held.cluster.said and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held.cluster.ends == 1

    asyncio.run(main())
    assert held.thread != threading.current_thread().name


def test_both_twins_have_the_same_methods() -> None:
    names = {name for name in dir(SlurmCluster) if not name.startswith("_")} - {"script", "is_started"}
    assert names == {name for name in dir(AsyncSlurmCluster) if not name.startswith("_")}


def test_the_display_escapes_what_it_shows() -> None:
    node = NodeStatus("n1", Role.HEAD, NodePhase.READY, message="<script>")
    many = tuple(NodeStatus(f"n{number}", Role.WORKER, NodePhase.READY) for number in range(MOST_NODES))
    shown = ClusterStatus("7", "", ClusterPhase.RUNNING, (node, *many), 3, 1.0, address="n1:20480")
    html = as_html("SlurmCluster", shown, "7")
    assert "&lt;script&gt;" in html
    assert "<script>" not in html
    assert "and 1 more" in html
    assert "n1:20480" in html
