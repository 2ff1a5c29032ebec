"""The process that a bed hangs on: PID 1 of the namespace around all of its hosts.

It holds the bridge in a network namespace of its own.  When it ends, the kernel ends every
process of every host, and with them go their namespaces, mounts and interfaces.  It ends when
its owner does (a test run, say), and takes the bed's directories and cgroups along.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from tests.bed import cgroup
from tests.bed.kernel import Process

BRIDGE = "bed"


def remove_directories(directory: Path) -> None:
    """Removes what outlives the processes of a bed: its cgroups, then its directory."""
    cgroup.remove(directory.name)
    # A forked rm is quick and stays on this file system, whatever was mounted below.
    subprocess.run(["rm", "-rf", "--one-file-system", str(directory)], check=True)
    with contextlib.suppress(OSError):  # Other beds are still there.
        directory.parent.rmdir()


def main(directory: Path, owner_fd: int) -> None:
    """Sets up the bridge, then waits for the end of the owner, whose pidfd is ``owner_fd``."""
    for command in ("link set lo up", f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up"):
        subprocess.run(["ip", *command.split()], check=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel reaps what is left to this process.
    Process.own().save(directory / "warden.json")
    select.select([owner_fd], [], [])
    while (directory / "detached").exists():
        signal.pause()
    os.kill(-1, signal.SIGKILL)  # In a PID namespace this means: everybody in it but me.
    with contextlib.suppress(ChildProcessError):
        os.wait()  # Returns when the last child has gone, for none is left to be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    remove_directories(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
