"""What differs between one start of Ray on this node and another: the cluster that it is for."""

from __future__ import annotations

from pathlib import Path

from ..model.value import Value


class StartSpec(Value):
    """The cluster that the node is started for, as head of a new one or as worker of one that runs."""

    identity: str
    """The cluster's, which its GCS shows (HeadInfo.identity); '' where it is not known."""
    gcs_address: str = ""
    """host:port of the GCS to join; '' on the head."""
    expected_nodes: int = 1
    """How many nodes the cluster is to have; Ray gets other settings in large ones."""
    storage: Path | None = None
    """Directory in which the head's GCS keeps its state (--head-recovery)."""
    gcs_reconnect_s: int | None = None
    """How long the raylet waits for a GCS that is away; None: as Ray has it."""
    agent_at_once: bool = False
    """Whether Ray's agents start with the raylet, instead of when something needs them."""
    session_name: str | None = None
    """The session that the head had before it died."""
