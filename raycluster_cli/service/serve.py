"""What Ray Serve says of its applications: a server that answers may have none that runs.

Serve's controller on the head writes it into a file (rayproc/private/serve_report.py).  Serve's own route for
health checks, /-/healthz, says only that a proxy has heard of a route: it answers 200 also where all replicas
failed to start (`ProxyRouter.ready_for_traffic` in Ray 2.60).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from ..model.dataclass import dataclass
from ..model.text import printable

#: A controller that has not written for so long does not run, or hangs.
SILENT_S = 30.0

#: Serve's states of an application, the worst first; Serve does not try again after the first.
FAILED = "DEPLOY_FAILED"
BAD = (FAILED, "UNHEALTHY")
WAITS = ("NOT_STARTED", "DEPLOYING", "DELETING")

#: The proxies' own route for health checks.
HEALTH_PATH = "/-/healthz"

#: The most of Serve's message that is shown.
_SHOWN = 240


@dataclass(frozen=True)
class Verdict:
    """What Serve's controller says of the server."""

    known: bool = False
    """Whether there is a controller of the present server."""
    why: str = ""
    """Why it is not well; empty when it is, and when nothing is known."""
    failed: bool = False
    """It will not be well: an application could not be deployed."""
    port: int = 0
    """Where Serve's proxies listen; 0: not known."""
    tls: bool = False
    proxies: bool = True
    """False: it has none, and a program in front of it calls its deployments."""

    def answers_at(self, port: int) -> bool:
        """Whether Serve's own route for health checks is asked for at this port."""
        return self.known and self.proxies and not self.tls and self.port in (0, port)


UNKNOWN = Verdict()


@dataclass
class ServeReports:
    """The file that the controller writes."""

    path: Path
    clock: Callable[[], float] = field(default=time.time)
    """Unix seconds."""

    def verdict(self, *, since: float, ready: bool) -> Verdict:
        """``since``: Unix seconds at which the server was started; ``ready``: it was so at the last check."""
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, KeyError):
            found = json.loads(self.path.read_bytes())
            if float(found["at"]) >= since:
                return judge(found, age_s=self.clock() - float(found["at"]), ready=ready)
        return UNKNOWN


def judge(found: Mapping[str, Any], *, age_s: float, ready: bool) -> Verdict:
    """What a report of the controller means.

    A server that is ready stays so while a new version is deployed, or its last application is deleted.

    >>> where = {"name": "where", "status": "DEPLOYING", "message": ""}
    >>> judge({"applications": [where]}, age_s=1, ready=False).why
    "Ray Serve's application where is DEPLOYING"
    >>> judge({"applications": [where]}, age_s=1, ready=True).why
    ''
    """
    if found.get("error"):
        return UNKNOWN
    well = Verdict(
        True,
        port=int(found.get("port") or 0),
        tls=bool(found.get("tls")),
        proxies=bool(found.get("proxies", True)),
    )
    if age_s > SILENT_S:
        # Without the age: the record would be written at each check.
        return replace(well, why=f"Ray Serve's controller has not reported for more than {SILENT_S:g} s")
    applications = found["applications"]
    if not applications and not ready:
        return replace(well, why="Ray Serve has no application yet")
    for status in BAD if ready else (*BAD, *WAITS):
        for one in applications:
            if one["status"] == status:
                return replace(well, why=describe(one), failed=status == FAILED)
    return well


def describe(application: Mapping[str, Any]) -> str:
    """An application that does not run, with Serve's own message: that of a deployment says more."""
    text = f"Ray Serve's application {application['name']} is {application['status']}"
    parts = [
        one for one in application.get("deployments", ()) if one["status"] not in ("HEALTHY", "UPSCALING")
    ]
    for one in parts:
        if one["message"]:
            return printable(f"{text}: deployment {one['name']}: {shortened(one['message'])}")
    message = shortened(application.get("message") or "")
    return printable(f"{text}: {message}" if message else text)


def shortened(message: str) -> str:
    """The first sentence of Serve's message, and the last line of the traceback that follows.

    >>> shortened("It failed to start 3 times. Logs say more. Error:\\nray::A\\n  f()\\nKeyError: 1")
    'It failed to start 3 times: KeyError: 1'
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    text = lines[0].partition(". ")[0].rstrip(".:") if len(lines) > 1 else lines[0].rstrip(".")
    if len(lines) > 1:
        text = f"{text}: {lines[-1]}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
