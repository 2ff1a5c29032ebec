"""Asking a cluster's GCS, in a process that has Ray."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import node as ray_node

from ...model.unmet_demand import UnmetDemand
from ..demand import unplaceable
from ..failure import StartFailure
from .known import NOT_AS_KNOWN, PYTHON_VERSION, RAY_VERSION, PrivateMissing

_NAMESPACE = b"raycluster"
_IDENTITY_KEY = b"identity"
#: Ray's RAY_INTERNAL_NAMESPACE_PREFIX.
INTERNAL = "_ray_internal"

_PROBE_TIMEOUT_S = 5.0
RPC_TIMEOUT_S = 10.0

#: How long a worker waits for the identity of a head that listens already.
_IDENTITY_WAIT_S = 10.0


def apply_settings(env: Mapping[str, str]) -> None:
    """Give Ray's C++ part of *this* process the settings of an environment.

    It has read its RAY_* variables when Ray was imported, which in the companion is long before the
    plan is known; the time-outs of its GCS client would be 40 s and more.  The token's path and the TLS
    files it reads from the variables, later; without them it ends the process.
    """
    os.environ.update((name, value) for name, value in env.items() if name.startswith("RAY_"))
    settings: dict[str, Any] = {
        "AUTH_MODE": env.get("RAY_AUTH_MODE", "disabled"),
        "py_gcs_connect_timeout_s": int(RPC_TIMEOUT_S),
        "gcs_rpc_server_connect_timeout_s": 2,
        "raylet_start_wait_time_s": 2,
    }
    if env.get("RAY_USE_TLS") == "1":
        settings |= {
            "USE_TLS": True,
            "TLS_SERVER_CERT": env["RAY_TLS_SERVER_CERT"],
            "TLS_SERVER_KEY": env["RAY_TLS_SERVER_KEY"],
            "TLS_CA_CERT": env["RAY_TLS_CA_CERT"],
        }
    try:
        ray._raylet.Config.initialize(json.dumps(settings))
    except (AttributeError, TypeError) as e:
        raise PrivateMissing(f"ray._raylet.Config.initialize: {e}") from e


def probe(address: str, timeout_s: float = _PROBE_TIMEOUT_S) -> None:
    """Connect to host:port once.  Raises StartFailure with the kind: refused, no route, timed out."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except ConnectionRefusedError as e:
        raise StartFailure("refused", f"Nothing listens at {address} (connection refused).") from e
    except TimeoutError as e:
        raise StartFailure("timed out", f"No answer from {address} within {timeout_s:g} s.") from e
    except OSError as e:
        raise StartFailure("no route", f"No route to {address}: {e.strerror or e}.") from e


def growing_pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """Short pauses at first, longer ones soon: a thousand workers may ask the same GCS."""
    pause_s = first_s
    while True:
        yield pause_s * random.uniform(0.7, 1.3)
        pause_s = min(pause_s * 1.4, longest_s)


