"""The head's dashboard: its port is held from the start, the dashboard itself starts at the first connection.

Ray's state API (`ray list`, ray.util.state), `ray job`, `serve status` and Ray Train ask the dashboard, and
wait for most of a minute where there is none.  It takes 300 MB and seconds of CPU; most drivers never ask.
So this process, which has a loop anyway, listens on the port.  When something connects, it starts the
dashboard and passes it the listening socket (lazy_agent.py), so that the connection that started it is
answered.  Where it cannot start, for example without ray[default], the answer says so at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from ..model.address import is_loopback
from ..model.errors import RayclusterError
from ..model.status import Role
from ..model.wording import describe_code
from ..rayproc.boot import stand_in_command
from ..rayproc.environment import start_environment
from ..rayproc.failure import StartFailure
from ..rayproc.lazy_agent import wake
from ..rayproc.plan import NodePlan
from ..rayproc.started import Started
from ..system.port_probe import connected_users
from ..system.process import Child, Reaper
from ..system.report import Report
from ..system.waiting import within
from .background import OnFailure, in_background
from .companion import NodeCompanion
from .processes import NodeProcesses

#: How long the dashboard may take until it answers; it imports for seconds.
START_S = 120.0

#: A dashboard that ends sooner is not started again by the next connection.
SHORT_LIFE_S = 60.0

#: How long one who is refused may take to send a request.
REQUEST_S = 5.0

#: How many are refused at the same time; the others are closed without an answer.
REFUSED_AT_ONCE = 32

BESIDE_DRIVER_NICE = 10
"""The niceness of one that starts beside the driver (--dashboard)."""


class Dashboard:
    """Used in this order: hold, open, start (if it is wanted at once), close.

    Where Ray is started again: pause, hold, open.
    """

    def __init__(
        self,
        *,
        host: str,
        companion: NodeCompanion,
        processes: NodeProcesses,
        reaper: Reaper,
        report: Report,
        on_failure: OnFailure,
    ) -> None:
        self.on_up: Callable[[str], None] = lambda address: None
        """Called with host:port once the dashboard answers."""
        self._host = host
        self._companion = companion
        self._processes = processes
        self._reaper = reaper
        self._report = report
        self._on_failure = on_failure
        self._socket: socket.socket | None = None
        self._plan: NodePlan | None = None
        self._started: Started | None = None
        self._env: dict[str, str] = {}
        self._refusal = ""
        """Why it does not start: the answer to each connection."""
        self._starting: asyncio.Task[None] | None = None
        self._child: Child | None = None
        self._answers: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """host:port at which it is, or starts at the first connection; empty where there can be none."""
        return self._plan.dashboard_address if self._plan and self._socket else ""

    # -- the port --------------------------------------------------------------------------------

    def hold(self, plan: NodePlan) -> None:
        """Listen on the port, without looking yet who connects."""
        self._plan = plan
        if self._socket is not None or plan.role is not Role.HEAD or not plan.ports.get("dashboard"):
            return
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                plan.dashboard_host,
                plan.ports["dashboard"],
                type=socket.SOCK_STREAM,
                flags=socket.AI_NUMERICHOST,
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(address)
            self._socket.listen(128)
        except OSError as error:
            self.close()
            self._report.note(f"no dashboard on {self._host}: {plan.dashboard_address}: {error}")

    def open(self, started: Started, env: dict[str, str]) -> None:
        """Ray runs: the next connection starts the dashboard.  ``env``: the environment of this process."""
        self._started, self._env = started, env
        self._listen()

    def pause(self) -> None:
        """Ray ends here; what connects waits for :meth:`open`."""
        self._ignore()
        self._started = self._child = None
        self._refusal = ""
        for task in (*self._answers, *([self._starting] if self._starting else [])):
            task.cancel()
        self._starting = None

    def close(self) -> None:
        """Give the port back."""
        self.pause()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listen(self) -> None:
        if self._socket is not None:
            self._socket.setblocking(False)  # a dashboard, which has the same socket, may have changed that
            asyncio.get_running_loop().add_reader(self._socket, self._connected)

    def _ignore(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)

    def _connected(self) -> None:
        if self._refusal:
            self._refuse(503, self._refusal)
        elif self._own_process_asks():
            self.start(0)
        else:
            self._refuse(403, "the dashboard starts when a process of its owner connects")

    def _own_process_asks(self) -> bool:
        """Whether one of this user's processes connects: others are not to use up the job's memory."""
        assert self._plan is not None
        users = connected_users(self._plan.ports["dashboard"])
        if os.geteuid() in users:
            return True
        return not users and not is_loopback(self._plan.dashboard_host)  # from another node

    # -- the process -----------------------------------------------------------------------------

    def start(self, nice: int) -> None:
        """Start it now, unless it runs or is being started."""
        if (
            self._socket is None
            or self._started is None
            or self._starting is not None
            or self._child is not None
        ):
            return
        self._ignore()
        self._starting = in_background("starting the dashboard", self._start(nice), self._on_failure)

    async def _start(self, nice: int) -> None:
        try:
            await self._up(await self._spawn(nice))
        except (StartFailure, RayclusterError, OSError) as failed:
            why = str(failed) if isinstance(failed, OSError) else failed.message
            self._refusal = f"the dashboard did not start on {self._host}: {why}"
            self._report.warn(self._refusal)
            self._listen()
        finally:
            self._starting = None

    async def _spawn(self, nice: int) -> Child:
        plan, started, held = self._plan, self._started, self._socket
        assert plan is not None and started is not None and held is not None
        companion = self._companion.there()
        await companion.ready(START_S)
        made = await companion.start_extra("dashboard", plan, started, START_S)
        child = self._run(plan, started, held, made["command"], nice)
        self._child = child
        self._processes.add(child)
        self._processes.watch(child)
        began = asyncio.get_running_loop().time()
        child.exited.add_done_callback(lambda exited: self._ended(child, exited.result(), began))
        wake(plan.agent_gate)  # the dashboard shows what agents report
        return child

    def _run(
        self, plan: NodePlan, started: Started, held: socket.socket, command: list[str], nice: int
    ) -> Child:
        how = stand_in_command("socket", str(held.fileno()), str(plan.ports["dashboard"]), str(nice))
        # The sockets of its processes go with the node's directory.
        env = start_environment(plan, self._env) | {"TMPDIR": plan.temp_dir}
        with open(f"{started.session_dir}/logs/dashboard.err", "ab") as errors:
            return self._reaper.spawn(
                [*how, *command],
                "dashboard",
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=env,
                pass_fds=(held.fileno(),),
                start_new_session=True,
            )

    async def _up(self, child: Child) -> None:
        """Wait until it answers, and tell its address."""
        assert self._plan is not None
        answered = asyncio.ensure_future(self._ask())
        try:
            both: set[asyncio.Future[Any]] = {answered, child.exited}
            await asyncio.wait(both, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
            if answered.done() and child.running and (error := answered.exception()) is not None:
                self._report.warn(f"the dashboard on {self._host} closes connections: {error}")
            elif answered.done() and child.running:
                self._report.say(f"dashboard: http://{self._plan.dashboard_address}")
                self.on_up(self._plan.dashboard_address)
            elif child.running:
                self._report.warn(f"the dashboard on {self._host} has not answered for {START_S:.0f} s")
        finally:
            answered.cancel()
            await asyncio.gather(answered, return_exceptions=True)  # of one that has ended: no news

    async def _ask(self) -> None:
        """Until the first bytes of an answer; that it refuses a request without a token will do."""
        assert self._plan is not None and self._socket is not None
        loop = asyncio.get_running_loop()
        host, _, port = self._plan.dashboard_address.rpartition(":")
        with socket.socket(self._socket.family, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            await loop.sock_connect(client, (host.strip("[]"), int(port)))
            await loop.sock_sendall(client, b"GET /api/version HTTP/1.0\r\n\r\n")
            await loop.sock_recv(client, 1)

    def _ended(self, child: Child, code: int, began: float) -> None:
        """A connection starts another one, if this one was of some use."""
        if self._child is not child:
            return
        self._child = None
        if asyncio.get_running_loop().time() - began < SHORT_LIFE_S:
            self._refusal = f"the dashboard on {self._host} {describe_code(code)}: see dashboard.log"
        self._listen()

    # -- answers without a dashboard -------------------------------------------------------------

    def _refuse(self, status: int, why: str) -> None:
        """Answer one connection with a status and a reason, which clients print."""
        assert self._socket is not None
        with contextlib.suppress(OSError):  # it has gone again
            connection, _ = self._socket.accept()
            connection.setblocking(False)
            if len(self._answers) >= REFUSED_AT_ONCE:
                connection.close()
                return
            task = asyncio.ensure_future(_answer(connection, refusal(status, why)))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)


def refusal(status: int, why: str) -> bytes:
    r"""An HTTP answer whose reason and text say why.

    >>> refusal(503, "none here").split(b"\r\n")[0]
    b'HTTP/1.1 503 none here'
    """
    text = " ".join(why.split()).encode("ascii", "replace")
    head = b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    return head % (status, text, len(text) + 1) + text + b"\n"


async def _answer(connection: socket.socket, answer: bytes) -> None:
    """Read one request, answer it, and close once the client has."""
    loop = asyncio.get_running_loop()

    async def talk() -> None:
        request = b""
        while b"\r\n\r\n" not in request and len(request) < 65536:
            part = await loop.sock_recv(connection, 65536)
            if not part:
                return
            request += part
        await loop.sock_sendall(connection, answer)
        connection.shutdown(socket.SHUT_WR)
        while await loop.sock_recv(connection, 65536):
            pass

    with connection, contextlib.suppress(OSError, asyncio.TimeoutError):
        await within(talk(), REQUEST_S)
