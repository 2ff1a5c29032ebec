"""What needs ray[default]: the dashboard, the tunnel to it, Ray's job API, and drivers by ray://."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.bed.bed import Bed
from tests.bed.spec import LOGIN
from tests.slurm.batches import driver, head_is_up
from tests.slurm.conftest import IN_CI, Beds
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

HAS_DASHBOARD = importlib.util.find_spec("aiohttp_cors") is not None
WITHOUT = "Ray is installed without its dashboard: ray[default] has it"
pytestmark = [
    pytest.mark.dashboard,
    pytest.mark.skipif(not HAS_DASHBOARD, reason=WITHOUT),
]

SHAPE = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=5000", "--time=20")
SLOW_S = 180.0
"""For what imports all of the dashboard, some times over, on two cores."""

LOOPBACK, ALL = "127.0.0.1", "0.0.0.0"
on_loopback = pytest.mark.parametrize("cluster", [LOOPBACK], indirect=True)
on_either = pytest.mark.parametrize("cluster", [LOOPBACK, ALL], indirect=True)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """alice's cluster of three nodes, with dashboard and client server on n1."""

    slurm: Slurm
    job: Job
    listens: str
    """--dashboard-host."""
    head: dict[str, Any]
    token: str

    @property
    def bed(self) -> Bed:
        return self.slurm.bed

    @property
    def port(self) -> int:
        """The dashboard's."""
        return int(self.head["ports"]["dashboard"])

    @property
    def token_path(self) -> str:
        return f"/home/alice/.raycluster/bed/{self.job.id}/token"

    def raycluster(self, *words: str, user: str = "alice", wd: str = "") -> subprocess.CompletedProcess[str]:
        """`raycluster WORDS` on the login host."""
        return self.slurm.run(LOGIN, ["raycluster", *words], user=user, wd=wd, timeout_s=SLOW_S)

    def curl(self, host: str, url: str, *options: str, token: str = "") -> tuple[int, str]:
        """Code and text of what a dashboard answers to bob; 0 when nothing listens."""
        header = ("--header", f"Authorization: Bearer {token}") if token else ()
        words = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", *header, *options]
        text, _, code = self.slurm.run(host, [*words, f"http://{url}"], user="bob").stdout.rpartition("\n")
        return int(code), text

    def version(self, host: str, where: str, token: str = "") -> int:
        """The code of the answer to a question that everybody with the token may ask."""
        return self.curl(host, f"{where}/api/version", token=token)[0]


@pytest.fixture(scope="module")
def jobs(beds: Beds) -> Iterator[Slurm]:
    """Jobs on the bed that may outlive a test."""
    yield from beds.jobs()


