"""A driver that is a server (--service): when it is ready, unhealthy or restarted, and when the job ends.

=============  ===============================  ==========================================================
State          Event                            What follows
=============  ===============================  ==========================================================
starting       it answers                       ready
starting       --ready-timeout is over, or a    it is started again, or the job ends with code 5
               check finds that it will never
               be ready
ready          no answer for PATIENCE_S         unhealthy: only reported; a busy server comes back
unhealthy      it answers                       ready
unhealthy      --unhealthy-after is over        it is started again, or (--driver-restarts used up) the job
                                                ends with code 5; without --driver-restarts it is left alone
any            it ends with a code that is      it is started again, or the job ends with its code
               not 0
any            a worker is lost, and            it is started again once enough workers are there; this
               --on-worker-loss is wait         does not count
any            the head's Ray was started       the same, once the head is back
               again (--head-recovery)
ready          no work for --idle-timeout       the job ends with code 0
=============  ===============================  ==========================================================

A server is started again on the same cluster and port, once nothing is left of the old one.  The pause before
a start is 1 s, doubled each time up to a minute.  The count begins again after STEADY_S of health.
"""

from __future__ import annotations

from dataclasses import replace

from ..model.dataclass import dataclass
from ..model.errors import ExitCode
from ..model.service import ServiceState
from ..model.status import EndReason
from ..model.wording import count, duration
from . import events as on
from .actions import Action, Arm, ClearServer, ReportServer, Say, StartDriver, Warn
from .head_end import finish
from .head_state import HeadRules, HeadState, Step
from .server_state import Server
from .values import End, Phase

#: How long a server that was ready may be silent before it counts as unhealthy.
PATIENCE_S = 15.0

#: A server that was healthy for this long may fail as often as a new one.
STEADY_S = 3600.0

#: The rest before a server is started again, doubled each time, and the longest.
FIRST_REST_S, LONGEST_REST_S = 1.0, 60.0

#: A start during which the head's Ray is started again gets more time, in steps of this.
AFTER_RECOVERY_S = 30.0

#: Names of timers.
READY_BY, UNHEALTHY, GIVE_UP, STEADY = "ready-by", "unhealthy", "give-up", "steady"

#: Timers fire at their time and not after it; clocks are compared with this tolerance.
_EARLY_S = 0.01


