"""The state of a driver that is a server (--service), as policy.service keeps it."""

from __future__ import annotations

from ..model.dataclass import dataclass
from ..model.service import ServiceState


@dataclass(frozen=True)
class Server:
    """The state of the server."""

    state: ServiceState
    since: float
    """On the clock of ``now``; of starting: when it was started."""
    counted: int = 0
    """Restarts that count against --driver-restarts."""
    failing_since: float | None = None
    """When the health checks began to fail; None while they succeed."""
    why: str = ""
    """The reason of the last failed check."""
    detail: str = ""
    """The same as a value of status.EndDetail, where there is one for it."""
    cleared: bool = False
    """Only while restarting: nothing is left of the old server, and the pause is over."""
