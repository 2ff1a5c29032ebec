"""What a Ray node is started with: the plan, its `ray start` command line and its environment.

Pure: values in, values out.  Everything Ray would otherwise guess is said here: address,
every port, resources, directories, and the mode of authentication.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..model.status import Role

Quick = Literal["auto", "node", "ray-start"]
"""How to start: by Ray's Node class in a warm Python, by `ray start`, or by whichever works."""

Agents = Literal["idle", "now"]
"""When the dashboard agent of a node starts: when it is asked for, or with the raylet."""

# Options of `ray start` and the names of their ports in PortMap (and in NodePlan.ports).
_PORT_OPTIONS = (
    ("node_manager", "--node-manager-port"),
    ("object_manager", "--object-manager-port"),
    ("dashboard_agent_listen", "--dashboard-agent-listen-port"),
    ("dashboard_agent_grpc", "--dashboard-agent-grpc-port"),
    ("runtime_env_agent", "--runtime-env-agent-port"),
    ("metrics_export", "--metrics-export-port"),
)

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for gRPC between nodes (RAY_USE_TLS)."""

    cert: str
    key: str
    ca: str


@dataclass(frozen=True)
class NodePlan:
    """All that one Ray node is started with; travels to the companion as JSON."""

    role: Role
    node_ip: str
    gcs_address: str
    """host:port of the GCS; on the head the node's own address and the port to listen on."""
    ports: Mapping[str, Any]
    """As in the port claim: gcs, node_manager, object_manager, …, worker_low, worker_high or worker_list."""
    temp_dir: str
    """Ray's own directory on the node: at most 39 bytes, so that its sockets fit."""
    num_cpus: int
    memory_bytes: int
    object_store_bytes: int
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    node_name: str = ""
    identity: str = ""
    """Random name of the cluster; a head leaves it in the GCS, a worker looks for it before joining."""
    dashboard: bool = False
    """Start the dashboard *with* the head.  The quick way is to start it later, beside the driver."""
    dashboard_host: str = "127.0.0.1"
    client_server: bool = False
    log_monitor: bool = False
    """Start the log monitor *with* the node, not beside the driver."""
    agents: Agents = "idle"
    auth_token_path: str | None = None
    """None: authentication is switched off, explicitly."""
    tls: TlsFiles | None = None
    system_config: Mapping[str, Any] = field(default_factory=dict)
    """Head only."""
    spill_dir: str | None = None
    plasma_dir: str | None = None
    gcs_storage_path: str | None = None
    """Where the GCS keeps its state (RocksDB, Ray 2.58 and newer), so that a head can come back."""
    session_name: str | None = None
    expected_nodes: int = 1
    """Nodes in all, the head included: the GCS is tuned by it."""
    gcs_reconnect_s: int | None = None
    """How long raylets survive without their GCS.  None: 60 with storage for recovery, else 20."""
    no_proxy: tuple[str, ...] = ()
    """Hosts and addresses of the cluster, to be reached without a proxy."""
    unset: tuple[str, ...] = ()
    """Variables kept from Ray's processes, and so from worker processes; one that ends in `*` is a prefix."""
    extra_args: tuple[str, ...] = ()
    """More arguments for `ray start`; any makes `ray start` the way to start."""
    quick: Quick = "auto"
    env: Mapping[str, str] = field(default_factory=dict)
    """Set for Ray's processes over everything else."""
    output_path: str = ""
    """File for what Ray's start prints; default <temp_dir>/ray-start.log."""

    @property
    def is_head(self) -> bool:
        return self.role is Role.HEAD

    @property
    def agent_gate(self) -> str:
        """FIFO that starts the dashboard agent when something is written to it (agents="idle")."""
        return f"{self.temp_dir}/agent.gate"

    @property
    def log_path(self) -> str:
        return self.output_path or f"{self.temp_dir}/ray-start.log"

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"role": self.role.value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NodePlan:
        """The inverse of :meth:`as_json`.  Unknown or missing fields raise TypeError."""
        fields = dict(value)
        fields["role"] = Role(fields["role"])
        if fields.get("tls"):
            fields["tls"] = TlsFiles(**fields["tls"])
        for name in ("no_proxy", "unset", "extra_args"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


def wake(gate: str) -> bool:
    """Start a process that waits behind a FIFO (lazy_agent.py).  False when nobody waits there."""
    try:
        fd = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(fd, "wb", buffering=0) as fifo:
        fifo.write(b"go\n")
    return True


def ports_for_restart(ports: Mapping[str, Any], restarts: int) -> dict[str, Any]:
    """The same ports with another one for the raylet, taken from the end of the worker processes'.

    The GCS knows a raylet that was killed by its address.  When a new one comes to the same address within
    about two seconds, the GCS's connection is still waiting before it tries again, the quick health checks
    fail without being sent, and the new raylet is declared dead.
    """
    ports = dict(ports)
    spare = list(ports.get("worker_list") or range(ports["worker_low"], ports["worker_high"] + 1))
    if restarts < 1 or len(spare) < 2:
        return ports
    # Worker processes keep all but the last few, one for each restart, so that none is ever both.
    taken = min(restarts, len(spare) - 1, 8)
    ports["node_manager"] = spare[-1 - (restarts - 1) % taken]
    if ports.get("worker_list"):
        ports["worker_list"] = spare[:-taken]
    else:
        ports["worker_high"] -= taken
    return ports


def worker_port_list(ports: Mapping[str, Any]) -> str | None:
    """The explicit list of worker-process ports as Ray takes it, or None when a range says it all."""
    listed = ports.get("worker_list")
    return ",".join(str(port) for port in listed) if listed else None


def start_command(plan: NodePlan, python: str = sys.executable) -> list[str]:
    """The public way: `ray start` with everything explicit.

    `ray` is called as a module of the same Python, since a batch job's PATH may hold another Ray.
    """
    ports = plan.ports
    command = [python, "-m", "ray.scripts.scripts", "start"]
    if plan.is_head:
        command += ["--head", f"--port={plan.gcs_address.rpartition(':')[2]}"]
    else:
        command += [f"--address={plan.gcs_address}"]
    command += [f"--node-ip-address={plan.node_ip}", f"--node-name={plan.node_name or plan.node_ip}"]
    command += [f"{option}={ports[name]}" for name, option in _PORT_OPTIONS if ports.get(name)]
    if listed := worker_port_list(ports):
        command += [f"--worker-port-list={listed}"]
    elif ports.get("worker_low"):
        command += [f"--min-worker-port={ports['worker_low']}", f"--max-worker-port={ports['worker_high']}"]
    command += [
        f"--num-cpus={plan.num_cpus}",
        f"--num-gpus={plan.num_gpus}",
        f"--memory={plan.memory_bytes}",
        f"--object-store-memory={plan.object_store_bytes}",
        f"--temp-dir={plan.temp_dir}",
        f"--include-log-monitor={plan.log_monitor}",
        "--disable-usage-stats",
    ]
    if plan.resources:
        command += [f"--resources={json.dumps(dict(plan.resources), separators=(',', ':'))}"]
    if plan.labels:
        command += ["--labels=" + ",".join(f"{key}={value}" for key, value in plan.labels.items())]
    if plan.spill_dir:
        command += [f"--object-spilling-directory={plan.spill_dir}"]
    if plan.plasma_dir:
        command += [f"--plasma-directory={plan.plasma_dir}"]
    if plan.is_head:
        command += [f"--include-dashboard={plan.dashboard}", f"--dashboard-host={plan.dashboard_host}"]
        if ports.get("dashboard"):
            command += [f"--dashboard-port={ports['dashboard']}"]
        if plan.client_server and ports.get("ray_client_server"):
            # Where it is not wanted, start_hook turns it off; the option refuses 0, and any value is
            # refused where Ray was installed without its client.
            command += [f"--ray-client-server-port={ports['ray_client_server']}"]
        if plan.system_config:
            command += [f"--system-config={json.dumps(dict(plan.system_config), separators=(',', ':'))}"]
        command += ["--no-monitor"]
    return [*command, *plan.extra_args]


def start_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of Ray's processes on this node.

    What the user set in ``base`` wins over defaults that are a matter of taste (time-outs, threads),
    not over what makes the cluster one (authentication, TLS, address).
    """
    env = without(client_environment(plan, base), plan.unset)
    env.pop("RAY_ADDRESS", None)  # `ray start` on a worker would take it for its own address
    defaults = {
        # The raylet's first connect to its own store misses and then waits this long (default: 1 s).
        "RAY_raylet_client_connect_timeout_milliseconds": "50",
        # Worker processes on slow file systems import Ray for minutes when a whole cluster starts at once.
        "RAY_worker_register_timeout_seconds": "300",
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(
            plan.gcs_reconnect_s or (60 if plan.gcs_storage_path else 20)
        ),
    }
    defaults |= node_settings(plan.expected_nodes)
    if plan.is_head:
        defaults |= gcs_settings(plan.expected_nodes, plan.num_cpus)
    if port := plan.ports.get("autoscaler_metrics"):
        defaults["AUTOSCALER_METRIC_PORT"] = str(port)
    if port := plan.ports.get("dashboard_metrics"):
        defaults["DASHBOARD_METRIC_PORT"] = str(port)
    for name, value in defaults.items():
        env.setdefault(name, value)
    if plan.gcs_storage_path and plan.is_head:
        env |= {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": plan.gcs_storage_path}
    return env | dict(plan.env)


#: What --scrub-env keeps from worker processes: a rank that is the launcher's, not theirs.
SCRUBBED = ("SLURM_*", "SLURMD_*", "PMI_*", "PMI2_*", "PMIX_*")


def without(env: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """An environment without these variables; a name that ends in `*` is a prefix.

    >>> without({"SLURM_PROCID": "1", "PMI_RANK": "1", "PATH": "/bin"}, SCRUBBED)
    {'PATH': '/bin'}
    """
    prefixes = tuple(name[:-1] for name in names if name.endswith("*"))
    return {name: text for name, text in env.items() if name not in names and not name.startswith(prefixes)}


def client_environment(plan: NodePlan, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a driver or another client: RAY_ADDRESS, token, TLS, no_proxy."""
    env = dict(base)
    env["RAY_ADDRESS"] = plan.gcs_address
    env.pop("RAY_AUTH_TOKEN", None)  # it would win over the path, and the environment is seen by more eyes
    env.pop("RAY_AUTH_TOKEN_PATH", None)
    if plan.auth_token_path:
        env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": plan.auth_token_path}
    else:
        # Said explicitly: a 2.60 head turns authentication on by itself where ~/.ray/auth_token exists,
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
        hosts = ("localhost", "127.0.0.1", plan.node_ip, _host_of(plan.gcs_address), *plan.no_proxy)
        merged = merge_no_proxy(env.get("no_proxy", env.get("NO_PROXY", "")), hosts)
        env |= {"no_proxy": merged, "NO_PROXY": merged}
    return env


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
    cut) after 63 s.  A dead one refuses the connection at once, so that it takes `failures` rests; a
    silent one takes as many time-outs on top.  What must not count as dead: a raylet stopped or
    starved for 5 s, which misses two checks at most.  In large clusters, where one GCS asks a
    thousand raylets, each is asked less often (a dead one is told of by its own node all the same):

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


