"""The parts of a node before Ray starts, with file systems and name servers that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import Role
from raycluster_cli.node.directory import ENV_MARK, NodeRoot, make_node_root
from raycluster_cli.node.measure import Measured, measure_node
from raycluster_cli.node.resources import plan_from_settings
from raycluster_cli.node.setup import NodeSetup
from raycluster_cli.node.start_spec import StartSpec
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.system.network import InterfacesDownError, NodeAddress
from raycluster_cli.system.report import Report
from tests.unit.loops import run_loop

from ..slurm.test_allocation import environment
from .hosts import facts

SETTINGS = Settings(num_cpus=2, memory="1G", object_store_memory="100M")


def run(scene: Callable[[], Awaitable[None]]) -> None:
    run_loop(asyncio.wait_for(scene(), 30))  # type: ignore[arg-type]


def setup(base: Path, *, settings: Settings = SETTINGS, env: dict[str, str] | None = None) -> NodeSetup:
    return NodeSetup(
        role=Role.HEAD,
        settings=settings,
        env={"TMPDIR": str(base), **(env or {})},
        allocation=Allocation.from_environ(env or {}),
        host="n1",
        node_ip="127.0.0.1",
        key="test",
        report=Report(stream=io.StringIO()),
    )


def said(one: NodeSetup) -> str:
    stream = one._report.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


class Slow:
    """Makes a root only when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.made = threading.Event()

    def __call__(self, *args: Any, **more: Any) -> NodeRoot:
        self.go.wait(30)
        root = make_node_root(*args, **more)
        self.made.set()
        return root


# -- the directory -------------------------------------------------------------------------------


def test_the_directory_marks_the_environment_and_is_removed_in_the_end(base: Path) -> None:
    async def scene() -> None:
        one = setup(base)
        root = await one.make_directory()
        assert one.env[ENV_MARK] == str(root.path)
        assert root.path.parent == base
        assert await one.write_token("") == ""
        token = await one.write_token("secret")
        assert (token, root.token_path.read_text()) == (str(root.token_path), "secret")
        await one.remove_directory(asyncio.Event())
        assert os.listdir(base) == []
        assert said(one) == ""

    run(scene)


def test_what_a_program_that_cleans_tmp_has_removed_is_made_again(base: Path) -> None:
    async def scene() -> None:
        one = setup(base)
        root = await one.make_directory()
        await one.make_common_path(f"{base}/rc-{os.geteuid()}-0a1b2c3d")
        await one.write_token("secret")
        common = one.common_path
        assert common is not None and common != root.path
        one.restore_files()  # nothing is missing
        root.token_path.unlink()
        common.unlink()
        one.restore_files()
        assert (common / "token").read_text() == "secret"
        await one.remove_directory(asyncio.Event())
        one.restore_files()
        assert not root.path.exists()

    run(scene)


def test_a_file_system_that_does_not_answer_ends_the_start(base: Path) -> None:
    async def scene() -> None:
        one, slow = setup(base), Slow()
        with pytest.raises(
            RayclusterError, match=r"not made within 0\.01 s: a file system does not"
        ) as caught:
            await one.make_directory(timeout_s=0.01, make_root=slow)
        assert "--temp-dir" in caught.value.hint
        await nothing_is_left(slow, base)

    run(scene)


def test_a_start_that_is_cancelled_meanwhile_leaves_no_directory(base: Path) -> None:
    async def scene() -> None:
        one, slow = setup(base), Slow()
        making = asyncio.ensure_future(one.make_directory(make_root=slow))
        await asyncio.sleep(0)
        making.cancel()
        asyncio.get_running_loop().call_later(0.05, slow.go.set)
        await asyncio.wait({making}, timeout=30)
        assert making.cancelled()
        # At once: the thread that makes it may not live on.
        assert (slow.made.is_set(), os.listdir(base)) == (True, [])

    run(scene)


