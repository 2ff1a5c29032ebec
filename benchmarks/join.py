"""What a worker's start costs: paths and bytes of the Python environment, CPU time, memory.

    python -m benchmarks.join [--beside DIR ...] [--rounds 5] [--hosts 3]

Each build is installed in an environment of its own, beside a copy of its Python, and starts `run --local 1`
with a driver that only looks; builds take turns.  Needs strace.  With --hosts the paths are also counted on
so many Slurm hosts of a bed (root and Slurm's programs needed), by node and by process.

* *packages*: different paths of the virtual environment that openat, stat, readlink, access and execve name
  in the worker's processes, from their start until the driver starts, right after the worker has joined;
  *raycluster*: the same of raycluster's own package; *Python*: of the interpreter and its library; *calls*:
  how often any of them is named; *read*: bytes that read and pread64 return
* *CPU*: of the worker's processes until the driver starts, those that have ended included; without strace
* *private*: memory of the worker's keeper and supervisor half a second later
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import make_environment

TICKS = os.sysconf("SC_CLK_TCK")

#: Run by the build's Python in place of a driver: prints what the worker's processes have used.
LOOK = r"""
import json, os, sys, time
def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat").read().rpartition(") ")[2].split()
                argv = open(f"/proc/{name}/cmdline").read().split("\0")
                yield int(name), int(fields[1]), sum(map(int, fields[11:15])), argv
            except OSError:
                pass
def private(pid):
    text = open(f"/proc/{pid}/smaps_rollup").read()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))
now = list(processes())
is_worker = lambda argv: argv[2:3] == ["worker"] and os.path.basename(argv[1]) == "raycluster"
root = next(pid for pid, parent, _, argv in now if is_worker(argv) and parent == os.getppid())
below = {root}
for _ in range(20):
    below |= {pid for pid, parent, _, _ in now if parent in below}
ticks = sum(used for pid, _, used, _ in now if pid in below)
own = [pid for pid, parent, _, argv in now if pid in below and argv[1:3] and argv[2] == "worker"]
time.sleep(0.5)
print(json.dumps({"ticks": ticks, "private_kb": sum(map(private, own)), "own": len(own)}))
"""

#: Traces each process into a file of its own; `-o FILE` follows.
STRACE = (
    *("strace", "-ff", "-ttt", "-y", "-s", "4096"),
    *("-e", "trace=%file,%process,read,pread64,getdents64"),
)

_CALL = re.compile(r"^[\d.]+ (\w+)\((.*)")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FD = re.compile(r"^(\d+|AT_FDCWD)<([^>]*)>")
_FILE_CALLS = ("open", "stat", "access", "readlink", "execve", "statx", "getdents")


@dataclass(frozen=True)
class Build:
    """A build that is installed."""

    name: str
    root: Path
    """Its environment; Python itself is beside it."""

    @property
    def prefixes(self) -> dict[str, str]:
        """What lies where: the first that fits counts."""
        (package,) = self.root.glob("lib/python3*/site-packages/raycluster_cli")
        home = self.root.parent / "python"
        return {f"{package}": "raycluster", f"{self.root}/": "packages", f"{home}/": "Python"}

    def command(self, driver: Sequence[str]) -> list[str]:
        return [str(self.root / "bin/raycluster"), "run", "--local", "1", "--", *driver]


def run(build: Build, driver: Sequence[str], before: Sequence[str] = ()) -> str:
    """What the driver prints."""
    with tempfile.TemporaryDirectory(prefix="rcj", dir="/tmp") as base:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": base,
            "TMPDIR": base,
            "RAYCLUSTER_STATE_DIR": f"{base}/state",
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            [*before, *build.command(driver)],
            env=env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{build.name}: code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout


def measure_cost(build: Build) -> dict[str, float]:
    """CPU milliseconds and private memory (MB) of one worker."""
    said = json.loads(run(build, [str(build.root / "bin/python"), "-I", "-S", "-c", LOOK]).splitlines()[-1])
    return {"cpu_ms": 1000 * said["ticks"] / TICKS, "private_mb": said["private_kb"] / 1024}


def measure_paths(build: Build) -> dict[str, float]:
    """Paths, calls and bytes of the environment of one worker's processes, by strace."""
    with tempfile.TemporaryDirectory(prefix="rcj") as traces:
        run(build, ["/bin/sleep", "0.1"], [*STRACE, "-o", f"{traces}/t"])
        return count(read_traces(Path(traces)), build.prefixes)


def read_traces(directory: Path) -> dict[int, list[str]]:
    """Lines of strace by process."""
    return {
        int(path.suffix[1:]): path.read_text(errors="replace").splitlines() for path in directory.iterdir()
    }


def count(traces: Mapping[int, Sequence[str]], prefixes: Mapping[str, str]) -> dict[str, float]:
    """What the worker's processes did before the driver started.

    >>> lines = {1: ['1.0 execve("/e/bin/raycluster", ["raycluster", "worker"], 0x1 /* 3 vars */) = 0',
    ...              '1.1 openat(AT_FDCWD</w>, "/e/a.py", O_RDONLY) = 3</e/a.py>',
    ...              '1.2 read(3</e/a.py>, "x", 9) = 1', '9.0 openat(AT_FDCWD</w>, "/e/b", O_RDONLY) = -1'],
    ...          2: ['3.0 execve("/bin/sleep", ["/bin/sleep", "0.1"], 0x1 /* 3 vars */) = 0']}
    >>> count(lines, {"/e/bin/": "packages", "/e/": "raycluster", "/p/": "Python"})
    {'packages': 1, 'raycluster': 1, 'Python': 0, 'calls': 2, 'read_mb': 1e-06}
    """
    return count_until(driver_starts(traces), traces, worker_processes(traces), prefixes)


