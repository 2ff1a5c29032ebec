"""More faults on real Slurm hosts: of raycluster's own processes, of srun, of what Ray's processes need."""

from __future__ import annotations

import textwrap
import time

import pytest

from tests.slurm.cluster import SLACK_S, Cluster
from tests.slurm.jobs import Slurm
from tests.waiting import wait_until

chaos = pytest.mark.chaos


# -- keeper and supervisor at once -------------------------------------------------------------------


def kill_keeper_and_supervisor(cluster: Cluster, host: str) -> None:
    """As the kernel does when memory is short, or an administrator."""
    pids = [str(cluster.pid(host, kind)) for kind in ("keeper", "supervisor")]
    cluster.fault_at = time.time()
    cluster.bed.run(host, ["kill", "-9", *pids], check=True)


def test_keeper_and_supervisor_of_a_worker_are_killed_at_once(slurm: Slurm) -> None:
    """Ray does not stay: its agents notice, the raylet ends with them, and the node is cleared."""
    cluster = Cluster.start(slurm).driving()
    kill_keeper_and_supervisor(cluster, "n2")
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (5, "worker-lost")
    assert cluster.end["failed_host"] == "n2"
    assert cluster.known_after_s()["n1"] < 2.0 + SLACK_S
    assert "supervisor and keeper on n2 were killed" in cluster.node("n2")["message"]
    slurm.assert_nothing_left()


def test_keeper_and_supervisor_of_the_head_are_killed_at_once(slurm: Slurm) -> None:
    """The GCS does not stay either; the workers end and say why."""
    cluster = Cluster.start(slurm).driving()
    kill_keeper_and_supervisor(cluster, "n1")
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("supervisor-killed", "n1")
    for host in ("n2", "n3"):
        assert cluster.known_after_s()[host] < 2.0 + SLACK_S
        assert cluster.node(host)["exit_code"] == 5
        assert "supervisor and keeper on n1 were killed" in cluster.node(host)["message"]
    slurm.assert_nothing_left()


@chaos
def test_keeper_and_supervisor_are_killed_where_an_agent_is_awake(slurm: Slurm) -> None:
    """The agent itself watches as its stand-in did."""
    text = """
        @ray.remote(num_cpus=0, runtime_env={"env_vars": {"WITH": "an environment"}})
        def there():
            return os.environ["WITH"]

        for node in mine:
            place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            ray.get(there.options(scheduling_strategy=place).remote())
        print("AGENTS AWAKE", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text))
    cluster.job.wait_for("AGENTS AWAKE")
    kill_keeper_and_supervisor(cluster, "n2")
    cluster.job.wait()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("worker-lost", "n2")
    wait_until(lambda: not cluster.find("n2", "raylet"), timeout_s=20, what="n2 without a raylet")
    slurm.assert_nothing_left()


# -- what Ray's processes need -----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sockets", pytest.param("everything", marks=chaos)])
@pytest.mark.parametrize("host", ["n1", pytest.param("n2", marks=chaos)])
def test_a_program_that_cleans_tmp_removes_rays_files(slurm: Slurm, host: str, what: str) -> None:
    """Without a guard the driver's next call waits forever, and nothing says why."""
    cluster = Cluster.start(slurm).driving()
    root = str(cluster.node(host)["node_root"])
    below = f"{root}/r/session_2*/sockets/*" if what == "sockets" else f"{root}/*"
    cluster.fault_at = time.time()
    slurm.run(host, ["sh", "-c", f"rm -r {below}"], check=True)
    assert cluster.job.wait().exit_code == 5, cluster.job.output()
    assert cluster.end["reason"] == ("head-lost" if host == "n1" else "worker-lost")
    assert cluster.end["failed_host"] == host
    assert f"{root}/r/session_" in cluster.end["message"]
    assert f" on {host} was removed while Ray needed it" in cluster.end["message"]
    assert "--temp-dir" in cluster.job.output()
    assert cluster.known_after_s()[host] < 12.0 + SLACK_S
    slurm.assert_nothing_left()