#: From here on a cluster gets the settings for large ones.
MANY_NODES = 256


def node_settings(nodes: int) -> dict[str, str]:
    """Settings of every node's processes for a cluster of this many nodes.

    Beyond 256 nodes: patience while thousands of worker processes register with the one GCS, and fewer
    reports to it.  Source: Ray's guide to large clusters ("Running Large Ray Clusters") and what
    NVIDIA-NeMo/RL, which starts Ray on Slurm at that size, has settled on (its pull requests 3089, 3158).
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


def _host_of(address: str) -> str:
    """The host of host:port; brackets of IPv6 removed.

    >>> _host_of("[fd00::1]:6379")
    'fd00::1'
    """
    return address.rpartition(":")[0].strip("[]")


_FAREWELL = re.compile(r'shutdown triggered with death info: reason: (\w+)\s*(?:reason_message: "(.*)")?')


def farewell(raylet_log: str) -> tuple[str, str] | None:
    """Why a raylet left in order, from its raylet.out: (reason, message), or None when it did not.

    The exit code does not tell: it is 0 after a drain, after SIGTERM, and also when the raylet ended itself
    because one of its agents had died.  Same text in Ray 2.52 to 2.60.

    >>> farewell('... graceful shutdown triggered with death info: reason: AUTOSCALER_DRAIN_PREEMPTED\\n'
    ...          'reason_message: "the driver has ended"')
    ('autoscaler_drain_preempted', 'the driver has ended')
    """
    found = _FAREWELL.search(raylet_log)
    if found is None:
        return None
    return found[1].lower(), (found[2] or "").replace("\\'", "'")


def was_drained(raylet_log: str) -> bool:
    """Whether the raylet left because it was told to by the cluster."""
    words = farewell(raylet_log)
    return words is not None and words[0].startswith("autoscaler_drain")


FailureKind = Literal[
    "refused", "no route", "timed out", "wrong cluster", "version mismatch", "auth", "ports", "ray"
]

# Text in Ray's logs or on its screen, the kind it stands for, and what it means; first match counts.
_TEXTS: tuple[tuple[str, FailureKind, str], ...] = (
    ("Version mismatch", "version mismatch", "Ray or Python differs between head and node."),
    ("InvalidAuthToken", "auth", "The cluster refused the authentication token."),
    ("UNAUTHENTICATED", "auth", "The cluster refused the authentication token."),
    ("Unauthenticated", "auth", "The cluster refused the authentication token."),
    ("Authentication token", "auth", "The authentication token is missing or wrong."),
    ("does not match persisted value", "ports", "The GCS port belongs to another cluster."),
    ("Address already in use", "ports", "A port was taken by somebody else."),
    ("address already in use", "ports", "A port was taken by somebody else."),
    ("already running at", "ports", "The GCS port is taken by another Ray."),
    ("is used by other components", "ports", "Two components were given the same port."),
    ("No available ports", "ports", "Too few ports for worker processes."),
    ("cannot exceed 107 bytes", "ray", "The temporary directory's path is too long for Ray's sockets."),
    ("No space left on device", "ray", "A file system is full."),
    ("Resource temporarily unavailable", "ray", "The limit of processes (ulimit -u) is reached."),
    ("Too many open files", "ray", "The limit of open files (ulimit -n) is reached."),
    ("ermission denied", "ray", "A file or directory may not be used."),
    ("Timed out while waiting for GCS", "timed out", "The GCS did not answer in time."),
    ("timed out during startup", "timed out", "The raylet did not register with the GCS in time."),
)


def explain(text: str) -> tuple[FailureKind, str] | None:
    """The likely cause of a failed start, from what Ray printed and logged.

    >>> explain("... Check failed: ... Address already in use")
    ('ports', 'A port was taken by somebody else.')
    """
    for needle, kind, meaning in _TEXTS:
        if needle in text:
            return kind, meaning
    return None


class StartFailure(Exception):
    """A start that failed: of which kind, in one line, and where to read more.

    Not a RayclusterError: the supervisor decides whether it is tried again.
    """

    def __init__(self, kind: FailureKind, message: str, log: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.log = log

    @classmethod
    def from_text(cls, text: str, *, default: tuple[FailureKind, str], log: str = "") -> StartFailure:
        """By Ray's own words where they are known; with the telling line appended."""
        known = explain(text)
        if known is None:
            return cls(*default, log)
        needle = next(one for one, _, _ in _TEXTS if one in text)
        line = next(line.strip() for line in text.splitlines() if needle in line)
        return cls(known[0], f"{known[1]} Ray said: {line[:300]}", log)
