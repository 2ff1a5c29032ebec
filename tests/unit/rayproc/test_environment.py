"""The environments of Ray's processes and of clients, and where the token is in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raycluster_cli.rayproc.environment import (
    CLIENT_DEFAULTS,
    SCRUBBED,
    client_environment,
    driver_environment,
    gcs_settings,
    merge_no_proxy,
    node_settings,
    start_environment,
)
from raycluster_cli.rayproc.plan import TlsFiles
from tests.unit.rayproc.test_plan import HEAD, WORKER


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


def test_only_the_driver_has_the_ports_for_serve() -> None:
    """A cluster that is started from an attached shell would take them for the user's."""
    head = replace(HEAD, ports={"serve_http": 20012, "serve_grpc": 20013})
    assert driver_environment(head, {})["RAYCLUSTER_SERVE_HTTP_PORT"] == "20012"
    assert "RAYCLUSTER_SERVE_HTTP_PORT" not in client_environment(head, {})
    assert start_environment(head, {})["RAYCLUSTER_SERVE_GRPC_PORT"] == "20013"


def test_srun_in_a_driver_shares_the_cpus_of_the_clusters_step() -> None:
    job = {"SLURM_JOB_ID": "7"}
    assert driver_environment(HEAD, job)["SLURM_OVERLAP"] == "1"
    assert driver_environment(HEAD, {**job, "SLURM_OVERLAP": "0"})["SLURM_OVERLAP"] == "0"
    assert "SLURM_OVERLAP" not in driver_environment(HEAD, {})
    assert "SLURM_OVERLAP" not in start_environment(HEAD, job)
    assert "SLURM_OVERLAP" not in client_environment(HEAD, job)


def test_only_the_heads_node_has_the_dashboards_address() -> None:
    head = replace(HEAD, ports={"dashboard": 20003})
    assert client_environment(head, {})["RAY_DASHBOARD_ADDRESS"] == "http://127.0.0.1:20003"
    everywhere = replace(head, dashboard_host="0.0.0.0")
    assert client_environment(everywhere, {})["RAY_DASHBOARD_ADDRESS"] == "http://10.0.0.1:20003"
    assert "RAY_DASHBOARD_ADDRESS" not in start_environment(head, {})
    assert start_environment(head, {})["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:20003"
    assert "RAY_DASHBOARD_ADDRESS" not in client_environment(replace(WORKER, ports={"dashboard": 20003}), {})


def test_the_users_own_settings_win_where_they_are_a_matter_of_taste() -> None:
    base = {"RAY_worker_register_timeout_seconds": "900", "RAY_USAGE_STATS_ENABLED": "1"}
    env = start_environment(HEAD, base)
    assert env["RAY_worker_register_timeout_seconds"] == "900"
    assert env["RAY_USAGE_STATS_ENABLED"] == "1"
    assert env["RAY_raylet_client_connect_timeout_milliseconds"] == "50"
    # Two jobs' Serve on one node must not share a port, unless the user knows that the node is his alone.
    assert start_environment(WORKER, {})["SERVE_SOCKET_REUSE_PORT_ENABLED"] == "0"
    shared = start_environment(WORKER, {"SERVE_SOCKET_REUSE_PORT_ENABLED": "1"})
    assert shared["SERVE_SOCKET_REUSE_PORT_ENABLED"] == "1"
    assert start_environment(HEAD, {})["RAY_USAGE_STATS_ENABLED"] == "0"


def test_what_is_scrubbed_is_kept_from_rays_processes_and_not_from_the_driver() -> None:
    plan = replace(WORKER, scrub=SCRUBBED)
    base = {"SLURM_PROCID": "3", "PMIX_RANK": "3", "HOME": "/h", "SLURMX": "1"}
    env = start_environment(plan, base)
    assert not {"SLURM_PROCID", "PMIX_RANK"} & set(env)
    assert (env["HOME"], env["SLURMX"]) == ("/h", "1")
    assert client_environment(plan, base)["SLURM_PROCID"] == "3"


def test_a_driver_gets_defaults_that_its_user_can_change_and_ray_does_not_get_them() -> None:
    driver = client_environment(HEAD, {"PYTHONUNBUFFERED": "", "ip_head": "n1:6379"})
    assert driver["PYTHONUNBUFFERED"] == ""
    assert driver["ip_head"] == driver["RAY_ADDRESS"] == HEAD.gcs_address
    assert client_environment(HEAD, {})["PYTHONUNBUFFERED"] == "1"
    assert client_environment(HEAD, {})["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    ray = start_environment(HEAD, {})
    assert not {*CLIENT_DEFAULTS, "ip_head"} & set(ray)
    assert start_environment(HEAD, {"PYTHONUNBUFFERED": "1"})["PYTHONUNBUFFERED"] == "1"


@pytest.mark.parametrize("environment", [client_environment, start_environment])
def test_no_environment_holds_the_token_itself(environment: Callable[..., dict[str, str]]) -> None:
    plan = replace(HEAD, unset=("RAYCLUSTER_TOKEN", "ROCR_VISIBLE_DEVICES"))
    base = {
        "RAYCLUSTER_TOKEN": "secret",
        "RAY_AUTH_TOKEN": "secret",
        "ROCR_VISIBLE_DEVICES": "0",
        "HOME": "/h",
    }
    env = environment(plan, base)
    assert "secret" not in env.values()
    assert "ROCR_VISIBLE_DEVICES" not in env
    assert (env["HOME"], env["RAY_AUTH_TOKEN_PATH"]) == ("/h", HEAD.auth_token_path)


def test_the_plans_own_environment_wins_over_all() -> None:
    plan = replace(HEAD, env={"RAY_AUTH_MODE": "x"})
    assert (
        start_environment(plan, {})["RAY_AUTH_MODE"] == client_environment(plan, {})["RAY_AUTH_MODE"] == "x"
    )


def test_health_checks_are_the_heads_and_grow_with_the_cluster() -> None:
    assert not any("health_check" in name for name in start_environment(WORKER, {}))
    small, large = gcs_settings(4), gcs_settings(1000)
    for name in ("RAY_health_check_period_ms", "RAY_health_check_timeout_ms"):
        assert int(small[name]) < int(large[name])


def test_the_dashboard_answers_questions_for_more_than_ray_allows_unless_the_user_has_set_it() -> None:
    name = "RAY_MAX_LIMIT_FROM_API_SERVER"
    assert start_environment(HEAD, {})[name] == "40000"
    assert start_environment(HEAD, {name: "500"})[name] == "500"
    assert name not in start_environment(WORKER, {})


def test_many_nodes_get_patience_and_threads() -> None:
    assert node_settings(256) == {}
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
