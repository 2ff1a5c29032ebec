"""Into a running cluster: which node is meant, and the words that start something on it.

A node of a cluster on this machine, or of the job that this process is in and on this very node,
is at hand.  Any other is reached by one `srun --jobid --overlap`: no ssh, no second login, and
what is started stays in the job's limits and ends with it.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..model.errors import RayclusterError, UsageError
from ..model.record import HeadInfo, NodeReport
from ..rayproc.boot import raycluster_command
from ..rayproc.client import read_client
from ..slurm.queue import outside_job
from ..state.record import Record
from ..system.container import Container, container_of
from ..system.proctree import ProcessRef

#: Phases in which a node has Ray.
_UP = ("joined", "ready", "driver running")


def live_head(record: Record) -> HeadInfo:
    """The head of a cluster that runs.  Raises RayclusterError when it does not."""
    end = record.read_end()
    if end is not None:
        raise RayclusterError(
            f"cluster {record.path.name} has ended: {end.message or f'exit code {end.exit_code}'}.",
            f"Its logs: raycluster logs {record.path.name}",
        )
    head = record.read_head()
    if head is None:
        raise RayclusterError(
            f"cluster {record.path.name} has no head yet.",
            f"Watch it start: raycluster monitor {record.path.name}",
        )
    return head


def choose_node(record: Record, host: str = "") -> NodeReport:
    """The node's word; without ``host`` the head's.  Raises UsageError that names the nodes there are."""
    words = record.read_nodes()
    head = record.read_head()
    wanted = host or (head.host if head else "")
    found = words.get(wanted) or words.get(wanted.partition(".")[0])
    if found is None and not host:
        found = next((word for word in words.values() if word.role == "head"), None)
    if found is None:
        known = ", ".join(list(words)[:8]) + (" …" if len(words) > 8 else "")
        raise UsageError(
            f"cluster {record.path.name} has no node {wanted!r}; it has {known or 'none yet'}."
            if wanted
            else f"no node of cluster {record.path.name} has written a word yet.",
            f"`raycluster status {record.path.name}` shows each node.",
        )
    return found


def choose_live_node(record: Record, host: str = "") -> NodeReport:
    """A node that has Ray now.  Raises RayclusterError."""
    live_head(record)
    word = choose_node(record, host)
    if word.phase not in _UP:
        raise RayclusterError(
            f"{word.host} is not up: {word.message or word.phase}.",
            f"Watch it: raycluster monitor {record.path.name}",
        )
    return word


def is_here(record: Record, word: NodeReport, env: Mapping[str, str]) -> bool:
    """Whether a node of a cluster is this machine, and this process is where its processes may be.

    A shell on the node that is not in the job (by ssh) is not: it is outside the job's limits.
    """
    if record.slurm_cluster == "local":
        return True
    if env.get("SLURM_JOB_ID") != record.job_id:
        return False
    return word.host in (env.get("SLURMD_NODENAME", ""), socket.gethostname().partition(".")[0])


def sees_directory(record: Record, word: NodeReport, env: Mapping[str, str]) -> bool:
    """Whether the node's directory is to be seen from here, in the job or not."""
    here = (socket.gethostname().partition(".")[0], env.get("SLURMD_NODENAME", ""))
    near = record.slurm_cluster == "local" or word.host in here
    return bool(word.node_root) and near and os.path.isdir(word.node_root)


def on_node(
    record: Record, word: NodeReport, words: Sequence[str], env: Mapping[str, str], *, pty: bool = False
) -> tuple[list[str], dict[str, str]]:
    """(argument list, environment) that runs this raycluster with ``words`` on a node of a job.

    Raises UsageError where there is no srun.
    """
    program = shutil.which("srun", path=env.get("PATH"))
    if program is None:
        raise UsageError(
            f"{word.host} is reached by srun, and there is no srun here.",
            "Do this on a node that has Slurm's commands: a login node, or one of the job.",
        )
    argv = [
        program,
        f"--jobid={record.job_id}",
        *([f"--het-group={word.het_group}"] if word.het_group is not None else []),
        "--overlap",
        f"--nodelist={word.host}",
        *("--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mem=0", "--kill-on-bad-exit=0"),
        # One Ctrl-C goes to the command; srun alone would first show its status and ask for another.
        "--pty" if pty else "--disable-status",
        *raycluster_command(*words),
    ]
    return argv, outside_job(env)


def enter(
    record: Record,
    word: NodeReport,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    pty: bool = False,
) -> None:
    """Become ``command`` on a node (a shell when it is empty), with the environment of a driver there.

    Does not return: this process becomes srun or the command itself, so that signals, terminal and
    exit code are its own.  Raises RayclusterError.
    """
    if is_here(record, word, env):
        become(record, word, command, env)
    words = ["in-node", str(record.path), word.host, *command]
    argv, outer = on_node(record, word, words, env, pty=pty)
    _flush()
    os.execve(argv[0], argv, outer)


def become(record: Record, word: NodeReport, command: Sequence[str], env: Mapping[str, str]) -> None:
    """The same on the node itself."""
    if not word.node_root:
        raise RayclusterError(f"{word.host} has no Ray yet ({word.phase}).")
    container = _container(word)
    root = container.root if container else Path("/")
    inner = read_client(root / word.node_root.lstrip("/"), env, word.host)
    if not command:
        command = (_shell(inner, root),)
        inner["RAYCLUSTER_JOB"] = record.path.name
        print(
            f"raycluster: {word.host} ({word.role}) of {record.path.name}; "
            f"RAY_ADDRESS={inner['RAY_ADDRESS']}; leave with exit",
            file=sys.stderr,
        )
    if container is not None:
        argv = container.command(command)
        _flush()
        os.execve(argv[0], argv, inner)
    program = shutil.which(command[0], path=inner.get("PATH"))
    if program is None:
        raise UsageError(
            f"{command[0]!r} was not found on {word.host}.", f"PATH there is {inner.get('PATH')}."
        )
    _flush()
    os.execve(program, [*command], inner)


def _container(word: NodeReport) -> Container | None:
    """The container that the node is in, if it can be entered; if it cannot, that is said."""
    container = container_of(ProcessRef(word.pid, word.create_time))
    if container is None or container.can_be_entered():
        return container
    print(
        f"raycluster: {word.host} is in a container that cannot be entered from outside; this runs on the "
        "node itself. For the image, start the command in it: apptainer exec IMAGE …",
        file=sys.stderr,
    )
    return None


def _shell(env: Mapping[str, str], root: Path) -> str:
    shell = env.get("SHELL", "")
    return shell if shell and os.access(root / shell.lstrip("/"), os.X_OK) else "/bin/sh"


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
