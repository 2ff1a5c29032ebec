"""`raycluster run --local` with a real Ray: its codes, its signals, and nothing left whoever is killed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from raycluster_cli.model.status import NodePhase
from raycluster_cli.system.proctree import all_stats, read_stat
from tests.ray.local import NODES, START_S, Local, local
from tests.ray.nodes import ray_version
from tests.waiting import wait_until


@pytest.fixture
def place() -> Iterator[Local]:
    with local() as found:
        yield found


def driver(code: int = 0, sleep_s: float = 0) -> tuple[str, ...]:
    return (sys.executable, "-c", NODES, str(code), str(sleep_s))


def test_three_nodes_and_the_drivers_code(place: Local) -> None:
    assert place.start(2, *driver(7)).wait(START_S) == 7, place.output
    assert "NODES head worker-1 worker-2\n" in place.output
    assert len(place.output) < 4096
    place.assert_nothing_left()


ASKS = """
import os, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["RAY_DASHBOARD_ADDRESS"] + "/api/version", timeout=60)
except urllib.error.HTTPError as error:
    print("ANSWER", error.code, error.reason, flush=True)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("aiohttp_cors") is not None,
    reason="this Ray has its dashboard: make ray-default",
)
def test_what_asks_for_a_dashboard_that_is_not_installed_is_told_so(place: Local) -> None:
    assert place.start(0, sys.executable, "-c", ASKS).wait(START_S) == 0, place.output
    assert "ANSWER 503 the dashboard did not start on " in place.output
    assert "the dashboard needs `pip install 'ray[default]'`" in place.output
    place.assert_nothing_left()


def test_a_directory_that_cannot_be_used_is_the_users_error(place: Local) -> None:
    assert place.start(1, *driver(), options=("--temp-dir", "/nowhere")).wait(START_S) == 2, place.output
    assert "cannot keep Ray's files below /nowhere" in place.output
    assert "Traceback" not in place.output
    place.assert_nothing_left()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_while_the_driver_runs(place: Local, number: signal.Signals, code: int) -> None:
    run = place.start(1, *driver(0, 600))
    place.wait_for("NODES", run)
    run.send_signal(number)
    assert run.wait(30) == code, place.output
    place.assert_nothing_left()


@pytest.mark.parametrize("after_s", [0.1, 0.6, 1.5])
def test_a_signal_before_the_cluster_is_ready(place: Local, after_s: float) -> None:
    run = place.start(1, *driver(0, 600))
    time.sleep(after_s)
    run.send_signal(signal.SIGTERM)
    # On a loaded machine 0.1 s may be before Python itself is up: a shell shows both as 143.
    assert run.wait(60) in (143, -signal.SIGTERM), place.output
    place.assert_nothing_left()


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("UP", flush=True)
time.sleep(600)
"""


def test_a_second_signal_ends_a_driver_that_ignores_the_first(place: Local) -> None:
    run = place.start(0, sys.executable, "-c", STUBBORN, options=("--grace", "300"))
    place.wait_for("\nUP\n", run)
    run.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130, place.output
    assert "SIGINT again" in place.output
    place.assert_nothing_left()


ORPHANS = """
import os, subprocess, sys, ray
ray.init(logging_level="ERROR")
@ray.remote
class Parent:
    def start(self):
        return subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={}).pid
parent = Parent.remote()
child = ray.get(parent.start.remote())
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon == 0:
        os.closerange(0, 3)
        os.execve("/bin/sleep", ["sleep", "600"], {})
    print("PIDS", child, daemon, flush=True)
    os._exit(0)
os.wait()
os._exit(5)
"""


def test_daemons_of_the_driver_and_children_of_actors_end_too(place: Local) -> None:
    run = place.start(1, sys.executable, "-c", ORPHANS)
    assert run.wait(START_S) == 5, place.output
    words = next(line for line in place.output.splitlines() if line.startswith("PIDS")).split()
    for pid in map(int, words[1:]):
        stat = read_stat(pid)
        assert stat is None or stat.name != "sleep" or stat.state in "ZX"
    place.assert_nothing_left()


def killed(place: Local, *who: str, cleanup: bool = True) -> tuple[int, str]:
    """Starts a cluster, kills with SIGKILL, and gives its code once it has ended.

    Without ``cleanup`` the file is gone by which the nodes clear themselves.
    """
    run = place.start(1, *driver(0, 600))
    place.wait_for("NODES", run)
    if not cleanup:
        for path in place.base.glob("t/*/orphaned.json"):
            path.unlink()
    pids = place.node_pids()
    stats = {name: read_stat(pid) for name, pid in pids.items()}
    for one in who:
        node, _, part = one.partition(" ")
        stat = stats[node]
        assert stat is not None
        os.kill(stat.parent if part == "keeper" else stat.pid, signal.SIGKILL)
    return run.wait(60), place.output


@pytest.mark.parametrize(
    ("who", "codes"),
    [
        ("head supervisor", (137,)),
        ("worker-1 supervisor", (5,)),
        ("head keeper", (-9,)),
        ("worker-1 keeper", (5,)),
    ],
)
def test_kill_9_of_one_of_them_leaves_nothing(place: Local, who: str, codes: tuple[int, ...]) -> None:
    code, output = killed(place, who)
    assert code in codes, output
    place.assert_nothing_left()


EVERYBODY = ("head keeper", "head supervisor", "worker-1 keeper", "worker-1 supervisor")


def test_kill_9_of_all_of_them_leaves_nothing(place: Local) -> None:
    """Ray's agents notice it, and start what clears the nodes."""
    code, _ = killed(place, *EVERYBODY)
    assert code == -9
    place.assert_nothing_left()


