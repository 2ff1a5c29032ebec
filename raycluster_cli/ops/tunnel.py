"""An ssh tunnel to a port of the head's node: its dashboard, or a server: the command, or a running one."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..model.address import is_loopback, join_host_port
from ..model.errors import RayclusterError, UsageError
from ..model.wording import shell_code
from ..policy.stopping import ENDING
from ..system.port_probe import listening_users, port_error

#: The port on one's own machine, as Ray's own documentation has it.
LOCAL_PORT = 8265

#: What to do where no tunnel can be opened.
DASHBOARD_HINT = (
    "Start the cluster with --dashboard-host 0.0.0.0: a tunnel to the login node is then enough (the "
    "dashboard still asks for the token)."
)

SSH_TIMEOUT_S = 30.0
GRACE_S = 5.0
POLL_S = 0.1


@dataclass(frozen=True)
class Tunnel:
    """From a port of this (or the user's own) machine to a port of the head's node."""

    user: str
    login: str
    """The machine by which the user comes to the cluster: this one, as far as can be known from here."""
    host: str
    """The head's node."""
    address: str
    """Where the dashboard or server listens, on that node."""
    port: int
    local_port: int = LOCAL_PORT

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.address)

    def from_afar(self) -> list[str]:
        """ssh for the user's own machine, through the login node."""
        if self.is_loopback:
            ends = f"{self.local_port}:{join_host_port(self.address, self.port)}"
            return ["ssh", "-N", "-L", ends, "-J", f"{self.user}@{self.login}", f"{self.user}@{self.host}"]
        target = join_host_port(self.host if self.address in ("0.0.0.0", "::") else self.address, self.port)
        return ["ssh", "-N", "-L", f"{self.local_port}:{target}", f"{self.user}@{self.login}"]

    def from_here(self) -> list[str]:
        """ssh for this machine; it must reach the node."""
        target = (
            self.address if self.is_loopback else "127.0.0.1" if self.address == "0.0.0.0" else self.address
        )
        ends = f"{self.local_port}:{join_host_port(target, self.port)}"
        # A connection shared with other sessions (ControlMaster) would keep the tunnel after ssh's end.
        options = ["-o", "ExitOnForwardFailure=yes", "-o", "ConnectTimeout=15", "-o", "ControlPath=none"]
        return ["ssh", "-N", *options, "-L", ends, f"{self.user}@{self.host}"]


def tunnel_to(dashboard: str, host: str, local_port: int | None = None) -> Tunnel:
    """To a dashboard's host:port on a node.  Raises RayclusterError."""
    address, _, port = dashboard.removeprefix("http://").rstrip("/").rpartition(":")
    if not (port.isascii() and port.isdigit()):
        raise RayclusterError(
            f"the record names {dashboard!r} as the dashboard's address; host:port is needed."
        )
    return Tunnel(
        user=getpass.getuser(),
        login=socket.getfqdn(),
        host=host,
        address=address.strip("[]"),
        port=int(port),
        local_port=local_port if local_port is not None else LOCAL_PORT,
    )


def instructions(tunnel: Tunnel, what_to_do: str) -> str:
    """How to open it from one's own machine, and what to do with it then: "open", "use"."""
    return (
        "Run this on your own machine (replace the login node's name if yours for it is another):\n\n"
        f"    {shlex.join(tunnel.from_afar())}\n\n"
        f"Then {what_to_do} http://localhost:{tunnel.local_port}"
    )


def free_local_port(wanted: int | None) -> int:
    """The port for this end; UsageError when the one that was asked for is taken."""
    if wanted is not None:
        if error := port_error(wanted):
            raise UsageError(f"port {wanted} cannot be used here: {error.strerror}.", "Give another --port.")
        return wanted
    for port in range(LOCAL_PORT, LOCAL_PORT + 100):
        if port_error(port) is None:
            return port
    raise UsageError("no free port was found here.", "Give one by --port.")


def hold_tunnel(
    tunnel: Tunnel,
    env: Mapping[str, str],
    tell: Callable[[], object],
    *,
    hint: str = DASHBOARD_HINT,
    listeners: Callable[[int], set[int]] = listening_users,
) -> int:
    """Start ssh, call ``tell`` once its local port listens, and wait until ssh ends or a signal comes.

    Another user can take the port while ssh logs in, and would be sent what is meant for the cluster: that
    ends the wait.  ``listeners``: whose processes listen on a port.

    Returns ssh's exit code, or 128 + N for signal N; ssh has ended by then.  Raises RayclusterError
    when no tunnel was opened.
    """
    program = shutil.which("ssh", path=env.get("PATH"))
    if program is None:
        raise UsageError("ssh was not found here.", f"On your own machine: {shlex.join(tunnel.from_afar())}")
    with _signals() as got:
        child = subprocess.Popen([program, *tunnel.from_here()[1:]], env=dict(env))
        try:
            deadline = time.monotonic() + SSH_TIMEOUT_S
            is_open = is_taken = False
            while (
                not (is_open or is_taken or got or child.poll() is not None) and time.monotonic() < deadline
            ):
                time.sleep(POLL_S)
                users = listeners(tunnel.local_port)
                is_open, is_taken = users == {os.geteuid()}, bool(users - {os.geteuid()})
            if is_open:
                tell()
                while not got and child.poll() is None:
                    time.sleep(POLL_S)
        finally:
            code = _end(child)
    if got:
        return 128 + got[0]
    if is_open:
        return code
    if is_taken:
        raise RayclusterError(
            f"another user took port {tunnel.local_port} here while ssh logged in to {tunnel.host}.",
            "Try again, with another --port.",
        )
    raise RayclusterError(
        f"ssh to {tunnel.host} opened no tunnel (exit code {code}); many sites do not allow logins to nodes.",
        hint,
    )


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that ask for the end, as they come; afterwards they do what they did before."""
    got: list[int] = []
    before = {number: signal.signal(number, lambda number, _: got.append(number)) for number in ENDING}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(child: subprocess.Popen[bytes]) -> int:
    """End a child, if it has not ended; its code as a shell shows it."""
    child.terminate()
    try:
        code = child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    return shell_code(code)
