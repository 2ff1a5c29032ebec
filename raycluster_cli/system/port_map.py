"""The port map: one port number for each of a Ray node's services, and the ports of its worker processes."""

from __future__ import annotations

from ..model.value import Value

HEAD_ONLY = ("gcs", "dashboard", "ray_client_server", "autoscaler_metrics", "dashboard_metrics", "service")
# The order is the layout: `gcs` must stay first, since workers derive it from the key.
LAYOUT = (
    "gcs",
    "node_manager",
    "object_manager",
    "dashboard",
    "dashboard_agent_listen",
    "dashboard_agent_grpc",
    "runtime_env_agent",
    "metrics_export",
    "ray_client_server",
    "autoscaler_metrics",
    "dashboard_metrics",
    "service",
    "serve_http",
    "serve_grpc",
)


class PortMap(Value):
    """Every port of a Ray node.  Those of the head's services are 0 on a worker."""

    node_manager: int
    object_manager: int
    dashboard_agent_listen: int
    dashboard_agent_grpc: int
    runtime_env_agent: int
    metrics_export: int
    worker_low: int
    worker_high: int
    """The last port for worker processes, itself included."""
    worker_list: tuple[int, ...] | None = None
    """The ports for worker processes where some in the range are in use; low and high are then the ends."""
    gcs: int = 0
    dashboard: int = 0
    ray_client_server: int = 0
    autoscaler_metrics: int = 0
    dashboard_metrics: int = 0
    service: int = 0
    """For the driver, where it is a server."""
    serve_http: int = 0
    serve_grpc: int = 0
    """For Ray Serve's proxy on this node."""

    def as_dict(self) -> dict[str, int | list[int]]:
        """The ports that this node has, by name, for the record and the screen."""
        found: dict[str, int | list[int]] = {}
        for name, value in vars(self).items():
            if value:
                found[name] = list(value) if isinstance(value, tuple) else value
        return found
