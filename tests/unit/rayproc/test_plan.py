"""The plan of a node, its command line and its journey to the companion."""

from __future__ import annotations

import json
from dataclasses import replace

from raycluster_cli.model.status import Role
from raycluster_cli.rayproc.plan import NodePlan, TlsFiles, ports_for_restart, start_command

PORTS = {
    "gcs": 20000,
    "node_manager": 20001,
    "object_manager": 20002,
    "dashboard": 20003,
    "dashboard_agent_listen": 20004,
    "dashboard_agent_grpc": 20005,
    "runtime_env_agent": 20006,
    "metrics_export": 20007,
    "ray_client_server": 20008,
    "autoscaler_metrics": 20009,
    "dashboard_metrics": 20010,
    "worker_low": 20100,
    "worker_high": 21099,
    "worker_list": None,
}

HEAD = NodePlan(
    role=Role.HEAD,
    node_ip="10.0.0.1",
    gcs_address="10.0.0.1:20000",
    ports=PORTS,
    temp_dir="/tmp/rc-1000-0a1b2c3d",
    num_cpus=8,
    num_gpus=2,
    memory_bytes=16_000_000_000,
    object_store_bytes=4_000_000_000,
    node_name="gpu01",
    identity="f00d",
    auth_token_path="/tmp/rc-1000-0a1b2c3d/token",
)
WORKER = replace(HEAD, role=Role.WORKER, node_ip="10.0.0.2", node_name="gpu02")


def test_the_head_is_started_with_everything_said() -> None:
    assert start_command(HEAD, python="/env/bin/python") == [
        "/env/bin/python",
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--port=20000",
        "--node-ip-address=10.0.0.1",
        "--node-name=gpu01",
        "--node-manager-port=20001",
        "--object-manager-port=20002",
        "--dashboard-agent-listen-port=20004",
        "--dashboard-agent-grpc-port=20005",
        "--runtime-env-agent-port=20006",
        "--metrics-export-port=20007",
        "--min-worker-port=20100",
        "--max-worker-port=21099",
        "--num-cpus=8",
        "--num-gpus=2",
        "--memory=16000000000",
        "--object-store-memory=4000000000",
        "--temp-dir=/tmp/rc-1000-0a1b2c3d",
        "--include-log-monitor=False",
        "--disable-usage-stats",
        "--include-dashboard=False",
        "--dashboard-host=127.0.0.1",
        "--dashboard-port=20003",
        "--no-monitor",
    ]


def test_a_worker_gets_no_option_of_a_head() -> None:
    plan = replace(
        WORKER,
        ports=PORTS | {"worker_list": [20101, 20103]},
        resources={"slurm": 1.0},
        labels={"partition": "gpu", "switch": "s1"},
        spill_dir="/scratch/spill",
    )
    assert start_command(plan, python="python")[3:] == [
        "start",
        "--address=10.0.0.1:20000",
        "--node-ip-address=10.0.0.2",
        "--node-name=gpu02",
        "--node-manager-port=20001",
        "--object-manager-port=20002",
        "--dashboard-agent-listen-port=20004",
        "--dashboard-agent-grpc-port=20005",
        "--runtime-env-agent-port=20006",
        "--metrics-export-port=20007",
        "--worker-port-list=20101,20103",
        "--num-cpus=8",
        "--num-gpus=2",
        "--memory=16000000000",
        "--object-store-memory=4000000000",
        "--temp-dir=/tmp/rc-1000-0a1b2c3d",
        "--include-log-monitor=False",
        "--disable-usage-stats",
        '--resources={"slurm":1.0}',
        "--labels=partition=gpu,switch=s1",
        "--object-spilling-directory=/scratch/spill",
    ]


def test_no_command_line_shows_the_token() -> None:
    assert not any("token" in part for plan in (HEAD, WORKER) for part in start_command(plan))


def test_a_plan_survives_its_journey_as_json() -> None:
    plan = replace(
        HEAD, tls=TlsFiles("c", "k", "ca"), no_proxy=("a", "b"), scrub=("SLURM_*",), env={"A": "1"}
    )
    assert NodePlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_a_restarted_raylet_gets_a_port_of_its_own() -> None:
    assert ports_for_restart(PORTS, 0) == PORTS
    seen = set()
    for restarts in range(1, 20):
        ports = ports_for_restart(PORTS, restarts)
        assert ports["worker_high"] < ports["node_manager"] <= PORTS["worker_high"]
        seen.add(ports["node_manager"])
    assert len(seen) == 8
    listed = ports_for_restart(PORTS | {"worker_list": [5, 7, 9]}, 1)
    assert (listed["node_manager"], listed["worker_list"]) == (9, [5, 7])
