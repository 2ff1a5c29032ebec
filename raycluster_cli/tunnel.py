"""The way to a dashboard that listens on its node's loopback: an ssh tunnel, in words or started."""

from __future__ import annotations

import getpass
import ipaddress
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .errors import RayclusterError, UsageError
from .ports import port_error

#: The port on one's own machine, as Ray's own documentation has it.
LOCAL_PORT = 8265

SSH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Tunnel:
    """From a port of this (or the user's own) machine to the dashboard."""

    user: str
    login: str
    """The machine by which the user comes to the cluster: this one, as far as can be known from here."""
    host: str
    """The head's node."""
    address: str
    """Where the dashboard listens, on that node."""
    port: int
    local_port: int = LOCAL_PORT

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"

    def from_afar(self) -> list[str]:
        """ssh for the user's own machine, by way of the login node."""
        if self.is_loopback:
            ends = f"{self.local_port}:{_bracketed(self.address)}:{self.port}"
            return ["ssh", "-N", "-L", ends, "-J", f"{self.user}@{self.login}", f"{self.user}@{self.host}"]
        target = self.host if self.address in ("0.0.0.0", "::") else _bracketed(self.address)
        return ["ssh", "-N", "-L", f"{self.local_port}:{target}:{self.port}", f"{self.user}@{self.login}"]

    def from_here(self) -> list[str]:
        """ssh for this machine; it must reach the node."""
        target = (
            self.address if self.is_loopback else "127.0.0.1" if self.address == "0.0.0.0" else self.address
        )
        ends = f"{self.local_port}:{_bracketed(target)}:{self.port}"
        options = ["-o", "ExitOnForwardFailure=yes", "-o", "ConnectTimeout=15"]
        return ["ssh", "-N", *options, "-L", ends, f"{self.user}@{self.host}"]


def tunnel_to(dashboard: str, host: str, local_port: int | None = None) -> Tunnel:
    """Of a dashboard's host:port on a node."""
    address, _, port = dashboard.removeprefix("http://").rstrip("/").rpartition(":")
    return Tunnel(
        user=getpass.getuser(),
        login=socket.getfqdn(),
        host=host,
        address=address.strip("[]"),
        port=int(port),
        local_port=local_port if local_port is not None else LOCAL_PORT,
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


def open_tunnel(tunnel: Tunnel, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ssh and wait until its end here listens.  Raises RayclusterError."""
    program = shutil.which("ssh", path=env.get("PATH"))
    if program is None:
        raise UsageError("there is no ssh here.", f"On your own machine: {shlex.join(tunnel.from_afar())}")
    argv = [program, *tunnel.from_here()[1:]]
    child = subprocess.Popen(argv, env=dict(env))
    deadline = time.monotonic() + SSH_TIMEOUT_S
    while child.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", tunnel.local_port)) == 0:
                return child
        time.sleep(0.1)
    if child.poll() is None:
        child.terminate()
    code = child.wait()
    raise RayclusterError(
        f"ssh to {tunnel.host} made no tunnel (code {code}); many sites let nobody log in to nodes.",
        "Start the job with --dashboard-host 0.0.0.0: the login node then is enough (its pages "
        "ask for the token all the same).",
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
