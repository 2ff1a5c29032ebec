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
    """`serve run` without a port listens where the server is expected, and comes back after kill -9.

    Without --health-path it is ready when Serve says that its application runs.
    """
    program = f"exec serve run --address $RAY_ADDRESS --app-dir {DRIVERS} serve_app:app"
    options = (*SHAPE, "--service", "--driver-restarts=5")
    done = raycluster(slurm, "submit", *options, "--", "sh", "-c", program)
    service = Service(slurm, submitted(slurm, done.stdout))
    try:
        service.is_in("ready", timeout_s=200)
        url = f"{service.url()}/"
        assert where(slurm, url, LOGIN) in HOSTS
        slurm.run("n1", ["kill", "-9", str(serve_pid(slurm))], check=True)
        service.is_in("ready", restarts=1)
        assert service.url() + "/" == url
        assert where(slurm, url, LOGIN) in HOSTS
    finally:
        slurm.run(LOGIN, ["scancel", service.job.id])
    service.job.wait()
    slurm.assert_nothing_left()


CONFIGURATION = f"""
proxy_location: EveryNode
applications:
- name: where
  route_prefix: /
  import_path: serve_app:app
  runtime_env: {{env_vars: {{PYTHONPATH: "{DRIVERS}"}}}}
"""


def configuration(slurm: Slurm, text: str) -> str:
    """The path of a configuration file for `serve run`."""
    place = f"{home('alice')}/serve-{uuid.uuid4().hex[:8]}.yaml"
    slurm.bed.run(LOGIN, ["sh", "-c", f"cat > {place}"], user="alice", stdin=text, check=True)
    return place


def test_configuration_files_without_a_port_do_not_meet_at_8000(slurm: Slurm) -> None:
    """Two clusters of a user on the same hosts, each with its own answers, on all three hosts."""
    shape = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=5000", "--time=10")
    servers = []
    for name in ("one", "two"):
        text = CONFIGURATION.replace("name: where", f"name: {name}").replace("prefix: /", f"prefix: /{name}")
        place = configuration(slurm, text)
        done = raycluster(slurm, "submit", *shape, "--service", "--", "serve", "run", place)
        servers.append((name, Service(slurm, submitted(slurm, done.stdout))))
    try:
        for _, service in servers:
            service.is_in("ready", timeout_s=250)
        for name, service in servers:
            assert service.status()["port"] != 8000
            for _ in range(20):
                assert where(slurm, f"{service.url()}/{name}", LOGIN) in HOSTS
        assert ":1F40 00000000" not in slurm.run("n2", ["cat", "/proc/net/tcp"]).stdout
    finally:
        for _, service in servers:
            slurm.run(LOGIN, ["scancel", service.job.id])
    for _, service in servers:
        service.job.wait()
    slurm.assert_nothing_left()


def test_an_application_that_fails_to_deploy_ends_the_wait(slurm: Slurm) -> None:
    """`serve run FILE` goes on for ever then, and its proxies answer their health checks."""
    place = configuration(slurm, CONFIGURATION.replace("serve_app:app", "serve_app:nothing"))
    options = (*SHAPE, "--service", "--wait-ready")
    done = raycluster(slurm, "submit", *options, "--", "serve", "run", place)
    assert done.returncode == 5, done.stderr
    assert "server is starting: Ray Serve's application where is DEPLOYING" in done.stderr
    assert "the server will not be ready: Ray Serve's application where is DEPLOY_FAILED" in done.stderr
    assert "has no attribute 'nothing'" in done.stderr


def test_a_configuration_file_with_a_port_of_its_own(slurm: Slurm) -> None:
    place = configuration(slurm, f"http_options: {{host: 0.0.0.0, port: 8124}}{CONFIGURATION}")
    options = (*SHAPE, "--service", "--service-port=8124")
    done = raycluster(slurm, "submit", *options, "--", "serve", "run", place)
    service = Service(slurm, submitted(slurm, done.stdout))
    try:
        service.is_in("ready", timeout_s=200)
        for host in HOSTS:
            url = f"http://{slurm.bed.spec.address(host)}:8124/"
            wait_until(lambda url=url: where(slurm, url, LOGIN), timeout_s=60, what=f"an answer of {url}")
    finally:
        slurm.run(LOGIN, ["scancel", service.job.id])
    service.job.wait()
    slurm.assert_nothing_left()
