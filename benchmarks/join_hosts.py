"""The paths of the environment that a start touches on Slurm hosts, by node and by process (join.py)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.join import STRACE, Build, count_until, driver_starts, read_traces
from tests.bed.bed import Bed
from tests.bed.spec import LOGIN, BedSpec

#: What the processes are, by a word of what they execute; the first that fits counts.
_ROLES = (
    ("lazy_agent.py", "placeholder of an agent"),
    ("/raylet/raylet", "raylet"),
    ("gcs_server", "GCS"),
    ("rayproc.companion", "companion"),
    ("default_worker", "worker process"),
)

_EXECUTED = re.compile(r'execve\("([^"]*)", \[.*= 0$')


def show_hosts(builds: Sequence[Build], hosts: int) -> None:
    """Start each build once on so many hosts, and print what was counted."""
    with Bed.up(f"join-{os.getpid()}", BedSpec(hosts=hosts)) as bed:
        print("\\n| build | node | process | paths | calls | read (MB) |\\n|---|---|---|---|---|---|")
        for build in builds:
            _submit(bed, build, hosts, "")  # what a first start leaves is there
            traces = _submit(bed, build, hosts, shlex.join([*STRACE, "-o", "$HERE/trace/$SLURM_NODEID/t"]))
            _print(build, traces)


def _submit(bed: Bed, build: Build, hosts: int, before: str) -> dict[int, dict[int, list[str]]]:
    """The traces of one job by node and process; none without a program ``before`` that makes them."""
    there = f"/home/admin/join-{time.time_ns():x}"
    here = bed.path(LOGIN, there)
    here.mkdir()
    for number in range(hosts):
        (here / "trace" / str(number)).mkdir(parents=True)
    task = f"exec {before} {build.root}/bin/raycluster run -- /bin/sleep 2".replace("'", "")
    script = f"#!/bin/bash\nexport HERE={there}\nsrun --ntasks-per-node=1 bash -c {shlex.quote(task)}\n"
    options = [f"--nodes={hosts}", "--ntasks-per-node=1", "--wait", f"--output={there}/output"]
    bed.run(LOGIN, ["sbatch", *options], stdin=script, check=True)
    if not before:
        return {}
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(here / "trace", copy, dirs_exist_ok=True)
        return {number: read_traces(Path(copy) / str(number)) for number in range(hosts)}


def _print(build: Build, traces: Mapping[int, Mapping[int, list[str]]]) -> None:
    until = driver_starts(traces[0])
    for node, mine in traces.items():
        where = "head" if node == 0 else f"worker {node}"
        roles = defaultdict(list)
        for pid, role in roles_of(mine).items():
            roles[role].append(pid)
        for role, pids in [*sorted(roles.items()), ("all", list(mine))]:
            found = count_until(until, mine, pids, build.prefixes)
            paths = sum(found[kind] for kind in set(build.prefixes.values()))
            if paths:
                cells = (build.name, where, role, f"{paths:.0f}", f"{found['calls']:.0f}")
                print(f"| {' | '.join(cells)} | {found['read_mb']:.1f} |")


def _role(program: str, line: str) -> str:
    if program.endswith("/bin/raycluster"):
        return "keeper"
    if program.endswith("/sleep"):
        return "driver"
    return next((role for word, role in _ROLES if word in line), "other")


def roles_of(traces: Mapping[int, Sequence[str]]) -> dict[int, str]:
    """What each process is: by what it executes, else what its parent is.

    >>> roles_of({1: ['1.0 execve("/e/bin/raycluster", ["raycluster", "run"]) = 0', '1.1 clone() = 2'], 2: [],
    ...           3: ['2.0 execve("/e/raylet/raylet", ["r"]) = 0']})
    {1: 'keeper', 2: 'supervisor', 3: 'raylet'}
    """
    roles: dict[int, str] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for pid, lines in traces.items():
        for line in lines:
            if executed := _EXECUTED.search(line):
                roles[pid] = _role(executed[1], line)
            if re.search(r"\b(clone3?|fork|vfork)\b", line) and (made := re.search(r" = (\d+)$", line)):
                children[pid].append(int(made[1]))
    work = [pid for pid in traces if pid in roles]
    while work:
        pid = work.pop(0)
        for child in children[pid]:
            if child in traces and child not in roles:
                roles[child] = "supervisor" if roles[pid] == "keeper" else roles[pid]
                work.append(child)
    return {pid: roles.get(pid, "other") for pid in traces}
