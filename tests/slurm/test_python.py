"""Clusters from Python, from the login host as one of its users; each way in which such a program ends."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator

import pytest

from tests.bed.bed import Bed
from tests.bed.spec import LOGIN
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

#: A cluster of three; DRIVER names its nodes and ends with its argument.
BEGIN = """
import os, signal, sys, threading, time
from raycluster_cli import *

DRIVER = '''
import sys, ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
def task():
    return "task done"
nodes = sorted(node["NodeName"] for node in ray.nodes() if node["Alive"])
print("DRIVER", *nodes, ray.get(task.remote()), flush=True)
sys.exit(int(sys.argv[1]))
'''
SHAPE = dict(nodes=3, time="10", sbatch=["--exclusive", "--no-requeue", "-J", "from python"])

def tell(cluster):
    print("JOB", cluster.job_id, flush=True)
"""


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.run(LOGIN, ["scancel", "--quiet", "--user=alice"])


def python(slurm: Slurm, code: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
    """A Python program of alice's on the login host."""
    return slurm.run(LOGIN, ["python", "-c", BEGIN + code], user="alice", timeout_s=timeout_s)


def job_of(bed: Bed, output: str) -> Job:
    return Job(bed, next(line.split()[1] for line in output.splitlines() if line.startswith("JOB ")), "alice")


TWO_DRIVERS = """
try:
    with SlurmCluster(**SHAPE) as cluster:
        tell(cluster)
        print("CODES", cluster.run(["python", "-c", DRIVER, "0"]), cluster.run(["python", "-c", DRIVER, "7"]))
        os.environ["SBATCH_ARRAY_INX"] = "1-3"
        attached = SlurmCluster.attach(cluster.job_id, progress=None)
        print("ATTACHED", attached.status().ready_nodes, attached.status().phase.value, repr(attached))
        try:
            attached.connect()
        except RayclusterError as error:
            print("REFUSED", error)
        print("NODE", attached.run(["hostname"], node="n2"))
        try:
            attached.run(["no-such-program"], node="n2")
        except UsageError as error:
            print("MISSING", error)
        raise LookupError("in the body")
except LookupError as error:
    print("RAISED", error, cluster.status().phase.value)
print("LOGS", "3 nodes ready" in cluster.logs())
"""