@pytest.fixture(scope="module")
def cluster(jobs: Slurm, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One for all tests with the same --dashboard-host; in the end it has left nothing."""
    host = request.param
    options = "--dashboard --client-server" + ("" if host == LOOPBACK else f" --dashboard-host {host}")
    job = jobs.sbatch(
        f"srun --mem=0 raycluster run {options} -- {driver(0, '--sleep', 1200)}", *SHAPE, user="alice"
    )
    try:
        output = job.wait_for("dashboard: http://", timeout_s=SLOW_S)
        assert ("others can connect to the dashboard" in output) == (host == ALL)
        token = jobs.bed.path(LOGIN, f"/home/alice/.raycluster/bed/{job.id}/token").read_text()
        yield Cluster(jobs, job, host, head_is_up(jobs.bed, job), token)
    finally:
        job.cancel()
        job.wait()
    jobs.assert_nothing_left()


# -- who reaches it -------------------------------------------------------------------------------


@on_either
def test_the_dashboard_listens_where_it_is_told_and_asks_for_the_token(cluster: Cluster) -> None:
    found = cluster.slurm.run("n1", ["ss", "-ltnH", f"sport = :{cluster.port}"]).stdout.split()[3]
    assert found in (f"{cluster.listens}:{cluster.port}", f"*:{cluster.port}")
    near, far = f"127.0.0.1:{cluster.port}", f"10.77.0.1:{cluster.port}"
    assert cluster.version("n1", near) == 401
    assert cluster.version("n1", near, "0" * 64) in (401, 403)
    assert cluster.version("n1", near, cluster.token) == 200
    assert cluster.version("n2", far) == (0 if cluster.listens == LOOPBACK else 401)
    program = '{"entrypoint": "true"}'
    assert cluster.curl("n1", f"{near}/api/jobs/", "--data", program)[0] == 401


@on_either
def test_the_way_to_it_is_told(cluster: Cluster) -> None:
    done = cluster.raycluster("dashboard", cluster.job.id)
    assert done.returncode == 0, done.stderr
    way = {
        LOOPBACK: f"ssh -N -L 8265:127.0.0.1:{cluster.port} -J alice@login alice@n1",
        ALL: f"ssh -N -L 8265:10.77.0.1:{cluster.port} alice@login",
    }
    assert done.stdout.splitlines()[2:] == [
        f"    {way[cluster.listens]}",
        "",
        "Then open http://localhost:8265",
    ]
    assert done.stderr == f"The dashboard asks for the cluster's token: cat {cluster.token_path}\n"
    there = cluster.raycluster("exec", cluster.job.id, "--", "raycluster", "dashboard", cluster.job.id)
    shown = LOOPBACK if cluster.listens == LOOPBACK else "10.77.0.1"
    assert there.stdout == f"http://{shown}:{cluster.port}\n", there.stderr
    assert cluster.raycluster("dashboard", cluster.job.id, user="bob").returncode == 2


@on_loopback
def test_the_agents_of_all_nodes_report_to_it(cluster: Cluster) -> None:
    url = f"127.0.0.1:{cluster.port}/nodes?view=summary"

    def with_load() -> list[str]:
        code, text = cluster.curl("n1", url, token=cluster.token)
        assert code == 200, text
        return sorted(node["hostname"] for node in json.loads(text)["data"]["summary"] if "cpu" in node)

    wait_until(lambda: with_load() == ["n1", "n2", "n3"], timeout_s=SLOW_S, what="the load of all nodes")


# -- the tunnel -----------------------------------------------------------------------------------

SSH_CONFIG = """
StrictHostKeyChecking accept-new
# As many have it, to log in but once: what they share would outlive the tunnel.
ControlMaster auto
ControlPath ~/.ssh/%h
ControlPersist 600
"""

KEYS = """
umask 077
mkdir .ssh
ssh-keygen -q -t ed25519 -N '' -f .ssh/id_ed25519
cp .ssh/id_ed25519.pub .ssh/authorized_keys
cat > .ssh/config
"""


@pytest.fixture
def sshd(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """n1 lets alice in by her key; afterwards there is neither sshd nor key."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    if program is None:
        (pytest.fail if IN_CI else pytest.skip)(
            "a tunnel needs sshd (Debian: apt-get install openssh-server)"
        )
    bed = cluster.bed
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/run/sshd-key/key"]
    settings = (
        "HostKey=/run/sshd-key/key",
        "PidFile=/run/sshd-key/pid",
        "UsePAM=no",
        "PasswordAuthentication=no",
    )
    options = [word for setting in settings for word in ("-o", setting)]
    child = None
    try:
        bed.run(LOGIN, ["sh", "-ec", KEYS], user="alice", stdin=SSH_CONFIG, check=True)
        bed.run("n1", ["mkdir", "/run/sshd-key", "/run/sshd"], check=True)
        bed.run("n1", key, check=True)
        with (tmp_path / "log").open("wb") as log:
            child = subprocess.Popen(
                bed.command("n1", [program, "-D", "-e", "-f", "/dev/null", *options]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(
            lambda: listens(bed, "n1", 22) or child.poll() is not None, timeout_s=30, what="sshd on n1"
        )
        assert child.poll() is None, (tmp_path / "log").read_text()
        yield
        bed.run("n1", ["sh", "-c", "kill $(cat /run/sshd-key/pid)"], check=True)
        child.wait(30)
    finally:
        if child is not None and child.poll() is None:
            child.kill()
            child.wait()
        bed.run("n1", ["rm", "-rf", "/run/sshd-key", "/run/sshd"])
        bed.run(LOGIN, ["rm", "-rf", "/home/alice/.ssh"])


def listens(bed: Bed, host: str, port: int) -> bool:
    return bool(bed.run(host, ["ss", "-ltnH", f"sport = :{port}"]).stdout)


def ssh_processes(bed: Bed, host: str) -> str:
    """alice's, of either end."""
    return bed.run(host, ["pgrep", "-a", "-u", "alice", "^sshd?(-session)?$"]).stdout


@on_loopback
@pytest.mark.parametrize(("how", "code"), [("Ctrl-C", 130), ("INT", 130), ("TERM", 143)])
def test_the_tunnel_is_there_until_it_is_ended(
    cluster: Cluster, sshd: None, tmp_path: Path, how: str, code: int
) -> None:
    bed = cluster.bed
    # In a terminal; the shell notes its process id and becomes raycluster.
    command = f"echo $$ > tunnel.pid; exec raycluster dashboard {cluster.job.id} --open"
    terminal = ["script", "--quiet", "--return", "--flush", "--command", command, "/dev/null"]
    screen = tmp_path / "screen"
    with screen.open("wb") as out:
        child = subprocess.Popen(
            bed.command(LOGIN, terminal, user="alice"), stdin=subprocess.PIPE, stdout=out, stderr=out
        )
    try:

        def opened() -> re.Match[str] | None:
            text = screen.read_text()
            assert child.poll() is None, text
            return re.search(r"http://localhost:(\d+)   \(Ctrl-C", text)

        port = int(wait_until(opened, timeout_s=60, what="the tunnel")[1])
        assert cluster.version(LOGIN, f"127.0.0.1:{port}") == 401
        assert cluster.version(LOGIN, f"127.0.0.1:{port}", cluster.token) == 200
        assert cluster.version("n2", f"10.77.0.254:{port}") == 0
        if how == "Ctrl-C":
            assert child.stdin
            child.stdin.write(b"\x03")
            child.stdin.flush()
        else:
            bed.run(LOGIN, ["sh", "-c", f"kill -{how} $(cat tunnel.pid)"], user="alice", check=True)
        assert child.wait(30) == code, screen.read_text()
        assert not listens(bed, LOGIN, port)
        assert ssh_processes(bed, LOGIN) == ""
        wait_until(lambda: not ssh_processes(bed, "n1"), timeout_s=30, what="n1 without ssh's session")
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


@on_loopback
def test_where_nobody_may_log_in_to_nodes_that_is_said(cluster: Cluster) -> None:
    done = cluster.raycluster("dashboard", cluster.job.id, "--open")
    assert done.returncode == 1
    assert "Connection refused" in done.stderr
    assert "raycluster: error: ssh to n1 opened no tunnel (exit code 255)" in done.stderr
    assert "--dashboard-host 0.0.0.0" in done.stderr
    assert ssh_processes(cluster.bed, LOGIN) == ""


# -- Ray's job API --------------------------------------------------------------------------------

PROGRAM = """
import json, sys
import ray
ray.init(logging_level="ERROR")
print("SEES", len(ray.nodes()), json.dumps(sys.argv[1:]), flush=True)
"""

WAITS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("WAITED")
"""


@on_loopback
def test_a_program_is_submitted_from_the_login_node(cluster: Cluster) -> None:
    """Its directory travels with it, its words arrive whole, its output is streamed."""
    directory = f"/home/alice/program-{cluster.job.id}"
    cluster.slurm.run(LOGIN, ["mkdir", directory], user="alice", check=True)
    cluster.slurm.run(LOGIN, ["tee", f"{directory}/look.py"], user="alice", stdin=PROGRAM, check=True)
    words = ("it's", "$HOME (id)", "")
    done = cluster.raycluster(
        "submit-job", cluster.job.id, "--working-dir", ".", "--", "python", "look.py", *words, wd=directory
    )
    assert f"SEES 3 {json.dumps(words)}" in done.stdout, f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0
    assert cluster.token not in done.stdout + done.stderr


@on_loopback
def test_a_submitted_program_that_fails(cluster: Cluster) -> None:
    code = "import sys; print('FAILS', flush=True); sys.exit(7)"
    done = cluster.raycluster("submit-job", cluster.job.id, "--", "python", "-c", code)
    assert "FAILS" in done.stdout, done.stderr
    assert done.returncode == 1
    assert cluster.raycluster("submit-job", cluster.job.id, "--", "true", user="bob").returncode == 2


@on_loopback
def test_a_submitted_program_goes_on_alone(cluster: Cluster) -> None:
    go = f"/home/alice/go-{cluster.job.id}"
    options = ("--no-wait", "--submission-id", "later")
    done = cluster.raycluster("submit-job", cluster.job.id, *options, "--", "python", "-c", WAITS, go)
    assert done.returncode == 0, done.stderr
    url = f"127.0.0.1:{cluster.port}/api/jobs/later"

    def state() -> str:
        code, text = cluster.curl("n1", url, token=cluster.token)
        assert code == 200, text
        return str(json.loads(text)["status"])

    wait_until(lambda: state() == "RUNNING", timeout_s=SLOW_S, what="the program's start")
    cluster.slurm.run(LOGIN, ["touch", go], user="alice", check=True)
    wait_until(lambda: state() not in ("PENDING", "RUNNING"), timeout_s=60, what="the program's end")
    assert state() == "SUCCEEDED"
    assert "WAITED" in cluster.curl("n1", f"{url}/logs", token=cluster.token)[1]


# -- ray:// ---------------------------------------------------------------------------------------

DRIVER = """
import sys
import ray
ray.init(sys.argv[1], logging_level="ERROR")
@ray.remote(num_cpus=0)
def task():
    return "task done"
print(len(ray.nodes()), "nodes", ray.get(task.remote(), timeout=60), flush=True)
sys.stdin.read()
"""


@on_loopback
def test_a_driver_by_the_client_server_needs_the_token(cluster: Cluster, tmp_path: Path) -> None:
    """So it does for the server of its own that Ray starts for each driver."""
    without: dict[str, str] = {}
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    off = {"RAY_AUTH_MODE": "disabled"}
    hers = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": cluster.token_path}

    def words(address: str) -> list[str]:
        return ["timeout", "150", "python", "-c", DRIVER, f"ray://{address}"]

    def drive(host: str, address: str, env: dict[str, str], user: str) -> subprocess.CompletedProcess[str]:
        return cluster.slurm.run(host, words(address), user=user, env=env, timeout_s=SLOW_S)

    far = f"n1:{cluster.head['ports']['ray_client_server']}"
    with (tmp_path / "errors").open("wb") as errors:
        first = subprocess.Popen(
            cluster.bed.command(LOGIN, words(far), user="alice", env=hers),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert first.stdout
        assert first.stdout.readline() == "3 nodes task done\n", (tmp_path / "errors").read_text()
        server = cluster.slurm.run("n1", ["pgrep", "-af", "[-]-mode=specific-server"]).stdout
        own = re.sub(r".* --host=(\S+) --port=(\d+) .*\n", r"\1:\2", server)
        assert own.startswith("127.0.0.1:"), server
        assert drive("n1", own, hers, "alice").stdout == "3 nodes task done\n"
        strangers = ((LOGIN, far, without), (LOGIN, far, off), ("n1", own, wrong), ("n1", own, without))
        with ThreadPoolExecutor(4) as pool:  # each tries for half a minute
            for done in pool.map(lambda one: drive(one[0], one[1], one[2], "bob"), strangers):
                assert done.returncode != 0, done.stdout
                assert "nodes" not in done.stdout
        first.communicate(timeout=60)
        assert first.returncode == 0, (tmp_path / "errors").read_text()
    finally:
        if first.poll() is None:
            first.kill()
            first.communicate()
