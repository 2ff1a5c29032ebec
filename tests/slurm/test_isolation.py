"""Many clusters, many users, the same machines: each has its own and nobody else's, and nothing is open."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.bed.bed import REPOSITORY, Bed
from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, batch, driver, head_is_up, line_with, read, record
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

ROUNDS = int(os.environ.get("RAYCLUSTER_ISOLATION_ROUNDS", "2"))
"""How often the four clusters are started; the issue's ten are run with this variable."""

CROWD = REPOSITORY / "tests/slurm/drivers/crowd.py"
OWNERS = {"a1": "alice", "a2": "alice", "b1": "bob", "b2": "bob"}
SHARED = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=3500", "--time=10")
"""A job that leaves room for three others of its kind on the bed's nodes."""
BUSY_S = 180.0
"""For twelve Ray nodes on two cores."""


@pytest.fixture
def place(bed: Bed) -> Iterator[Path]:
    """A directory that all users of all hosts can write, at its path on the hosts and here."""
    path = f"/home/place-{time.time_ns()}"
    bed.run(LOGIN, ["mkdir", "--mode=1777", path], check=True)
    yield bed.path(LOGIN, path)
    bed.run(LOGIN, ["rm", "-r", path], check=True)


@pytest.fixture
def stranger(slurm: Slurm) -> Iterator[str]:
    """bob's own `ray start --head` on n1, with default ports and paths; gives its GCS's address."""
    start = "ray start --head --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats"
    slurm.run("n1", start.split(), user="bob", timeout_s=120, check=True)
    assert slurm.bed.path("n1", "/tmp/ray").is_dir()
    yield "10.77.0.1:6379"
    slurm.bed.power_off("n1")
    slurm.bed.power_on("n1")


def on_host(path: Path) -> str:
    """The path of `place` as the hosts see it."""
    return f"/home/{path.name}"


def ray_processes(bed: Bed, host: str, user: str) -> dict[str, str]:
    """The user's processes on a host that Slurm did not start: command by pid and start time."""
    lines = bed.run(host, ["ps", "-u", user, "-o", "pid=,lstart=,args="]).stdout.splitlines()
    own = [line.split(None, 6) for line in lines if "/tmp/ray/" in line and "/tmp/rc-" not in line]
    return {" ".join(words[:6]): words[6] for words in own}


# -- four at once ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_four_clusters_of_two_users_and_a_stranger(slurm: Slurm, place: Path, stranger: str) -> None:
    before = ray_processes(slurm.bed, "n1", "bob")
    assert len(before) >= 3, before
    for number in range(ROUNDS):
        below = place / str(number)
        slurm.run(LOGIN, ["mkdir", "--mode=1777", f"{on_host(place)}/{number}"], check=True)
        _round(slurm, below, f"{on_host(place)}/{number}")
        assert ray_processes(slurm.bed, "n1", "bob") == before
        for host in ("n2", "n3"):
            wait_until(partial(_clean, slurm.bed, host), timeout_s=15, what=f"a clean {host}")
    alone = f"import ray; ray.init(address={stranger!r}, logging_level='ERROR'); print(len(ray.nodes()))"
    done = slurm.run("n1", ["python", "-c", alone], user="bob", timeout_s=60)
    assert done.stdout.split() == ["1"], done.stderr
    ours = ("/tmp/rc-", "raycluster/ports", "raycluster run", "raycluster_cli")
    assert [line for line in slurm.leftovers().get("n1", []) if any(text in line for text in ours)] == []


def _clean(bed: Bed, host: str) -> bool:
    return not bed.leftovers(host)


