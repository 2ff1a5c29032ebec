"""Ray's autoscaler in a fork of the head's companion, with real Ray nodes and a Slurm that the test plays."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raycluster_cli.model.worker_group import GroupBounds, WorkerGroup
from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.environment import client_environment
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.ray.fake_jobs import REFUSING
from tests.ray.nodes import Nodes, environment, nodes, ray_version, run

#: For a condition on a loaded machine.
SOON_S = 60.0

IDLE_S = 3.0


class Elastic:
    """A cluster of a head, its autoscaler, and the nodes that it asks for."""

    def __init__(self, cluster: Nodes, client: CompanionClient, logs: str, groups: list[WorkerGroup]) -> None:
        self.cluster = cluster
        self.logs = Path(logs)
        self.record = cluster.base / "record"
        self.record.mkdir(exist_ok=True)
        self.said: list[dict[str, Any]] = []
        self.launched: list[str] = []
        self.cancelled: list[str] = []
        self._client = client
        self._groups = groups
        self._number = 0

    def begin(self) -> None:
        """Start the autoscaler, for the first time or again."""
        plan = self.cluster.head
        assert plan is not None
        env = client_environment(plan, environment())
        self.number, self.over = self._client.serve(
            "tests.ray.fake_jobs",
            self.logs / "monitor.err",
            self._heard,
            address=plan.gcs_address,
            env={name: value for name, value in env.items() if name.startswith("RAY_")},
            logs_dir=str(self.logs),
            record=str(self.record),
            head={"key": "1", "name": "job", "directory": "/", "raycluster": ["raycluster"], "options": []},
            job_env=environment(),
            groups=[asdict(group) for group in self._groups],
        )

    def _heard(self, event: dict[str, Any]) -> None:
        self.said.append({**event, "at": time.monotonic()})
        if event["kind"] == "launch":
            self.launched += event["names"]
        elif event["kind"] == "cancel":
            self.cancelled += event["names"]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.said if event["kind"] == kind]

    async def until(self, what: str, condition: Any) -> None:
        deadline = time.monotonic() + SOON_S
        while not condition():
            assert not self.over.done(), (self.over.result(), self.words())
            assert time.monotonic() < deadline, (what, self.said, self.words())
            await asyncio.sleep(0.05)

    async def join(self, instance: str, **changes: Any) -> Any:
        """The job of this instance starts its node."""
        self._number += 1
        group = instance.partition("_")[0]
        env = {"RAY_CLOUD_INSTANCE_ID": instance, "RAY_NODE_TYPE_NAME": group}
        return await self.cluster.start(self._number, env=env, **changes)

    def words(self) -> str:
        """The logs of the autoscaler."""
        return "\n".join(
            path.read_text()[-4000:] for path in sorted(self.logs.glob("monitor.*")) if path.exists()
        )


@asynccontextmanager
async def elastic(*groups: WorkerGroup, token: bool = True) -> AsyncIterator[Elastic]:
    async with nodes(token=token) as cluster:
        client = cluster.companion()
        await client.ready(60)
        plan = cluster.head = cluster.plan(0, env={"RAY_enable_autoscaler_v2": "1"})
        started = await client.start(plan, 60)
        one = Elastic(cluster, client, f"{started.session_dir}/logs", list(groups))
        one.begin()
        yield one


def small(**changes: Any) -> WorkerGroup:
    given = {"max_workers": 3, "idle_timeout_s": IDLE_S, "resources": {"CPU": 1.0, "item": 1.0}}
    return WorkerGroup("small", **{**given, **changes})


WORK = """
import ray, sys, time
ray.init(log_to_driver=False, configure_logging=False)
@ray.remote(num_cpus=1, resources={"item": 1})
def work(): time.sleep(1)
ray.get([work.remote() for _ in range(int(sys.argv[1]) if sys.argv[1:] else 2)])
print("DONE")
"""


def test_grows_with_demand_and_shrinks_when_idle() -> None:
    async def test() -> None:
        async with elastic(small()) as one:
            await one.until("the autoscaler", lambda: one.of_kind("up"))
            driver = asyncio.ensure_future(one.cluster.driver(WORK))
            await one.until("two launches", lambda: len(one.launched) == 2)
            # One call for both: one sbatch.
            assert len(one.of_kind("launch")) == 1
            for name in list(one.launched):
                await one.join(name, resources={"item": 1.0})
            assert "DONE" in await driver
            await one.until("two ends", lambda: sorted(one.cancelled) == sorted(one.launched))
            assert len(one.launched) == 2, "nothing more was launched"
            events = (one.logs / "events/event_AUTOSCALER.log").read_text()
            assert "Adding 2 node(s) of type small" in events
            assert "(idle)" in events
            status = await one.cluster.driver(STATUS)
            assert "Node status" in status and "Autoscaler status" in status
            assert "ERROR" not in one.words()

    run(test, 240)


STATUS = """
import os, subprocess, sys
print(subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "status"], capture_output=True, text=True))
"""

WAITS = """
import os, ray, time
ray.init(log_to_driver=False, configure_logging=False)
@ray.remote(num_cpus=1, resources={"item": 1})
def work(): pass
tasks = [work.remote() for _ in range(int(os.environ.get("NUMBER", "2")))]
while not os.path.exists(os.environ["TOLD"]):
    time.sleep(0.1)
