"""The environment of Ray's processes and of the cluster's clients on a node.

**The token.**  Anyone who has it and can connect can run code as the user.  It may be in

- the record's ``token`` file (mode 0600), where the head puts it and workers read it;
- the ``token`` file in each node's directory (mode 0600), which Ray's processes and clients read;
- RAYCLUSTER_TOKEN, if the user brings one along: only the supervisor sees that variable.

What Ray's processes, drivers and attached programs get is the *path* of the node's file
(RAY_AUTH_TOKEN_PATH).  The token itself must not be in an environment that we make (RAY_AUTH_TOKEN and
RAYCLUSTER_TOKEN are taken out: `ps e` and crash reports show variables), on a command line, in
client.json, in a plan, in the record's JSON files, in messages or in logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model.address import host_of
from .plan import NodePlan
from .serve_ports import ports_for_driver, serve_variables

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


def start_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of Ray's own processes on this node, and so of worker processes.

    :func:`member_environment` without RAY_ADDRESS and ``plan.scrub``, with settings for the size of the
    cluster.  The user's own values of those settings are kept; authentication, TLS and address are ours.
    """
    env = without(member_environment(plan, base), plan.scrub)
    if plan.tmp_dir:
        env["TMPDIR"] = plan.tmp_dir
    env.pop("RAY_ADDRESS", None)  # `ray start` on a worker would take it for its own address
    if plan.dashboard_address:
        # For the state API in tasks and actors, which else takes any Ray on this node for its own.
        env["RAY_API_SERVER_ADDRESS"] = f"http://{plan.dashboard_address}"
    defaults = {
        # The raylet's first connect to its own store misses and then waits this long (default: 1 s).
        "RAY_raylet_client_connect_timeout_milliseconds": "50",
        # Worker processes on slow file systems import Ray for minutes when a whole cluster starts at once.
        "RAY_worker_register_timeout_seconds": "300",
        # Ray Serve's proxies would share a port (SO_REUSEPORT) with those of another job of this user on this
        # node, and the kernel would give each of the two some of the other's requests.
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(
            plan.gcs_reconnect_s or (60 if plan.gcs_storage_path else 20)
        ),
    }
    defaults |= node_settings(plan.expected_nodes)
    defaults |= serve_variables(plan.ports, env, is_head=plan.is_head)
    if plan.is_head:
        defaults |= gcs_settings(plan.expected_nodes, plan.num_cpus)
        # The dashboard refuses questions for more (default: 10,000); NeMo-Curator's executor asks for 40,000.
        defaults["RAY_MAX_LIMIT_FROM_API_SERVER"] = "40000"
    if port := plan.ports.get("autoscaler_metrics"):
        defaults["AUTOSCALER_METRIC_PORT"] = str(port)
    if port := plan.ports.get("dashboard_metrics"):
        defaults["DASHBOARD_METRIC_PORT"] = str(port)
    for name, value in defaults.items():
        env.setdefault(name, value)
    if plan.gcs_storage_path and plan.is_head:
        env |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": plan.gcs_storage_path}
    return env | dict(plan.env)


#: What --scrub-env keeps from worker processes: MPI and Lightning would take Slurm's rank for their own.
SCRUBBED = ("SLURM_*", "SLURMD_*", "PMI_*", "PMI2_*", "PMIX_*")


