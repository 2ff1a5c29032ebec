"""Servers (--service) on real Slurm and Ray: examples/openai_server.py, which has an actor on every node."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
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


def test_a_server_is_ready_answers_comes_back_and_ends_when_idle(slurm: Slurm) -> None:
    service = Service.submit(
        slurm, "--driver-restarts=2", "--idle-timeout=15s", server=(*SERVER, "--api-key=s3cret-key-1")
    )
    service.is_in("ready")
    service.ask(5, key="s3cret-key-1")
    killed = time.monotonic()
    service.signal("KILL")
    service.is_in("ready", restarts=1)
    assert time.monotonic() - killed < 60
    service.ask(5, key="s3cret-key-1")
    # One that takes longer than the idle time is answered to its end.
    service.ask(key="s3cret-key-1", delay_s=20)
    end = service.job.wait()
    assert (end.state, end.exit_code) == ("COMPLETED", 0)
    output = service.job.output()
    assert "the server had no work for 15 s (--idle-timeout); exit code 0" in output
    assert "no longer serving" in output
    assert "s3cret" not in output
    record = raycluster(slurm, "status", service.job.id, "--json")
    assert json.loads(record.stdout)["reason"] == "idle"
    assert "s3cret" not in record.stdout
    slurm.assert_nothing_left()


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
