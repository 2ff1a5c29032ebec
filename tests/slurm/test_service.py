"""Servers (--service) on real Slurm and Ray: examples/openai_server.py, which has an actor on every node."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.cluster import SLACK_S, Cluster
from tests.slurm.jobs import Job, Slurm
from tests.slurm.test_submit import raycluster, submitted
from tests.waiting import wait_until

SHAPE = ("--nodes=3", "--mem=4000", "--cpus-per-task=4", "--time=10", "--no-requeue")

SERVER = (sys.executable, str(REPOSITORY / "examples/openai_server.py"), "--port", "{port}")

SERVICE = ("--service", "--health-path", "/health")

#: Asks a server many times, one after the other, in one process: URL, how often, further fields as JSON.
CLIENT = """
import json, sys, time, urllib.request
url, times, more = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
key = more.pop("key", "")
for number in range(times):
    body = json.dumps({"prompt": f"a{number} b", "max_tokens": 6, **more}).encode()
    head = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/v1/completions", body, head)
    with urllib.request.urlopen(request, timeout=60) as reply:
        found = json.load(reply)
    assert found["choices"][0]["text"].split()[0] == f"a{number}", found
    assert found["nodes"] == ["n1", "n2", "n3"], found
print("ANSWERS", times)
"""


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(slurm: Slurm) -> Iterator[None]:
    """Also when the test has not come to know its id."""
    yield
    slurm.run(LOGIN, ["scancel", "--quiet", "--user=alice"])


@dataclasses.dataclass
class Service:
    """A server of alice's."""

    slurm: Slurm
    job: Job

    @classmethod
    def submit(cls, slurm: Slurm, *options: str, server: tuple[str, ...] = SERVER) -> Service:
        done = raycluster(slurm, "submit", *SHAPE, *SERVICE, *options, "--", *server)
        assert done.returncode == 0, done.stderr
        return cls(slurm, submitted(slurm, done.stdout))

    def status(self) -> dict[str, object]:
        """What JSON says of the server; {} when nothing."""
        done = raycluster(self.slurm, "status", self.job.id, "--json")
        return (json.loads(done.stdout).get("service") or {}) if done.returncode == 0 else {}

    def is_in(self, state: str, restarts: int = 0, timeout_s: float = 120) -> dict[str, object]:
        """Wait until the server is in a state, after so many restarts."""

        def found() -> dict[str, object] | None:
            status = self.status()
            return status if (status.get("state"), status.get("restarts")) == (state, restarts) else None

        try:
            return wait_until(found, timeout_s=timeout_s, what=f"a server that is {state}", interval_s=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.status()}; its output:\n{self.job.output()}") from None

    def url(self) -> str:
        return str(self.status()["url"])

    def ask(self, times: int = 1, **more: object) -> None:
        """Ask it from the login host."""
        done = self.slurm.run(
            LOGIN,
            [sys.executable, "-c", CLIENT, self.url(), str(times), json.dumps(more)],
            user="alice",
            timeout_s=200,
        )
        assert f"ANSWERS {times}" in done.stdout, done.stderr

    def started(self) -> float:
        """When the driver was started, in Unix seconds."""
        done = raycluster(self.slurm, "status", self.job.id, "--json")
        return float(json.loads(done.stdout)["driver_started"])

    def pid(self, host: str = "n1") -> int:
        """The server's process on its host, by the host's own numbers."""
        port = str(self.status()["port"])
        for directory in self.slurm.bed.path(host, "/proc").glob("[0-9]*"):
            words = (directory / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            if SERVER[1] in words[1:2] and port in words:
                return int(directory.name)
        raise AssertionError(f"no server with port {port} on {host}")

    def signal(self, name: str) -> None:
        self.slurm.run("n1", ["kill", f"-{name}", str(self.pid())], check=True)


@pytest.mark.versions
def test_a_server_is_ready_answers_comes_back_and_ends_when_idle(slurm: Slurm) -> None:
    service = Service.submit(
        slurm, "--driver-restarts=2", "--idle-timeout=15s", server=(*SERVER, "--api-key=s3cret-key-1")
    )
    service.is_in("ready")
    service.ask(5, key="s3cret-key-1")
    service.signal("KILL")
    service.is_in("ready", restarts=1)
    service.ask(5, key="s3cret-key-1")
    # One that takes longer than the idle time is answered to its end.
    service.ask(key="s3cret-key-1", delay_s=20)
    end = service.job.wait()
    assert (end.state, end.exit_code) == ("COMPLETED", 0)
    output = service.job.output()
    assert re.search(r"the server had no work for [0-9.]+ s \(--idle-timeout\); exit code 0", output)
    assert "no longer serving" in output
    assert "s3cret" not in output
    record = raycluster(slurm, "status", service.job.id, "--json")
    assert json.loads(record.stdout)["reason"] == "idle"
    assert "s3cret" not in record.stdout
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_wait_ready_url_and_tunnel(slurm: Slurm) -> None:
    done = raycluster(
        slurm,
        "submit",
        *SHAPE,
        *SERVICE,
        "--service-host=127.0.0.1",
        "--wait-ready",
        "--",
        *SERVER,
        "--host={host}",
    )
    assert done.returncode == 0, done.stderr
    service = Service(slurm, submitted(slurm, done.stdout))
    port = service.status()["port"]
    assert done.stdout.splitlines()[-1] == f"http://127.0.0.1:{port}"
    assert "server is starting" in done.stderr
    found = raycluster(slurm, "url", service.job.id, "--json")
    assert (found.returncode, json.loads(found.stdout)["service"]["local"]) == (0, True)
    shown = raycluster(slurm, "tunnel", service.job.id)
    assert f"ssh -N -L {port}:127.0.0.1:{port} -J alice@" in shown.stdout
    assert "is open to everybody" not in service.job.output()
    service.signal("STOP")
    service.is_in("unhealthy")
    assert raycluster(slurm, "url", service.job.id).returncode == 5
    service.signal("CONT")
    service.is_in("ready")


def test_wait_ready_on_a_server_that_never_answers(slurm: Slurm) -> None:
    never = (
        sys.executable,
        "-c",
        "import time; print('still compiling kernels', flush=True); time.sleep(600)",
    )
    done = raycluster(slurm, "submit", *SHAPE, *SERVICE, "--ready-timeout=8s", "--wait-ready", "--", *never)
    submitted(slurm, done.stdout)
    assert done.returncode == 5, done.stderr
    assert "    still compiling kernels" in done.stderr
    assert "was not ready after 8.0 s (--ready-timeout): nothing listens on" in done.stderr


@pytest.mark.chaos
def test_three_servers_of_a_user_on_the_same_hosts(slurm: Slurm) -> None:
    """Each has its own URL and answers; two fail and come back, and the third notices nothing."""
    options = ("--driver-restarts=1", "--unhealthy-after=20s")
    with ThreadPoolExecutor(3) as pool:
        servers = list(pool.map(lambda _: Service.submit(slurm, *options), range(3)))
        list(pool.map(lambda server: server.is_in("ready", timeout_s=200), servers))
        assert len({server.url() for server in servers}) == 3
        list(pool.map(lambda server: server.ask(1000), servers))
    killed, stopped, other = servers
    since = other.status()["since"]
    took_s = float(killed.status()["ready_at"] or 0) - killed.started()  # type: ignore[arg-type]
    began = time.time()
    killed.signal("KILL")
    stopped.signal("STOP")
    back = killed.is_in("ready", restarts=1)
    # On two busy cores a start takes its time; how long it took the first time is the measure.
    assert float(back["since"]) - began < took_s * 2 + 5 + SLACK_S  # type: ignore[arg-type]
    stopped.is_in("restarting", timeout_s=60)
    stopped.is_in("ready", restarts=1)
    for server in servers:
        server.ask(20)
    assert (other.status()["since"], other.status()["restarts"]) == (since, 0)
    killed.signal("KILL")  # its one restart is used up
    assert killed.job.wait().exit_code == 137
    other.is_in("ready")


@pytest.mark.chaos
def test_a_lost_worker_is_waited_for_and_the_server_started_again(slurm: Slurm) -> None:
    service = Service.submit(slurm, "--on-worker-loss=wait:60")
    service.is_in("ready")
    Cluster(slurm, service.job, "").signal("n2", "raylet")
    service.is_in("ready", restarts=1)
    service.ask(5)


DETACHED = """
import http.server, os, ray
ray.init()
@ray.remote(num_cpus=1)
class Keeps:
    def pid(self):
        return os.getpid()
keeper = Keeps.options(name="keeps", lifetime="detached").remote()
group = ray.util.placement_group([{"CPU": 1}], lifetime="detached", name="held")
nameless = Keeps.options(lifetime="detached", num_cpus=0).remote()
ray.get([keeper.pid.remote(), nameless.pid.remote(), group.ready()])
print("HOLDS", flush=True)
where = (os.environ["RAYCLUSTER_SERVICE_HOST"], int(os.environ["RAYCLUSTER_SERVICE_PORT"]))
http.server.HTTPServer(where, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


@pytest.mark.chaos
def test_detached_actors_end_before_the_next_start(slurm: Slurm) -> None:
    """A second actor of that name would be refused, and the CPUs would be gone."""
    server = (sys.executable, "-c", DETACHED)
    done = raycluster(slurm, "submit", *SHAPE, "--service", "--driver-restarts=1", "--", *server)
    service = Service(slurm, submitted(slurm, done.stdout))
    service.is_in("ready")
    port = service.status()["port"]
    processes = Cluster(slurm, service.job, "").processes("n1")
    (pid,) = (proc.pid for proc in processes if proc.argv[1:] == ("-c", DETACHED))
    slurm.run("n1", ["kill", "-9", str(pid)], check=True)
    service.is_in("ready", restarts=1)
    assert service.job.output().count("HOLDS") == 2
    assert not re.search("Ray still has|could not be removed", service.job.output())
    hosts = ("n1", "n2", "n3")
    actors = [one for host in hosts for one in Cluster(slurm, service.job, "").processes(host)]
    assert sum("ray::Keeps" in one.line for one in actors) == 2, "the second server's own"
    assert service.status()["port"] == port
