"""What the supervisor and its companion say to each other: JSON objects, one a line.

Commands go to the companion, events come back.  A command may carry an ``id``, which its events repeat:

    start        {"plan": NodePlan}                       -> starting, spawned …, then started | failed
    start_extra  {"what": "log_monitor" | "dashboard", "plan": …, "started": …} -> spawned, extra | failed
                                                             of the dashboard only the argument list
    template     {"plan": NodePlan of the head, "early"}  -> template {launch, session, …} | failed
    watch        {"address", "expected"}                  -> nodes {changed, total} now and at every change,
                                                             unreachable {message}: the GCS does not answer
    serve        {"module", "log", …}                     -> said …, then served {code} | failed
    end          {"which": id of a `serve`}               SIGKILL
    usage | drain                                         -> usage | drained | failed
    log          {"path"}                                 what it prints goes to that file from now on
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

#: Events after which more of the same request come.
ONGOING = ("starting", "spawned", "said")

Event = dict[str, Any]
Emit = Callable[[Event], None]


def encode(event: Mapping[str, Any]) -> bytes:
    r"""One line.

    >>> encode({"do": "usage"})
    b'{"do":"usage"}\n'
    """
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Bytes in, complete JSON lines out."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]


class Writer:
    """Writes events to a descriptor, a line each; blocks while the pipe is full."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __call__(self, event: Event) -> None:
        data = memoryview(encode(event))
        while data:
            data = data[os.write(self.fd, data) :]


def answer(request: Mapping[str, Any], event: Event) -> Event:
    """The event as an answer to this request: with its id, if it has one."""
    return event | {"id": request["id"]} if "id" in request else event


def failure(request: Mapping[str, Any], message: str, kind: str = "ray", log: str = "") -> Event:
    """The answer to a request that failed."""
    return answer(request, {"event": "failed", "kind": kind, "message": message, "log": log})
