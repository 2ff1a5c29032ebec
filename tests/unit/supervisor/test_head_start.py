"""The start of a head step by step, with a record and options as in real use, and Ray by a stand-in."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import HeadStartError, RayclusterError, UsageError
from raycluster_cli.model.record import HeadInfo
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.worker_group import WorkerGroup
from raycluster_cli.policy.head_state import HeadRules
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from raycluster_cli.supervisor.head_proof import find_proven_head
from raycluster_cli.supervisor.head_start import HeadStart, unused_nodes
from tests.unit.loops import in_loop, run_loop
from tests.unit.slurm.programs import programs
from tests.unit.slurm.test_allocation import allocation

from .fake_node import SESSION, FakeNode
from .scene import Scene, until

JOB = Allocation("7", ("n1", "n2"), node_name="n1", end_time=9000.0)


class Head:
    """A head that starts; its Ray is a stand-in."""

    def __init__(self, directory: Path, *, expected: int = 1, **scene: Any) -> None:
        self.scene = Scene(directory, **{"allocation": JOB, **scene})
        self.scene.parts.reaper.attach(asyncio.get_running_loop())
        self.rules = HeadRules("n1", expected, expected, self.scene.parts.settings.worker_loss)
        self.start = HeadStart(self.scene.parts, self.rules)
        self.node = FakeNode(directory)

    async def up(self) -> None:
        await self.start.ray_up(self.node)  # type: ignore[arg-type]

    async def up_again(self) -> None:
        await self.start.ray_up_again(self.node)  # type: ignore[arg-type]

    @property
    def record(self) -> Record:
        assert self.scene.record is not None
        return self.scene.record

    async def written(self) -> HeadInfo:
        """What the record says of this head."""
        await self.scene.parts.reports.submit(lambda: None)
        head = self.record.read_head()
        assert head is not None
        return head

    async def template(self) -> dict[str, str] | None:
        await self.scene.parts.reports.submit(lambda: None)
        found = self.record.read_template()
        return json.loads(found) if found else None


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., None]:
    """Plays a head that is made with these options."""

    def one(scene: Callable[[Head], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def within() -> None:
            head = Head(tmp_path, **options)
            try:
                await scene(head)
            finally:
                head.start.close()
                await head.scene.close()
            assert head.scene.failed == []

        in_loop(within)()

    return one


Play = Callable[..., None]


# -- the lease ---------------------------------------------------------------------------------------


def test_a_head_takes_the_lease_of_its_record(play: Play) -> None:
    async def scene(head: Head) -> None:
        assert not head.start.claimed
        assert await head.start.take_lease() is head.record
        holder = head.record.leases.holder()
        assert head.start.claimed and holder is not None and holder.pid == os.getpid()

    play(scene)


def test_without_a_record_there_is_nothing_to_take(play: Play) -> None:
    async def scene(head: Head) -> None:
        assert await head.start.take_lease() is None
        assert not head.start.claimed

    play(scene, has_record=False)


def test_a_second_head_leaves_the_record_alone(play: Play) -> None:
    """It writes nothing more there, but knows where the refusal belongs."""

    async def scene(head: Head) -> None:
        record = head.record
        record.take_lease(host="n1", pid=os.getppid())
        with pytest.raises(UsageError):
            await head.start.take_lease()
        assert not head.start.claimed
        assert head.start.refused_by is record
        assert head.scene.parts.reports.record is None

    play(scene)


# -- worker groups -----------------------------------------------------------------------------------

IN_SLURM = {"SLURM_JOB_ID": "7", "PATH": "/usr/bin:/bin"}


def test_a_cluster_of_a_fixed_size_has_no_groups(play: Play) -> None:
    async def scene(head: Head) -> None:
        await head.start.read_groups()
        assert head.start.groups == ()
        assert head.start.ray_variables() == {}
        assert WorkerJobFiles(head.record.path).read_groups() is None

    play(scene)


def test_a_cluster_that_can_grow_says_so_in_the_record_and_to_ray(play: Play) -> None:
    async def scene(head: Head) -> None:
        await head.start.read_groups()
        assert [(group.name, group.max_workers) for group in head.start.groups] == [("worker", 3)]
        assert head.start.ray_variables()["RAY_enable_autoscaler_v2"] == "1"
        report = WorkerJobFiles(head.record.path).read_groups()
        assert report is not None and report.groups == head.start.groups
        await head.up()
        assert (await head.written()).worker_groups

    play(scene, settings=Settings(max_nodes=5), env=IN_SLURM)


def test_a_cluster_that_can_grow_needs_a_record(play: Play) -> None:
    async def scene(head: Head) -> None:
        with pytest.raises(UsageError, match="worker groups need a record"):
            await head.start.read_groups()

    play(scene, settings=Settings(max_nodes=5), env=IN_SLURM, has_record=False)


def test_a_requeued_head_ends_the_cluster_before_it(play: Play, tmp_path: Path) -> None:
    earlier = Record.create(tmp_path / "state", "bed", "7")

    async def scene(head: Head) -> None:
        await head.start.read_groups()
        await until(lambda: earlier.read_end() is not None)

    play(scene, key="7.r1", env=programs(tmp_path, squeue="exit 0"))


@pytest.mark.parametrize(
    ("variables", "groups", "hosts"),
    [
        ({"http_proxy": "http://proxy"}, True, ("n7", "n8")),
        ({}, True, ()),
        ({"http_proxy": "http://proxy"}, False, ()),
    ],
)
def test_where_a_proxy_is_set_the_hosts_of_worker_jobs_are_asked_for(
    play: Play, tmp_path: Path, variables: dict[str, str], groups: bool, hosts: tuple[str, ...]
) -> None:
    async def scene(head: Head) -> None:
        if groups:
            head.start.groups = (WorkerGroup("gpu", 3),)
        await head.up()
        assert head.node.setup.worker_hosts == hosts
        assert head.scene.said == []

    play(scene, env={**programs(tmp_path, sinfo="echo 'cpu*|n[7-8]'"), **variables})


def test_hosts_of_worker_jobs_that_are_not_known_are_told(play: Play, tmp_path: Path) -> None:
    async def scene(head: Head) -> None:
        head.start.groups = (WorkerGroup("gpu", 3),)
        await head.up()
        assert "the hosts on which worker jobs may run are not known" in "\n".join(head.scene.said)

    play(scene, env={**programs(tmp_path, sinfo="exit 1"), "http_proxy": "http://proxy"})


# -- the driver --------------------------------------------------------------------------------------


def test_outside_a_job_a_driver_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    async def make() -> HeadStart:
        return Head(tmp_path, allocation=None, driver=("no-such-program",)).start

    with pytest.raises(UsageError, match="no-such-program"):
        run_loop(make())


def test_in_a_job_it_is_refused_once_the_record_can_tell_the_other_tasks(play: Play) -> None:
    async def scene(head: Head) -> None:
        assert head.start.program == ""
        with pytest.raises(UsageError, match="no-such-program"):
            await head.start.find_driver()

    play(scene, driver=("no-such-program",), env=IN_SLURM)


@pytest.mark.parametrize("job", [JOB, None])
def test_a_driver_is_found(play: Play, job: Allocation | None) -> None:
    async def scene(head: Head) -> None:
        await head.start.find_driver()
        assert os.path.basename(head.start.program) == "sh"

    play(scene, driver=("sh", "-c", "exit"), env=IN_SLURM, allocation=job)


# -- Ray ---------------------------------------------------------------------------------------------


def test_ray_is_started_and_each_step_is_in_the_record(play: Play) -> None:
    async def scene(head: Head) -> None:
        await head.start.take_lease()
        before: list[str] = []
        head.node.failure, start = None, head.node.start

        async def started(*args: Any) -> Any:
            before.append((await head.written()).state)
            return await start(*args)

        head.node.start = started  # type: ignore[method-assign]
        await head.up()
        assert head.node.asked == ["import", "measure the route to n2", "claim {'gcs': 6379}", "start"]
        assert before == ["starting"], "workers probe the port while Ray starts"
        info = await head.written()
        assert (info.address, info.state, info.session) == ("10.0.0.1:20480", "up", SESSION)
        assert (info.expected_workers, info.worker_hosts, info.end_time) == (1, "n2", 9000.0)
        assert info.identity == head.start.identity and len(info.identity) == 32
        assert (info.installation, info.gpus) == ("ray-2.60", "H200")
        template = await head.template()
        assert template == {"made": "early", "identity": info.identity, "installation": "ray-2.60"}
        (spec,) = head.node.specs
        assert (spec.identity, spec.expected_nodes, spec.storage) == (info.identity, 2, None)
        report = head.scene.parts.reports.now
        assert (report.phase, report.node_id, report.ip) == ("joined", "aa", "10.0.0.1")
        assert set(report.phases) >= {"starting ray", "joined", "raylet"}
        assert head.scene.said == []

    play(scene, settings=Settings(master_port=6379))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"expected": 0}, 0), ({"settings": Settings(quick="node")}, 1), ({"has_record": False}, 1)],
)
def test_where_no_worker_can_use_it_there_is_no_template(
    play: Play, options: dict[str, Any], expected: int
) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        assert head.start.entry.info.installation == ""
        assert head.start.entry.info.expected_workers == expected
        if head.scene.record is not None:
            assert await head.template() is None

    play(scene, **options)


def test_each_head_has_an_identity_of_its_own(play: Play) -> None:
    seen: list[str] = []

    async def scene(head: Head) -> None:
        seen.append(head.start.identity)

    play(scene)
    play(scene)
    assert len(set(seen)) == 2


@pytest.mark.parametrize(
    ("failure", "keep_logs", "hint"),
    [
        (StartFailure("ray", "the raylet ended."), "on-failure", "`raycluster why 7` shows the logs"),
        (StartFailure("ray", "the raylet ended."), "never", ""),
    ],
)
def test_a_start_that_fails_is_told_with_where_the_logs_are(
    play: Play, failure: StartFailure, keep_logs: str, hint: str
) -> None:
    async def scene(head: Head) -> None:
        head.node.failure = failure
        with pytest.raises(HeadStartError) as raised:
            await head.up()
        assert raised.value.message == "the head did not start on n1: the raylet ended."
        assert raised.value.hint.startswith(hint) and bool(raised.value.hint) == bool(hint)
        assert (await head.written()).state == "starting"

    play(scene, settings=Settings(keep_logs=keep_logs))


def test_what_is_said_from_the_start_on_is_in_the_records_events(play: Play) -> None:
    async def scene(head: Head) -> None:
        head.scene.parts.report.say("too early: another head's record may be here")
        await head.up()
        head.scene.parts.report.say("2 nodes ready")
        await head.scene.parts.reports.submit(lambda: None)
        events = (head.record.path / "events.log").read_text()
        assert "2 nodes ready" in events and "too early" not in events

    play(scene)


# -- recovery ----------------------------------------------------------------------------------------


def test_head_recovery_keeps_the_state_of_the_gcs_on_disk(play: Play) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        assert head.node.specs[0].storage == head.node.root.path / "gcs"

    play(scene, settings=Settings(head_recovery=True))


def test_head_recovery_is_refused_by_an_old_ray_before_it_starts(play: Play) -> None:
    async def scene(head: Head) -> None:
        head.node.ray_version = "2.57.1"
        with pytest.raises(UsageError, match=r"--head-recovery needs Ray 2\.58 or newer"):
            await head.up()
        assert "start" not in head.node.asked

    play(scene, settings=Settings(head_recovery=True))


def test_a_head_that_is_started_again_has_the_same_session_and_a_new_template(play: Play) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        address = head.node.root.ray_dir / "ray_current_cluster"
        address.parent.mkdir(parents=True)
        address.write_text("10.0.0.1:20480")
        head.node.asked.clear()
        templates: list[object] = []
        start = head.node.start

        async def started(*args: Any) -> Any:
            templates.append(await head.template())
            return await start(*args)

        head.node.start = started  # type: ignore[method-assign]
        await head.up_again()
        assert head.node.asked == ["reset", "import", "start"]
        assert head.node.specs[-1].session_name == SESSION
        assert not address.exists(), "ray.init would find it before the GCS is there"
        assert templates == [None], "workers must not start by that of the head that has ended"
        assert await head.template() is not None
        assert (await head.written()).session == SESSION

    play(scene, settings=Settings(head_recovery=True))


# -- tokens, keys, and what is warned of -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "own", "warned"),
    [
        ({}, "", False),
        ({"has_record": False}, "", False),
        ({"expected": 0, "env": {"RAYCLUSTER_TOKEN": "t" * 40}}, "t" * 40, False),
        ({"settings": Settings(auth=False)}, None, True),
    ],
    ids=["a new one", "no record", "the user's own", "none"],
)
def test_the_token(play: Play, options: dict[str, Any], own: str | None, warned: bool) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        if own is None:
            assert head.node.token == ""
        else:
            assert head.node.token == own if own else len(head.node.token) >= 32
        if head.scene.record is not None and own == "":
            assert head.record.read_token() == head.node.token
        elif head.scene.record is not None:
            assert head.record.read_token() is None
        assert any("--no-auth: anyone who can connect" in line for line in head.scene.said) == warned

    play(scene, **options)


def test_with_a_token_of_its_own_a_head_proves_who_it_is_until_it_ends(play: Play) -> None:
    token = secrets.token_hex(32)

    async def scene(head: Head) -> None:
        await head.up()
        proven = await find_proven_head("127.0.0.1", token, lambda _: True)
        assert proven is not None
        assert proven.head.identity == head.start.identity == (await head.written()).identity
        assert proven.cluster_key == head.scene.parts.context.cluster_key
        head.start.close()
        assert await find_proven_head("127.0.0.1", token, lambda _: True) is None

    play(scene, env={"RAYCLUSTER_TOKEN": token})


@pytest.mark.parametrize("has_record", [True, False])
def test_keys_for_the_cluster_are_in_the_record_for_its_workers(play: Play, has_record: bool) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        assert "certify by authority" in head.node.asked
        if has_record:
            assert head.record.read_authority() == "authority"

    play(scene, settings=Settings(tls=True), expected=int(has_record), has_record=has_record)


def test_keys_that_no_worker_could_read_are_refused(play: Play) -> None:
    async def scene(head: Head) -> None:
        with pytest.raises(UsageError, match="--tls needs a record"):
            await head.up()

    play(scene, settings=Settings(tls=True), has_record=False)


SMALL_STEP = allocation("24.11/three-nodes.task0").but(step_nodes=("n1",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env": {"RAYCLUSTER_TIMOUT": "60"}}, "did you mean RAYCLUSTER_TIMEOUT?"),
        (
            {"settings": Settings(dashboard=True, dashboard_host="0.0.0.0")},
            "which runs code as you; only the token protects it.",
        ),
        (
            {"settings": Settings(dashboard=True, dashboard_host="0.0.0.0", auth=False)},
            "nothing protects it (--no-auth)",
        ),
        ({"settings": Settings(dashboard=True)}, ""),
        ({"allocation": SMALL_STEP, "symmetric": True}, "the cluster does not use n[2-3]"),
        ({"allocation": SMALL_STEP, "symmetric": True, "settings": Settings(name="tune")}, ""),
        ({"allocation": SMALL_STEP, "symmetric": True, "settings": Settings(expected_workers=0)}, ""),
        ({"allocation": SMALL_STEP}, ""),
    ],
)
def test_what_is_warned_of(play: Play, options: dict[str, Any], said: str) -> None:
    async def scene(head: Head) -> None:
        await head.up()
        text = "\n".join(head.scene.said)
        assert said in text and bool(text) == bool(said)

    play(scene, **options)


@pytest.mark.parametrize(
    ("name", "step", "told"),
    [
        (
            "24.11/het.task0",
            ("n1", "n2"),
            "does not use n3. `env -u SLURM_NTASKS -u SLURM_NPROCS srun --het",
        ),
        ("24.11/three-nodes.task0", ("n1",), "does not use n[2-3]. `srun --nodes=3 --ntasks=3"),
        ("24.11/het.task0", ("n1", "n2", "n3"), ""),
    ],
)
def test_a_step_that_is_smaller_than_its_job(name: str, step: tuple[str, ...], told: str) -> None:
    text = unused_nodes(allocation(name).but(step_nodes=step))
    assert told in text
    assert bool(text) is bool(told)


@pytest.mark.parametrize("expected", [0, 1])
def test_a_record_that_cannot_name_the_head_ends_a_start_with_workers(tmp_path: Path, expected: int) -> None:
    """A disk that has just become full, for example: workers would look for this head until --timeout."""

    async def start() -> str:
        head = Head(tmp_path, expected=expected)
        (head.record.path / "head.json").mkdir()
        try:
            await head.up()
        except RayclusterError as error:
            return error.message
        return ""

    assert ("head.json" in run_loop(start())) == bool(expected)
