"""The dashboard of a cluster that was started without --dashboard: it starts when it is asked for."""

from __future__ import annotations

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import driver, head_is_up
from tests.slurm.jobs import JobEnd, Slurm
from tests.slurm.test_dashboard import HAS_DASHBOARD, SHAPE, SLOW_S, WITHOUT

pytestmark = [
    pytest.mark.dashboard,
    pytest.mark.skipif(not HAS_DASHBOARD, reason=WITHOUT),
]

ASKS = """
import subprocess
import ray
from ray.util.state import list_actors, list_nodes
ray.init(logging_level="ERROR")
@ray.remote(num_cpus=0)
class Actor:
    def others(self):
        return len(list_actors(timeout=120))
actor = Actor.options(resources={"node:__internal_head__": 0.001}).remote()
print("SEEN BY AN ACTOR", ray.get(actor.others.remote()), flush=True)
print("ACTORS", [one.state for one in list_actors(timeout=120)], flush=True)
print("NODES", len(list_nodes(timeout=120)), flush=True)
done = subprocess.run(["ray", "list", "actors"], capture_output=True, text=True)
print("RAY LIST", done.returncode, "ALIVE" in done.stdout, done.stderr, flush=True)
"""


def test_it_starts_when_the_driver_asks_for_it(slurm: Slurm) -> None:
    slurm.run(LOGIN, ["tee", "/home/alice/asks.py"], user="alice", stdin=ASKS, check=True)
    job = slurm.sbatch("srun --mem=0 raycluster run -- python asks.py", *SHAPE, user="alice")
    job.wait_for("RAY LIST", timeout_s=SLOW_S)
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert "SEEN BY AN ACTOR 1" in output
    assert "ACTORS ['ALIVE']" in output
    assert "NODES 3" in output
    assert "RAY LIST 0 True" in output
    assert output.count("dashboard: http://127.0.0.1:") == 1
    slurm.assert_nothing_left()


def test_it_starts_by_a_command_from_the_login_node(slurm: Slurm) -> None:
    job = slurm.sbatch(f"srun --mem=0 raycluster run -- {driver(0, '--sleep', 600)}", *SHAPE, user="alice")
    head = head_is_up(slurm.bed, job)
    job.wait_for("NODES n1 n2 n3", timeout_s=SLOW_S)
    assert slurm.run("n1", ["pgrep", "-f", "dashboard/dashboard.py"]).stdout == ""
    told = slurm.run(LOGIN, ["raycluster", "dashboard", job.id], user="alice", check=True).stdout
    assert f"ssh -N -L 8265:127.0.0.1:{head['ports']['dashboard']} -J alice@login alice@n1" in told
    url = f"http://127.0.0.1:{head['ports']['dashboard']}/api/version"
    # bob cannot make alice's job use more memory.
    stranger = slurm.run("n1", ["curl", "-sS", "-m", "20", "-w", "%{http_code}", url], user="bob").stdout
    assert stranger.endswith("403"), stranger
    done = slurm.run(
        LOGIN, ["raycluster", "submit-job", job.id, "--", "echo", "hello"], user="alice", timeout_s=SLOW_S
    )
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout
    assert "dashboard: http://" in job.output()
    job.cancel()
    job.wait()
    slurm.assert_nothing_left()
