"""A task that asks for what no node has: Ray is silent, the head warns and `status` shows it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

DRIVER = """
import time
import ray

ray.init(log_to_driver=False)

@ray.remote(num_cpus=4096)
def large(): pass

@ray.remote(num_cpus=1)
def small(): time.sleep(600)

waits = [large.remote() for _ in range(3)] + [small.remote() for _ in range(20)]
group = ray.util.placement_group([{"no_such_thing": 1}])
ray.get(waits)
"""


def test_demand_that_no_node_can_satisfy(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    env = {**os.environ, "RAYCLUSTER_STATE_DIR": str(tmp_path / "state"), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "raycluster_cli"]
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [*command, "run", "--local", "1", "--", sys.executable, str(tmp_path / "driver.py")],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: "cannot start" in said.read_text(), timeout_s=90, what="the warning")
        done = subprocess.run(
            [*command, "status", "--json"], env=env, capture_output=True, text=True, timeout=60, check=True
        )
        cluster: dict[str, Any] = json.loads(done.stdout)["clusters"][0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    text = said.read_text()
    assert "3 tasks or actors that each need 4096 CPUs (the largest node has " in text
    assert "a placement group with a bundle of 1 no_such_thing (no node has any)" in text
    assert text.count("4096") == 1
    assert len(cluster["unplaceable"]) == 2, cluster
    assert "cannot start on these nodes" in cluster["headline"]