"""


def test_a_job_that_waits_for_hours_is_left_and_one_that_is_not_needed_is_cancelled() -> None:
    async def test() -> None:
        async with elastic(small()) as one:
            told = one.record / "told"
            driver = asyncio.ensure_future(one.cluster.driver(WAITS, TOLD=str(told)))
            await one.until("two launches", lambda: len(one.launched) == 2)
            polls = len(one.of_kind("poll")) + 5
            await one.until("more rounds", lambda: len(one.of_kind("poll")) >= polls)
            assert not one.cancelled, "they waited while the tasks did"
            told.touch()
            await driver
            if ray_version() >= (2, 60):
                await one.until("two ends", lambda: sorted(one.cancelled) == sorted(one.launched))
            assert len(one.of_kind("launch")) == 1

    run(test, 240)


def test_jobs_of_two_nodes_are_launched_and_cancelled_whole() -> None:
    """One node is needed: the other one of its job is no node that is not needed."""

    async def test() -> None:
        async with elastic(small(max_workers=4, nodes_per_job=2)) as one:
            told = one.record / "told"
            driver = asyncio.ensure_future(one.cluster.driver(WAITS, TOLD=str(told), NUMBER="1"))
            await one.until("a job of two nodes", lambda: one.launched == ["small_1", "small_1/1"])
            polls = len(one.of_kind("poll")) + IDLE_S + 4
            await one.until("more rounds", lambda: len(one.of_kind("poll")) >= polls)
            assert not one.cancelled, "it waits while the task does"
            told.touch()
            await driver
            if ray_version() >= (2, 60):
                await one.until("its end", lambda: sorted(one.cancelled) == sorted(one.launched))
            assert len(one.of_kind("launch")) == 1

    run(test, 240)


def test_what_is_left_of_a_job_of_two_nodes_counts_as_a_job_until_another_takes_its_place() -> None:
    async def test() -> None:
        async with elastic(small(min_workers=2, max_workers=2, nodes_per_job=2, idle_timeout_s=20.0)) as one:
            await one.until("a job", lambda: one.launched == ["small_1", "small_1/1"])
            first, _ = [await one.join(name) for name in one.launched]
            one.cluster.child(first, "raylet").send(signal.SIGKILL)
            seen = len(one.of_kind("poll")) + 12
            await one.until("the loss and more rounds", lambda: len(one.of_kind("poll")) >= seen)
            assert (len(one.of_kind("launch")), one.cancelled) == (1, []), one.said
            # It is idle, and the fewest nodes are two: another job takes its place, once.
            await one.until("a whole job", lambda: one.launched[2:] == ["small_2", "small_2/1"])
            await one.until("the end of the other", lambda: one.cancelled == ["small_1/1"])
            [await one.join(name) for name in one.launched[2:]]
            WorkerJobFiles(one.record).write_bounds({"small": GroupBounds(0, 0)})
            await one.until("all ended", lambda: {"small_2", "small_2/1"} <= set(one.cancelled))
            assert len(one.of_kind("launch")) == 2
            assert "ERROR" not in one.words()

    run(test, 240)


LOSES_ONE = """
import os, ray, time
ray.init(log_to_driver=False, configure_logging=False)
def pair():
    group = ray.util.placement_group([{"CPU": 1, "item": 1}] * 2, strategy="STRICT_SPREAD")
    assert group.wait(90)
    return group
group = pair()
open(os.environ["TOLD"], "w").close()
while sum(node["Alive"] for node in ray.nodes()) > 2:
    time.sleep(0.1)
