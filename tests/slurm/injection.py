"""Does a random fault to a run on a bed, and says in which phases it can have hit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bed.bed import REPOSITORY
from tests.bed.spec import home
from tests.slurm.cluster import DRIVER, Cluster, Disk
from tests.slurm.images import IMAGE, SHOWN
from tests.slurm.jobs import UNFINISHED, Slurm
from tests.slurm.random_faults import CUT_S, HEAD, HOSTS, SIGTERMED, Draw, Fault, Phase
from tests.waiting import wait_until

#: A small file system for a node's directory, mounted on each host.
SMALL = "/tmp/small"

#: What the driver does until it is told to exit; CHECK: it must reach an actor on each node first.
DRIVER_WAITS = """
from pathlib import Path

told = Path(__file__).with_suffix(".exit")
while not told.exists():
    time.sleep(0.05)
if told.read_text() == "check":
    ray.get([holder.pid.remote() for holder in holders], timeout={timeout_s:g})
sys.exit({code})
"""

#: The driver of a cluster that grows: two actors, each of which needs all CPUs of a node and is started again
#: when its node is lost.
DRIVER_GROWS = """
import sys, time
import ray

ray.init(address="auto", log_to_driver=False)

@ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
class Holder:
    def pid(self):
        import os
        return os.getpid()

holders = [Holder.remote() for _ in range(2)]
ray.get([holder.pid.remote() for holder in holders])
print("DRIVING", len(holders), flush=True)
"""

#: A cluster that grows: on n1 is the head, and Slurm takes n2 first of the others.
GROWS = "--num-cpus 1 --max-nodes 2 --worker-sbatch '-c 1 --mem=2500 --time=10 --exclude=n1'"

#: The driver of a server: it answers on the port that it is given.
DRIVER_SERVES = f"""
import http.server, os, threading

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

where = ("", int(os.environ["RAYCLUSTER_SERVICE_PORT"]))
threading.Thread(target=http.server.ThreadingHTTPServer(where, Answer).serve_forever, daemon=True).start()
{DRIVER}
"""

#: A head in the batch step and workers in a step of their own, as slurm/head_and_workers.sbatch has it.
APART = """
    srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=$SLURMD_NODENAME --mem=0 --kill-on-bad-exit=0 \\
        --wait=0 {prefix} {python} -m raycluster_cli worker --master-ip $SLURMD_NODENAME {options} & step=$!
    trap : TERM
    {prefix} {python} -m raycluster_cli head --expected-workers 2 {options} -- {driver}
    code=$?
    for _ in {{1..900}}; do
        kill -0 $step 2>/dev/null || break
        sleep 0.1
    done
    exit $code
