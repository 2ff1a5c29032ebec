"""Spare tasks: a step with several tasks on a node, of which the first starts the node's Ray.

A spare task stays until the first one has ended.  If it ended at once, srun would take the step for ending,
and its --wait (or the site's WaitTime) would kill the tasks that work.

The keeper of the first task listens on a UNIX socket whose name follows from the step, and accepts no
connection.  A spare task connects and waits: the kernel resets the connection when the keeper has ended.
A spare task needs no supervisor and no keeper, and costs about as much as a bare Python.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..system.keeper_link import RELAYED

if TYPE_CHECKING:
    import socket

#: How long a spare task waits for the first task of its node to appear: they start together.
FIRST_TASK_S = 12.0

#: How often it looks meanwhile.
POLL_S = 0.1

#: Commands that make one Ray node of all tasks on a node.
_COMMANDS = ("run", "worker")

#: SLURM_STEP_TASKS_PER_NODE of a step with one task on each node: "1", "1(x3)".
_ONE_EACH = re.compile(r"1(\(x\d+\))?")


def is_spare(arguments: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether another task of this step on this node does the work.

    False where Slurm's variables cannot be read: the start itself says what is wrong with them.
    """
    if not arguments or arguments[0] not in _COMMANDS or env.get("SLURM_LOCALID", "").strip() in ("", "0"):
        return False
    own = arguments[: list(arguments).index("--")] if "--" in arguments else arguments
    if env.get("RAYCLUSTER_LOCAL") or any(word.partition("=")[0] == "--local" for word in own):
        return False
    # Imported only here: the keeper of the first task stays small.
    from ..model.errors import RayclusterError
    from ..slurm.allocation import Allocation

    try:
        allocation = Allocation.from_environ(env)
    except RayclusterError:
        return False
    return allocation is not None and not allocation.is_first_task_on_node


def hold_first_place(env: Mapping[str, str]) -> socket.socket | None:
    """The socket to which the spare tasks of this node connect; None where there are none."""
    several = not _ONE_EACH.fullmatch(env.get("SLURM_STEP_TASKS_PER_NODE", "1").strip())
    if not (env.get("SLURM_STEP_ID") and env.get("SLURM_LOCALID", "").strip() == "0" and several):
        return None
    import socket

    place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        place.bind(_name(env))
        place.listen(4096)
    except OSError:  # a step that was started twice: its spare tasks wait for the first
        place.close()
        return None
    return place


def wait_for_first_task(env: Mapping[str, str], wait_s: float = FIRST_TASK_S) -> None:
    """Return when the first task of this step on this node has ended, or did not appear within ``wait_s``.

    Signals are left to the first task: the step ends with its exit code, and this task with it.
    """
    if env.get("SLURM_LOCALID", "").strip() == "1":
        host = env.get("SLURMD_NODENAME", "this node")
        print(
            f"raycluster: {host} has several tasks of this step: the first joins for the whole node, the "
            "others wait for its end. Use --ntasks-per-node=1 to avoid them.",
            file=sys.stderr,
            flush=True,
        )
    for number in RELAYED:
        signal.signal(number, signal.SIG_IGN)
    import socket

    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            try:
                first.connect(_name(env))
                if _is_own(first):
                    first.recv(1)
                    return
            except ConnectionRefusedError:
                pass  # the first task has not started yet
            except OSError:  # the first task has ended
                return
        time.sleep(POLL_S)


def _is_own(peer: socket.socket) -> bool:
    """Whether a process of this user listens there: names of such sockets are open to all users."""
    import socket
    import struct

    found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", found)[1] == os.geteuid())


def _name(env: Mapping[str, str]) -> str:
    """The abstract socket's name: of this user's step on this node; at most 107 bytes."""
    cluster = env.get("SLURM_CLUSTER_NAME", "")[:32]
    parts = (env.get(name, "")[:12] for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID"))
    return f"\0raycluster-step.{os.geteuid()}.{cluster}.{'.'.join(parts)}"
