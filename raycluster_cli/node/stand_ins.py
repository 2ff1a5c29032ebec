"""The places of a raylet's agents, held until something needs them.

Ray starts two agents beside each raylet.  In their place it starts shells, each of which waits at a FIFO
(rayproc.boot.gate_command) that this process holds open, so that they also notice its end.  This process
listens on the runtime environment agent's port, since it has a loop anyway.  When something connects, the
shell becomes lazy_agent.py, which gets the listening socket from here and decides whether the request is one
for the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from ..rayproc.failure import StartFailure
from ..rayproc.lazy_agent import listen
from ..rayproc.plan import NodePlan
from ..system.waiting import done_within, in_thread

#: How long the FIFOs may take to be made in the node's directory.
FILES_S = 30.0


class AgentStandIns:
    """Used in this order: hold, listen, close; again where Ray is started again."""

    def __init__(self) -> None:
        self._plan: NodePlan | None = None
        self._gates: list[int] = []
        self._port: socket.socket | None = None
        self._handover: socket.socket | None = None

    async def hold(self, plan: NodePlan) -> None:
        """Make the FIFOs, before the raylet starts, and hold them open: the shells wait.

        Shells of a raylet that was started before, and has ended, go on and end.

        Raises StartFailure.
        """
        self.close()
        opening = in_thread(_open_gates, plan)
        try:
            if not await done_within(opening, FILES_S):
                raise StartFailure("ray", f"{plan.temp_dir} does not answer")
            self._gates = opening.result()
        except OSError as error:
            raise StartFailure("ray", f"{plan.temp_dir}: {error}") from error
        finally:
            if not self._gates:  # given up: what is opened later is not wanted
                opening.add_done_callback(_close_gates)
        self._plan = plan

    def listen(self) -> None:
        """Listen on the runtime environment agent's port; the first connection starts its stand-in.

        Where that cannot be, the stand-in starts now and tries it itself.
        """
        plan = self._plan
        if plan is None or self._port is not None or not plan.ports.get("runtime_env_agent"):
            return
        try:
            self._handover = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(plan.runtime_env_socket)
            self._handover.bind(plan.runtime_env_socket)
            self._handover.listen(1)
            self._port = listen(plan.node_ip, plan.ports["runtime_env_agent"])
        except OSError:
            self._close_sockets()
            self._wake_stand_in()
            return
        self._handover.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._port, self._connected)
        loop.add_reader(self._handover, self._hand_over)  # whatever has let the shell go on

    def _connected(self) -> None:
        assert self._port is not None
        asyncio.get_running_loop().remove_reader(self._port)
        self._wake_stand_in()

    def _wake_stand_in(self) -> None:
        """By the descriptor, since the FIFO's name may have been removed from the directory."""
        os.write(self._gates[-1], b"go\n")

    def _hand_over(self) -> None:
        assert self._port is not None and self._handover is not None
        try:
            stand_in, _ = self._handover.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        except OSError:  # no descriptors are left, for example: it tries the port itself
            self._close_sockets()
            return
        with stand_in:
            try:
                socket.send_fds(stand_in, [b"1"], [self._port.fileno()])
            except OSError:
                return
        self._close_sockets()

    def _close_sockets(self) -> None:
        for one in (self._port, self._handover):
            if one is not None:
                if one.fileno() >= 0:
                    asyncio.get_running_loop().remove_reader(one)
                one.close()
        self._port = self._handover = None

    def stop_listening(self) -> None:
        """Give the port back; the shells still wait."""
        self._close_sockets()

    def close(self) -> None:
        """Give port and FIFOs back: shells that still wait go on, and end if their raylet has ended."""
        self._close_sockets()
        for gate in self._gates:
            os.close(gate)
        self._gates.clear()
        self._plan = None


def _open_gates(plan: NodePlan) -> list[int]:
    """The FIFOs of the dashboard agent and of the runtime environment agent's stand-in, open."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(plan.temp_dir, 0o700)
    gates: list[int] = []
    try:
        for gate in (plan.agent_gate, plan.runtime_env_gate):
            # A new one: shells of an earlier start may still wait at the old one, and take what is written.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(gate)
            os.mkfifo(gate, 0o600)
            # For both, so that opening does not block, and what is written before a shell reads is kept.
            gates.append(os.open(gate, os.O_RDWR | os.O_NONBLOCK))
    except OSError:
        for fd in gates:
            os.close(fd)
        raise
    return gates


def _close_gates(opened: asyncio.Future[list[int]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        for fd in opened.result():
            os.close(fd)
