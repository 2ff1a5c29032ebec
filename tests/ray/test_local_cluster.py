"""LocalCluster with a real Ray: drivers in it, this program as one, and whatever ends the program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.local import NODES, START_S, Local, local


@pytest.fixture
def place() -> Iterator[Local]:
    with local() as found:
        yield found


def python(place: Local, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=Path(__file__).parents[2],
        env=place.env,
        capture_output=True,
        text=True,
        timeout=2 * START_S,
        check=False,
    )


USES = """
import os, sys
from raycluster_cli import LocalCluster, RayclusterError

with LocalCluster(workers=1) as cluster:
    print("CODES", [cluster.run(["python", "-c", sys.argv[1], code, "0"]) for code in "07"], flush=True)
    print("KEY", cluster.job_id, cluster.status().ready_nodes, flush=True)
    context = cluster.connect(logging_level="ERROR")
    import ray
    print("CONNECTED", len(ray.nodes()), context.address_info["gcs_address"] == cluster.address)
    print("LOGS", "2 nodes ready" in cluster.logs(), "driver" in cluster.logs("driver"))
    print("GCS", "(gcs_server)" in cluster.logs("gcs", lines=5))
print("AFTER", os.environ.get("RAY_ADDRESS"), ray.is_initialized(), cluster.status().phase.value)
"""


def test_two_drivers_and_this_program(place: Local) -> None:
    done = python(place, USES, NODES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("NODES head worker-1\n") == 2
    assert "CODES [0, 7]\n" in done.stdout
    assert "KEY local-" in done.stdout
    assert "CONNECTED 2 True\n" in done.stdout
    assert "LOGS True False\n" in done.stdout
    assert "GCS True\n" in done.stdout
    assert "AFTER None False ended\n" in done.stdout
    place.assert_nothing_left()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "sys.exit(0)"])
def test_it_ends_with_the_program(place: Local, end: str) -> None:
    code = f"import os, sys; from raycluster_cli import LocalCluster; c = LocalCluster(0).start(); {end}"
    done = python(place, code)
    assert "1 node ready" in done.stderr
    place.assert_nothing_left()


def test_one_that_fails_to_start_is_an_error(place: Local) -> None:
    code = """
from raycluster_cli import LocalCluster, UsageError
try:
    LocalCluster(0, settings={"temp_dir": "/nowhere"}, progress=None).start()
except UsageError as error:
    print(error.message)
"""
    done = python(place, code)
    assert "ended before it was ready: cannot keep Ray's files below /nowhere" in done.stdout, done.stderr
    assert done.stderr == ""
    place.assert_nothing_left()


SERVES = """
import sys
from raycluster_cli import LocalCluster, service_url
server = [sys.executable, "-m", "http.server", "{port}", "--bind", "127.0.0.1"]
settings = {"health_path": "/", "service_host": "127.0.0.1"}
with LocalCluster(0, service=server, settings=settings, progress=None) as cluster:
    url = cluster.url(wait_s=120)
    import urllib.request
    print("ANSWER", urllib.request.urlopen(url, timeout=30).status, service_url(cluster.job_id) == url)
"""


def test_the_url_of_a_server(place: Local) -> None:
    done = python(place, SERVES)
    assert "ANSWER 200 True\n" in done.stdout, done.stderr
    place.assert_nothing_left()
