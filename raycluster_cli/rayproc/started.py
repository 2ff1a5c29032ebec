"""A Ray node that is up, however it was started: by the companion or by a template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from ..model.dataclass import dataclass
from ..model.status import ANSWERED, IMPORTED, RAYLET
from .protocol import Event


@dataclass(frozen=True)
class Started:
    """A node that is up: registered with its GCS."""

    how: str
    """"node", "ray-start" or "template"."""
    processes: Mapping[str, int]
    """Process ids by name: raylet, on the head also gcs_server, and what else was asked for."""
    session: str
    session_dir: str
    node_id: str
    cluster_id: str
    gcs_address: str
    phases: Mapping[str, float]
    """Unix seconds at which each step of the start was done."""
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def agents_wait(self) -> bool:
        """Whether shells wait in the place of its agents (boot.gate_command)."""
        return bool(self.raw.get("agents_wait"))

    def steps(self, ready: Event) -> dict[str, float]:
        """When the steps that the record names were done, in Unix seconds; `ray start` does not tell all.

        ``ready`` is the answer of :meth:`.companion_client.CompanionClient.ready`.
        """
        found = {
            IMPORTED: ready.get("imported"),
            ANSWERED: self.phases.get("gcs listening") or self.phases.get("checked"),
            RAYLET: self.phases.get("raylet spawned"),
        }
        return {name: float(when) for name, when in found.items() if when}
