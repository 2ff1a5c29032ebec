"""How long a server has had no work (--idle-timeout)."""

from __future__ import annotations

from collections.abc import Callable

from .probe import NoAnswer, Probe
from .work import Work, work_of

#: Between two looks at clients and at metrics; with a short --idle-timeout they are shorter.
CLIENTS_S, METRICS_S = 0.5, 10.0


class IdleWatch:
    """Looks at a server now and then.  A server has work while a client is connected, and, where its metrics
    are known, while they show requests or have changed."""

    def __init__(
        self,
        probe: Probe,
        idle_s: float,
        *,
        clients: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._probe = probe
        self._idle_s = idle_s
        self._clients = clients
        self._clock = clock
        self._metrics_s = min(METRICS_S, idle_s / 4)
        self._metrics_at = 0.0
        self._has_metrics = True
        self._work: Work | None = None
        self._busy_at = clock()

    @property
    def rest_s(self) -> float:
        """The time between two looks."""
        return min(CLIENTS_S, self._idle_s / 8)

    def used(self) -> None:
        """It has work, or is not ready: the time begins again."""
        self._busy_at = self._clock()

    async def over_s(self) -> float | None:
        """How long it has had no work, once that is as long as --idle-timeout; None before."""
        if self._clients():
            self.used()
            return None
        if self._clock() - self._busy_at < self._idle_s:
            if self._clock() >= self._metrics_at:
                await self._read_metrics()
            return None
        await self._read_metrics()  # what came since the last look
        if self._clients():
            self.used()
        idle_s = self._clock() - self._busy_at
        return idle_s if idle_s >= self._idle_s else None

    async def _read_metrics(self) -> None:
        self._metrics_at = self._clock() + self._metrics_s
        if not self._has_metrics:
            return
        try:
            status, body = await self._probe.get("/metrics")
        except NoAnswer:
            return
        work = work_of(body.decode("utf-8", "replace")) if status.startswith("200") else None
        if work is None:
            self._has_metrics = False  # also one that counts its requests is not asked again and again
        elif work.requests or (self._work is not None and work.ever != self._work.ever):
            self.used()
        self._work = work
