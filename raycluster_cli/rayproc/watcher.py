"""The watcher: a fork of the companion that keeps a connection to the cluster's GCS.

When Ray's GCS client gives up it ends its process: that is the watcher's then, never the companion's.
With a release of Ray whose private GCS client has changed, the watcher starts again as a driver (ray.init).
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NoReturn

from .boot import companion_command
from .failure import StartFailure
from .protocol import Emit, Event, Lines, Writer, answer, failure

#: Set in a watcher that starts again with Ray's public API: its descriptors and its first command.
PUBLIC_WATCH = "RAYCLUSTER_PUBLIC_WATCH"

#: Commands that the watcher obeys; the first of them starts it.
COMMANDS = ("watch", "usage", "demand", "driver", "drain")

#: Seconds between polls of the list of nodes while it is expected to change, and when it is complete.
BUSY_S, CALM_S = 0.05, 0.5

#: The first of those pauses while it is expected to change: workers join with the head, or soon after it.
FIRST_S = 0.02

#: How long the watcher waits for the answers of drained nodes, and how many it drains at once.
#: An answer takes 2 ms; one whose raylet has just died gives none before the GCS has noticed.
DRAIN_ANSWER_S, DRAINED_AT_ONCE = 0.2, 32


def watcher(_: Event, emit: Emit, commands: int) -> None:
    """Keep a connection to the GCS: report changes among the nodes, answer commands."""
    assert isinstance(emit, Writer)
    Watcher(emit, commands).run()


class Watcher:
    """Polls the list of nodes and obeys commands, in one loop."""

    def __init__(
        self,
        emit: Writer,
        commands: int,
        *,
        public: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit_line = emit
        self._commands = commands
        self._public = public
        self._clock = clock
        self._cluster: Any = None
        self._known: dict[str, Event] = {}
        self._watch: Event | None = None
        self._next = 0.0
        self._busy_s = BUSY_S
        self._unreachable = False
        self._drains = ThreadPoolExecutor(DRAINED_AT_ONCE)

    def run(self, first: Event | None = None) -> None:
        """Until the companion closes the pipe; ``first``: a command that has been read already."""
        lines = Lines()
        if first is not None:
            self._obey(first)
        poller = select.poll()
        poller.register(self._commands, select.POLLIN)
        while True:
            wait_s = max(0.0, self._next - self._clock()) if self._watch else None
            if poller.poll(None if wait_s is None else wait_s * 1000 + 1):
                data = os.read(self._commands, 65536)
                if not data:
                    return
                for command in lines.feed(data):
                    self._obey(command)
            if self._watch and self._clock() >= self._next:
                self._poll()

    def _emit(self, request: Event, event: Event) -> None:
        self._emit_line(answer(request, event))

    def _obey(self, command: Event) -> None:
        try:
            self._connect(command)
            do = command["do"]
            if do == "watch":
                self._watch, self._known, self._next = command, {}, 0.0
                self._busy_s = FIRST_S
            elif do == "usage":
                self._emit(command, {"event": "usage", **self._cluster.usage()})
            elif do == "demand":
                self._emit(command, {"event": "demand", "unplaceable": self._cluster.unplaceable()})
            elif do == "driver":
                self._emit(command, {"event": "driver", "connected": self._cluster.had_driver()})
            elif do == "drain":
                self._drain(command)
        except StartFailure as e:
            self._emit_line(failure(command, e.message, e.kind))
        except Exception as e:
            traceback.print_exc()
            self._emit_line(failure(command, f"{type(e).__name__}: {e}"))

    def _connect(self, command: Event) -> None:
        address = command.get("address")
        if self._cluster is None or (address and address != self._cluster.address):
            from . import private

            if address is None:
                raise StartFailure("ray", "This node is not connected to the GCS.")
            env = command.get("env") or {}
            try:
                if self._public:
                    self._cluster = private.PublicCluster(address)
                else:
                    private.apply_settings(env or os.environ)
                    self._cluster = private.Cluster(address)
            except private.NOT_AS_KNOWN as e:
                if self._public:
                    raise
                print(f"raycluster: Ray's GCS client has changed: {e!r}; using ray.init instead", flush=True)
                self._use_public_api(command, env)

    def _use_public_api(self, command: Event, env: Mapping[str, str]) -> NoReturn:
        """Start again in a new Python, whose Ray reads the right environment when it is imported."""
        for fd in (self._commands, self._emit_line.fd):
            os.set_inheritable(fd, True)
        again = {"commands": self._commands, "events": self._emit_line.fd, "command": command}
        argv = companion_command(sys.executable)
        os.execve(argv[0], argv, {**os.environ, **env, PUBLIC_WATCH: json.dumps(again)})

    def _drain(self, command: Event) -> None:
        """Drain all nodes at once: one that does not answer must not delay the others."""
        answers = {
            node_id: self._drains.submit(
                self._cluster.drain,
                node_id,
                command.get("reason", "idle"),
                command.get("message", ""),
                float(command.get("deadline_s", 0)),
            )
            for node_id in command["nodes"]
        }
        wait(answers.values(), DRAIN_ANSWER_S)
        results = {node_id: _drained(future) for node_id, future in answers.items()}
        self._emit(command, {"event": "drained", "results": results})

    def _poll(self) -> None:
        assert self._watch is not None
        began = self._clock()
        try:
            nodes = self._cluster.nodes()
            self._unreachable = False
        except Exception as e:
            if not self._unreachable:
                self._unreachable = True
                traceback.print_exc()
                self._emit(self._watch, {"event": "unreachable", "message": f"{type(e).__name__}: {e}"})
            self._next = self._clock() + CALM_S
            return
        changed = [node for node in nodes if self._known.get(node["node_id"]) != node]
        if changed or not self._known:
            self._known = {node["node_id"]: node for node in nodes}
            self._emit(self._watch, {"event": "nodes", "changed": changed, "total": len(nodes)})
        alive = sum(1 for node in nodes if node["alive"])
        busy = alive < int(self._watch.get("expected") or 0)
        cost = self._clock() - began
        # A poll costs the GCS time too: a large cluster is polled less often.
        self._next = self._clock() + (max(self._busy_s, 3 * cost) if busy else max(CALM_S, 30 * cost))
        self._busy_s = min(1.3 * self._busy_s, BUSY_S)


def _drained(future: Future[tuple[bool, str]]) -> dict[str, Any]:
    """A node's answer to the drain."""
    if not future.done():
        why = f"no answer within {DRAIN_ANSWER_S:g} s"
    elif error := future.exception():
        why = f"{type(error).__name__}: {error}"
    else:
        accepted, refusal = future.result()
        return {"answered": True, "accepted": accepted, "refusal": refusal}
    return {"answered": False, "accepted": False, "refusal": why}


def watch_with_public_api(again: str) -> None:
    """The watcher in a new Python; ``again`` is the value of PUBLIC_WATCH."""
    given = json.loads(again)
    Watcher(Writer(given["events"]), given["commands"], public=True).run(given["command"])
