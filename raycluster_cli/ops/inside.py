"""Running something on a node of a running cluster.

On this machine (`run --local`), or on this node from inside its job, the command runs directly.  Any other
node is reached by one `srun --jobid --overlap`: no ssh is needed, and the command stays within the job's
limits and ends with the job.
"""

from __future__ import annotations

import errno
import os
import shlex
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
from ..system.report import say

#: Phases in which a node has Ray.
_UP = ("joined", "ready", "driver running")


def live_head(record: Record) -> HeadInfo:
    """The head of a cluster that runs.  Raises RayclusterError when it does not."""
    end = record.read_end()
    if end is not None:
        how = end.message.rstrip(".") or f"exit code {end.exit_code}"
        raise RayclusterError(
            f"cluster {record.path.name} has ended: {how}.",
            f"`raycluster why {record.path.name}` says more.",
        )
    head = record.read_head()
    if head is None:
        raise RayclusterError(
            f"the head of cluster {record.path.name} has not started yet.",
            f"Watch it start: raycluster monitor {record.path.name}",
        )
    return head


def dashboard_address(record: Record, head: HeadInfo) -> str:
    """host:port at which it is or starts.  Raises RayclusterError that says why it cannot."""
    name = record.path.name
    hint = (
        f"Without it: `raycluster monitor {name}` shows the nodes, and `raycluster exec {name} -- …` runs a "
        "program."
    )
    if head.without_dashboard:
        raise RayclusterError(
            f"cluster {name} has no dashboard and no job API: they need `pip install 'ray[default]'` in the "
            "environment of the job.",
            hint,
        )
    failures = [event.text for event in record.read_events(1000) if "dashboard did not start" in event.text]
    address = head.dashboard or head.dashboard_port_at
    if address and (head.dashboard or not failures):
        return address
    if failures:
        raise RayclusterError(
            f"cluster {name} has no dashboard: {failures[-1].removeprefix('warning: ')}.", hint
        )
    raise RayclusterError(f"cluster {name} has no dashboard: the head does not hold a port for it.", hint)


def choose_node(record: Record, host: str = "") -> NodeReport:
    """The node's report; without ``host`` the head's.  Raises UsageError that names the nodes there are."""
    reports = record.read_nodes()
    head = record.read_head()
    wanted = host or (head.host if head else "")
    found = reports.get(wanted) or reports.get(wanted.partition(".")[0])
    if found is None and not host:
        found = next((one for one in reports.values() if one.role == "head"), None)
    if found is None:
        known = ", ".join(list(reports)[:8]) + (" …" if len(reports) > 8 else "")
        raise UsageError(
            f"cluster {record.path.name} has no node {wanted!r}; it has {known or 'none yet'}."
            if wanted
            else f"no node of cluster {record.path.name} has reported yet.",
            f"`raycluster status {record.path.name}` shows each node.",
        )
    return found


def choose_live_node(record: Record, host: str = "") -> NodeReport:
    """A node that has Ray now.  Raises RayclusterError."""
    live_head(record)
    report = choose_node(record, host)
    if report.phase not in _UP:
        raise RayclusterError(
            f"Ray is not up on {report.host}: {report.message.rstrip('.') or report.phase}.",
            f"Watch it: raycluster monitor {record.path.name}",
        )
    return report


def is_here(record: Record, report: NodeReport, env: Mapping[str, str]) -> bool:
    """Whether a node of a cluster is this machine, and this process is where its processes may be.

    A shell on the node that is not in the job (by ssh) is not: it is outside the job's limits.
    """
    if record.slurm_cluster == "local":
        return True
    if env.get("SLURM_JOB_ID") != record.job_id:
        return False
    return report.host in (env.get("SLURMD_NODENAME", ""), socket.gethostname().partition(".")[0])


def sees_directory(record: Record, report: NodeReport, env: Mapping[str, str]) -> bool:
    """Whether the node's directory is visible from here, in the job or not."""
    here = (socket.gethostname().partition(".")[0], env.get("SLURMD_NODENAME", ""))
    near = record.slurm_cluster == "local" or report.host in here
    return bool(report.node_root) and near and os.path.isdir(report.node_root)


def node_here(record: Record, env: Mapping[str, str]) -> NodeReport:
    """The cluster's node that this machine is.  Raises UsageError."""
    head = record.read_head()
    reports = record.read_nodes()
    for report in sorted(reports.values(), key=lambda one: head is None or one.host != head.host):
        if is_here(record, report, env):
            return report
    name = record.path.name
    raise UsageError(
        f"this machine is no node of cluster {name}, or this shell is outside its job.",
        "Run it on a node of the job: in its batch script, or by srun --overlap.",
    )


