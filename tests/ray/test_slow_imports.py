"""Imports that take long, as on a network file system when a whole cluster starts at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

#: Longer than a raylet waits for agents that it has not been told the ports of (15 s).
AGENT_S = 25.0

#: Longer than --retry-delay, which is how long one attempt to find the head lasts.
RAY_S = 12.0

SLOW = f"""
import os, sys, time
words = sys.orig_argv
if any(word.endswith(("dashboard/agent.py", "runtime_env/agent/main.py")) for word in words[:8]):
    time.sleep({AGENT_S})
if os.environ.get("SLOW_NODE") == os.environ.get("RAYCLUSTER_NODE_NAME", "") and any(
    "raycluster_cli.rayproc.companion" in word for word in words
):
    time.sleep({RAY_S})
"""

TASKS = """
import sys, time
import ray
ray.init(log_to_driver=False)
print("nodes", sum(node["Alive"] for node in ray.nodes()))
@ray.remote(scheduling_strategy="SPREAD")
def square(x):
    import os
    return x * x, os.environ.get("FLAVOUR", "")
print("plain", sorted(ray.get([square.remote(x) for x in range(3)]))[2][0])
if "agents" in sys.argv:
    env = {"env_vars": {"FLAVOUR": "mint"}}
    print("flavour", ray.get(square.options(runtime_env=env).remote(2))[1])
"""


@pytest.fixture
def slow(tmp_path: Path) -> dict[str, str]:
    """An environment in which Ray's agents take AGENT_S to be imported."""
    directory = tmp_path / "slow"
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(SLOW)
    before = os.environ.get("PYTHONPATH", "")
    return {
        **os.environ,
        "PYTHONPATH": f"{directory}:{before}" if before else str(directory),
        "RAYCLUSTER_STATE_DIR": str(tmp_path / "state"),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def run_local(env: dict[str, str], *driver: str) -> tuple[str, float]:
    """Run a head and a worker with the driver; its output and the seconds that it all took."""
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "raycluster_cli",
            "run",
            "--local",
            "1",
            "--",
            sys.executable,
            "-c",
            TASKS,
            *driver,
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, time.monotonic() - began


def test_slow_agents_neither_fail_the_start_nor_delay_it(slow: dict[str, str]) -> None:
    said, took_s = run_local(slow)
    assert said.split() == ["nodes", "2", "plain", "4"]
    assert took_s < AGENT_S


@pytest.mark.slow
def test_slow_agents_serve_the_task_that_needs_them(slow: dict[str, str]) -> None:
    said, took_s = run_local(slow, "agents")
    assert said.split() == ["nodes", "2", "plain", "4", "flavour", "mint"]
    assert took_s > AGENT_S


@pytest.mark.slow
def test_one_node_that_imports_ray_slowly_joins_late(slow: dict[str, str]) -> None:
    """One that starts by its head's template does not import Ray at all: so in another way."""
    said, took_s = run_local(slow | {"SLOW_NODE": "worker-1", "RAYCLUSTER_QUICK": "node"})
    assert said.split() == ["nodes", "2", "plain", "4"]
    assert took_s > RAY_S