def _round(slurm: Slurm, place: Path, shown: str) -> None:
    """Four clusters start in the same second and end one after the other, each in a way of its own."""
    begin = int(time.time()) + 4
    jobs: dict[str, Job] = {}
    for name, user in OWNERS.items():
        script = f"""
            while (( $(date +%s) < {begin} )); do sleep 0.02; done
            exec srun --cpu-bind=none --mem=0 --kill-on-bad-exit=0 --wait=0 \
                raycluster run --timeout {BUSY_S:g} -- python {CROWD} {name} {shown}
        """
        jobs[name] = slurm.sbatch(script, *SHARED, user=user)
    _all_see(place, jobs, 0)
    heads = {name: head_is_up(slurm.bed, job) for name, job in jobs.items()}
    assert len({head["identity"] for head in heads.values()}) == len(jobs)
    assert len({head["port"] for head in heads.values()}) == len(jobs)

    # b1: by its driver's code.  a1: scancel.  b2: the driver succeeds.  a2: kill -9 of its head's raycluster.
    (place / "end-b1").write_text("9")
    assert jobs["b1"].wait() == JobEnd("FAILED", 9, 0), jobs["b1"].output()
    _all_see(place, jobs := {name: job for name, job in jobs.items() if name != "b1"}, 1)
    jobs["a1"].cancel()
    assert jobs["a1"].wait().state == "CANCELLED"
    _all_see(place, jobs := {name: job for name, job in jobs.items() if name != "a1"}, 2)
    slurm.run("n1", ["kill", "-9", str(heads["a2"]["pid"])], user="alice", check=True)
    assert jobs["a2"].wait().state == "FAILED"
    _all_see(place, jobs := {name: job for name, job in jobs.items() if name != "a2"}, 3)
    (place / "end-b2").write_text("0")
    assert jobs["b2"].wait() == JobEnd("COMPLETED", 0, 0), jobs["b2"].output()


