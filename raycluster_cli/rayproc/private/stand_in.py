"""What Ray's Node class asks the GCS while it prepares a worker, answered before there is a GCS.

The head's template for its workers (template.py) is then made while the head's GCS starts.  Session and
cluster id of the real cluster are not known yet; the stand-in has some of its own, for which the template
has names.  Anything that it does not know raises one of NOT_AS_KNOWN, and the template is made with the GCS.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import ray
from ray._private import node as ray_node

from ..plan import NodePlan
from .known import PrivateMissing

#: Whether objects are spilled; what else is set of spilling decides where to, for workers too.
_SPILLS = "automatic_object_spilling_enabled"


def refusal(plan: NodePlan, env: Mapping[str, str]) -> str:
    """Why the GCS of this head has to be asked itself; empty when it need not be."""
    names = {*plan.system_config, *(name for name in env if name.startswith("RAY_"))} - {_SPILLS}
    return "a setting says where objects are spilled to" if any("spilling" in name for name in names) else ""


class StandIn:
    """As far as a worker's Node goes: ray._raylet.GcsClient of a head that runs."""

    def __init__(self, head: NodePlan, number: int) -> None:
        """``number``: two with different ones differ in all that they say."""
        self.address = head.gcs_address
        self.session = f"session_1970-01-01_00-00-0{number}_{491700 + number}_{7310 + number}"
        self.cluster_id = ray._raylet.ClusterID.from_random()
        self._session_dir = f"{head.temp_dir}/{self.session}"
        self._temp_dir = head.temp_dir
        spilled = {"type": "filesystem", "params": {"directory_path": head.spill_dir or self._session_dir}}
        self.system_config = {
            _SPILLS: True,
            "object_spilling_config": json.dumps(spilled),
            "is_external_storage_type_fs": True,
            **head.system_config,
        }

    @property
    def names(self) -> dict[str, str]:
        """What it says, by the names that a template has for it."""
        return {"session": self.session, "cluster_id": self.cluster_id.hex()}

    def internal_kv_get(self, key: bytes, namespace: object = None, timeout: object = None) -> bytes | None:
        """What a head has left there by the time at which its raylet starts."""
        answers = {
            b"session_name": self.session.encode(),
            b"webui:url": None,  # the dashboard starts later
            b"CLUSTER_METADATA": b"{}",  # the versions are compared by the installation
        }
        if key not in answers:
            raise PrivateMissing(f"a worker asks the GCS for {key!r}")
        return answers[key]

    def internal_kv_put(self, *_: object, **__: object) -> int:
        """Ray counts which GPUs are used; this cluster is none."""
        return 1

    def get_all_node_info(self, **_: object) -> Mapping[str, Any]:
        """The head, of which Ray takes the directories."""
        return {"": SimpleNamespace(temp_dir=self._temp_dir, session_dir=self._session_dir, state=None)}


@contextlib.contextmanager
def instead_of_the_gcs(stand_in: StandIn) -> Iterator[None]:
    """Node asks the stand-in."""
    state = ray._private.state
    client, global_state = ray_node.GcsClient, state.GlobalState
    ray_node.GcsClient = lambda **_: stand_in
    state.GlobalState = lambda: SimpleNamespace(
        _initialize_global_state=lambda _: None, get_system_config=lambda: dict(stand_in.system_config)
    )
    try:
        yield
    finally:
        ray_node.GcsClient, state.GlobalState = client, global_state