def test_a_start_that_is_cancelled_does_not_wait_long_for_a_file_system(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycluster_cli.node.setup.ABANDONED_S", 0.01)

    async def scene() -> None:
        one, slow = setup(base), Slow()
        making = asyncio.ensure_future(one.make_directory(make_root=slow))
        await asyncio.sleep(0)
        making.cancel()
        await asyncio.wait({making}, timeout=30)
        assert making.cancelled()
        await nothing_is_left(slow, base)

    run(scene)


async def nothing_is_left(slow: Slow, base: Path) -> None:
    slow.go.set()
    while not slow.made.is_set() or os.listdir(base):
        await asyncio.sleep(0.005)


def test_no_directory_where_the_place_is_refused(base: Path) -> None:
    async def scene() -> None:
        one = setup(base, settings=replace(SETTINGS, temp_dir=str(base / "nowhere")))
        with pytest.raises(RayclusterError, match="cannot keep Ray's files below"):
            await one.make_directory()
        await one.remove_directory(asyncio.Event())  # there is none

    run(scene)


class Stuck:
    """A directory on a disk that hangs."""

    path = Path("/tmp/rc-0-stuck")

    def __init__(self) -> None:
        self.go = threading.Event()

    def remove(self) -> list[str]:
        self.go.wait(30)
        return []


def test_a_second_signal_ends_the_wait_for_the_removal(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster_cli.node.setup.HURRIED_REMOVE_S", 0.01)

    async def scene() -> None:
        one, stuck, hurry = setup(base), Stuck(), asyncio.Event()
        one.root = stuck  # type: ignore[assignment]
        removal = asyncio.ensure_future(one.remove_directory(hurry))
        await asyncio.sleep(0)
        hurry.set()
        await removal
        assert "n1: /tmp/rc-0-stuck was not removed in time; the next start here removes it" in said(one)
        stuck.go.set()

    run(scene)


# -- address and grants ----------------------------------------------------------------------------


def test_a_name_server_that_does_not_answer_ends_the_start(base: Path) -> None:
    go = threading.Event()

    async def scene() -> None:
        one = setup(base)
        await one.make_directory()
        with pytest.raises(RayclusterError, match=r"address of n1 was not found within 0\.01 s") as caught:
            await one.measure("gpu01", timeout_s=0.01, find=lambda **_: go.wait(30))  # type: ignore[arg-type]
        assert "`getent hosts gpu01` on n1" in caught.value.hint
        await one.remove_directory(asyncio.Event())

    run(scene)
    go.set()


@pytest.mark.parametrize(("looks", "link_wait_s"), [(3, 30.0), (1, 0.0)])
def test_interfaces_that_are_down_get_time_to_come_up(base: Path, looks: int, link_wait_s: float) -> None:
    seen: list[str] = []

    def find(**asked: Any) -> Measured:
        seen.append("look")
        if len(seen) < 3:
            raise InterfacesDownError("this node has no address: found eth0 10.1.0.1 (down).")
        return measure_node(**asked)

    async def scene() -> None:
        one = setup(base)
        await one.make_directory()
        with contextlib.nullcontext() if looks == 3 else pytest.raises(InterfacesDownError):
            await one.measure(None, find=find, link_wait_s=link_wait_s)
        assert len(seen) == looks
        await one.remove_directory(asyncio.Event())

    run(scene)


def test_what_this_machine_grants(base: Path) -> None:
    async def scene() -> None:
        one = setup(base)
        root = await one.make_directory()
        await one.measure(None)
        assert one.found == measure_node(
            settings=SETTINGS,
            role=Role.HEAD,
            env=one.env,
            allocation=None,
            node_ip="127.0.0.1",
            directory=root.path,
            route_to=None,
        )
        assert (one.found.address.ip, one.found.grant.num_cpus) == ("127.0.0.1", 2)
        await one.remove_directory(asyncio.Event())

    run(scene)


# -- ports and plan --------------------------------------------------------------------------------


def test_the_plan_says_what_was_found(base: Path, tmp_path: Path) -> None:
    async def scene() -> None:
        settings = replace(SETTINGS, scrub_env=True, spill_dir="/scratch/spill", labels="a=b", quick="node")
        one = setup(base, settings=settings)
        root = await one.make_directory()
        host = facts(tmp_path)
        one.measured = Measured(
            NodeAddress("127.0.0.1", "lo"), host, plan_from_settings(host, settings, head=True)
        )
        assert one.port_map(0) == {}
        one.claim_ports({})
        first = one.gcs_port
        one.claim_ports({})  # the first block is free again
        assert one.gcs_port == first
        make = partial(
            one.plan,
            StartSpec(
                "f00d",
                expected_nodes=3,
                storage=Path("/scratch/gcs"),
                gcs_reconnect_s=60,
                session_name="session_1",
            ),
            no_proxy=["n2"],
            token_path="/t",
            restarts=1,
        )
        plan = make()
        assert plan.gcs_address == f"127.0.0.1:{first}"
        assert plan.ports["node_manager"] != one.port_map(0)["node_manager"]
        assert (plan.auth_token_path, plan.gcs_storage_path, plan.no_proxy) == ("/t", "/scratch/gcs", ("n2",))
        assert (plan.temp_dir, plan.labels, plan.quick) == (str(root.ray_dir), {"a": "b"}, "node")
        assert "RAYCLUSTER_TOKEN" in plan.unset and "SLURM_*" in plan.scrub
        assert plan.env[ENV_MARK] == str(root.path)
        # A service's port is in the block, so that Ray Serve need not keep others off it.
        assert "SERVE_SOCKET_REUSE_PORT_ENABLED" not in plan.env
        one.settings = replace(settings, service=True)
        assert make().env["SERVE_SOCKET_REUSE_PORT_ENABLED"] == "1"
        assert make().env["RAYCLUSTER_SERVE_STATUS"] == str(root.path / "serve.json")
        one.settings = replace(settings, service=True, service_port=8124)
        assert "SERVE_SOCKET_REUSE_PORT_ENABLED" not in make().env
        assert one.ports is not None
        one.ports.close()
        await one.remove_directory(asyncio.Event())

    run(scene)


@pytest.mark.parametrize(
    ("proxy", "names"),
    [({}, ()), ({"https_proxy": "http://p:1"}, ("n1", "n2", "n3"))],
)
def test_no_proxy_is_for_the_jobs_nodes(base: Path, proxy: dict[str, str], names: tuple[str, ...]) -> None:
    async def scene() -> None:
        one = setup(base, env={**environment("22.05/three-nodes.task1"), **proxy})
        hosts = await one.hosts_without_proxy()
        assert hosts[: len(names)] == names
        assert bool(hosts) == bool(names)
        one.worker_hosts = ("n3", "gpu7")  # the hosts of worker jobs, some of the job's own among them
        more = await one.hosts_without_proxy()
        assert more[: len(names) + 1] == ((*names, "gpu7") if names else ())

    run(scene)
