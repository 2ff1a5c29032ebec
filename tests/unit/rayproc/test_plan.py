"""The plan of a node: its command line, its environment, and what Ray's words mean."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from raycluster_cli.model.status import Role
from raycluster_cli.rayproc import plan as ray_start
from raycluster_cli.rayproc.plan import (
    SCRUBBED,
    NodePlan,
    StartFailure,
    TlsFiles,
    client_environment,
    explain,
    gcs_settings,
    merge_no_proxy,
    start_command,
    start_environment,
    wake,
)

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
        extra_args=("--verbose",),
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
        "--verbose",
    ]


def test_no_command_line_shows_the_token() -> None:
    assert not any("token" in part for plan in (HEAD, WORKER) for part in start_command(plan))


def test_a_plan_survives_its_journey_as_json() -> None:
    plan = replace(
        HEAD, tls=TlsFiles("c", "k", "ca"), no_proxy=("a", "b"), extra_args=("--x",), env={"A": "1"}
    )
    assert NodePlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_the_mode_of_authentication_is_always_said() -> None:
    with_token = client_environment(HEAD, {"RAY_AUTH_TOKEN": "from the user's shell"})
    assert with_token["RAY_AUTH_MODE"] == "token"
    assert with_token["RAY_AUTH_TOKEN_PATH"] == "/tmp/rc-1000-0a1b2c3d/token"
    assert "RAY_AUTH_TOKEN" not in with_token
    without = client_environment(replace(HEAD, auth_token_path=None), {"RAY_AUTH_TOKEN_PATH": "/other"})
    assert without["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN_PATH" not in without


def test_a_driver_is_told_its_cluster_and_a_node_is_not() -> None:
    base = {"RAY_ADDRESS": "somewhere:6379"}
    assert client_environment(HEAD, base)["RAY_ADDRESS"] == "10.0.0.1:20000"
    assert "RAY_ADDRESS" not in start_environment(WORKER, base)


def test_the_users_own_settings_win_where_they_are_a_matter_of_taste() -> None:
    base = {"RAY_worker_register_timeout_seconds": "900", "RAY_USAGE_STATS_ENABLED": "1"}
    env = start_environment(HEAD, base)
    assert env["RAY_worker_register_timeout_seconds"] == "900"
    assert env["RAY_USAGE_STATS_ENABLED"] == "1"
    assert env["RAY_raylet_client_connect_timeout_milliseconds"] == "50"
    assert start_environment(HEAD, {})["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_is_scrubbed_is_kept_from_rays_processes_and_not_from_the_driver() -> None:
    plan = replace(WORKER, unset=(*SCRUBBED, "RAYCLUSTER_TOKEN"))
    base = {"SLURM_PROCID": "3", "PMIX_RANK": "3", "RAYCLUSTER_TOKEN": "t", "HOME": "/h", "SLURMX": "1"}
    env = start_environment(plan, base)
    assert not {"SLURM_PROCID", "PMIX_RANK", "RAYCLUSTER_TOKEN"} & set(env)
    assert (env["HOME"], env["SLURMX"]) == ("/h", "1")
    assert client_environment(plan, base)["SLURM_PROCID"] == "3"
    assert NodePlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_the_plans_own_environment_wins_over_all() -> None:
    assert start_environment(replace(HEAD, env={"RAY_AUTH_MODE": "x"}), {})["RAY_AUTH_MODE"] == "x"


def test_health_checks_are_the_heads_and_grow_with_the_cluster() -> None:
    assert not any("health_check" in name for name in start_environment(WORKER, {}))
    small, large = gcs_settings(4), gcs_settings(1000)
    for name in ("RAY_health_check_period_ms", "RAY_health_check_timeout_ms"):
        assert int(small[name]) < int(large[name])


def test_many_nodes_get_patience_and_threads() -> None:
    assert ray_start.node_settings(256) == {}
    large = start_environment(replace(WORKER, expected_nodes=1000), {})
    assert large["RAY_gcs_server_request_timeout_seconds"] == "120"
    assert "RAY_gcs_server_rpc_server_thread_num" not in large
    head = start_environment(replace(HEAD, expected_nodes=1000, num_cpus=48), {})
    assert head["RAY_gcs_server_rpc_server_thread_num"] == "48"


def test_storage_is_the_heads_and_gives_workers_time_to_wait_for_it() -> None:
    head = start_environment(replace(HEAD, gcs_storage_path="/scratch/gcs"), {})
    assert (head["RAY_gcs_storage"], head["RAY_gcs_storage_path"]) == ("rocksdb", "/scratch/gcs")
    worker = start_environment(replace(WORKER, gcs_storage_path="/scratch/gcs"), {})
    assert "RAY_gcs_storage" not in worker
    assert worker["RAY_gcs_rpc_server_reconnect_timeout_s"] == "60"
    assert (
        start_environment(replace(WORKER, gcs_reconnect_s=7), {})["RAY_gcs_rpc_server_reconnect_timeout_s"]
        == "7"
    )


def test_tls_is_set_on_clients_and_nodes_alike() -> None:
    plan = replace(HEAD, tls=TlsFiles("/t/cert", "/t/key", "/t/ca"))
    for env in (client_environment(plan, {}), start_environment(plan, {})):
        assert env["RAY_USE_TLS"] == "1"
        assert env["RAY_TLS_CA_CERT"] == "/t/ca"


def test_no_proxy_is_only_touched_where_there_is_a_proxy() -> None:
    assert "no_proxy" not in client_environment(HEAD, {})
    env = client_environment(
        replace(HEAD, no_proxy=("gpu02", "10.0.0.2")), {"https_proxy": "http://p:1", "NO_PROXY": "intranet"}
    )
    assert env["no_proxy"] == env["NO_PROXY"] == "intranet,localhost,127.0.0.1,10.0.0.1,gpu02,10.0.0.2"


def test_no_proxy_keeps_the_users_own_first() -> None:
    assert merge_no_proxy("intranet, a", ["a", "b"]) == "intranet,a,b"
    assert merge_no_proxy("*", ["a"]) == "*"


def test_the_host_of_an_ipv6_address() -> None:
    assert ray_start._host_of("[fd00::1]:6379") == "fd00::1"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("F Check failed: bound: Address already in use", "ports"),
        ("Session name a does not match persisted value b'c'", "ports"),
        ("RuntimeError: Version mismatch: The cluster was started with:", "version mismatch"),
        ("RPC error: InvalidAuthToken: Authentication token is missing", "auth"),
        ("Timed out while waiting for GCS to become available.", "timed out"),
        ("OSError: AF_UNIX path length cannot exceed 107 bytes", "ray"),
    ],
)
def test_known_words_of_ray_have_a_meaning(text: str, kind: str) -> None:
    found = explain(f"first line\n{text}\nlast line")
    assert found is not None
    assert found[0] == kind
    failure = StartFailure.from_text(f"first line\n{text}\nlast line", default=("ray", "?"))
    assert failure.kind == kind
    assert text in failure.message


@pytest.mark.parametrize(
    ("text", "words", "drained"),
    [
        (
            "main.cc:481: Raylet graceful shutdown triggered with death info: "
            "reason: AUTOSCALER_DRAIN_PREEMPTED\n"
            'reason_message: "by me: it\\\'s over"\n\nmain.cc:477: Raylet shutdown already triggered, …',
            ("autoscaler_drain_preempted", "by me: it's over"),
            True,
        ),
        (
            "Raylet graceful shutdown triggered with death info: reason: UNEXPECTED_TERMINATION\n"
            'reason_message: "dashboard_agent failed and raylet fate-shares with it."',
            ("unexpected_termination", "dashboard_agent failed and raylet fate-shares with it."),
            False,
        ),
        ("killed in mid-sentence", None, False),
    ],
)
def test_a_raylets_last_words(text: str, words: tuple[str, str] | None, drained: bool) -> None:
    assert ray_start.farewell(text) == words
    assert ray_start.was_drained(text) is drained


def test_unknown_words_get_the_default() -> None:
    assert explain("all is well") is None
    assert StartFailure.from_text("all is well", default=("timed out", "x")).kind == "timed out"


def test_a_restarted_raylet_gets_a_port_of_its_own() -> None:
    assert ray_start.ports_for_restart(PORTS, 0) == PORTS
    seen = set()
    for restarts in range(1, 20):
        ports = ray_start.ports_for_restart(PORTS, restarts)
        assert ports["worker_high"] < ports["node_manager"] <= PORTS["worker_high"]
        seen.add(ports["node_manager"])
    assert len(seen) == 8
    listed = ray_start.ports_for_restart(PORTS | {"worker_list": [5, 7, 9]}, 1)
    assert (listed["node_manager"], listed["worker_list"]) == (9, [5, 7])


def test_wake_writes_only_where_somebody_waits(tmp_path) -> None:  # type: ignore[no-untyped-def]
    gate = tmp_path / "gate"
    assert not wake(str(gate))
    os.mkfifo(gate)
    assert not wake(str(gate))
    reader = os.open(gate, os.O_RDWR | os.O_NONBLOCK)
    assert wake(str(gate))
    assert os.read(reader, 10) == b"go\n"
    os.close(reader)