def shell_lines(change: Mapping[str, str], unset: Sequence[str], env: Mapping[str, str]) -> list[str]:
    """What a shell evaluates to get the environment of a client; ``env`` is what it has now.

    >>> shell_lines({"RAY_ADDRESS": "n1:20480", "A": "b c"}, ["RAY_JOB_ID"], {"A": "b c", "RAY_JOB_ID": "1"})
    ['unset RAY_JOB_ID', 'export RAY_ADDRESS=n1:20480']
    """
    return [
        *(f"unset {name}" for name in unset if name in env),
        *(f"export {name}={shlex.quote(text)}" for name, text in change.items() if env.get(name) != text),
    ]


def on_node(
    record: Record, report: NodeReport, arguments: Sequence[str], env: Mapping[str, str], *, pty: bool = False
) -> tuple[list[str], dict[str, str]]:
    """(argument list, environment) that runs this raycluster with ``arguments`` on a node of a job.

    Raises UsageError where there is no srun.
    """
    program = shutil.which("srun", path=env.get("PATH"))
    if program is None:
        raise UsageError(
            f"{report.host} is reached by srun, and there is no srun here.",
            "Run this on a node that has Slurm's commands: a login node, or a node of the job.",
        )
    argv = [
        program,
        f"--jobid={record.job_id}",
        *([f"--het-group={report.het_group}"] if report.het_group is not None else []),
        "--overlap",
        f"--nodelist={report.host}",
        *("--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mem=0", "--kill-on-bad-exit=0"),
        # One Ctrl-C goes to the command; srun alone would first show its status and ask for another.
        "--pty" if pty else "--disable-status",
        *raycluster_command(*arguments),
    ]
    return argv, outside_job(env)


def enter(
    record: Record,
    report: NodeReport,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    pty: bool = False,
) -> None:
    """Become ``command`` on a node (a shell when it is empty), with the environment of a driver there.

    Does not return: this process becomes srun or the command itself, so that signals, terminal and
    exit code are its own.  Raises RayclusterError.
    """
    if is_here(record, report, env):
        become(record, report, command, env)
    argv, outer = entering(record, report, command, env, pty=pty)
    _flush()
    os.execve(argv[0], argv, outer)


def entering(
    record: Record,
    report: NodeReport,
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    pty: bool = False,
    mark: str = "",
) -> tuple[list[str], dict[str, str]]:
    """(argument list, environment) of a child process that does what :func:`enter` does.

    ``mark``: what begins the line on stderr that says why the command did not start; "" for people.
    Raises UsageError where the node is reached by srun, and there is no srun.
    """
    marked = [f"--mark={mark}"] if mark else []
    arguments = ["in-node", *marked, str(record.path), report.host, *command]
    if is_here(record, report, env):
        return raycluster_command(*arguments), dict(env)
    return on_node(record, report, arguments, env, pty=pty)


def become(record: Record, report: NodeReport, command: Sequence[str], env: Mapping[str, str]) -> None:
    """As :func:`enter`, on the node itself."""
    if not report.node_root:
        raise RayclusterError(f"Ray is not up on {report.host} yet ({report.phase}).")
    container = _container(report)
    root = container.root if container else Path("/")
    inner = read_client(root / report.node_root.lstrip("/"), env, report.host)
    if not command:
        command = (_shell(inner, root),)
        inner["RAYCLUSTER_JOB"] = record.path.name
        say(
            f"shell on {report.host} ({report.role}) of cluster {record.path.name}; "
            f"RAY_ADDRESS={inner['RAY_ADDRESS']}; `exit` closes it"
        )
    if container is not None:
        argv = container.command(command)
        _flush()
        os.execve(argv[0], argv, inner)
    program = shutil.which(command[0], path=inner.get("PATH"))
    if program is None:
        raise UsageError(
            f"{command[0]!r} was not found on {report.host}.", f"PATH there is {inner.get('PATH')}."
        )
    _flush()
    try:
        os.execve(program, [*command], inner)
    except OSError as error:
        raise UsageError(
            f"{program} cannot be started on {report.host}: {error.strerror}.",
            "A script needs a first line such as #!/bin/bash." if error.errno == errno.ENOEXEC else "",
        ) from error


def _container(report: NodeReport) -> Container | None:
    """The container that the node runs in, if it can be entered; if it cannot, a line says so."""
    container = container_of(ProcessRef(report.pid, report.create_time))
    if container is None or container.can_be_entered():
        return container
    say(
        f"the container of {report.host} cannot be entered from outside; the command runs on the node "
        "itself. To run it in the image: apptainer exec IMAGE …"
    )
    return None


def _shell(env: Mapping[str, str], root: Path) -> str:
    shell = env.get("SHELL", "")
    return shell if shell and os.access(root / shell.lstrip("/"), os.X_OK) else "/bin/sh"


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