class Cluster:
    """A kept connection to a cluster's GCS (private: ray._raylet.GcsClient)."""

    def __init__(self, address: str) -> None:
        probe(address)
        self.address = address
        try:
            self.gcs = ray._raylet.GcsClient(address=address)
        except NOT_AS_KNOWN:
            raise
        except Exception as e:
            raise StartFailure.from_text(str(e), default=("timed out", f"The GCS at {address}: {e}")) from e

    @property
    def cluster_id(self) -> str:
        return str(self.gcs.cluster_id.hex())

    def put_identity(self, value: str) -> None:
        self.gcs.internal_kv_put(_IDENTITY_KEY, value.encode(), True, _NAMESPACE, timeout=RPC_TIMEOUT_S)

    def put_dashboard(self, address: str, *, shown: bool = False) -> None:
        """Where Ray's clients find the dashboard, host:port; ``shown``: ray.init() prints it as well."""
        for key in (b"dashboard", *([b"webui:url"] if shown else [])):
            self.gcs.internal_kv_put(key, address.encode(), True, b"dashboard", timeout=RPC_TIMEOUT_S)

    def found(self) -> dict[str, str]:
        """Identity and versions of the cluster; what it does not tell is an empty text."""
        identity = self.gcs.internal_kv_get(_IDENTITY_KEY, _NAMESPACE, timeout=RPC_TIMEOUT_S)
        metadata = self.gcs.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=RPC_TIMEOUT_S)
        facts = json.loads(metadata) if metadata else {}
        return {
            "identity": identity.decode() if identity else "",
            "ray_version": str(facts.get("ray_version", "")),
            "python_version": str(facts.get("python_version", "")),
        }

    def check(self, identity: str) -> None:
        """Raise StartFailure unless this is the cluster meant, with our Ray and Python."""
        deadline = time.monotonic() + _IDENTITY_WAIT_S
        pauses = growing_pauses(0.02, 0.3)
        while True:
            try:
                found = self.found()
            except NOT_AS_KNOWN:
                raise
            except Exception as e:
                raise StartFailure.from_text(
                    str(e), default=("timed out", f"The GCS at {self.address}: {e}")
                ) from e
            # A head leaves its identity some milliseconds after its GCS listens.
            if found["identity"] or not identity or time.monotonic() > deadline:
                break
            time.sleep(next(pauses))
        if identity and found["identity"] != identity:
            # model/causes.py knows this text.
            whose = "a cluster of another raycluster" if found["identity"] else "a cluster not of raycluster"
            raise StartFailure("wrong cluster", f"At {self.address} answers {whose}: not joined.")
        ours = (RAY_VERSION, _minor(PYTHON_VERSION))
        theirs = (found["ray_version"] or ours[0], _minor(found["python_version"] or PYTHON_VERSION))
        if ours != theirs:
            raise StartFailure(
                "version mismatch",
                f"The head has Ray {theirs[0]} on Python {theirs[1]}, "
                f"this node Ray {ours[0]} on Python {ours[1]}.",
            )

    def nodes(self) -> list[dict[str, Any]]:
        """All nodes, dead ones too, in the order of their start."""
        infos = self.gcs.get_all_node_info(timeout=RPC_TIMEOUT_S)
        return [_node(info) for info in sorted(infos.values(), key=lambda info: info.start_time_ms)]

    def has_node(self, node_id: str) -> bool:
        """Whether the raylet of this id is registered, asked in a way that is cheap in large clusters."""
        key = ray.NodeID.from_hex(node_id)
        try:
            selector = ray_node.GetAllNodeInfoRequest.NodeSelector(node_id=key.binary())
            infos = self.gcs.get_all_node_info(timeout=RPC_TIMEOUT_S, node_selectors=[selector])
        except (AttributeError, TypeError):  # before 2.55
            infos = self.gcs.get_all_node_info(timeout=RPC_TIMEOUT_S)
        return key in infos

    def _resource_state(self) -> Any:
        from ray.core.generated import autoscaler_pb2

        reply = autoscaler_pb2.GetClusterResourceStateReply()
        reply.ParseFromString(self.gcs.get_cluster_resource_state(timeout_s=RPC_TIMEOUT_S))
        return reply.cluster_resource_state

    def unplaceable(self) -> list[UnmetDemand]:
        """What waits and fits on no node (3 ms)."""
        from ray.core.generated import autoscaler_pb2

        state = self._resource_state()
        return unplaceable(
            [(dict(one.request.resources_bundle), one.count) for one in state.pending_resource_requests],
            [
                [dict(request.resources_bundle) for request in group.requests]
                for group in state.pending_gang_resource_requests
            ],
            [
                dict(node.total_resources)
                for node in state.node_states
                if node.status != autoscaler_pb2.NodeStatus.DEAD
            ],
        )

    def usage(self) -> dict[str, Any]:
        """Total and available resources of each node, and how many tasks wait for some (3 ms)."""
        from ray.core.generated import autoscaler_pb2

        state = self._resource_state()
        nodes = [
            {
                "node_id": node.node_id.hex(),
                "ip": node.node_ip_address,
                "status": autoscaler_pb2.NodeStatus.Name(node.status).lower(),
                "total": dict(node.total_resources),
                "available": dict(node.available_resources),
                "idle_s": node.idle_duration_ms / 1000,
                "activity": list(node.node_activity),
            }
            for node in state.node_states
        ]
        pending = sum(each.count for each in state.pending_resource_requests)
        return {"nodes": nodes, "pending": pending}

    def had_driver(self) -> bool:
        """Whether a driver has connected to the cluster, also one that has left."""
        jobs = self.gcs.get_all_job_info(
            skip_submission_job_info_field=True, skip_is_running_tasks_field=True, timeout=RPC_TIMEOUT_S
        )
        # Ray's own modules, of the dashboard for example, are jobs of namespaces of their own.
        return any(not job.config.ray_namespace.startswith(INTERNAL) for job in jobs.values())

    def drain(self, node_id: str, reason: str, message: str, deadline_s: float) -> tuple[bool, str]:
        """Drain a node: a busy node may refuse ``idle``, but not ``preemption``."""
        from ray.core.generated import autoscaler_pb2

        number = autoscaler_pb2.DrainNodeReason.Value(
            "DRAIN_NODE_REASON_IDLE_TERMINATION" if reason == "idle" else "DRAIN_NODE_REASON_PREEMPTION"
        )
        deadline_ms = int((time.time() + deadline_s) * 1000) if deadline_s > 0 else 0
        accepted, refusal = self.gcs.drain_node(node_id, number, message, deadline_ms)
        return bool(accepted), refusal.decode() if isinstance(refusal, bytes) else str(refusal)


