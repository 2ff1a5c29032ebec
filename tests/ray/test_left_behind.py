"""A crashed cluster of real Ray processes is found and cleared; a neighbour of the same user stays."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raycluster_cli.node.directory import NodeRoot, make_node_root
from raycluster_cli.node.sweep import processes_of, sweep_stale, why_part_of
from raycluster_cli.rayproc.health import HealthChannel
from raycluster_cli.system.ports import PortClaim, claim_ports
from raycluster_cli.system.proctree import is_running

ADDRESS = "127.0.0.1"
ENV = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "HOME": os.environ.get("HOME", "/"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "AUTOSCALER_METRIC_PORT": "",
    "DASHBOARD_METRIC_PORT": "",
}

ACTOR = """
    import subprocess, sys
    import ray
    ray.init(address=sys.argv[1], namespace="left", log_to_driver=False)

    @ray.remote
    class Holder:
        def start(self):
            # A child that has cut every tie: session, output and environment of its own.
            return subprocess.Popen(
                ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
                start_new_session=True, env={"PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            ).pid

    holder = Holder.options(name="holder", lifetime="detached", num_cpus=0).remote()
    print(ray.get(holder.start.remote()))
"""


@pytest.fixture
def make_root() -> Iterator[Callable[[str], NodeRoot]]:
    """Roots in a short directory of this test alone; all of it is swept in the end."""
    base = Path(f"/tmp/t{os.getpid()}")
    base.mkdir(mode=0o700)
    roots: list[NodeRoot] = []

    def make(key: str) -> NodeRoot:
        roots.append(make_node_root(key, env={}, role="head", base=base))
        return roots[-1]

    yield make
    for root in roots:
        root.close()
    sweep_stale({}, only_bases=[base])
    base.rmdir()


def start_ray(root: NodeRoot, claim: PortClaim) -> None:
    ports = claim.ports
    env = {
        **ENV,
        "AUTOSCALER_METRIC_PORT": str(ports.autoscaler_metrics),
        "DASHBOARD_METRIC_PORT": str(ports.dashboard_metrics),
    }
    command = [
        *("ray", "start", "--head", f"--node-ip-address={ADDRESS}", f"--temp-dir={root.path}"),
        *("--num-cpus=1", "--memory=500000000", "--object-store-memory=100000000", "--disable-usage-stats"),
        f"--port={ports.gcs}",
        f"--node-manager-port={ports.node_manager}",
        f"--object-manager-port={ports.object_manager}",
        f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent_listen}",
        f"--dashboard-agent-grpc-port={ports.dashboard_agent_grpc}",
        f"--runtime-env-agent-port={ports.runtime_env_agent}",
        f"--metrics-export-port={ports.metrics_export}",
        f"--min-worker-port={ports.worker_low}",
        f"--max-worker-port={ports.worker_high}",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_sweep_ends_all_of_a_crashed_cluster_and_nothing_of_its_neighbour(
    make_root: Callable[[str], NodeRoot],
) -> None:
    crashed, neighbour = make_root("crashed"), make_root("neighbour")
    base = crashed.path.parent
    with (
        claim_ports("crashed", address=ADDRESS, head=True) as claim,
        claim_ports("neighbour", address=ADDRESS, head=True) as other,
    ):
        start_ray(crashed, claim)
        start_ray(neighbour, other)
        driver = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(ACTOR), f"{ADDRESS}:{claim.ports.gcs}"],
            env=ENV,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert driver.returncode == 0, driver.stderr
        sleeper = int(driver.stdout.split()[-1])

        async def raylet_is_healthy(port: int) -> bool:
            channel = await HealthChannel.connect(ADDRESS, port, timeout_s=2.0)
            try:
                return await channel.check(timeout_s=2.0)
            finally:
                channel.close()

        assert asyncio.run(raylet_is_healthy(claim.ports.node_manager))

        ours, theirs = processes_of(crashed.path), processes_of(neighbour.path)
        assert {"gcs_server", "raylet"} <= {each.name for each in ours}
        child = next(each for each in ours if each.pid == sleeper)  # found as a child of the actor's process
        assert not {each.ref for each in ours} & {each.ref for each in theirs}
        assert not [each for each in theirs if why_part_of(each.pid, str(crashed.path))]

        crashed.close()  # what the kernel does when the last raycluster process of the node dies
        swept = sweep_stale({}, only_bases=[base])
        assert [(each.path, each.left) for each in swept] == [(crashed.path, ())]
        assert not crashed.path.exists()
        assert not any(is_running(each.ref) for each in ours)
        assert not is_running(child.ref)
        assert all(is_running(each.ref) for each in theirs)
        assert asyncio.run(raylet_is_healthy(other.ports.node_manager))