ray.util.remove_placement_group(group)
pair()
print("AGAIN")
"""


def test_a_placement_group_does_not_wait_until_what_is_left_of_a_job_is_idle() -> None:
    """The group may have one job, and the end of an idle one is far away."""

    async def test() -> None:
        async with elastic(small(max_workers=2, nodes_per_job=2, idle_timeout_s=600.0)) as one:
            told = one.record / "told"
            driver = asyncio.ensure_future(one.cluster.driver(LOSES_ONE, TOLD=str(told), timeout_s=200))
            await one.until("a job", lambda: one.launched == ["small_1", "small_1/1"])
            first, _ = [await one.join(name, resources={"item": 1.0}) for name in one.launched]
            await one.until("the placement group", told.exists)
            one.cluster.child(first, "raylet").send(signal.SIGKILL)
            await one.until("another job", lambda: one.launched[2:] == ["small_2", "small_2/1"])
            [await one.join(name, resources={"item": 1.0}) for name in one.launched[2:]]
            assert "AGAIN" in await driver
            await one.until("the end of the first", lambda: one.cancelled == ["small_1/1"])
            said = [event["text"] for event in one.of_kind("say")]
            what = "has lost a node and gets no new work: another job takes its place"
            assert said == [f"worker group small: job small_1 {what}"]
            assert "ERROR" not in one.words()

    run(test, 240)


REQUESTS = """
import ray, time
from ray.autoscaler.sdk import request_resources
ray.init(log_to_driver=False, configure_logging=False)
group = ray.util.placement_group([{"CPU": 1, "item": 1}] * 2, strategy="STRICT_SPREAD")
ray.get(group.ready())
ray.util.remove_placement_group(group)
request_resources(bundles=[{"CPU": 1, "item": 1}] * 3)
deadline = time.monotonic() + 60
while sum(node["Alive"] for node in ray.nodes()) < 4 and time.monotonic() < deadline:
    time.sleep(0.2)
print("NODES", sum(node["Alive"] for node in ray.nodes()))
"""


def test_placement_groups_and_request_resources_and_nodes_of_the_job_itself() -> None:
    async def test() -> None:
        async with elastic(small(max_workers=5)) as one:
            # A worker of the head's own job, without an instance id: it counts, and is never ended.
            own = await one.cluster.start(9, resources={"item": 1.0})
            driver = asyncio.ensure_future(one.cluster.driver(REQUESTS))
            await one.until("one launch", lambda: len(one.launched) == 1)
            await one.join(one.launched[0], resources={"item": 1.0})
            await one.until("another", lambda: len(one.launched) == 2)
            await one.join(one.launched[1], resources={"item": 1.0})
            assert "NODES 4" in await driver
            assert len(one.launched) == 2, one.launched
            assert one.cluster.child(own, "raylet").running
            assert "ERROR" not in one.words()

    run(test, 240)


def test_bounds_set_by_hand() -> None:
    async def test() -> None:
        async with elastic(small(min_workers=1)) as one:
            files = WorkerJobFiles(one.record)
            await one.until("the least", lambda: len(one.launched) == 1)
            first = await one.join(one.launched[0])
            files.write_bounds({"small": GroupBounds(2, 2)})
            await one.until("a second", lambda: len(one.launched) == 2)
            assert one.of_kind("resume"), "what kept the group from growing is forgotten"
            files.write_bounds({"small": GroupBounds(0, 0)})
            await one.until("all ended", lambda: sorted(one.cancelled) == sorted(one.launched))
            await asyncio.wait_for(one.cluster.child(first, "raylet").exited, SOON_S)

    run(test, 240)


def test_a_refused_launch_is_tried_again_when_the_group_is_free() -> None:
    async def test() -> None:
        async with elastic(small(min_workers=1)) as one:
            (one.record / REFUSING).touch()
            await one.until("the refusal", lambda: one.of_kind("refused") or one.launched)
            if one.launched:  # it was faster
                return
            polls = len(one.of_kind("poll")) + 5
            await one.until("more rounds", lambda: len(one.of_kind("poll")) >= polls)
            assert len(one.of_kind("refused")) <= 2, one.said
            (one.record / REFUSING).unlink()
            await one.until("a launch", lambda: len(one.launched) == 1)

    run(test, 240)


def test_a_killed_autoscaler_is_seen_and_starts_again() -> None:
    async def test() -> None:
        async with elastic(small()) as one:
            await one.until("the autoscaler", lambda: one.of_kind("up"))
            one._client.end(one.number)
            event = await asyncio.wait_for(asyncio.shield(one.over), SOON_S)
            assert (event["event"], event["code"]) == ("served", -signal.SIGKILL)
            one.begin()
            await one.until("another", lambda: len(one.of_kind("up")) == 2)
            # With its companion it ends as well.
            one._client.kill()
            event = await asyncio.wait_for(asyncio.shield(one.over), SOON_S)
            assert event["event"] == "failed"

    run(test, 240)