def test_two_drivers_one_after_the_other_and_an_exception_ends_the_job(slurm: Slurm) -> None:
    done = python(slurm, TWO_DRIVERS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("DRIVER n1 n2 n3 task done\n") == 2
    assert "CODES 0 7\n" in done.stdout
    job = job_of(slurm.bed, done.stdout)
    assert f"ATTACHED 3 running <SlurmCluster {job.id}: 3 nodes ready, no driver>\n" in done.stdout
    assert f"REFUSED login is no node of cluster {job.id}, and a driver needs a Ray node" in done.stdout
    assert "n2\nNODE 0\n" in done.stdout
    assert "MISSING 'no-such-program' was not found on n2. PATH there is " in done.stdout
    assert "RAISED in the body ended\n" in done.stdout
    assert "LOGS True\n" in done.stdout
    assert "waiting in Slurm's queue" in done.stderr or "3 nodes ready" in done.stderr
    assert job.wait(timeout_s=1) == JobEnd("COMPLETED", 0, 0)
    slurm.assert_nothing_left()


SLEEPS = """
with SlurmCluster(**SHAPE) as cluster:
    tell(cluster)
    cluster.run(["sleep", "600"])
"""

#: What becomes of such a program; then each has ended its job.
ENDS = {
    "SIGTERM": (SLEEPS, 143),
    "SIGINT": (SLEEPS, -2),
    "no with": ("cluster = SlurmCluster(**SHAPE).start(); tell(cluster)", 0),
    "in the queue": (
        "def progress(text):\n"
        "    print('SAYS', text, flush=True)\n"
        '    if "waiting in Slurm\'s queue" in text:\n'
        "        threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "SHAPE['sbatch'] += ['--begin=now+1hour']\n"
        "SlurmCluster(**SHAPE, progress=progress).start()",
        -2,
    ),
    "async": (
        "import asyncio\n"
        "async def main():\n"
        "    async with AsyncSlurmCluster(**SHAPE) as cluster:\n"
        "        tell(cluster)\n"
        "        one, other = (cluster.run(['python', '-c', DRIVER, code]) for code in '34')\n"
        "        print('CODES', await asyncio.gather(one, other), flush=True)\n"
        "        try:\n"
        "            await asyncio.wait_for(cluster.run(['sleep', '600']), 5)\n"
        "        except asyncio.TimeoutError:\n"
        "            print('CANCELLED', (await cluster.status()).phase.value, flush=True)\n"
        "asyncio.run(main())",
        0,
    ),
}


@pytest.mark.chaos
@pytest.mark.parametrize("how", sorted(ENDS))
def test_the_job_ends_with_the_program(slurm: Slurm, how: str) -> None:
    code, expected = ENDS[how]
    words = ["python", "-c", BEGIN + code]
    child = subprocess.Popen(
        slurm.bed.command(LOGIN, words, user="alice"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    assert child.stdout is not None
    try:
        if how.startswith("SIG"):
            while not output.startswith("JOB ") and "\nJOB " not in output:
                line = child.stdout.readline()
                assert line, output
                output += line
            job = job_of(slurm.bed, output)
            steps = ["squeue", "--steps", "--noheader", f"--job={job.id}", "--format=%i"]
            wait_until(
                lambda: f"{job.id}.1" in slurm.run(LOGIN, steps).stdout,
                timeout_s=60,
                what="the driver's step",
            )
            pid = slurm.run(LOGIN, ["pgrep", "-u", "alice", "-f", "^python -c"], check=True).stdout.split()[0]
            slurm.run(LOGIN, ["kill", f"-{how[3:]}", pid], check=True)
        output += child.communicate(timeout=150)[0]
    finally:
        child.kill()
    assert child.returncode % 256 == expected % 256 or child.returncode == 128 - expected, output
    if how == "async":
        assert "CODES [3, 4]\n" in output
        assert "CANCELLED running\n" in output
    if how == "in the queue":
        assert "waiting in Slurm's queue" in output
    else:
        assert job_of(slurm.bed, output).wait(timeout_s=1).state in ("COMPLETED", "CANCELLED"), output
    assert slurm.run(LOGIN, ["squeue", "--noheader", "--user=alice"]).stdout == ""
    slurm.assert_nothing_left()


GROWS = """
cluster = SlurmCluster(1, time="10", sbatch=["--exclusive", "--no-requeue"], settings={"max_nodes": 3})
with cluster:
    tell(cluster)
    print("RANGE", cluster.scale(2)[0].range)
    deadline = time.monotonic() + 90
    while cluster.status().ready_nodes < 3 and time.monotonic() < deadline:
        time.sleep(0.5)
    print("CODE", cluster.run(["python", "-c", DRIVER, "0"]), cluster.status().ready_nodes, flush=True)
"""


@pytest.mark.chaos
def test_a_cluster_that_grows_when_it_is_told_to(slurm: Slurm) -> None:
    done = python(slurm, GROWS)
    assert "RANGE 2\n" in done.stdout, done.stderr
    assert "task done\nCODE 0 3\n" in done.stdout, done.stdout + done.stderr
    queue = ["squeue", "--noheader", "--user=alice"]
    wait_until(lambda: slurm.run(LOGIN, queue).stdout == "", timeout_s=60, what="the end of the worker jobs")
    slurm.assert_nothing_left()


CONNECTS = """
with SlurmCluster(**SHAPE, settings={"client_server": True}) as cluster:
    tell(cluster)
    cluster.connect(logging_level="ERROR")
    import ray
    print("NODES", len(ray.nodes()), cluster.address.startswith("ray://"), flush=True)
print("AFTER", ray.is_initialized(), os.environ.get("RAY_ADDRESS"))
"""


@pytest.mark.chaos
@pytest.mark.skipif(
    importlib.util.find_spec("grpc") is None, reason="ray:// needs ray[client]: make ray-default"
)
def test_this_program_is_a_driver_on_the_login_host(slurm: Slurm) -> None:
    done = python(slurm, CONNECTS)
    assert "NODES 3 True\n" in done.stdout, done.stdout + done.stderr
    assert "AFTER False None\n" in done.stdout
    assert job_of(slurm.bed, done.stdout).wait(timeout_s=1) == JobEnd("COMPLETED", 0, 0)
    slurm.assert_nothing_left()
