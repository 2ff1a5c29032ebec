"""Ray Serve on three hosts: its proxies listen on ports of the cluster, and answer as a server.

Run by `make libraries`.
"""

from __future__ import annotations

import json
import sys
import uuid

import pytest

from tests.bed.spec import LOGIN, home
from tests.libraries.test_libraries import DRIVERS, is_installed
from tests.slurm.batches import line_with
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.slurm.test_service import Service
from tests.slurm.test_submit import raycluster, submitted
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not is_installed("uvicorn"), reason="ray[serve] is not installed")

SHAPE = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=5000", "--time=10")
SRUN = "srun --cpu-bind=none --mem=0 --kill-on-bad-exit=0 --wait=0"
HOSTS = ("n1", "n2", "n3")


def serving(slurm: Slurm, name: str, other: str, meeting: str, port: str = "") -> Job:
    driver = f"python {DRIVERS}/serve_ports.py {name} {other} {meeting} {port}"
    return slurm.sbatch(f"mkdir -p {meeting}; exec {SRUN} raycluster run -- {driver}", *SHAPE)


def meeting_place() -> str:
    """A directory that all hosts share, of this test's own."""
    return f"{home('root')}/serve-{uuid.uuid4().hex[:8]}"


def ports_of(job: Job) -> list[int]:
    return [int(word) for word in line_with("PORTS", job.output()).split()[1:]]


def test_two_clusters_on_the_same_hosts_each_answer_their_own(slurm: Slurm) -> None:
    """No port is given.  With Serve's defaults the second finds its ports taken on every node."""
    meeting = meeting_place()
    jobs = [serving(slurm, "one", "two", meeting), serving(slurm, "two", "one", meeting)]
    for job in jobs:
        assert job.wait(timeout_s=280) == JobEnd("COMPLETED", 0, 0), job.output()
        assert line_with("LIBRARY", job.output()).endswith("NODES 3")
        assert 8000 not in ports_of(job)
    slurm.assert_nothing_left()


def test_a_port_that_the_application_gives_is_used_on_every_node(slurm: Slurm) -> None:
    job = serving(slurm, "one", "one", meeting_place(), port="8123")
    assert job.wait(timeout_s=240) == JobEnd("COMPLETED", 0, 0), job.output()
    assert ports_of(job) == [8123, 8123, 8123]


def where(slurm: Slurm, url: str, host: str) -> str:
    """Which host the application names when it is asked on a host; '' when nothing answers."""
    code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=20).read().decode())"
    done = slurm.run(host, [sys.executable, "-c", code], user="alice")
    return str(json.loads(done.stdout)["host"]) if done.returncode == 0 else ""


def serve_pid(slurm: Slurm) -> int:
    """The process of `serve run` on the head's host."""
    for directory in slurm.bed.path("n1", "/proc").glob("[0-9]*"):
        words = (directory / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        if words[1:2] and words[1].endswith("/serve") and "serve_app:app" in words:
            return int(directory.name)
    raise AssertionError("`serve run` does not run on n1")


def test_serve_run_as_a_service(slurm: Slurm) -> None:
    """`serve run` without a port listens where the server is expected, and comes back after kill -9."""
    program = f"exec serve run --address $RAY_ADDRESS --app-dir {DRIVERS} serve_app:app"
    options = (*SHAPE, "--service", "--health-path=/-/healthz", "--driver-restarts=5")
    done = raycluster(slurm, "submit", *options, "--", "sh", "-c", program)
    service = Service(slurm, submitted(slurm, done.stdout))
    try:
        service.is_in("ready")
        url = f"{service.url()}/"
        assert wait_until(lambda: where(slurm, url, LOGIN), timeout_s=60, what="an answer") in HOSTS
        slurm.run("n1", ["kill", "-9", str(serve_pid(slurm))], check=True)
        service.is_in("ready", restarts=1)
        assert service.url() + "/" == url
        assert wait_until(lambda: where(slurm, url, LOGIN), timeout_s=60, what="an answer") in HOSTS
    finally:
        slurm.run(LOGIN, ["scancel", service.job.id])
    service.job.wait()
    slurm.assert_nothing_left()


CONFIGURATION = f"""
proxy_location: EveryNode
http_options: {{host: 0.0.0.0, port: 8124}}
applications:
- name: where
  route_prefix: /
  import_path: serve_app:app
  runtime_env: {{env_vars: {{PYTHONPATH: "{DRIVERS}"}}}}
"""


def test_a_configuration_file_with_a_port_of_its_own(slurm: Slurm) -> None:
    place = f"{home('alice')}/serve.yaml"
    slurm.bed.run(LOGIN, ["sh", "-c", f"cat > {place}"], user="alice", stdin=CONFIGURATION, check=True)
    # A route of the application: /-/healthz answers 200 although the application failed to deploy.
    options = (*SHAPE, "--service", "--health-path=/", "--service-port=8124")
    done = raycluster(slurm, "submit", *options, "--", "serve", "run", place)
    service = Service(slurm, submitted(slurm, done.stdout))
    try:
        service.is_in("ready")
        for host in HOSTS:
            url = f"http://{slurm.bed.spec.address(host)}:8124/"
            wait_until(lambda url=url: where(slurm, url, LOGIN), timeout_s=60, what=f"an answer of {url}")
    finally:
        slurm.run(LOGIN, ["scancel", service.job.id])
    service.job.wait()
    slurm.assert_nothing_left()