def test_what_kill_9_leaves_is_cleared_by_stop(place: Local) -> None:
    code, _ = killed(place, *EVERYBODY, cleanup=False)
    assert code == -9
    assert any("gcs_server" in line for line in place.left())
    stop = [sys.executable, "-m", "raycluster_cli", "stop"]
    done = subprocess.run(stop, env=place.env, capture_output=True, text=True, timeout=60, check=False)
    assert "cleared" in done.stdout + done.stderr
    assert "processes ended" in done.stdout + done.stderr
    place.assert_nothing_left()


def test_what_kill_9_leaves_is_cleared_by_the_next_start(place: Local) -> None:
    code, _ = killed(place, *EVERYBODY, cleanup=False)
    assert code == -9
    assert any("gcs_server" in line for line in place.left())
    assert place.start(0, *driver(3)).wait(START_S) == 3, place.output
    assert place.output.count("raycluster: cleared ") >= 1
    assert "processes ended" in place.output
    wait_until(lambda: not place.left(), timeout_s=10, what="nothing left behind")


def heads_raylet(place: Local) -> int:
    """The raylet of the head, once it is executed; 0 before."""
    for stat in all_stats():
        if stat.name == "raylet":
            with suppress(OSError):
                words = Path(f"/proc/{stat.pid}/cmdline").read_text().split("\0")
                if "--head" in words and str(place.base) in " ".join(words):
                    return stat.pid
    return 0


def test_workers_that_are_in_before_a_head_fails_end_with_it(place: Local) -> None:
    """Workers start with the head's raylet, and may join before it has registered."""
    for _ in range(5):  # it registers within 0.1 s: it may have done so before it was stopped
        run = place.start(1, *driver())
        pid = wait_until(
            lambda: heads_raylet(place), timeout_s=START_S, what="the head's raylet", interval_s=0.001
        )
        os.kill(pid, signal.SIGSTOP)
        joined = lambda: place.phase("worker-1") == NodePhase.JOINED.value  # noqa: E731
        wait_until(joined, timeout_s=START_S, what="a worker that has joined")
        in_time = place.phase("head") == NodePhase.STARTING.value
        os.kill(pid, signal.SIGKILL)
        code = run.wait(60)
        place.assert_nothing_left()
        if in_time:
            break
        shutil.rmtree(place.base / ".raycluster")
    assert in_time
    assert code == 3, place.output
    assert "the head did not start on head: raylet ended during its start (SIGKILL)" in place.output


LOSES_ITS_HEAD = """
import os, signal, time
import ray
ray.init()
workers = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeName"] != "head")
if "RAYCLUSTER_DRIVER_RESTARTS" in os.environ:
    print("AGAIN", *workers, flush=True)
    raise SystemExit(3)
print("FIRST", *workers, flush=True)
for name in filter(str.isdigit, os.listdir("/proc")):  # the head's raylet: a sibling of this driver
    with open(f"/proc/{name}/stat") as stat:
        pid, _, rest = stat.read().partition(" (")
    program, _, fields = rest.rpartition(") ")
    if program == "raylet" and int(fields.split()[1]) == os.getppid():
        os.kill(int(pid), signal.SIGKILL)
time.sleep(600)
"""


def test_a_head_that_recovers_keeps_its_workers(place: Local) -> None:
    if ray_version() < (2, 58):
        pytest.skip("this Ray cannot keep the GCS's state on disk")
    run = place.start(1, sys.executable, "-c", LOSES_ITS_HEAD, options=("--head-recovery",))
    assert run.wait(3 * START_S) == 3, place.output
    lines = [line.split() for line in place.output.splitlines() if line.startswith(("FIRST", "AGAIN"))]
    assert [line[0] for line in lines] == ["FIRST", "AGAIN"], place.output
    assert lines[0][1:] == lines[1][1:], "the worker is another"
    place.assert_nothing_left()


CLEANED = """
import os, time
import ray
from ray._private import worker
ray.init()
session = worker._global_node.get_session_dir_path()
print("CLEANING", session, flush=True)
for name in os.listdir(f"{session}/sockets"):
    os.unlink(f"{session}/sockets/{name}")
time.sleep(600)
"""


def test_sockets_that_a_cleaner_removes_end_the_run_with_their_path(place: Local) -> None:
    run = place.start(1, sys.executable, "-c", CLEANED)
    assert run.wait(2 * START_S) == 5, place.output
    assert "was removed while Ray needed it" in place.output
    assert "--temp-dir" in place.output
    place.assert_nothing_left()


TOKEN_CLEANED = """
import os, time
import ray

ray.init()

@ray.remote(num_cpus=0)
class Actor:
    def pid(self):
        return os.getpid()

token = os.environ["RAY_AUTH_TOKEN_PATH"]
os.unlink(token)
deadline = time.monotonic() + 40
while not os.path.exists(token) and time.monotonic() < deadline:
    time.sleep(0.1)
actors = [Actor.remote() for _ in range(2 * os.cpu_count() + 2)]
print("STARTED", len(set(ray.get([actor.pid.remote() for actor in actors], timeout=60))), flush=True)
"""


def test_a_token_that_a_cleaner_removes_is_written_again(place: Local) -> None:
    """Cleaners that leave sockets alone remove old files; no new worker process would start then.

    One that starts without the token aborts, which its raylet notices after 300 s only.
    """
    run = place.start(0, sys.executable, "-c", TOKEN_CLEANED)
    assert run.wait(2 * START_S) == 0, place.output
    assert "STARTED" in place.output
    place.assert_nothing_left()
