"""What a Ray node is started with: the plan, and the `ray start` command line made of it.

Pure: values in, values out.  Everything that Ray would otherwise guess is given here: address,
every port, resources, directories.  The variables that Ray's processes get are in environment.py,
with the rules for the cluster's token.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Literal

from ..model.address import is_loopback, join_host_port
from ..model.dataclass import dataclass
from ..model.status import Role

Quick = Literal["auto", "node", "ray-start"]
"""How to start: by Ray's Node class in a warm Python, by `ray start`, or by whichever works."""

# Options of `ray start` and the names of their ports in PortMap (and in NodePlan.ports).
_PORT_OPTIONS = (
    ("node_manager", "--node-manager-port"),
    ("object_manager", "--object-manager-port"),
    ("dashboard_agent_listen", "--dashboard-agent-listen-port"),
    ("dashboard_agent_grpc", "--dashboard-agent-grpc-port"),
    ("runtime_env_agent", "--runtime-env-agent-port"),
    ("metrics_export", "--metrics-export-port"),
)


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
    dashboard_host: str = "127.0.0.1"
    agent_at_once: bool = False
    """The dashboard agent starts with the raylet (--dashboard), and Ray's processes export metrics to it.
    If not, it starts when something needs it, and nothing is exported."""
    client_server: bool = False
    auth_token_path: str | None = None
    """File that holds the cluster's token; None: authentication is switched off, explicitly."""
    tls: TlsFiles | None = None
    tmp_dir: str | None = None
    """TMPDIR of the driver and of worker processes; None: the user has set one."""
    system_config: Mapping[str, Any] = field(default_factory=dict)
    """Head only."""
    spill_dir: str | None = None
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
    """Variables taken out of every environment on this node, the driver's too."""
    scrub: tuple[str, ...] = ()
    """Variables kept from Ray's processes, and so from worker processes; one that ends in `*` is a prefix."""
    quick: Quick = "auto"
    env: Mapping[str, str] = field(default_factory=dict)
    """Set for Ray's processes over everything else."""

    @property
    def is_head(self) -> bool:
        return self.role is Role.HEAD

    @property
    def dashboard_address(self) -> str:
        """host:port of the head's dashboard for clients on its node; empty on a worker."""
        port = self.ports.get("dashboard")
        if not port or not self.is_head:
            return ""
        return join_host_port(self.dashboard_host if is_loopback(self.dashboard_host) else self.node_ip, port)

    @property
    def agent_gate(self) -> str:
        """FIFO: the dashboard agent starts when something is written to it (node.stand_ins)."""
        return f"{self.temp_dir}/agent.gate"

    @property
    def runtime_env_gate(self) -> str:
        """FIFO: the stand-in of the runtime environment agent starts when something is written to it."""
        return f"{self.temp_dir}/runtime-env.gate"

    @property
    def runtime_env_socket(self) -> str:
        """Unix socket at which that stand-in gets the socket that listens on the agent's port."""
        return f"{self.temp_dir}/runtime-env.socket"

    @property
    def work_gate(self) -> str:
        """FIFO: each worker process writes to it when it starts (worker_process.py)."""
        return f"{self.temp_dir}/work.gate"

    @property
    def log_path(self) -> str:
        """File for what Ray's start prints."""
        return f"{self.temp_dir}/ray-start.log"

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
        for name in ("no_proxy", "unset", "scrub"):
            fields[name] = tuple(fields.get(name, ()))
        return cls(**fields)


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
        "--include-log-monitor=False",  # it starts beside the driver
        "--disable-usage-stats",
    ]
    if plan.resources:
        command += [f"--resources={json.dumps(dict(plan.resources), separators=(',', ':'))}"]
    if plan.labels:
        command += ["--labels=" + ",".join(f"{key}={value}" for key, value in plan.labels.items())]
    if plan.spill_dir:
        command += [f"--object-spilling-directory={plan.spill_dir}"]
    if plan.is_head:
        # The dashboard starts beside the driver too.
        command += ["--include-dashboard=False", f"--dashboard-host={plan.dashboard_host}"]
        if ports.get("dashboard"):
            command += [f"--dashboard-port={ports['dashboard']}"]
        if plan.client_server and ports.get("ray_client_server"):
            # Where it is not wanted, start_hook turns it off; the option refuses 0, and any value is
            # refused where Ray was installed without its client.
            command += [f"--ray-client-server-port={ports['ray_client_server']}"]
        if plan.system_config:
            command += [f"--system-config={json.dumps(dict(plan.system_config), separators=(',', ':'))}"]
        command += ["--no-monitor"]
    return command
