"""A raycluster on a bed, as the tests of faults see it: its processes, its record, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycluster_cli.ops.post_mortem import PostMortem, post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.verdict import judge
from raycluster_cli.slurm.job_state import parse_job
from raycluster_cli.slurm.queue import Job as SlurmJob
from raycluster_cli.state.record import Record
from tests.bed.bed import REPOSITORY, Bed
from tests.bed.spec import home
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

#: What the machine that runs the tests may add to any time that the documentation promises.
SLACK_S = 6.0

DRIVER = """
import os, signal, sys, time
import ray

ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=0)
class Holder:
    def pid(self):
        return os.getpid()

mine = {node["NodeID"]: node["NodeName"] for node in ray.nodes() if node["Alive"]}
holders = []
for node in mine:
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    holders.append(Holder.options(scheduling_strategy=place).remote())
ray.get([holder.pid.remote() for holder in holders])
print("DRIVING", len(mine), flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Proc:
    """A process of a host, by the host's own numbers."""

    pid: int
    parent: int
    argv: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(self.argv)


class Cluster:
    """One job that runs `raycluster run` on all of its nodes."""

    def __init__(self, slurm: Slurm, job: Job, name: str, state_dir: str = "") -> None:
        self.slurm = slurm
        self._state_dir = state_dir or f"{home(job.user)}/.raycluster"
        self.bed: Bed = slurm.bed
        self.job = job
        self.name = name
        self.shares_nodes = False
        self.fault_at = 0.0

    @classmethod
    def start(
        cls,
        slurm: Slurm,
        driver: str = "time.sleep(600)",
        *,
        options: str = "",
        sbatch: tuple[str, ...] = (),
        nodes: int = 3,
        before: str = "",
        prefix: str = "",
        srun: str = "",
        preamble: str = DRIVER,
        wrap: str = "exec",
        script: str = "",
        waits: str = "--kill-on-bad-exit=0 --wait=0",
        state_dir: str = "",
        user: str = "root",
    ) -> Cluster:
        """Submit it.

        ``driver`` is Python that comes after DRIVER's text; ``state_dir`` is where its record lies, if
        ``options`` say so.  ``script``: what runs instead of srun, with fields for options, prefix, python
        and driver.
        """
        name = f"fault-{time.time_ns()}"
        path = slurm.bed.path("login", home(user)) / f"{name}.py"
        path.write_text(f"{preamble}\n{driver}\n")
        python = sys.executable
        runs = f"{python} {home(user)}/{name}.py"
        script = (
            script.format(options=options, prefix=prefix, python=python, driver=runs)
            or f"""
            {wrap} srun -N{nodes} -n{nodes} {waits} --mem=0 {srun} \\
                {prefix} {python} -m raycluster_cli run {options} -- {runs}
        """
        )
        script = f"""
            export PYTHONPATH={REPOSITORY} RAY_USAGE_STATS_ENABLED=0
            {before}
            {script}
        """
        job = slurm.sbatch(
            "\n".join(line.strip() for line in script.splitlines()),
            *(f"-N{nodes}", "--mem=3000", "--cpus-per-task=2", "--ntasks-per-node=1", f"--job-name={name}"),
            *("--no-requeue", *sbatch),
            user=user,
        )
        return cls(slurm, job, name, state_dir)

    def driving(self) -> Cluster:
        """Wait until the driver has an actor on each node."""
        self.job.wait_for("DRIVING")
        return self

    # -- processes -----------------------------------------------------------------------------

    def processes(self, host: str) -> list[Proc]:
        """Everything that runs on a host; of this job alone where it shares its nodes."""
        found = []
        job = f"SLURM_JOB_ID={self.job.id}".encode()
        for directory in self.bed.path(host, "/proc").glob("[0-9]*"):
            try:
                if self.shares_nodes and job not in (directory / "environ").read_bytes().split(b"\0"):
                    continue
                stat = (directory / "stat").read_text()
                argv = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            words = tuple(word.decode("utf-8", "replace") for word in argv if word)
            found.append(Proc(int(directory.name), parent, words))
        return found

    def find(self, host: str, kind: str) -> list[Proc]:
        """Processes of a kind: keeper, supervisor, companion, raylet, gcs_server, agent, worker, driver."""
        everything = self.processes(host)
        # A worker job runs the program `raycluster`, the other tasks the module.
        programs = ("raycluster_cli", "raycluster")
        ours = [one for one in everything if any(Path(word).name in programs for word in one.argv[:3])]
        ours = [one for one in ours if {"run", "head", "worker"} & {*one.argv[:4]}]
        ours = [one for one in ours if not one.argv[0].endswith("srun")]
        numbers = {one.pid for one in ours}
        first = sorted((one for one in ours if one.parent not in numbers), key=lambda one: one.pid)[:1]
        below = {one.pid for one in first}
        match kind:
            case "keeper":
                return first
            case "supervisor":
                return [one for one in ours if one.parent in below]
            case "companion":
                mine = {one.pid for one in ours}
                return [
                    one
                    for one in everything
                    if "raycluster_cli.rayproc.companion" in one.line and one.parent in mine
                ]
            case "watcher":
                parents = {one.pid for one in self.find(host, "companion")}
                return [one for one in everything if one.parent in parents]
            case "raylet" | "gcs_server":
                return [one for one in everything if one.argv and Path(one.argv[0]).name == kind]
            case "agent":
                # A worker process that starts names the agents' ports too, and is none.
                raylets = {one.pid for one in self.find(host, "raylet")}
                return [
                    one
                    for one in everything
                    if one.parent in raylets and "agent" in one.line and "default_worker.py" not in one.line
                ]
            case "worker":
                return [one for one in everything if one.line.startswith("ray::")]
            case "driver":
                return [
                    one
                    for one in everything
                    if one.line.endswith(f"{self.name}.py")
                    and one.parent not in below
                    and "raycluster_cli" not in one.line
                ]
        raise ValueError(kind)

    def pid(self, host: str, kind: str) -> int:
        """The process of a kind, waited for."""
        return wait_until(lambda: self.find(host, kind), timeout_s=30, what=f"{kind} on {host}")[0].pid

    def wait_gone(self, host: str, kind: str, timeout_s: float = 30.0) -> None:
        """Wait until a host has no process of a kind."""
        wait_until(lambda: not self.find(host, kind), timeout_s=timeout_s, what=f"{host} without {kind}")

    def signal(self, host: str, kind: str, number: str = "KILL") -> None:
        """Send a signal; the time of the fault is now."""
        pid = self.pid(host, kind)
        self.fault_at = time.time()
        self.bed.run(host, ["kill", f"-{number}", str(pid)], check=True)

    @contextlib.contextmanager
    def held(self, host: str, kind: str) -> Iterator[None]:
        """A process hangs, as in a call on a file system: it does nothing, and only SIGKILL ends it."""
        command = self.bed.command(host, [sys.executable, "-c", _HOLD, str(self.pid(host, kind))])
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            self.fault_at = time.time()
            yield
            holder.communicate()

    # -- the record ----------------------------------------------------------------------------

    @property
    def record(self) -> Path:
        return self.bed.path("login", f"{self._state_dir}/bed/{self.job.id}")

    def word(self, name: str) -> dict[str, Any]:
        """A file of the record; empty when it is not there."""
        try:
            return dict(json.loads((self.record / name).read_text()))
        except (OSError, ValueError):
            return {}

    @property
    def end(self) -> dict[str, Any]:
        return self.word("end.json")

    def events(self) -> str:
        """The record's log of events."""
        path = self.record / "events.log"
        return path.read_text() if path.exists() else ""

    def node(self, host: str) -> dict[str, Any]:
        return self.word(f"nodes/{host}.json")

    def wait_end(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until the head has said how the cluster ended."""
        return wait_until(lambda: self.end, timeout_s=timeout_s, what=f"the end of {self.job.id}")

    def wait_node_end(self, host: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Wait until a node has said how it ended."""

        def ended() -> dict[str, Any] | None:
            word = self.node(host)
            return word if word.get("exit_code") is not None else None

        return wait_until(ended, timeout_s=timeout_s, what=f"the end of {host}")

    def wait_event(self, text: str, *, times: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until the log of events has a text so many times."""
        wait_until(lambda: self.events().count(text) >= times, timeout_s=timeout_s, what=f"{text!r}")

    def explained(self) -> PostMortem:
        """What `status` and `why` make of its end, with what Slurm says of the job."""
        said = self.bed.run("login", ["scontrol", "--oneliner", "show", "job", self.job.id]).stdout
        slurm = parse_job(said) if said else None
        record = Record(self.record, "bed", self.job.id, "")
        jobs = {self.job.id: SlurmJob(self.job.id, self.job.id, slurm.state)} if slurm is not None else {}
        output = [self.bed.path("login", slurm.output)] if slurm is not None and slurm.output else []
        return post_mortem(record, status=read_cluster(record, jobs), slurm=slurm, outputs=output)

    def capture(self, path: Path, state: str, verdict: str) -> None:
        """Keep what is left of an end, for tests/data/ends; of logs the last lines."""
        kinds = ("*.json", "nodes/*.json", "logs/*/raylet.*", "logs/*/gcs_server.*")
        files = {
            str(file.relative_to(self.record)): _last_lines(file.read_text(errors="replace"), 10)
            for kind in kinds
            for file in sorted(self.record.glob(kind))
        }
        found = {
            "state": state,
            "verdict": verdict,
            "job": self.job.id,
            "record": files,
            "scontrol": self.bed.run("login", ["scontrol", "--oneliner", "show", "job", self.job.id]).stdout,
            "output": _last_lines(self.job.output(), 40),
        }
        text = json.dumps(found, indent=1).replace(str(REPOSITORY), "/opt/raycluster")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")

    def assert_told(self, state: str, verdict: str) -> None:
        """`status` shows this state, and `why` this cause; RAYCLUSTER_CAPTURE=DIR keeps what shows it."""
        if directory := os.environ.get("RAYCLUSTER_CAPTURE"):
            name = os.environ["PYTEST_CURRENT_TEST"].partition("::test_")[2].partition(" ")[0]
            self.capture(
                Path(directory) / f"{re.sub(r'[^a-zA-Z]+', '-', name).strip('-')}.json", state, verdict
            )
        post = self.explained()
        judgement = judge(post)
        print("why:", post.status.phase.value, judgement)
        assert (post.status.phase.value, post.running) == (state, False)
        assert verdict in judgement.verdict

    def known_after_s(self) -> dict[str, float]:
        """How long after the fault each node began to end, as their words tell."""
        found = {}
        for host in self.bed.spec.nodes:
            phases = self.node(host).get("phases", {})
            if "stopping" in phases:
                found[host] = round(phases["stopping"] - self.fault_at, 2)
        return found


#: Holds a process as a debugger does, until stdin ends: PTRACE_SEIZE and PTRACE_INTERRUPT of <sys/ptrace.h>.
_HOLD = """
import ctypes, sys
pid, ptrace = int(sys.argv[1]), ctypes.CDLL(None).ptrace
assert ptrace(0x4206, pid, None, None) == 0 and ptrace(0x4207, pid, None, None) == 0
print("held", flush=True)
sys.stdin.read()
"""


def _last_lines(text: str, count: int) -> str:
    return "".join(text.splitlines(keepends=True)[-count:])


class Disk:
    """A file system of 16 MiB that all hosts of a bed mount at the same path; it can fill up and hang."""

    def __init__(self, slurm: Slurm, image: Path) -> None:
        self._bed = slurm.bed
        self.path = "/home/admin/disk"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        _call("mkfs.ext4", "-q", "-F", str(image))
        self._device = _call("losetup", "--find", "--show", str(image)).strip()
        self._image = image
        for host in self._bed.spec.names:
            self._bed.run(host, ["mkdir", "-p", self.path], check=True)
            self._bed.run(host, ["mount", "-n", self._device, self.path], check=True)

    def fill(self) -> None:
        """Not a byte is left."""
        self._bed.run("login", ["dd", "if=/dev/zero", f"of={self.path}/big", "bs=64k"])
        self._bed.run("login", ["dd", "if=/dev/zero", f"of={self.path}/rest", "bs=1k"])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes hangs, and no signal wakes him."""
        self._bed.run("login", ["fsfreeze", "-f", self.path], check=True)
        try:
            yield
        finally:
            self._bed.run("login", ["fsfreeze", "-u", self.path], check=True)

    def remove(self) -> None:
        for host in self._bed.spec.names:
            self._bed.run(host, ["umount", "-n", "-l", self.path])
        _call("losetup", "--detach", self._device)
        self._image.unlink()


def _call(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
