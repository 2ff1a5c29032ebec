"""`raycluster doctor`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ..model.errors import ExitCode
from ..model.settings import Settings, settings_of, variable_name
from ..model.text import printable
from .help import Command

if TYPE_CHECKING:
    from ..ops.findings import Finding, NodeFindings, Verdict

SCHEMA = 1

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "fail": "bold red"}


def doctor(
    context: typer.Context,
    settings: Settings,
    as_json: bool = typer.Option(False, "--json", help="Print JSON for programs (see docs/json.md)."),
    partition: str = typer.Option(
        "", "--partition", "-p", metavar="NAME", help="Check a node of this partition, by a job of its own."
    ),
    here: bool = typer.Option(False, "--here", help="Check this node only, also inside a job."),
) -> None:
    """Run preflight checks on all nodes of a job.

    Outside a job, or with --here: on this host. With -p: on a node of that partition, by a job of its own
    with Slurm's default CPUs and memory. In a batch script or a salloc shell one srun checks all nodes,
    in under 20 s: versions of Python and Ray, the time of `import ray`, CPUs, memory, GPUs, /dev/shm,
    temp directory, limits, ports, host names, the connection to the head, clocks, the shared directory,
    proxies, other Ray processes. Each check has a verdict and says what to do. Takes the options of head,
    worker and run.

    Exit codes: 0 nothing will fail; 1 something will fail; 2 usage.

    \b
    Examples:
      raycluster doctor
      raycluster doctor -p gpu
      salloc -N 4 raycluster doctor
      srun -N 4 raycluster doctor --json
      raycluster doctor || exit 1
    """
    import time

    from ..model.wording import count
    from ..ops.checkup import Checkup
    from ..ops.doctor import examine
    from ..ops.doctor_nodes import VARIABLE, NodeChecks, as_lines, compare, on_all_nodes, on_partition
    from ..slurm.allocation import Allocation
    from ..state.location import state_dir
    from ..system.report import say

    env = dict(os.environ)
    began = time.monotonic()
    where = state_dir(settings, env)
    allocation = Allocation.from_environ(env)
    node_checks = NodeChecks.from_text(env.get(VARIABLE, ""))
    across: list[Finding] = []
    if node_checks is not None:  # this is a task of the srun of another `raycluster doctor`
        checkup = Checkup(settings, env, where)
        lines = as_lines(examine(checkup, node_checks.checks()))
        node_checks.clean(checkup)
        checkup.clean()
        for line in lines:
            print(line, flush=True)
        return
    if partition:
        say(f"checking a node of partition {partition}, once Slurm has one free (Ctrl-C gives up)")
        reports = [on_partition(partition, env, _as_variables(context, settings))]
    elif allocation is not None and not here and not allocation.in_task and allocation.job_nodes:
        nodes = count(len(allocation.job_nodes), "node")
        say(f"checking {nodes} of job {allocation.job_id} (up to 20 s)")
        reports = on_all_nodes(allocation, env, _as_variables(context, settings), where)
        across = compare(reports)
    else:
        if sys.stderr.isatty():
            say("checking this node (some seconds)")
        checkup = Checkup(settings, env, where)
        of_step = None if here else _meeting_of_step(allocation)
        reports = [examine(checkup, of_step.checks() if of_step else ())]
        if of_step:
            of_step.clean(checkup)
        checkup.clean()
    took_s = time.monotonic() - began
    findings = [*across, *(finding for report in reports for finding in report.findings)]
    worst = max((finding.verdict for finding in findings), key=lambda verdict: verdict.rank)
    if as_json:
        _print_json(reports, across, worst, took_s, compact=allocation is not None and allocation.in_task)
    else:
        _print(reports, across, took_s, env)
    if worst.value == "fail":
        sys.exit(int(ExitCode.FAILURE))


def register(app: typer.Typer, with_settings: Callable[[str], Callable[[Any], Any]]) -> None:
    """Add the command to the command line."""
    app.command(cls=Command)(with_settings("env")(doctor))


def _meeting_of_step(allocation: Any) -> Any:
    """In a task of `srun raycluster doctor`: the tasks of the step meet each other."""
    from ..ops.doctor_nodes import NodeChecks

    if allocation is None or not allocation.in_task or len(allocation.step_nodes or ()) < 2:
        return None
    name = f"{allocation.job_id}.{allocation.step_id}"
    return NodeChecks(name, allocation.step_nodes[0], len(allocation.step_nodes))


def _as_variables(context: typer.Context, settings: Settings) -> dict[str, str]:
    """The options of this command for the tasks of the srun: as variables, which need no quoting."""
    given = {}
    for one in settings_of("env"):
        source = context.get_parameter_source(one.name)
        value = getattr(settings, one.name)
        if source is not None and source.name == "COMMANDLINE" and value is not None:
            given[variable_name(one.name)] = str(int(value)) if isinstance(value, bool) else str(value)
    return given


def _print_json(
    reports: Sequence[NodeFindings],
    across: Sequence[Finding],
    worst: Verdict,
    took_s: float,
    *,
    compact: bool,
) -> None:
    import json
    from dataclasses import asdict

    document = {
        "schema": SCHEMA,
        "verdict": worst.value,
        "took_s": round(took_s, 2),
        "across": [asdict(one) | {"verdict": one.verdict.value} for one in across],
        "nodes": [report.as_json() for report in reports],
    }
    # One write for a line: the tasks of a step share one output.
    sys.stdout.write(json.dumps(document, indent=None if compact else 2) + "\n")


def _print(
    reports: Sequence[NodeFindings], across: Sequence[Finding], took_s: float, env: Mapping[str, str]
) -> None:
    lines = table(reports, across, took_s)
    if not sys.stdout.isatty() or env.get("NO_COLOR"):
        for verdict, text in lines:
            print(printable(f"{verdict:<8} {text}".rstrip()))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for verdict, text in lines:
        for number, line in enumerate(wrapped(printable(text), console.width - 9)):
            mark = ("" if number else verdict).ljust(9)
            console.print(Text.assemble((mark, _STYLES.get(verdict, "")), line), soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """A line of the table on a screen: what does not fit goes on below its beginning.

    >>> wrapped("ports  a block is free", 20)
    ['ports  a block is', '       free']
    """
    import re
    import textwrap

    label = re.match(r"(?:\S+(?: \S+)*)?\s{2,}(?:→ )?", text)
    indent = " " * len(label.group() if label else "")
    return textwrap.wrap(text, max(width, len(indent) + 13), subsequent_indent=indent, break_on_hyphens=False)


def table(reports: Sequence[NodeFindings], across: Sequence[Finding], took_s: float) -> list[tuple[str, str]]:
    """A (verdict, text) for each line: what all nodes have in common once, what differs with its nodes."""
    from ..model.hostlist import format_hostlist
    from ..model.wording import count

    every = {report.host for report in reports}
    groups: dict[tuple[str, str, str, str], tuple[set[str], dict[str, list[float]]]] = {}
    for host, finding in [
        *((report.host, finding) for report in reports for finding in report.findings),
        *((host, finding) for finding in across for host in sorted(every)),
    ]:
        key = (finding.check, finding.verdict.value, finding.text, finding.remedy)
        hosts, numbers = groups.setdefault(key, (set(), {}))
        hosts.add(host)
        for name, value in finding.numbers.items():
            numbers.setdefault(name, []).append(value)
    width = max((len(check) for check, *_ in groups), default=0)
    lines = []
    for (check, verdict, text, remedy), (hosts, numbers) in groups.items():
        where = f" [{format_hostlist(sorted(hosts))}]" if hosts != every else ""
        measured = "".join(f"; {_range(name, values)}" for name, values in numbers.items() if any(values))
        lines.append((verdict, f"{check:<{width}}  {text}{measured}{where}"))
        if remedy and verdict != "ok":
            lines.append(("", f"{'':<{width}}  → {remedy}"))
    bad = [key for key in groups if key[1] == "fail"]
    odd = [key for key in groups if key[1] == "warning"]
    nodes = f"{count(len(every), 'node')} ({format_hostlist(sorted(every))})"
    result = f"{count(len(bad), 'check')} failed" if bad else "no check failed"
    lines.append(("", f"{nodes}, {took_s:.1f} s: {result}, {count(len(odd), 'warning')}."))
    return lines


def _range(name: str, values: Sequence[float]) -> str:
    """
    >>> _range("import s", [1.21, 0.9]), _range("free GiB", [12.04])
    ('import 0.9 to 1.2 s', 'free 12 GiB')
    """
    what, _, unit = name.rpartition(" ")
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return f"{what} {low if low == high else f'{low} to {high}'} {unit}"
