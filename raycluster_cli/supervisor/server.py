"""The driver as a server (--service): its port, health, state in the record, its end before a restart.

Imported only with --service.  What follows from what is seen here is decided in policy.service.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..model.address import is_loopback
from ..model.errors import RayclusterError, error_text
from ..model.service import ServiceReport, ServiceState, probed_host, server_arguments
from ..model.settings import Settings
from ..model.text import without_secrets
from ..model.time_span import parse_span_s
from ..node.ray_node import RayNode
from ..policy import actions as do
from ..policy import events as on
from ..policy.head_state import HeadState
from ..policy.service import ServiceRules
from ..rayproc.failure import StartFailure
from ..service.clients import Clients
from ..service.health import Health, NeverReady
from ..service.idle import IdleWatch
from ..service.probe import NoAnswer, Probe
from ..service.serve import ServeReports
from .driver import Driver
from .head_entry import HeadEntry
from .parts import Parts

#: Between two health checks: of a server that starts, of one that is well, of one that does not answer.
START_CHECK_S, CHECK_S, AGAIN_S = 0.5, 5.0, 2.0

#: How long Ray may take to end what a server has left: its job, actors and placement groups.
CLEAR_S = 30.0

#: What the servers that people run call the variable with the key that clients must have.
KEY_VARIABLES = ("VLLM_API_KEY", "SGLANG_API_KEY", "API_KEY")


def service_rules(settings: Settings) -> ServiceRules:
    """What the policy needs to know."""
    return ServiceRules(
        ready_timeout_s=parse_span_s("--ready-timeout", settings.ready_timeout),
        unhealthy_after_s=parse_span_s("--unhealthy-after", settings.unhealthy_after),
        restarts=settings.driver_restarts,
    )


class Server:
    """The server of one head."""

    def __init__(
        self,
        parts: Parts,
        entry: HeadEntry,
        *,
        state: Callable[[], HeadState],
        node: Callable[[], RayNode],
        driver: Callable[[], Driver | None],
    ) -> None:
        """``node`` is called once there is one; ``driver``: the server's process, as it was started last."""
        self._parts = parts
        self._settings = parts.settings
        self._entry = entry
        self._state = state
        self._node = node
        self._process = driver
        idle = self._settings.idle_timeout
        self._idle_s = parse_span_s("--idle-timeout", idle) if idle else 0.0
        self._report: ServiceReport | None = None
        self._told: tuple[str, int] | None = None

    def actions(self) -> dict[type, Callable[[Any], object]]:
        """How the actions are executed that only a server brings."""
        return {
            do.ReportServer: self.report,
            do.ClearServer: lambda action: self._parts.tasks.start("ending the server", self.clear(action)),
        }

    # -- its start -------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        claim = self._node().ports
        assert claim is not None, "the port is claimed before Ray starts"
        return claim.ports.service

    def arguments(self) -> tuple[str, ...]:
        return server_arguments(self._parts.context.driver, self._settings.service_host, self.port)

    def variables(self) -> dict[str, str]:
        """What the server's environment has besides."""
        return {
            "RAYCLUSTER_SERVICE_PORT": str(self.port),
            "RAYCLUSTER_SERVICE_HOST": self._settings.service_host,
        }

    def warn_of_open_port(self, env: Mapping[str, str]) -> None:
        """Once: who can reach the server, where nothing says that it asks for a key."""
        driver, host = self._parts.context.driver, self._settings.service_host
        key = without_secrets(driver) != list(driver) or any(env.get(name) for name in KEY_VARIABLES)
        if not key and not is_loopback(host):
            self._parts.report.warn(
                f"the server on port {self.port} of {self._parts.context.host} is open to everybody on the "
                "network: no API key was seen. --service-host 127.0.0.1 with `raycluster tunnel` closes it"
            )

    # -- the record ------------------------------------------------------------------------------

    def report(self, action: do.ReportServer) -> None:
        """Write the server's state into the record."""
        now, parts = time.time(), self._parts
        before, restarts = self._report, self._state().driver_restarts
        ready_at = before.ready_at if before is not None else 0.0
        same = before is not None and (before.state, before.restarts) == (action.state.value, restarts)
        if action.state is ServiceState.READY:
            ready_at = ready_at or now
        self._report = ServiceReport(
            state=action.state.value,
            since=before.since if same and before is not None else now,
            ip=self._node().address.ip,
            port=self.port,
            listens_on=self._settings.service_host,
            health_path=self._settings.health_path,
            restarts=restarts,
            message=action.message,
            ready_at=ready_at,
        )
        if action.state is ServiceState.READY and (self._report.url, self._report.restarts) != self._told:
            self._told = (self._report.url, self._report.restarts)
            parts.report.say(f"the server's URL: {self._report.url}")
        if (record := parts.reports.record) is not None:
            parts.reports.quietly(record.write_service, self._report)

    # -- health and idleness ---------------------------------------------------------------------

    async def watch(self) -> None:
        """Post what the health checks see, for as long as the head runs."""
        host = probed_host(self._settings.service_host, self._node().address.ip)
        probe = Probe(host, self.port, self._settings.health_path)
        health = Health(probe, ServeReports(self._node().root.serve_status))
        while True:
            driver = self._driver()
            if driver is None:
                await asyncio.sleep(START_CHECK_S)
            else:
                await self._watch_one(driver, probe, health)

    def _driver(self) -> Driver | None:
        """The server's process, where it runs and is not being ended."""
        driver = self._process()
        running = driver is not None and driver.child.running and self._state().driver_running
        if not running or self._phase in (None, ServiceState.RESTARTING):
            return None
        return driver

    @property
    def _phase(self) -> ServiceState | None:
        server = self._state().server
        return server.state if server is not None else None

    async def _watch_one(self, driver: Driver, probe: Probe, health: Health) -> None:
        """The same until this driver has ended or is being ended."""
        clock = asyncio.get_running_loop().time
        idle = None
        if self._idle_s:
            idle = IdleWatch(
                probe,
                self._idle_s,
                clients=Clients(self.port, lambda: probe.own_ports).count,
                clock=clock,
            )
        check_at = 0.0
        while self._driver() is driver:
            if clock() >= check_at:
                well = await self._check(driver, health)
                check_at = clock() + self._rest_s(well)
            rest_s = max(check_at - clock(), 0.0)
            if idle is not None:
                rest_s = min(rest_s, idle.rest_s)
                if self._phase is not ServiceState.READY:
                    idle.used()
                elif (over_s := await idle.over_s()) is not None:
                    self._parts.post(on.ServerIdle(over_s))
                    return
            await asyncio.sleep(rest_s)

    def _rest_s(self, well: bool) -> float:
        if self._phase is ServiceState.STARTING and not well:
            return START_CHECK_S
        return CHECK_S if well else AGAIN_S

    async def _check(self, driver: Driver, health: Health) -> bool:
        found: on.ServerAnswered | on.ServerSilent = on.ServerAnswered()
        try:
            await health.check(since=driver.started, ready=self._phase is ServiceState.READY)
        except NoAnswer as error:
            detail = error.detail.value if error.detail is not None else ""
            found = on.ServerSilent(str(error), isinstance(error, NeverReady), detail)
        if self._driver() is driver:  # otherwise it was about a server that is no more
            self._parts.post(found)
        return isinstance(found, on.ServerAnswered)

    # -- its end before a restart ----------------------------------------------------------------

    async def clear(self, action: do.ClearServer) -> None:
        """End all of the server's processes, wait until Ray has ended its job, rest; post ServerCleared."""
        node, driver = self._node(), self._process()
        problems = [await end_server(driver, action.grace_s, self.port)] if driver is not None else []
        companion = node.companion
        try:
            if companion is None:
                raise RayclusterError("its companion has ended")
            left = await companion.clear(self._entry.info.address, node.client_environment(), CLEAR_S)
            problems.append(f"Ray still has of the previous server: {', '.join(left)}" if left else "")
        except (RayclusterError, StartFailure, OSError) as error:
            problems.append(f"what the previous server left in Ray could not be removed: {error_text(error)}")
        await asyncio.sleep(action.rest_s)
        self._parts.post(on.ServerCleared("; ".join(problem for problem in problems if problem)))


async def end_server(driver: Driver, grace_s: float, port: int) -> str:
    """End all of a server's processes; returns what is to be told of those that did not end."""
    code = await driver.stop(signal.SIGTERM, grace_s)
    left = driver.processes()
    if code is not None and not left:
        return ""
    names = ", ".join(f"{stat.name} ({stat.pid})" for stat in left[:5]) or "the previous server"
    return f"not even SIGKILL ended {names}, which may hold port {port} of the next one"