def _all_see(place: Path, jobs: dict[str, Job], number: int) -> None:
    """Every cluster in ``jobs`` sees its own three nodes and its own actor, and nothing else."""
    (place / f"look-{number}").touch()
    for name, job in jobs.items():
        file = place / f"saw-{number}-{name}"

        def saw(file: Path = file, job: Job = job) -> bool:
            assert job.state() in ("PENDING", "RUNNING") and "Traceback" not in job.output(), job.output()
            return file.exists()

        try:
            wait_until(saw, timeout_s=BUSY_S, what=f"cluster {name}'s look {number}", interval_s=0.3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{job.output()}") from None
        assert file.read_text() == f"nodes n1 n2 n3 actors {name}"


# -- the token ------------------------------------------------------------------------------------

CLIENT = """
import ray, sys
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
def f(): return "task done"
print(len(ray.nodes()), "nodes", ray.get(f.remote(), timeout=60))
"""
KV = """
import ray, sys
from ray._raylet import GcsClient
gcs = GcsClient(address=sys.argv[1])
print(gcs.internal_kv_keys(b"", b"raycluster", timeout=10))
print(len(gcs.get_all_node_info(timeout=10)), "nodes")
"""


def test_without_the_token_nothing_with_it_everything(slurm: Slurm) -> None:
    bed = slurm.bed
    job = slurm.sbatch(
        f"srun --mem=0 raycluster run -- {driver(0, '--tasks', '--sleep', 600)}", *SHARED, user="alice"
    )
    job.wait_for("TASKS n1 n2 n3")
    head = head_is_up(bed, job)
    address = f"{head['address_ip']}:{head['port']}"
    path = f"/home/alice/.raycluster/bed/{job.id}"
    token = bed.path(LOGIN, f"{path}/token").read_text()
    assert len(token) == 64

    # Files: hers alone, on the shared file system and on every node.
    shared = [path, f"{path}/token", f"{path}/nodes", f"{path}/head.json"]
    assert _modes(slurm, LOGIN, shared) == ["700", "600", "700", "600"]
    for host in bed.spec.nodes:
        root = read(record(bed, job) / "nodes" / f"{host}.json")["node_root"]  # type: ignore[index]
        assert _modes(slurm, host, [root, f"{root}/token"]) == ["700", "600"]
        for secret in (f"{path}/token", f"{path}/head.json", f"{root}/token", f"{root}/about.json"):
            assert slurm.run(host, ["cat", secret], user="bob").returncode != 0
        # Nobody's command line, environment or log shows it: not even root finds it there.
        words = slurm.run(
            host, ["sh", "-c", "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'"]
        )
        assert token not in words.stdout
        assert "--temp-dir" in words.stdout or "--temp_dir" in words.stdout
        assert _holding(slurm, host, token, root) == [f"{root}/token"]
    assert _holding(slurm, LOGIN, token, path) == [f"{path}/token"]
    assert token not in job.output()

    # Clients: bob's without a token, with a wrong one, and with authentication switched off on his side.
    without = {"RAY_ADDRESS": address, "RAY_gcs_rpc_server_connect_timeout_s": "2"}
    wrong = {**without, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    off = {**without, "RAY_AUTH_MODE": "disabled"}
    hers = {**without, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{path}/token"}
    refused = [
        (host, env, code)
        for host, env in (("n1", wrong), ("n2", without), ("n3", off))
        for code in (CLIENT, KV)
    ]

    def ask(host: str, env: dict[str, str], code: str, user: str) -> subprocess.CompletedProcess[str]:
        return slurm.run(
            host, ["timeout", "80", "python", "-c", code, address], user=user, env=env, timeout_s=100
        )

    with ThreadPoolExecutor(6) as pool:  # Ray's client waits for 20 s before it gives up
        for done in pool.map(lambda one: ask(one[0], one[1], one[2], "bob"), refused):
            assert done.returncode != 0, done.stdout
            assert "nodes" not in done.stdout
    for code, found in ((CLIENT, "3 nodes task done"), (KV, "3 nodes")):
        done = ask("n2", hers, code, "alice")
        assert found in done.stdout, done.stderr
    assert job.state() == "RUNNING", job.output()
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()


def _modes(slurm: Slurm, host: str, paths: list[str]) -> list[str]:
    return slurm.run(host, ["stat", "--format=%a", *paths], check=True).stdout.split()


def _holding(slurm: Slurm, host: str, token: str, below: str) -> list[str]:
    """The files below a directory that hold the token."""
    found = slurm.run(host, ["grep", "-rlsF", "-D", "skip", "-f", "-", below], stdin=f"{token}\n")
    return sorted(found.stdout.split())


def test_without_authentication_there_is_a_warning(slurm: Slurm) -> None:
    job = slurm.sbatch(
        f"srun --mem=0 raycluster run --no-auth -- {driver(0, '--sleep', 600)}", *SHARED, user="alice"
    )
    output = job.wait_for("NODES n1 n2 n3")
    assert "can run code as you" in line_with("--no-auth", output)
    head = head_is_up(slurm.bed, job)
    address = f"{head['address_ip']}:{head['port']}"
    assert head["auth"] is False
    done = slurm.run("n2", ["timeout", "50", "python", "-c", KV, address], user="bob")
    assert "3 nodes" in done.stdout, done.stderr
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()


# -- ports ----------------------------------------------------------------------------------------


def test_every_port_is_in_the_clusters_block(slurm: Slurm) -> None:
    job = slurm.sbatch(
        f"srun --mem=0 raycluster run -- {driver(0, '--tasks', '--sleep', 600)}", *SHARED, user="alice"
    )
    job.wait_for("TASKS n1 n2 n3")
    head = head_is_up(slurm.bed, job)
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for host in slurm.bed.spec.nodes:
        word = read(record(slurm.bed, job) / "nodes" / f"{host}.json")
        assert word
        ports = head["ports"] if host == "n1" else word["ports"]
        assert ports["worker_high"] - ports["worker_low"] + 1 >= 1000
        single = {value for name, value in ports.items() if not name.startswith("worker_")}
        assert all(10240 <= port < min(first_ephemeral, 32768) for port in (*single, ports["worker_high"]))
        sockets = slurm.run(host, ["ss", "-ltnpH"]).stdout.splitlines()
        mine = [line.split() for line in sockets if not ("slurm" in line or "srun" in line)]
        assert len(mine) >= 3, sockets
        for where in (words[3] for words in mine):
            address, _, port = where.rpartition(":")
            inside = int(port) in single or ports["worker_low"] <= int(port) <= ports["worker_high"]
            assert inside, f"{host} listens at {where}, outside of {ports}"
            # Ray's own gRPC servers know only "everywhere"; raycluster's are at the node's address, and the
            # dashboard's, which nobody has asked for yet, at the loopback address of the head.
            dashboard = address == "127.0.0.1" and int(port) == head["ports"]["dashboard"]
            assert dashboard or address in ("*", "0.0.0.0", "[::]", word["ip"])
        locks = slurm.bed.path(host, "/proc/net/unix")
        held = slurm.run(host, ["grep", "-c", "@raycluster/ports/", "/proc/net/unix"]).stdout.strip()
        assert int(held) * 128 >= 1000, locks
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()


def test_a_port_given_by_hand_that_is_taken(slurm: Slurm) -> None:
    script = f"""
        python -c 'import socket, time; s = socket.create_server(("0.0.0.0", 23456)); time.sleep(60)' &
        until ss -ltn | grep -q :23456; do sleep 0.1; done
        raycluster head --port 23456 --expected-workers 0 -- {driver(0)}
        code=$?
        kill %1
        raycluster head --port 23457 --expected-workers 0 -- {driver(3)}
        exit "$code$?"
    """
    job = batch(slurm, script, nodes=1)
    assert job.wait() == JobEnd("FAILED", 23, 0), job.output()
    line = line_with("error", job.output())
    assert "port 23456, given as the GCS port, is in use by" in line
    assert "python" in line
    assert "ready at 10.77.0.1:23457" in job.output()
    slurm.assert_nothing_left()


# -- after kill -9 --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["n1", "n2"], ids=["head", "worker"])
def test_a_killed_supervisor_leaves_nothing(slurm: Slurm, host: str) -> None:
    job = batch(slurm, f"{SRUN} raycluster run -- {driver(0, '--tasks', '--sleep', 600)}", user="alice")
    job.wait_for("TASKS")
    word = read(record(slurm.bed, job) / "nodes" / f"{host}.json")
    assert word
    slurm.run(host, ["kill", "-9", str(word["pid"])], check=True)
    end = job.wait()
    assert end.state == "FAILED", job.output()
    assert end.exit_code in (5, 137)
    assert f"raycluster on {host} (process {word['pid']}) was killed by SIGKILL" in job.output()
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_all_of_raycluster_killed_at_once_is_cleared_by_the_next_start(slurm: Slurm) -> None:
    """Keepers and supervisors on every node: Slurm ends the processes, the next start removes the rest.

    Without what Ray's agents would start to clear the node (orphaned.json): they can be killed as well.
    """
    job = batch(slurm, f"{SRUN} raycluster run -- {driver(0, '--tasks', '--sleep', 600)}", user="alice")
    job.wait_for("TASKS")
    kill = "rm /tmp/rc-*/orphaned.json; kill -9 $(pgrep -u alice -f 'bin/[r]aycluster run')"
    for host in slurm.bed.spec.nodes:
        slurm.run(host, ["bash", "-c", kill], check=True)
    assert job.wait().state == "FAILED", job.output()
    # On a busy machine a worker may have seen that the head has gone, and ended, before it was killed.
    left_on = [host for host, lines in slurm.leftovers().items() if any("/tmp/rc-" in line for line in lines)]
    assert "n1" in left_on
    # Another user's start does not touch it; her own clears it and says so.
    other = batch(slurm, f"{SRUN} raycluster run -- {driver(0)}", user="bob")
    assert other.wait() == JobEnd("COMPLETED", 0, 0), other.output()
    assert "cleared" not in other.output()
    after = batch(slurm, f"{SRUN} raycluster run -- {driver(0)}", user="alice")
    assert after.wait() == JobEnd("COMPLETED", 0, 0), after.output()
    cleared = [line for line in after.output().splitlines() if "raycluster: cleared /tmp/rc-" in line]
    assert len(cleared) == len(left_on), after.output()
    assert all(f"left by cluster bed/{job.id}" in line for line in cleared)
    slurm.assert_nothing_left()


def test_drivers_orphans_end_with_the_cluster(slurm: Slurm) -> None:
    """A daemon that the driver leaves behind, and a child that an actor started, are this cluster's too."""
    code = """
import os, subprocess, ray
ray.init(logging_level="ERROR")
@ray.remote
class Parent:
    def start(self):
        return subprocess.Popen(["sleep", "4711"], start_new_session=True).pid
actors = [Parent.options(scheduling_strategy="SPREAD").remote() for _ in range(3)]
ray.get([actor.start.remote() for actor in actors])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "4712"])
    os._exit(0)
os.wait()
print("ORPHANS", flush=True)
os._exit(11)
"""
    run = shlex.join(["python", "-c", code])
    script = f"{SRUN} raycluster run -- {run}; echo CODE $?; pgrep -a sleep"
    job = batch(slurm, script, user="alice")
    job.wait()
    output = job.output()
    assert "ORPHANS" in output
    assert "CODE 11" in output
    assert "sleep 471" not in output.partition("CODE")[2]
    slurm.assert_nothing_left()


# -- TLS ------------------------------------------------------------------------------------------


def test_tls_between_all_nodes(slurm: Slurm) -> None:
    job = slurm.sbatch(
        f"srun --mem=0 raycluster run --tls -- {driver(0, '--tasks', '--sleep', 600)}", *SHARED, user="alice"
    )
    job.wait_for("TASKS n1 n2 n3")
    head = head_is_up(slurm.bed, job)
    assert head["tls"] is True
    address = f"{head['address_ip']}:{head['port']}"
    path = f"/home/alice/.raycluster/bed/{job.id}"
    root = read(record(slurm.bed, job) / "nodes/n2.json")["node_root"]  # type: ignore[index]
    assert _modes(slurm, "n2", [f"{path}/authority", f"{root}/tls", f"{root}/tls/node.key"]) == [
        "600",
        "700",
        "600",
    ]
    for secret in (f"{path}/authority", f"{root}/tls/node.key", f"{root}/tls/ca.pem"):
        assert slurm.run("n2", ["cat", secret], user="bob").returncode != 0
    # The authority's key is in the record alone, not on the nodes.
    assert "PRIVATE" not in slurm.run("n2", ["cat", f"{root}/tls/ca.pem", f"{root}/tls/node.pem"]).stdout

    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{path}/token"}
    ours = {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": f"{root}/tls/node.pem",
        "RAY_TLS_SERVER_KEY": f"{root}/tls/node.key",
        "RAY_TLS_CA_CERT": f"{root}/tls/ca.pem",
    }
    # Her own token does not do without a certificate; nor does a certificate of somebody else's making.
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=node -keyout key.pem -out cert.pem"
    slurm.run("n2", make.split(), user="alice", check=True)
    forged = ours | {
        "RAY_TLS_SERVER_CERT": "/home/alice/cert.pem",
        "RAY_TLS_SERVER_KEY": "/home/alice/key.pem",
    }

    def ask(env: dict[str, str], limit_s: int) -> subprocess.CompletedProcess[str]:
        command = ["timeout", str(limit_s), "python", "-c", KV, address]
        return slurm.run("n2", command, user="alice", env=env, timeout_s=100)

    with ThreadPoolExecutor(3) as pool:  # without the right certificate Ray's client hangs
        *refused, done = pool.map(ask, (token, token | forged, token | ours), (20, 20, 90))
    assert "3 nodes" in done.stdout, done.stderr
    for done in refused:
        assert done.returncode != 0
        assert "nodes" not in done.stdout
    done = slurm.run(
        "n2",
        ["timeout", "100", "python", "-c", CLIENT],
        user="alice",
        env=token | ours | {"RAY_ADDRESS": address},
        timeout_s=120,
    )
    assert "3 nodes task done" in done.stdout, done.stderr
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()


# -- the environment of worker processes ----------------------------------------------------------

SEEN = """
import os, ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
def slurm():
    return sorted(name for name in os.environ if name.startswith(("SLURM", "PMI")))
print("TASK", *ray.get(slurm.remote()))
print("DRIVER", *sorted(name for name in os.environ if name.startswith("SLURM_JOB_ID")))
"""


@pytest.mark.parametrize("option", ["--scrub-env", "--no-scrub-env"])
def test_slurms_variables_in_worker_processes(slurm: Slurm, option: str) -> None:
    job = batch(
        slurm, f"PMI_RANK=0 {SRUN} raycluster run {option} -- {shlex.join(['python', '-c', SEEN])}", nodes=1
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    task = next(line for line in job.output().splitlines() if line.startswith("TASK")).split()[1:]
    assert "\nDRIVER SLURM_JOB_ID\n" in job.output()
    if option == "--scrub-env":
        assert task == []
    else:
        assert {"SLURM_JOB_ID", "SLURM_PROCID", "PMI_RANK"} <= set(task)


def test_a_proxy_is_not_for_the_clusters_own_nodes(slurm: Slurm) -> None:
    """Neither the driver nor tasks send what is for a node to a proxy that is not even there."""
    seen = """
import os, ray, urllib.request
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
def no_proxy():
    return os.environ["no_proxy"], urllib.request.getproxies()["http"]
for words in (ray.get(no_proxy.remote())[0], os.environ["NO_PROXY"]):
    print("WITHOUT", words)
    assert {"intranet", "n1", "n3", "10.77.0.1", "10.77.0.3", "localhost"} <= set(words.split(",")), words
"""
    script = f"""
        export http_proxy=http://10.77.0.99:3128 https_proxy=http://10.77.0.99:3128 no_proxy=intranet
        {SRUN} raycluster run -- {shlex.join(["python", "-c", seen])}
    """
    job = batch(slurm, script, user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_a_proxy_is_not_for_the_hosts_of_worker_jobs(slurm: Slurm) -> None:
    """Of the driver, of tasks on the head, and of tasks in worker jobs."""
    seen = """
import os, ray
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=1)
def no_proxy():
    return os.environ["no_proxy"]
there = [ray.get(no_proxy.options(resources={f"node:10.77.0.{host}": 0.01}).remote()) for host in (1, 2)]
for words in (*there, os.environ["NO_PROXY"]):
    print("WITHOUT", words)
    hosts = {"intranet", "localhost", *(f"n{n}" for n in (1, 2, 3)), *(f"10.77.0.{n}" for n in (1, 2, 3))}
    assert hosts <= set(words.split(",")), words
"""
    groups = slurm.bed.path("login", "/home/admin/proxy.toml")
    groups.write_text('[workers.w]\nsbatch = "--nodelist=n2 --mem=2000 --time=5"\nmin = 1\nmax = 1\n')
    script = f"""
        export http_proxy=http://10.77.0.99:3128 https_proxy=http://10.77.0.99:3128 no_proxy=intranet
        exec raycluster head --expected-workers 0 --config /home/admin/proxy.toml -- \\
            {shlex.join(["python", "-c", seen])}
    """
    job = batch(slurm, script, "--nodes=1", "--nodelist=n1", "--mem=2000")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    slurm.assert_nothing_left()