def without(env: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """An environment without these variables; a name that ends in `*` is a prefix.

    >>> without({"SLURM_PROCID": "1", "PMI_RANK": "1", "PATH": "/bin"}, SCRUBBED)
    {'PATH': '/bin'}
    """
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    return {name: text for name, text in env.items() if name not in names and not name.startswith(prefixes)}


#: What a driver, or a program that attaches, gets unless the user has set it.
CLIENT_DEFAULTS = {
    # Each line that Python prints is in the job's output at once, and a killed driver's lines are not lost.
    "PYTHONUNBUFFERED": "1",
    # Ray's hook for `uv run` starts each worker process by `uv run` in an environment of its own.  Without a
    # package index Ray tries that again and again and says nothing.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # Without it Modin calls ray.init with num_cpus, which Ray refuses where there is a cluster.
    "MODIN_RAY_CLUSTER": "True",
}


def client_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a client of the cluster on this node: a driver, or a program that attaches.

    :func:`member_environment`, CLIENT_DEFAULTS, and the address once more as ``ip_head``, which many
    scripts read that were written for Ray's own example for Slurm; on the head's node also the dashboard's,
    which `serve status` and others do not look for in the GCS.
    """
    env = {**CLIENT_DEFAULTS, **member_environment(plan, base), "ip_head": plan.gcs_address}
    if plan.dashboard_address:
        env["RAY_DASHBOARD_ADDRESS"] = f"http://{plan.dashboard_address}"
    return env


def driver_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of the driver: :func:`client_environment`, TMPDIR, Serve's ports, SLURM_OVERLAP.

    An srun in the driver, such as that of mpirun, waits for ever otherwise: the cluster's own step has all
    CPUs of the job.

    What the driver and worker processes leave in TMPDIR is removed with the node's directory.  A program that
    attaches does not get it, since its files may be meant to stay; nor the ports, which a cluster that is
    started from there would take for the user's.
    """
    env = client_environment(plan, base) | ports_for_driver(plan.ports, base)
    if plan.tmp_dir:
        env["TMPDIR"] = plan.tmp_dir
    if "SLURM_JOB_ID" in base:
        env.setdefault("SLURM_OVERLAP", "1")
    return env


def member_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """What clients and Ray's own processes have in common.

    ``base`` (what this process was given) without ``plan.unset``; over it the cluster's address, the
    mode of authentication and the path of the token, TLS files, no_proxy; over all ``plan.env``.
    """
    env = without(base, plan.unset)
    env["RAY_ADDRESS"] = plan.gcs_address
    env.pop("RAY_AUTH_TOKEN", None)  # Ray would use it instead of the file
    env.pop("RAY_AUTH_TOKEN_PATH", None)
    if plan.auth_token_path:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": plan.auth_token_path}
    else:
        # Set explicitly: a 2.60 head turns authentication on by itself where ~/.ray/auth_token exists,
        # its workers and drivers do not.
        env["RAY_AUTH_MODE"] = "disabled"
    if plan.tls:
        env |= {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": plan.tls.cert,
            "RAY_TLS_SERVER_KEY": plan.tls.key,
            "RAY_TLS_CA_CERT": plan.tls.ca,
        }
    env.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if uses_proxy(env):
        hosts = ("localhost", "127.0.0.1", plan.node_ip, host_of(plan.gcs_address), *plan.no_proxy)
        merged = merge_no_proxy(env.get("no_proxy", env.get("NO_PROXY", "")), hosts)
        env |= {"no_proxy": merged, "NO_PROXY": merged}
    return env | dict(plan.env)


def uses_proxy(env: Mapping[str, str]) -> bool:
    """Whether programs with this environment send requests to a proxy."""
    return any(env.get(name) or env.get(name.upper()) for name in PROXIES)


def merge_no_proxy(given: str, hosts: Sequence[str]) -> str:
    """Add hosts to a no_proxy list, each once, the user's own first.

    >>> merge_no_proxy("intranet, a", ["a", "b"])
    'intranet,a,b'
    """
    there = [part.strip() for part in given.split(",") if part.strip()]
    if "*" in there:
        return given
    return ",".join(dict.fromkeys([*there, *(host for host in hosts if host)]))


def gcs_settings(nodes: int, cpus: int = 0) -> dict[str, str]:
    """Settings of the GCS (variables of the head's processes) for a cluster of this many nodes.

    Health checks: Ray's defaults notice a dead raylet after 13 s and a silent one (power off, cable
    cut) after 63 s.  A dead one refuses the connection at once, which takes `failures` periods; a
    silent one takes as many time-outs on top.  A raylet that is stopped or starved for 5 s must not count
    as dead: it misses two checks at most.  In large clusters, where one GCS checks a thousand raylets,
    each is checked less often (a raylet's own node reports its death all the same):

    ===========  ======  ========
    nodes        dead    silent
    ===========  ======  ========
    up to 64     1.2 s   13 s
    up to 256    2 s     14 s
    more         4.5 s   15 s
    ===========  ======  ========
    """
    if nodes <= 64:
        period_ms, timeout_ms, failures = 300, 3000, 4
    elif nodes <= 256:
        period_ms, timeout_ms, failures = 500, 3000, 4
    else:
        period_ms, timeout_ms, failures = 1500, 3400, 3
    settings = {
        "RAY_health_check_initial_delay_ms": "0",
        "RAY_health_check_period_ms": str(period_ms),
        "RAY_health_check_timeout_ms": str(timeout_ms),
        "RAY_health_check_failure_threshold": str(failures),
    }
    if nodes > MANY_NODES:
        threads = str(max(4, min(64, cpus)))  # default: a quarter of the machine's CPUs
        settings |= {
            "RAY_gcs_server_rpc_server_thread_num": threads,
            "RAY_gcs_server_rpc_client_thread_num": threads,
            "RAY_event_stats": "false",  # so in Ray's own benchmark of 2,000 nodes
        }
    return settings


#: A cluster of more nodes gets the settings for large ones.
MANY_NODES = 256


def node_settings(nodes: int) -> dict[str, str]:
    """Settings of every node's processes for a cluster of this many nodes.

    Beyond 256 nodes: longer time-outs while thousands of worker processes register with the one GCS, and
    fewer reports to it.  Source: Ray's guide to large clusters ("Running Large Ray Clusters") and what
    NVIDIA-NeMo/RL, which starts Ray on Slurm at that size, uses (its pull requests 3089, 3158).
    The rest of the guide is the administrators': open files (65,535 and more) and the ARP cache
    (net.ipv4.neigh.default.gc_thresh1 to 3: 2048, 4096, 8192).
    """
    if nodes <= MANY_NODES:
        return {}
    return {
        "RAY_gcs_server_request_timeout_seconds": "120",
        "RAY_gcs_rpc_server_connect_timeout_s": "60",
        "RAY_raylet_report_resources_period_milliseconds": "500",
        "RAY_task_events_report_interval_ms": "5000",
    }
