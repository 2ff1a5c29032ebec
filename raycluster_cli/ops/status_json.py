"""A ClusterStatus for programs: JSON, by the schema in docs/json.md; and Prometheus's text format.

``schema`` is raised when a field changes its meaning or goes; new fields do not raise it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..model.cluster_status import ClusterPhase, ClusterStatus, NodeStatus
from ..model.service import ServiceReport
from .groups import group_json

SCHEMA = 1


def cluster_json(status: ClusterStatus, *, timing: bool = False) -> dict[str, Any]:
    """One cluster, with its nodes; ``timing`` adds the phases of each node."""
    return {
        "schema": SCHEMA,
        "job": status.job,
        "name": status.name,
        "slurm_cluster": status.slurm_cluster,
        "state": status.phase.value,
        "headline": status.headline,
        "message": status.message,
        "cause": status.cause,
        "over": status.is_over,
        "exit_code": status.exit_code,
        "reason": status.reason,
        "failed_host": status.failed_host,
        "culprit_host": status.failed_host,  # its name before 0.2
        "nodes_ready": status.ready_nodes,
        "nodes_expected": status.expected_nodes,
        "started": status.started or None,
        "ended": status.ended,
        "read_at": status.read_at,
        "age_s": round(status.age_s, 3),
        "end_time": status.end_time,
        "time_left_s": None if status.time_left_s is None else round(status.time_left_s, 1),
        "address": status.address,
        "head_host": status.head_host,
        "dashboard": status.dashboard,
        "driver": list(status.driver),
        "driver_started": status.driver_since,
        "service": service_json(status.service) if status.service is not None else None,
        "slurm_state": status.slurm_state,
        "job_name": status.job_name,
        "record": status.record,
        "stop_asked_by": status.stop_asked_by,
        "versions": dict(status.versions),
        "auth": status.auth,
        "tls": status.tls,
        "usage_at": status.usage_at,
        "pending_tasks": status.pending_tasks if status.usage_at else None,
        "unplaceable": list(status.unplaceable),
        "groups": [group_json(group) for group in status.groups],
        "left_in_slurm": list(status.left_in_slurm),
        "nodes": [node_json(node, timing=timing) for node in status.nodes],
        "events": [{"when": when, "text": text} for when, text in status.events],
    }


def service_json(found: ServiceReport) -> dict[str, Any]:
    """The server that the driver is."""
    return {
        "state": found.state,
        "since": found.since,
        "url": found.url,
        "address": found.address,
        "port": found.port,
        "local": found.is_local,
        "restarts": found.restarts,
        "ready_at": found.ready_at or None,
        "message": found.message,
    }


def node_json(node: NodeStatus, *, timing: bool = False) -> dict[str, Any]:
    """One node."""
    use = node.usage
    found: dict[str, Any] = {
        "host": node.host,
        "role": node.role.value,
        "worker_job": node.job,
        "group": node.group,
        "phase": node.phase.value,
        "state": node.state,
        "ready": node.is_member,
        "problem": node.is_problem,
        "alive": node.alive,
        "since": node.since or None,
        "updated": node.updated or None,
        "address": node.address,
        "message": node.message,
        "exit_code": node.exit_code,
        "node_id": node.node_id,
        "node_root": node.node_root,
        "log_path": node.log_path,
        "usage": None
        if use is None
        else {
            "cpus_total": use.cpus_total,
            "cpus_used": use.cpus_used,
            "gpus_total": use.gpus_total,
            "gpus_used": use.gpus_used,
            "memory_total_bytes": use.memory_total_bytes or None,
            "memory_used_bytes": use.memory_used_bytes,
            "object_store_total_bytes": use.object_store_total_bytes,
            "object_store_used_bytes": use.object_store_used_bytes,
            "worker_processes": use.worker_processes,
        },
    }
    if timing:
        found["phases"] = dict(node.phases)
    return found


def list_json(clusters: Sequence[ClusterStatus]) -> dict[str, Any]:
    """Several clusters."""
    return {"schema": SCHEMA, "clusters": [cluster_json(status) for status in clusters]}


# --------------------------------------------------------------------------- Prometheus


def prometheus_text(status: ClusterStatus) -> str:
    """Gauges in the text format, for node_exporter's textfile collector or anything that scrapes files."""
    base = {"job": status.job, "name": status.name, "slurm_cluster": status.slurm_cluster}
    lines: list[str] = []

    def gauge(name: str, text: str, samples: Iterable[tuple[dict[str, str], float | None]]) -> None:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines.append(f"# HELP raycluster_{name} {text}")
            lines.append(f"# TYPE raycluster_{name} gauge")
            lines.extend(
                f"raycluster_{name}{_labels({**base, **labels})} {value:.17g}" for labels, value in known
            )

    states = [({"state": phase.value}, float(phase is status.phase)) for phase in ClusterPhase]
    gauge("state", "1 for the state that the cluster is in.", states)
    gauge("nodes_ready", "Nodes in the cluster.", [({}, float(status.ready_nodes))])
    gauge("nodes_expected", "Nodes wanted, the head included.", [({}, float(status.expected_nodes))])
    gauge("nodes_problem", "Nodes that failed or are lost.", [({}, float(len(status.problems)))])
    for state in sorted({state for group in status.groups for state in group.nodes_by_state()}):
        counts = [({"group": each.name}, each.nodes_by_state().get(state)) for each in status.groups]
        by_state = [(labels, None if number is None else float(number)) for labels, number in counts]
        gauge(f"group_nodes_{state}", f"Nodes of worker jobs that are {state}.", by_state)
    gauge("age_seconds", "Since the start of the head.", [({}, status.age_s)])
    gauge("time_left_seconds", "To the job's time limit.", [({}, status.time_left_s)])
    code = None if status.exit_code is None else float(status.exit_code)
    gauge("exit_code", "Of a cluster that has ended.", [({}, code)])
    pending = float(status.pending_tasks) if status.usage_at else None
    if (server := status.service) is not None:
        gauge(
            "server_ready", "1 when the server (--service) answers.", [({}, float(server.state == "ready"))]
        )
        gauge("server_restarts", "How often it was started again.", [({}, float(server.restarts))])
    gauge("pending_tasks", "Tasks and actors that wait for resources.", [({}, pending)])
    gauge("read_timestamp_seconds", "When this was read.", [({}, status.read_at)])

    def each(pick: str) -> list[tuple[dict[str, str], float | None]]:
        return [
            ({"node": node.host, "role": node.role.value}, None if value is None else float(value))
            for node in status.nodes
            if node.usage is not None
            for value in [getattr(node.usage, pick)]
        ]

    up = [({"node": node.host, "role": node.role.value}, float(node.is_member)) for node in status.nodes]
    gauge("node_ready", "1 when the node is in the cluster.", up)
    gauge("node_cpus_total", "CPUs that Ray hands out.", each("cpus_total"))
    gauge("node_cpus_used", "CPUs that tasks and actors hold.", each("cpus_used"))
    gauge("node_gpus_total", "GPUs that Ray hands out.", each("gpus_total"))
    gauge("node_gpus_used", "GPUs that tasks and actors hold.", each("gpus_used"))
    gauge("node_memory_total_bytes", "Memory granted on the node.", each("memory_total_bytes"))
    gauge("node_memory_used_bytes", "Memory of the cluster's processes.", each("memory_used_bytes"))
    gauge("node_object_store_total_bytes", "Size of the object store.", each("object_store_total_bytes"))
    gauge("node_object_store_used_bytes", "Used of the object store.", each("object_store_used_bytes"))
    gauge("node_worker_processes", "Ray's worker processes.", each("worker_processes"))
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    quoted = (f'{name}="{_escape(value)}"' for name, value in labels.items() if value)
    return "{" + ",".join(quoted) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