def driver_starts(traces: Mapping[int, Sequence[str]]) -> float:
    return min(_time(line) for lines in traces.values() for line in lines if '["/bin/sleep"' in line)


def count_until(
    until: float, traces: Mapping[int, Sequence[str]], processes: Iterable[int], prefixes: Mapping[str, str]
) -> dict[str, float]:
    """What these processes did until then."""
    paths: set[str] = set()
    calls = read_bytes = 0
    for pid in processes:
        for line in traces[pid]:
            call = _CALL.match(line)
            if call is None or _time(line) > until:
                continue
            name, arguments = call.groups()
            if name in ("read", "pread64"):
                there = _FD.match(arguments)
                result = line.rpartition(" = ")[2]
                if there and there[2].startswith(tuple(prefixes)) and result.isdigit():
                    read_bytes += int(result)
            elif any(one in name for one in _FILE_CALLS) and (path := _path(arguments)).startswith(
                tuple(prefixes)
            ):
                paths.add(path)
                calls += 1
    kinds = [next(kind for prefix, kind in prefixes.items() if path.startswith(prefix)) for path in paths]
    return {kind: kinds.count(kind) for kind in prefixes.values()} | {
        "calls": calls,
        "read_mb": read_bytes / 1e6,
    }


def _time(line: str) -> float:
    return float(line.partition(" ")[0])


def _path(arguments: str) -> str:
    """The path that a call names, made absolute."""
    directory, named = _FD.match(arguments), _PATH.search(arguments)
    if named is None:
        return directory[2] if directory else ""
    return os.path.normpath(os.path.join(directory[2] if directory else "/", named[1]))


def worker_processes(traces: Mapping[int, Sequence[str]]) -> set[int]:
    """The process that executes `raycluster worker`, and all that it started."""
    children: dict[int, list[int]] = defaultdict(list)
    roots = []
    for pid, lines in traces.items():
        for line in lines:
            if re.search(r"\b(clone3?|fork|vfork)\b", line) and (made := re.search(r" = (\d+)$", line)):
                children[pid].append(int(made[1]))
            if "execve(" in line and re.search(r'raycluster", \[[^\]]*"worker"', line):
                roots.append(pid)
    found: set[int] = set()
    while roots:
        if (pid := roots.pop()) not in found and pid in traces:
            found.add(pid)
            roots += children[pid]
    return found


def rows(builds: Sequence[Build], rounds: int) -> Iterator[tuple[str, dict[str, list[float]]]]:
    found: dict[str, dict[str, list[float]]] = {build.name: defaultdict(list) for build in builds}
    for build in builds:
        with contextlib.suppress(SystemExit):
            run(build, ["/bin/sleep", "2"])  # what a first start leaves is there, pages are cached
    for number in range(rounds):
        for build in builds:
            figures = measure_cost(build) | (measure_paths(build) if number < 2 else {})
            print(f"{number + 1} {build.name}: {figures}", file=sys.stderr)
            for name, value in figures.items():
                found[build.name][name].append(value)
    yield from found.items()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--beside", action="append", default=[], help="another checkout, with its .venv")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", type=int, default=0, help="also count on so many hosts of a bed")
    options = parser.parse_args()
    with environments([*options.beside, str(Path(__file__).resolve().parents[1])]) as builds:
        _show(builds, options.rounds)
        if options.hosts:
            from benchmarks.join_hosts import show_hosts

            show_hosts(builds, options.hosts)


@contextlib.contextmanager
def environments(checkouts: Sequence[str]) -> Iterator[list[Build]]:
    """The builds of these checkouts, installed where the hosts of a bed see them; the last is this one."""
    with tempfile.TemporaryDirectory(prefix="raycluster-join-", dir="/srv") as directory:
        os.chmod(directory, 0o755)
        builds = []
        for number, checkout in enumerate(checkouts):
            there = Path(directory) / f"build{number}"
            make_environment(Path(checkout).resolve(), there, there)
            name = "this build" if number == len(checkouts) - 1 else Path(checkout).resolve().name
            builds.append(Build(name, there))
        yield builds


def _show(builds: Sequence[Build], rounds: int) -> None:
    heads = ("build", "packages", "raycluster", "Python", "calls", "read (MB)", "CPU (ms)", "private (MB)")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, figures in rows(builds, rounds):
        median = {key: statistics.median(values) for key, values in figures.items()}
        cells = (
            *(f"{median[kind]:.0f}" for kind in ("packages", "raycluster", "Python")),
            f"{median['calls']:.0f}",
            f"{median['read_mb']:.1f}",
            f"{median['cpu_ms']:.0f} ({min(figures['cpu_ms']):.0f} to {max(figures['cpu_ms']):.0f})",
            f"{median['private_mb']:.1f}",
        )
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