class PublicCluster:
    """What Ray's public API can do of :class:`Cluster`, for a Ray whose private parts have changed.

    It is a driver: it needs a raylet on this node, and a process whose environment had the settings when
    Ray was imported.
    """

    def __init__(self, address: str) -> None:
        probe(address)
        self.address = address
        try:
            ray.init(address=address, namespace="raycluster", log_to_driver=False, configure_logging=False)
        except Exception as e:
            raise StartFailure.from_text(
                str(e), default=("timed out", f"The cluster at {address}: {e}")
            ) from e

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "node_id": node["NodeID"],
                "ip": node["NodeManagerAddress"],
                "host": node["NodeManagerHostname"],
                "name": node.get("NodeName", ""),
                "alive": node["Alive"],
                "is_head": "node:__internal_head__" in node["Resources"],
                "resources": node["Resources"],
                "labels": node.get("Labels", {}),
                "started": 0.0,
                "death": None
                if node["Alive"]
                else {
                    "reason": str(node.get("DeathReason", "")),
                    "message": node.get("DeathReasonMessage") or "",
                    "when": 0.0,
                },
            }
            for node in ray.nodes()
        ]

    def usage(self) -> dict[str, Any]:
        raise StartFailure("ray", "the use of nodes cannot be read from this version of Ray")

    def unplaceable(self) -> list[UnmetDemand]:
        raise StartFailure("ray", "what waits cannot be read from this version of Ray")

    def had_driver(self) -> bool:
        raise StartFailure("ray", "the drivers cannot be read from this version of Ray")

    def drain(self, node_id: str, reason: str, message: str, deadline_s: float) -> tuple[bool, str]:
        return False, "nodes of this version of Ray cannot be drained"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _node(info: Any) -> dict[str, Any]:
    death = info.death_info
    return {
        "node_id": info.node_id.hex(),
        "ip": info.node_manager_address,
        "host": info.node_manager_hostname,
        "name": info.node_name,
        "alive": info.state == info.ALIVE,
        "is_head": info.is_head_node,
        "resources": dict(info.resources_total),
        "labels": dict(info.labels),
        "started": info.start_time_ms / 1000,
        "death": None
        if info.state == info.ALIVE
        else {
            "reason": type(death).Reason.Name(death.reason).lower(),
            "message": death.reason_message,
            "when": info.end_time_ms / 1000,
        },
    }
