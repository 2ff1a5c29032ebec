"""A run in virtual time: events, timers that fire, and the answers that a supervisor would give."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raycluster_cli.model.loss_policy import WorkerLossPolicy
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy import head, worker
from raycluster_cli.policy.head_state import HeadRules, HeadState
from raycluster_cli.policy.values import Cause, End, Worker, WorkerReport
from raycluster_cli.policy.worker import WorkerRules, WorkerState

#: How long a supervisor takes for what has no time of its own.
SOON_S = 0.01

#: How long a start of Ray takes here.
START_S = 0.5

Event = tuple[float, object]
"""When it happens, in seconds since the launch, and what."""


def rules(*, loss: str = "fail", workers: int = 3, **more: Any) -> HeadRules:
    """A head on n1 that expects workers on n2, n3, n4 …"""
    hosts = tuple(f"n{number}" for number in range(2, 2 + workers))
    values = {
        "expected": workers,
        "quorum": more.get("min_workers", workers),
        "hosts": hosts,
        "grace_s": 10.0,
    }
    return HeadRules(host="n1", loss=WorkerLossPolicy.parse(loss), **{**values, **more})


def worker_rules(*, loss: str = "fail", **more: Any) -> WorkerRules:
    """A worker on n2 whose head is on n1."""
    known = {"head_host": "n1", "head_address": "10.0.0.1:6379"}
    return WorkerRules(host="n2", loss=WorkerLossPolicy.parse(loss), **{**known, **more})


def node(host: str, times: int = 1) -> Worker:
    """The worker on a host; ``times``: it is the so-manieth raylet there."""
    return Worker(f"{host}-{times}", host, f"10.0.0.{host.removeprefix('n')}")


def join(*hosts: str, at: float = 1.0, times: int = 1) -> list[Event]:
    return [(at, on.WorkerJoined(node(host, times))) for host in hosts]


def elastic(host: str, job: str = "4712") -> Worker:
    """A worker of a worker job, on a host."""
    return Worker(f"{host}-{job}", f"{host}.{job}", f"10.0.0.{host.removeprefix('n')}", job)


def leave(host: str, at: float, times: int = 1) -> Event:
    return at, on.WorkerLeft(node(host, times))


def up(at: float = 0.5) -> list[Event]:
    return [(0.1, on.LeaseTaken()), (at, on.RayStarted())]


def all_in(workers: int = 3) -> list[Event]:
    """All workers are in at 1.0, and the driver, if there is one, runs."""
    return [*up(), *join(*(f"n{number}" for number in range(2, 2 + workers)))]


@dataclass
class Around:
    """What answers a policy's requests; None: no answer comes."""

    reports: Mapping[str, WorkerReport] = field(default_factory=dict)
    without_task: tuple[str, ...] = ()
    causes: Mapping[str, Cause] = field(default_factory=dict)
    """Why the worker on a host was lost."""
    driver_code: int | None = -15
    """What a driver that is told to end ends with, after ``driver_takes_s``."""
    driver_takes_s: float = 0.1
    driver_connected: bool | None = True
    """Whether a driver has connected, as the GCS says."""
    ends_at: Callable[[float], float | None] = lambda now: None
    """When the job ends, as Slurm says at ``now``."""
    known_end: float | None = None
    """When the job ends, as was known at its start."""
    grace_end: float | None = None
    """When the GraceTime of a worker's job is over, as Slurm says after a SIGTERM."""
    recovers: bool = True
    """Whether Ray on the head, or on a worker, starts again."""
    end: EndReport | None = None
    """The cluster's end, which is in the record from ``end_at`` on."""
    end_at: float = 0.0


