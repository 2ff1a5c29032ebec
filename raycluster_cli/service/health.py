"""Whether a server is well: by its health check, and by Ray Serve's own status where it is Serve.

=============  ============================  ==============================================================
--health-path  Ray Serve's controller        well
=============  ============================  ==============================================================
given          (does not matter)             a 2xx answer of that path; Serve's state explains a failure
not given      none has reported             a TCP connection
not given      reports                       its proxy answers /-/healthz with 2xx (a TCP connection where it
                                             has TLS, or where another program listens in front of
                                             Serve), and its applications run
=============  ============================  ==============================================================
"""

from __future__ import annotations

from dataclasses import replace

from ..model.status import EndDetail
from .probe import NoAnswer, Probe
from .serve import HEALTH_PATH, ServeReports, Verdict


class NeverReady(NoAnswer):
    """It will not answer as it should, however long one waits."""


class Health:
    """The health checks of one server."""

    def __init__(self, probe: Probe, serve: ServeReports) -> None:
        self._probe = probe
        self._serve = serve

    async def check(self, *, since: float, ready: bool) -> None:
        """Raises NoAnswer unless the server is well, NeverReady when it will not be.

        ``since``: Unix seconds at which it was started; ``ready``: it was ready at the last check.
        """
        verdict = self._serve.verdict(since=since, ready=ready)
        probe = self._probe
        if not probe.path and verdict.answers_at(probe.port):
            probe = replace(probe, path=HEALTH_PATH)
        try:
            await probe.check()
        except NoAnswer as error:
            seen = f" ({error})" if self._probe.path else ""
            text = f"{verdict.why}{seen}" if verdict.why else str(error)
            detail = error.detail if seen or not verdict.why else None
            raise _not_well(text, verdict, probe, detail) from error
        finally:
            self._probe.own_ports = probe.own_ports
        if verdict.why and not self._probe.path:
            raise _not_well(verdict.why, verdict, probe)


def _not_well(text: str, verdict: Verdict, probe: Probe, detail: EndDetail | None = None) -> NoAnswer:
    if verdict.port not in (0, probe.port):
        text = f"{text}; Ray Serve listens on port {verdict.port}: give --service-port {verdict.port}"
    return (NeverReady if verdict.failed else NoAnswer)(text, detail)
