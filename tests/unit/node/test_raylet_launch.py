"""A raylet executed by a template, with a shell script in its place."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.status import Role
from raycluster_cli.node.raylet_launch import start_by_template
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.installation import ray_variables
from raycluster_cli.rayproc.plan import NodePlan
from raycluster_cli.rayproc.started import Started
from raycluster_cli.rayproc.template import File, Launch, Template
from raycluster_cli.system.process import Child, Reaper

#: Says what it was given, and that it is registered.
GOOD = """
echo "$0 $* LEFT=$LEFT $RAY_CLIENT_MODE" > "$1/said"
grep SigIgn /proc/self/status >> "$1/said"
echo "[x] Raylet of id, $2 started. Raylet consists of" > "$1/session_1/logs/raylet.out"
exec sleep 60
"""
DIES = """echo "Check failed: Address already in use" > "$1/session_1/logs/raylet.err"; exit 3"""
SAYS_NOTHING = "exec sleep 60"


def plan(root: Path) -> NodePlan:
    return NodePlan(
        role=Role.WORKER,
        node_ip="127.0.0.1",
        gcs_address="127.0.0.1:20480",
        ports=dict.fromkeys(
            (
                "node_manager",
                "object_manager",
                "dashboard_agent_listen",
                "dashboard_agent_grpc",
                "runtime_env_agent",
                "metrics_export",
                "worker_low",
                "worker_high",
            ),
            1,
        ),
        temp_dir=str(root / "r"),
        num_cpus=1,
        memory_bytes=1 << 30,
        object_store_bytes=100 << 20,
        identity="x",
    )


def start(
    root: Path,
    script: str,
    *,
    then: Callable[[Started, Child], Awaitable[None]] | None = None,
    timeout_s: float = 60.0,
    **changes: Any,
) -> None:
    """Start it, look at it, and end it."""
    given = {"PATH": os.environ["PATH"], "LEFT": "as given"}
    template = Template(
        identity="x",
        installation="here",
        variables=ray_variables(given),
        agent_at_once=False,
        ray_version="2.60.0",
        session="session_1",
        cluster_id="ab",
        gcs_address="127.0.0.1:20480",
        node_id_bytes=4,
        gpus="",
        accelerator_type="",
        spills="spill_dir" in changes,
        launch=Launch(
            ("/bin/sh", "-c", script, "raylet", "@{temp_dir}", "@{node_id}"),
            {"RAY_CLIENT_MODE": "0"},
            (
                File("session_1", 0o777, "directory"),
                File("session_1/logs", 0o777, "directory"),
                File("session_1/address.json", 0o640, "file", "@{node_ip}"),
                File("session_latest", 0, "link", "@{temp_dir}/session_1"),
            ),
        ),
    )

    async def work() -> None:
        reaper = Reaper()
        reaper.attach(asyncio.get_running_loop())
        started, child = await start_by_template(
            template,
            replace(plan(root), **changes),
            installation="here",
            gpus="",
            given=given,
            reaper=reaper,
            timeout_s=timeout_s,
        )
        try:
            assert then is not None
            await then(started, child)
        finally:
            await child.stop(0.0)

    asyncio.run(work())


def test_a_raylet_is_executed_as_the_template_says(tmp_path: Path) -> None:
    root = tmp_path / "r"

    async def then(started: Started, child: Child) -> None:
        assert (started.how, dict(started.processes)) == ("template", {"raylet": child.pid})
        assert len(bytes.fromhex(started.node_id)) == 4
        said, ignored = (root / "said").read_text().splitlines()
        assert said == f"raylet {root} {started.node_id} LEFT=as given 0"
        assert int(ignored.split()[1], 16) & 0xA00 == 0xA00  # SIGUSR1 and 2: srun sends them to all of a step
        assert os.getsid(child.pid) == child.pid
        assert (root / "session_1/address.json").read_text() == "127.0.0.1"
        assert (root / "session_1").stat().st_mode & 0o777 == 0o777
        assert os.readlink(root / "session_latest") == started.session_dir == f"{root}/session_1"

    start(tmp_path, GOOD, then=then)


@pytest.mark.parametrize(
    ("script", "changes", "why"),
    [
        (DIES, {}, "Another process uses a port of this node"),
        ("exit 4", {}, r"ended during its start \(code 4\)"),
        (SAYS_NOTHING, {"timeout_s": 0.5}, "does not say within"),
        (GOOD, {"num_gpus": 1}, "GPUs of this node are not described"),
    ],
)
def test_of_a_start_that_fails_nothing_is_left(
    tmp_path: Path, script: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(StartFailure, match=why):
        start(tmp_path, script, **changes)
    root = tmp_path / "r"
    assert not root.exists() or os.listdir(root) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("a file")
    with pytest.raises(StartFailure, match="FileExistsError"):
        start(tmp_path, GOOD)


def test_a_name_that_this_version_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(StartFailure, match="KeyError: 'colour'"):
        start(tmp_path, "exec sleep @{colour}")
