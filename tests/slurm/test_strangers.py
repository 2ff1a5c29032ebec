"""Strangers who listen where a head could be: they are sent no secret, and keep no worker from its head."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from raycluster_cli.supervisor.head_proof import ASK_BYTES, MAGIC, proof_ports
from raycluster_cli.system.ports import derived_gcs_ports
from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, batch, driver, head_is_up, line_with, record
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

LISTENER = str(REPOSITORY / "tests/slurm/drivers/listener.py")
WORKER = "srun -N1 -n1 --mem=0 --overlap --nodelist=n2 raycluster worker --max-retries 1"


@dataclass
class Heard:
    """What a stranger was sent."""

    connections: list[tuple[int, bytes]] = field(default_factory=list)
    """The port and the bytes of each; known when the stranger has gone."""

    def assert_without(self, *tokens: str) -> None:
        """Neither a token nor a plain hash of it is in what was sent, in any usual form."""
        everything = b"|".join(data for _, data in self.connections).lower()
        for token in tokens:
            assert len(token) >= 32
            digest = hashlib.sha256(token.encode())
            for secret in (
                token.encode(),
                bytes.fromhex(token),
                digest.digest(),
                digest.hexdigest().encode(),
            ):
                assert secret.lower() not in everything


@contextlib.contextmanager
def stranger(slurm: Slurm, host: str, *ports: int, user: str = "bob") -> Iterator[Heard]:
    """Another user's listener on a host, which answers nothing."""
    heard = Heard()
    child = subprocess.Popen(
        slurm.bed.command(host, ["python", LISTENER, *map(str, ports)], user=user),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "LISTENING\n"
    try:
        yield heard
    finally:
        for line in child.communicate(timeout=30)[0].splitlines():
            port, _, data = line.partition(" ")
            heard.connections.append((int(port), bytes.fromhex(data)))


def test_nodes_that_share_nothing_meet_past_strangers_on_all_likely_ports(slurm: Slurm) -> None:
    """On the ports that follow from the job id, and on all but one of those that follow from the token."""
    token = secrets.token_hex(32)
    job = batch(
        slurm,
        f"""
        export RAYCLUSTER_STATE_DIR=/var/tmp/own RAYCLUSTER_TOKEN=$(cat ~/token-$SLURM_JOB_ID)
        {SRUN} sh -c 'raycluster run -- {driver(0, "--tasks")}; code=$?; rm -r /var/tmp/own; exit $code'
        """,
        "--hold",
        user="alice",
    )
    secret = f"/home/alice/token-{job.id}"
    slurm.run(LOGIN, ["sh", "-c", f"umask 077; cat > {secret}"], user="alice", stdin=token, check=True)
    ports = [*derived_gcs_ports(f"bed/{job.id}+"), *proof_ports(token)[:-1]]
    with stranger(slurm, "n1", *ports) as heard:
        slurm.run(LOGIN, ["scontrol", "release", job.id], check=True)
        end = job.wait()
    slurm.run(LOGIN, ["rm", secret], check=True)
    assert end == JobEnd("COMPLETED", 0, 0), job.output()
    assert "TASKS n1 n2 n3" in job.output()
    heard.assert_without(token)
    asked = [data for _, data in heard.connections if data]
    assert asked, "no worker has asked a stranger"
    assert all(data.startswith(MAGIC) and len(data) == ASK_BYTES for data in asked)
    slurm.assert_nothing_left()


def test_who_listens_at_an_address_given_by_hand_gets_no_token(slurm: Slurm) -> None:
    """The token of the environment, and that of the record."""
    token, port = secrets.token_hex(32), 23461
    job = batch(
        slurm,
        f"""
        RAYCLUSTER_TOKEN=$(cat ~/token) {WORKER} --retry-delay 3 --master-ip n1 --master-port {port}
        {WORKER} --retry-delay 3 --master-ip n1 --master-port {port}
        raycluster head --name own --expected-workers 1 --timeout 60 -- true & head=$!
        until [[ -e ~/.raycluster/bed/$SLURM_JOB_ID+own/head.json ]]; do sleep 0.1; done
        {WORKER} --name own --retry-delay 3 --master-ip n1 --master-port {port}
        until [[ -e ~/seen ]]; do sleep 0.1; done
        kill $head; wait
        echo ALL TRIED
        """,
        "--hold",
        user="alice",
    )
    secret = "/home/alice/token"
    slurm.run(LOGIN, ["sh", "-c", f"umask 077; cat > {secret}"], user="alice", stdin=token, check=True)
    with stranger(slurm, "n1", port, *derived_gcs_ports(f"bed/{job.id}+")) as heard:
        slurm.run(LOGIN, ["scontrol", "release", job.id], check=True)
        head_is_up(slurm.bed, job, name="own")
        made = wait_until(
            lambda: _read(slurm, f"/home/alice/.raycluster/bed/{job.id}+own/token"),
            timeout_s=30,
            what="the token",
        )
        seen = "/home/alice/seen"
        slurm.run(LOGIN, ["touch", seen], user="alice", check=True)
        output = job.wait_for("ALL TRIED")
        job.wait()
    slurm.run(LOGIN, ["rm", secret, seen], check=True)
    lines = [line for line in output.splitlines() if "error: n2 did not join a head" in line]
    assert len(lines) == 3, output
    for line, why in zip(lines, ("no proof", "no token", "wrong cluster"), strict=True):
        assert f"attempt 1 10.77.0.1:{port}: {why}" in line
    assert {where for where, _ in heard.connections} == {port}
    assert [data for _, data in heard.connections if data] == []
    heard.assert_without(token, made)
    slurm.assert_nothing_left()


def _read(slurm: Slurm, path: str) -> str:
    found = slurm.run(LOGIN, ["cat", path], user="alice")
    return found.stdout


def test_while_the_record_names_no_head_nobody_is_asked(slurm: Slurm) -> None:
    """A slow file server, or a head that is slow to start: the worker waits and connects to nobody."""
    job = batch(slurm, f"{WORKER} --retry-delay 12", "--hold", user="alice", nodes=2)
    with stranger(slurm, "n1", *derived_gcs_ports(f"bed/{job.id}+")) as heard:
        slurm.run(LOGIN, ["scontrol", "release", job.id], check=True)
        assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    assert f".raycluster/bed/{job.id}: no head" in line_with("did not join a head", job.output())
    assert heard.connections == []
    slurm.assert_nothing_left()


def test_without_record_and_token_a_run_is_refused_at_once(slurm: Slurm) -> None:
    """The home directory cannot be written on the nodes."""
    job = batch(
        slurm,
        f"{SRUN} env HOME=/proc raycluster run -- {driver(0)}",
        user="alice",
    )
    assert job.wait() == JobEnd("FAILED", 2, 0), job.output()
    lines = [line for line in job.output().splitlines() if "raycluster: error" in line]
    assert len(lines) == 3, job.output()
    assert all("workers cannot join without" in line and "RAYCLUSTER_TOKEN" in line for line in lines)
    slurm.assert_nothing_left()


def test_a_token_that_can_be_guessed_is_refused(slurm: Slurm) -> None:
    job = batch(slurm, f"export RAYCLUSTER_TOKEN=secret\n{SRUN} raycluster run -- {driver(0)}", nodes=1)
    assert job.wait() == JobEnd("FAILED", 2, 0), job.output()
    assert "RAYCLUSTER_TOKEN has 6 characters" in line_with("raycluster: error", job.output())
    assert not record(slurm.bed, job).exists()
    slurm.assert_nothing_left()


ASK = """
import socket, sys
address = sys.argv[1], int(sys.argv[2])
silent = socket.create_connection(address, 10)
with socket.create_connection(address, 10) as asking:
    asking.sendall(b"POST /get_runtime_envs_info HTTP/1.1\\r\\nHost: n2\\r\\nContent-Length: 0\\r\\n\\r\\n")
    print(asking.makefile().readline())
"""

WITH_AN_ENVIRONMENT = """
told = Path(__file__).with_suffix(".go")
while not told.exists():
    time.sleep(0.1)
told.unlink()
node = next(id for id, name in mine.items() if name == "n2")
place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)

@ray.remote(num_cpus=0, runtime_env={"env_vars": {"WITH": "an environment"}}, scheduling_strategy=place)
def there():
    return os.environ["WITH"]

print("WITH", ray.get(there.remote()), flush=True)
"""


def test_strangers_do_not_wake_a_runtime_environment_agent(slurm: Slurm) -> None:
    """Neither a connection of another user of the node nor one from another host; Ray's own request does."""
    cluster = Cluster.start(slurm, f"from pathlib import Path\n{WITH_AN_ENVIRONMENT}").driving()

    def stand_in() -> list[str]:
        """HOST and PORT of the stand-in on n2, or of the shell before it; empty once it is the agent."""
        argv = next((one.argv for one in cluster.processes("n2") if "port" in one.argv), ())
        at = argv.index("port") if argv else 0
        return list(argv[at + 1 : at + 3])

    for host in ("n2", LOGIN):
        asked = slurm.run(host, ["python", "-c", ASK, *stand_in()], user="bob", check=True)
        assert "401" in asked.stdout
        assert stand_in(), f"a connection from {host} has started the agent"
    slurm.bed.path(LOGIN, f"/home/admin/{cluster.name}.go").touch()
    assert cluster.job.wait().exit_code == 0, cluster.job.output()
    assert "WITH an environment" in cluster.job.output()
    slurm.assert_nothing_left()


def test_a_record_that_is_not_shared_is_said_within_seconds(slurm: Slurm) -> None:
    """Each node has a /tmp of its own, so the worker waits for a head that is there."""
    run = f"raycluster run --state-dir /tmp/mine -- {driver(0)}"
    job = batch(slurm, f"{SRUN} {run}", user="alice", nodes=2)
    job.wait_for("sees no head in /tmp/mine/")
    assert "set --state-dir to one that they share" in line_with("sees no head", job.output())
    job.cancel()
    job.wait()
    for host in ("n1", "n2", "n3"):
        shutil.rmtree(slurm.bed.path(host, "/tmp/mine"), ignore_errors=True)
    slurm.assert_nothing_left()