@dataclass(frozen=True)
class ServiceRules:
    """What the decisions about a server depend on, and the decisions: head_state.ServicePolicy."""

    ready_timeout_s: float = 1800.0
    unhealthy_after_s: float = 120.0
    restarts: int = 0
    """--driver-restarts."""

    # -- the head's other decisions ask these ----------------------------------------------------

    def started(self, rules: HeadRules, state: HeadState, now: float) -> Step:
        """The server's process is being started."""
        counted = state.server.counted if state.server is not None else 0
        state = replace(state, server=Server(ServiceState.STARTING, now, counted))
        return state, [ReportServer(ServiceState.STARTING), Arm(READY_BY, now + self.ready_timeout_s)]

    def restarts_now(self, state: HeadState) -> bool:
        """Whether the server is being started again, so that the end of its process is expected."""
        return state.server is not None and state.server.state is ServiceState.RESTARTING

    def failed(
        self, rules: HeadRules, state: HeadState, how: str, loss: tuple[str, str] | None
    ) -> Step | None:
        """What follows from the end of the server's process; None: the end of the job.

        ``how`` it ended: "ended with code 1 after 3 s".
        """
        assert state.driver_exit is not None
        if state.driver_exit.code == 0 or state.server is None:
            return None
        text = f"the server {how}"
        if loss is not None:
            text = f"{text}; {loss[1]}"
            if rules.loss.wait_s > 0:
                return self._restart(rules, state, text, counts=False)
        if state.server.counted < self.restarts:
            return self._restart(rules, state, text)
        return None

    def lost_node(self, rules: HeadRules, state: HeadState, host: str) -> Step:
        """Too few workers are left, and those that are missing may come back."""
        if state.server is None or self.restarts_now(state):
            return state, []
        return self._restart(rules, state, f"the server has lost {host}", counts=False)

    def clear_first(self, rules: HeadRules, state: HeadState) -> Step:
        """The head's Ray is back, with the detached actors of a server that ended with it; go_on follows."""
        assert state.server is not None
        server = Server(ServiceState.RESTARTING, state.server.since, state.server.counted)
        state = replace(state, server=server, driver_exit=None, restart_driver=False)
        return state, [ReportServer(ServiceState.RESTARTING), ClearServer(rules.grace_s, 0.0)]

    def go_on(self, rules: HeadRules, state: HeadState, now: float) -> Step:
        """Start the server again once nothing is left of the old one and enough workers are there."""
        server = state.server
        if server is None or server.state is not ServiceState.RESTARTING or not server.cleared:
            return state, []
        if state.phase is not Phase.RUNNING or state.shortage is not None:
            return state, []
        times = state.driver_restarts + 1
        state = replace(state, driver_running=True, driver_restarts=times)
        state, actions = self.started(rules, state, now)
        return state, [Say(f"starting the server again ({times})"), StartDriver(times), *actions]

    def timer(self, rules: HeadRules, state: HeadState, name: str, now: float) -> Step | None:
        """Handle a timer of this module; None for a timer of another one."""
        server = state.server
        if name not in (READY_BY, UNHEALTHY, GIVE_UP, STEADY):
            return None
        if server is None:
            return state, []
        if name == STEADY:
            steady = server.state is ServiceState.READY and now - server.since >= STEADY_S - _EARLY_S
            return (replace(state, server=replace(server, counted=0)) if steady else state), []
        if name == READY_BY:
            if server.state is not ServiceState.STARTING:
                return state, []
            if state.phase is not Phase.RUNNING:
                return state, [Arm(READY_BY, now + AFTER_RECOVERY_S)]
            waited = duration(now - server.since)
            text = f"the server was not ready after {waited} (--ready-timeout): {server.why or 'no answer'}"
            return self._restart_or_end(rules, state, text)
        if server.failing_since is None or state.phase is not Phase.RUNNING:
            return state, []
        silent_s = now - server.failing_since
        text = f"the server has not answered for {duration(silent_s)} ({server.why})"
        if name == UNHEALTHY:
            if server.state is not ServiceState.READY or silent_s < PATIENCE_S - _EARLY_S:
                return state, []
            state = replace(state, server=replace(server, state=ServiceState.UNHEALTHY, since=now))
            return state, [Warn(text), ReportServer(ServiceState.UNHEALTHY, text)]
        if self.restarts == 0 or silent_s < self.unhealthy_after_s - _EARLY_S or self.restarts_now(state):
            return state, []
        return self._restart_or_end(rules, state, text)

    def step(self, rules: HeadRules, state: HeadState, event: object, now: float) -> Step:
        """Handle an event of the server."""
        server = state.server
        assert server is not None
        if isinstance(event, on.ServerCleared):
            if not self.restarts_now(state):
                return state, []
            warning: list[Action] = [Warn(event.problem)] if event.problem else []
            state, actions = self.go_on(rules, replace(state, server=replace(server, cleared=True)), now)
            return state, [*warning, *actions]
        if self.restarts_now(state) or not state.driver_running:
            return state, []  # it is about the previous server
        if isinstance(event, on.ServerAnswered):
            return self._answered(state, server, now)
        if isinstance(event, on.ServerSilent):
            return self._silent(rules, state, server, event, now)
        if isinstance(event, on.ServerIdle) and server.state is ServiceState.READY:
            text = f"the server had no work for {duration(event.idle_s)} (--idle-timeout)"
            return finish(rules, state, End(ExitCode.OK, text, EndReason.IDLE.value))
        return state, []

    # -- health ----------------------------------------------------------------------------------

    def _answered(self, state: HeadState, server: Server, now: float) -> Step:
        if server.state is ServiceState.READY:
            return replace(state, server=replace(server, failing_since=None, why="", detail="")), []
        first = server.state is ServiceState.STARTING
        since = server.since if first or server.failing_since is None else server.failing_since
        took = duration(now - since)
        text = f"the server is ready after {took}" if first else f"the server answers again after {took}"
        server = replace(server, state=ServiceState.READY, since=now, failing_since=None, why="", detail="")
        return replace(state, server=server), [
            Say(text),
            ReportServer(ServiceState.READY),
            Arm(STEADY, now + STEADY_S),
        ]

    def _silent(
        self, rules: HeadRules, state: HeadState, server: Server, event: on.ServerSilent, now: float
    ) -> Step:
        starts = server.state is ServiceState.STARTING
        if starts and event.never_ready and state.phase is Phase.RUNNING:
            state = replace(state, server=replace(server, detail=event.detail))
            return self._restart_or_end(rules, state, f"the server will not be ready: {event.why}")
        first = server.failing_since is None and server.state is ServiceState.READY
        actions: list[Action] = []
        if first:
            actions = [Arm(UNHEALTHY, now + PATIENCE_S), Arm(GIVE_UP, now + self.unhealthy_after_s)]
        elif event.why != server.why and starts:
            actions = [ReportServer(server.state, event.why)]
        since = now if first else server.failing_since
        server = replace(server, why=event.why, detail=event.detail, failing_since=since)
        state = replace(state, server=server)
        for name in (UNHEALTHY, GIVE_UP):  # the timers have no effect while the head recovers
            state, more = self.timer(rules, state, name, now) or (state, [])
            actions += more
        return state, actions

    # -- restart or end --------------------------------------------------------------------------

    def _restart_or_end(self, rules: HeadRules, state: HeadState, text: str) -> Step:
        assert state.server is not None
        if state.server.counted < self.restarts:
            return self._restart(rules, state, text)
        times = f"; it was started again {count(state.driver_restarts, 'time')}" if self.restarts else ""
        reason, detail = EndReason.SERVICE.value, state.server.detail
        end = End(ExitCode.UNHEALTHY, text + times, reason, failed_host=rules.host, detail=detail)
        return finish(rules, state, end)

    def _restart(self, rules: HeadRules, state: HeadState, text: str, *, counts: bool = True) -> Step:
        assert state.server is not None
        counted = state.server.counted + (1 if counts else 0)
        rest_s = min(FIRST_REST_S * 2.0 ** max(counted - 1, 0), LONGEST_REST_S)
        server = Server(ServiceState.RESTARTING, state.server.since, counted)
        state = replace(state, server=server, driver_exit=None, restart_driver=False)
        how = f"{counted} of {self.restarts}" if counts else "when the workers are back"
        return state, [
            Warn(f"{text}; starting it again ({how})"),
            ReportServer(ServiceState.RESTARTING, text),
            ClearServer(rules.grace_s, rest_s),
        ]