@dataclass
class Played:
    """What came of it."""

    state: Any
    done: list[tuple[float, do.Action]] = field(default_factory=list)

    @property
    def end(self) -> End:
        assert self.state.end is not None, self.done
        found: End = self.state.end
        return found

    @property
    def running(self) -> bool:
        return self.state.end is None

    def of(self, *kinds: type) -> list[do.Action]:
        """The actions of these kinds, in their order."""
        return [action for _, action in self.done if isinstance(action, kinds)]

    @property
    def phases(self) -> list[NodePhase]:
        """Those that it reported."""
        return [action.phase for _, action in self.done if isinstance(action, do.EnterPhase)]

    def at(self, kind: type) -> float:
        """When the first action of a kind came."""
        return next(when for when, action in self.done if isinstance(action, kind))

    @property
    def told(self) -> str:
        """What people were told, a line each."""
        lines = [action.text for _, action in self.done if isinstance(action, (do.Say, do.Warn))]
        return "\n".join(lines)

    @property
    def notes(self) -> str:
        return "\n".join(action.text for _, action in self.done if isinstance(action, do.Note))

    @property
    def leave(self) -> do.Leave:
        """The one Leave."""
        (only,) = self.of(do.Leave)
        assert isinstance(only, do.Leave)
        return only


def play(
    given: HeadRules | WorkerRules, *events: Event, around: Around | None = None, until: float | None = None
) -> Played:
    """Run a policy from its launch until a time (default: five seconds after the last event)."""
    around = around or Around()
    until = max((when for when, _ in events), default=0.0) + 5.0 if until is None else until
    played = Played(head.begin(given, 0.0) if isinstance(given, HeadRules) else WorkerState())
    number = itertools.count()
    queue = [(when, next(number), "", event) for when, event in events]
    heapq.heapify(queue)
    timers: dict[str, int] = {}
    while queue and queue[0][0] <= until:
        now, serial, timer, event = heapq.heappop(queue)
        if timer and timers.get(timer) != serial:
            continue  # armed again since
        if isinstance(given, HeadRules):
            played.state, actions = head.step(given, played.state, event, now)
        else:
            played.state, actions = worker.step(given, played.state, event, now)
        for action in actions:
            played.done.append((now, action))
            if isinstance(action, do.Arm):
                timers[action.name] = serial = next(number)
                heapq.heappush(queue, (action.at, serial, action.name, on.TimerFired(action.name)))
            answer = _answer(action, around, now, played.state)
            if answer is not None:
                heapq.heappush(queue, (answer[0], next(number), "", answer[1]))
    return played


def _answer(action: do.Action, around: Around, now: float, state: HeadState | WorkerState) -> Event | None:
    soon = now + SOON_S
    if isinstance(action, do.ReadReports):
        return soon, on.ReportsRead(around.reports, around.without_task)
    if isinstance(action, do.ExplainLoss):
        cause = around.causes.get(action.worker.host, Cause("its raylet was killed by SIGKILL"))
        return soon, on.WorkerLost(action.worker, cause)
    if isinstance(action, do.StopDriver) and around.driver_code is not None:
        return now + around.driver_takes_s, on.DriverStopped(around.driver_code)
    if isinstance(action, do.AskForDriver):
        return soon, on.DriverKnown(around.driver_connected)
    if isinstance(action, do.AskTimeLimit):
        known = around.known_end is not None and not action.now
        end_at = around.known_end if known else around.ends_at(now)
        return soon, on.TimeLimitKnown(None if end_at is None else end_at - soon, asked_now=not known)
    if isinstance(action, do.KillSilent):
        return soon, on.HeadProcessDied(action.name, -9)
    if isinstance(action, do.ClearServer):
        return now + around.driver_takes_s + action.rest_s, on.ServerCleared()
    if isinstance(action, (do.RestartGcs, do.RestartHead)):
        failed = on.RecoveryFailed("the GCS did not start again", log="gcs_server.err")
        return now + action.delay_s + START_S, on.Recovered(START_S) if around.recovers else failed
    if isinstance(action, do.AskGraceTime):
        return soon, on.GraceTimeKnown(None if around.grace_end is None else around.grace_end - soon)
    if isinstance(action, do.RestartRaylet):
        failed_restart = on.RestartFailed("the GCS refused it", log="raylet.err")
        return now + action.delay_s + START_S, on.Joined() if around.recovers else failed_restart
    if isinstance(action, do.LookForEnd):
        if around.end is not None and around.end_at <= now + action.wait_s:
            return max(soon, around.end_at), on.EndLookedUp(around.end)
        return now + action.wait_s, on.EndLookedUp(None)
    return None