"""

#: How long a worker job may take to start Ray, or another one to follow it.
GROWN_S = 120.0

#: How long srun gets to learn that all of its tasks have ended.
SRUN_TOLD_S = 45.0

#: All of a host's bandwidth while its network is slow, bits a second.
SLOW_BITS = "500kbit"


class Run:
    """One run of `raycluster run` that a fault is done to."""

    def __init__(self, slurm: Slurm, drawn: Draw, disk: Disk | None) -> None:
        self.slurm = slurm
        self.drawn = drawn
        self.fault: Fault = drawn.fault
        self._disk = disk
        self._told = False
        options = "--timeout 40" + (f" --state-dir {disk.path}/state" if disk else "")
        preamble, timeout_s = DRIVER, 60.0
        if drawn.grows:
            options, preamble, timeout_s = f"{options} {GROWS}", DRIVER_GROWS, GROWN_S
        prefix = ""
        if self.fault.what == "node's directory":
            prefix = f"env TMPDIR={SMALL}"
        if drawn.shape == "service":
            options, preamble = f"{options} --service", DRIVER_SERVES
        if drawn.shape == "staged":
            options = f"{options} --stage-env"
        if drawn.shape == "container":
            options = f"{options} --container={IMAGE} --container-mounts={','.join(SHOWN)}"
        requeue = ("--requeue", "--open-mode=append") if self.fault.kind == "requeued" else ()
        self.cluster = Cluster.start(
            slurm,
            DRIVER_WAITS.format(code=drawn.driver_code, timeout_s=timeout_s),
            nodes=1 if drawn.grows else len(HOSTS),
            preamble=preamble,
            options=options,
            prefix=prefix,
            script=APART if drawn.shape == "apart" else "",
            sbatch=requeue,
            state_dir=f"{disk.path}/state" if disk else "",
            user=drawn.user,
        )
        self._exit_file = slurm.bed.path("login", f"{home(drawn.user)}/{self.cluster.name}.exit")

    # -- phases ----------------------------------------------------------------------------------

    def phase(self) -> Phase | None:
        """Where the run is, by its record and its output; None before raycluster runs, or after the end."""
        if self.cluster.job.state() not in UNFINISHED:
            return Phase.ENDING
        phases = self.cluster.node("n1").get("phases", {})
        if self.cluster.end or "stopping" in phases:
            return Phase.ENDING
        if self._told:
            return Phase.LEAVING
        if "DRIVING" in self.cluster.job.output():
            return Phase.DRIVING
        if "driver running" in phases:
            return Phase.CONNECTING
        if self.cluster.word("head.json"):
            return Phase.JOINING
        return Phase.LAUNCHING if self.cluster.find(self._host, "keeper") else None

    @property
    def _host(self) -> str:
        """Whose keeper says that the run has begun."""
        return HEAD if self.fault.host == "login" else self.fault.host

    def wait_for_moment(self) -> None:
        """Waits until the drawn moment, or a later one where the phase was short."""

        def come() -> bool:
            now = self.phase()
            if now is Phase.DRIVING and self.drawn.phase is Phase.LEAVING:
                self.tell_driver("")
            return now is not None and now >= self.drawn.phase

        wait_until(come, timeout_s=GROWN_S, what=f"phase {self.drawn.phase.name}", interval_s=0.02)
        time.sleep(self.drawn.delay_s)  # the moment itself

    def tell_driver(self, text: str) -> None:
        """Lets the driver exit; with "check" only after it has asked its actor on each node."""
        if not self._told:
            self._exit_file.write_text(text)
            self._told = True

    # -- the fault -------------------------------------------------------------------------------

    def do(self) -> list[Phase]:
        """The fault, from its beginning to its end.  Returns the phases in which it can have happened."""
        before = self.phase() or Phase.LAUNCHING
        done = getattr(self, f"_{self.fault.kind}")()
        with done if done is not None else contextlib.nullcontext():
            after = self.phase() or Phase.ENDING
            time.sleep(self.fault.lasts_s)  # the fault itself
        return [phase for phase in Phase if before <= phase <= after]

    def _pid(self, kind: str = "") -> str:
        """The process that the fault is for, once it is there; empty when the run ended without it."""
        kind = kind or self.fault.what

        def look() -> str:
            if found := self.cluster.find(self.fault.host, kind):
                return str(found[0].pid)
            if kind == "companion" and self._has_log_monitor():
                return "none"  # a worker's companion ends when it has started that
            return "none" if self.phase() is Phase.ENDING else ""

        timeout_s = GROWN_S if self.drawn.grows else 40
        what = f"{kind} on {self.fault.host}"
        pid = wait_until(look, timeout_s=timeout_s, what=what, interval_s=0.02)
        return "" if pid == "none" else pid

    def _has_log_monitor(self) -> bool:
        return any("ray::log_monitor" in one.line for one in self.cluster.processes(self.fault.host))

    def _killed(self) -> None:
        if pid := self._pid():
            self.slurm.run(self.fault.host, ["kill", "-KILL", pid])

    def _has_supervisor(self) -> bool:
        """Whether the host's keeper has one yet, or no keeper runs there (any more)."""
        host = self.fault.host
        return bool(self.cluster.find(host, "supervisor") or not self.cluster.find(host, "keeper"))

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        pid = self._pid()
        if pid and self.fault.what == "keeper" and not self.fault.lasts_s:
            wait_until(self._has_supervisor, timeout_s=60, what="a supervisor, which continues its keeper")
        if pid:
            self.slurm.run(self.fault.host, ["kill", "-STOP", pid])
        yield
        if pid and self.fault.lasts_s:
            self.slurm.run(self.fault.host, ["kill", "-CONT", pid])

    @contextlib.contextmanager
    def _cut(self) -> Iterator[None]:
        self.slurm.bed.cable(self.fault.host, up=False)
        yield
        self.slurm.bed.cable(self.fault.host, up=True)

    def _full(self) -> None:
        if self._disk is not None:
            self._disk.fill()
            return
        place = {"node's directory": SMALL, "shared memory": "/dev/shm"}[self.fault.what]
        self.slurm.run(self.fault.host, ["dd", "if=/dev/zero", f"of={place}/full", "bs=1M"])

    @contextlib.contextmanager
    def _slow(self) -> Iterator[None]:
        host, seconds = self.fault.host, f"{self.fault.lasts_s:g}"
        match self.fault.what:
            case "record":
                assert self._disk is not None
                with self._disk.frozen():
                    yield
            case "processors":
                loops = f"for i in $(seq 20); do timeout {seconds} sh -c 'while :; do :; done' & done; wait"
                command = self.slurm.bed.command(host, ["bash", "-c", loops])
                with subprocess.Popen(command, stderr=subprocess.DEVNULL):
                    yield
            case _:
                limit = ["tbf", "rate", SLOW_BITS, "burst", "20kb", "latency", "500ms"]
                self.slurm.run(host, ["tc", "qdisc", "add", "dev", "eth0", "root", *limit], check=True)
                yield
                self.slurm.run(host, ["tc", "qdisc", "del", "dev", "eth0", "root"], check=True)

    def _cancelled(self) -> None:
        job = self.cluster.job
        match self.fault.what.split():
            case ["scancel", *options]:
                whole = [job.id] if not options else [*options, f"{job.id}.0"]
                self.slurm.run("login", ["scancel", *whole], user=job.user)
            case ["raycluster", "stop"]:
                stop = [sys.executable, "-m", "raycluster_cli", "stop", job.id, "--yes"]
                self.slurm.run("login", stop, user=job.user, env={"PYTHONPATH": str(REPOSITORY)})
            case _:
                if pid := self._pid("keeper"):
                    self.slurm.run(self.fault.host, ["kill", "-TERM", pid])

    def _requeued(self) -> None:
        job = self.cluster.job
        self.slurm.run("login", ["scontrol", "requeue", job.id])
        self.tell_driver("")  # the next run is not to wait
        wait_until(lambda: job.state() != "COMPLETING", timeout_s=60, what="the end of the first run")
        # Slurm lets a job that was queued again wait for two minutes; in the same second its nodes refuse it
        # ("Job credential revoked").
        self.slurm.run("login", ["scontrol", "update", f"JobId={job.id}", "StartTime=now+3seconds"])

    # -- the end ---------------------------------------------------------------------------------

    def exit_code(self, timeout_s: float) -> int:
        """The exit code of the job, once it has ended; AssertionError if it does not end.

        Slurm tells srun once that a task has ended.  If a cable was pulled at that moment, srun waits on:
        then the job is cancelled once nothing of the cluster runs, and the code is the record's.
        """
        job = self.cluster.job
        # Where a cluster grows, the host has a job of its own, for which another one may come.
        missed = self.fault.kind == "cut" and self.fault.lasts_s >= CUT_S and not self.drawn.grows
        try:
            end = job.wait(SRUN_TOLD_S if missed else timeout_s)
        except AssertionError:
            if not missed or any(self._own(host) for host in HOSTS):
                raise
            print("  srun was not told of an end")
            job.cancel()
            job.wait(timeout_s)
            return int(self.cluster.wait_end()["exit_code"])
        if end.state == "CANCELLED":
            return SIGTERMED
        return end.exit_code or (128 + end.signal if end.signal else 0)

    def _own(self, host: str) -> list[str]:
        everything = self.cluster.processes(host)
        return [one.line for one in everything if "raycluster_cli" in one.argv and "srun" not in one.line]

    # -- after it --------------------------------------------------------------------------------

    def tell_failure(self, kind: object, error: object, trace: object) -> None:
        """At once, since a test run that takes an hour may not come to its summary."""
        if kind is not None:
            print(f"  FAILED: {kind}: {error}"[:500])
            print(self.cluster.job.output()[-4000:], self.cluster.events()[-2000:], sep="\n")

    def heal(self) -> None:
        """What the fault filled is emptied, once the run has ended."""
        for place in (SMALL, "/dev/shm"):
            if self.fault.kind == "full" and self._disk is None:
                self.slurm.run(self.fault.host, ["rm", "-f", f"{place}/full"])
        self._exit_file.unlink(missing_ok=True)
        Path(str(self._exit_file).removesuffix(".exit") + ".py").unlink(missing_ok=True)


@contextlib.contextmanager
def small_places(slurm: Slurm, wanted: bool) -> Iterator[None]:
    """A file system of 48 MiB at SMALL on each node, for the run's logs, sockets and spilled objects."""
    hosts = slurm.bed.spec.nodes if wanted else []
    for host in hosts:
        slurm.run(host, ["mkdir", "-p", SMALL], check=True)
        mount = ["mount", "-n", "-t", "tmpfs", "-o", "size=48m,mode=1777", "none", SMALL]
        slurm.run(host, mount, check=True)
    try:
        yield
        left = {host: slurm.run(host, ["ls", "-A", SMALL]).stdout.split() for host in hosts}
        assert not any(left.values()), left
    finally:
        for host in hosts:
            slurm.run(host, ["umount", "-n", "-l", SMALL])
            slurm.run(host, ["rmdir", SMALL])
