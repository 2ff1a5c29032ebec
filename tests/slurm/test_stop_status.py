"""status, monitor, stop and env against a real Slurm: from the login node, inside the job, after the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, batch, head_is_up, line_with, read, record
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.versions

WORK = """
import time
import ray

ray.init(log_to_driver=False)

@ray.remote(num_cpus=1)
def work():
    time.sleep(600)

held = ray.put(b"x" * 50_000_000)
print("WORKING", len(ray.nodes()), flush=True)
ray.get([work.remote() for _ in range(40)])
"""


def start(slurm: Slurm, user: str = "alice") -> Job:
    """A cluster whose driver keeps all of it busy."""
    home = slurm.bed.path(LOGIN, f"/home/{user}")
    (home / "work.py").write_text(WORK)
    (home / "work.py").chmod(0o644)
    job = batch(slurm, f"{SRUN} raycluster run -- python /home/{user}/work.py", user=user)
    job.wait_for("WORKING 3")
    return job


def raycluster(
    slurm: Slurm, *words: str, host: str = LOGIN, user: str = "alice", code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """`raycluster WORDS` on a host, as a user; its exit code must be ``code``."""
    done = slurm.run(host, ["raycluster", *words], user=user, env={"COLUMNS": "100"}, timeout_s=120)
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


def told(slurm: Slurm, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raycluster(slurm, *words).stdout)
    return found


def supervisor_of_head(slurm: Slurm, job: Job) -> tuple[str, int, int]:
    """(host, keeper's pid, supervisor's pid) of the head."""
    head = head_is_up(slurm.bed, job)
    stat = slurm.run(head["host"], ["cat", f"/proc/{head['pid']}/stat"], check=True).stdout
    return head["host"], int(stat.rpartition(")")[2].split()[1]), head["pid"]


def test_a_cluster_seen_from_everywhere_and_stopped(slurm: Slurm) -> None:
    job = start(slurm)
    text = raycluster(slurm, "status").stdout
    assert text.splitlines()[1].split()[:3] == [job.id, "running", "3/3"]

    def busy() -> dict[str, Any] | None:
        """What monitor tells, once the driver's tasks run on all nodes and others wait."""
        found = told(slurm, "monitor", job.id, "--once", "--json")
        used = [node["usage"] for node in found["nodes"]]
        runs = all(one and one["worker_processes"] for one in used)
        return found if found["pending_tasks"] and runs else None

    found = wait_until(busy, timeout_s=60, what="tasks on all nodes")
    assert (found["state"], found["nodes_ready"], found["slurm_state"]) == ("running", 3, "RUNNING")
    assert 300 < found["time_left_s"] <= 600
    assert sum(node["usage"]["cpus_used"] for node in found["nodes"]) > 0
    assert found["nodes"][0]["usage"]["object_store_used_bytes"] >= 50_000_000

    inside = slurm.srun(
        *("--overlap", "-N1", "-n1", f"--jobid={job.id}", "--mem=0", "raycluster", "monitor", "--once"),
        user="alice",
    )
    assert inside.returncode == 0, inside.stderr
    assert "Driver runs on 3 nodes" in inside.stdout

    timing = raycluster(slurm, "status", job.id, "--timing").stdout
    assert "slowest: " in timing
    assert "no record of" in raycluster(slurm, "status", job.id, user="bob", code=2).stderr
    theirs = ("--state-dir", "/home/alice/.raycluster")
    assert "cannot be read" in raycluster(slurm, "status", *theirs, user="bob", code=2).stderr
    for user, code in (("root", 2), ("bob", 2)):
        raycluster(slurm, "stop", job.id, *theirs, user=user, code=code)
    operator = json.loads(raycluster(slurm, "status", "--json", *theirs, user="root").stdout)["clusters"]
    seen = {one["job"]: (one["state"], one["nodes_ready"]) for one in operator}
    assert seen[job.id] == ("running", 3)
    assert "has not ended: driver runs" in raycluster(slurm, "why", job.id, *theirs, user="root").stdout

    done = raycluster(slurm, "stop", job.id)
    assert f"{job.id} ended after" in done.stderr
    job.wait()
    after = told(slurm, "status", job.id, "--json")
    assert (after["state"], after["reason"], after["exit_code"]) == ("stopped", "stop", 143)
    assert "has ended already" in raycluster(slurm, "stop", job.id).stderr
    slurm.assert_nothing_left()


def test_a_head_that_hangs_is_ended_from_within_its_job(slurm: Slurm) -> None:
    job = start(slurm)
    host, _, supervisor = supervisor_of_head(slurm, job)
    slurm.run(host, ["kill", "-STOP", str(supervisor)], check=True)
    done = raycluster(slurm, "stop", job.id, "--timeout", "3")
    assert "ending it from within its job" in done.stderr
    assert "cancelling" not in done.stderr
    job.wait()
    slurm.assert_nothing_left()


@pytest.mark.chaos
def test_a_head_that_does_not_answer_is_ended_from_within_its_job(slurm: Slurm) -> None:
    job = start(slurm)
    host, keeper, supervisor = supervisor_of_head(slurm, job)
    slurm.run(host, ["kill", "-STOP", str(supervisor), str(keeper)], check=True)
    done = raycluster(slurm, "stop", job.id, "--timeout", "3")
    assert "the head on n1 did not end within 3.0 s; ending it from within its job" in done.stderr
    job.wait()
    assert told(slurm, "status", job.id, "--json")["over"]
    slurm.run(host, ["raycluster", "stop", "--here"], user="alice")
    slurm.assert_nothing_left()


def test_a_head_killed_with_its_keeper_is_cleared_from_the_login_node(slurm: Slurm) -> None:
    job = start(slurm)
    host, keeper, supervisor = supervisor_of_head(slurm, job)
    slurm.run(host, ["kill", "-KILL", str(keeper), str(supervisor)], check=True)
    raycluster(slurm, "stop", job.id, "--timeout", "10")
    job.wait()
    assert told(slurm, "status", job.id, "--json")["over"]
    slurm.run(host, ["raycluster", "stop", "--here"], user="alice")
    slurm.assert_nothing_left()


def test_all_asks_first(slurm: Slurm) -> None:
    job = start(slurm)
    refused = raycluster(slurm, "stop", "--all", code=2).stderr
    assert "nobody can be asked here" in refused
    assert job.state() == "RUNNING"
    done = raycluster(slurm, "stop", "--all", "--yes")
    assert f"{job.id} ended after" in done.stderr
    job.wait()
    slurm.assert_nothing_left()


def test_a_waiting_job(slurm: Slurm) -> None:
    job = slurm.sbatch("sleep 600", "-N3", "--exclusive", "--hold", user="alice")
    done = raycluster(slurm, "monitor", job.id, "--once", code=1)
    assert "waiting in Slurm's queue (JobHeldUser)" in done.stderr
    assert told(slurm, "status", job.id, "--json")["state"] == "pending"
    raycluster(slurm, "stop", job.id, "--yes")
    wait_until(lambda: job.state() == "CANCELLED", timeout_s=20, what="the cancelled job")


def test_a_suspended_job_is_not_running(slurm: Slurm) -> None:
    job = start(slurm)
    slurm.run(LOGIN, ["scontrol", "suspend", job.id], check=True)
    wait_until(lambda: job.state() == "SUSPENDED", timeout_s=20, what="the suspended job")
    assert told(slurm, "status", job.id, "--json")["state"] == "suspended"
    assert "until it is resumed" in raycluster(slurm, "status", job.id).stdout
    raycluster(slurm, "monitor", job.id, "--once", "--exit-status", code=5)
    slurm.run(LOGIN, ["scontrol", "resume", job.id], check=True)
    wait_until(
        lambda: told(slurm, "status", job.id, "--json")["state"] == "running",
        timeout_s=30,
        what="the resumed job",
    )
    raycluster(slurm, "stop", job.id)
    job.wait()
    slurm.assert_nothing_left()


def test_stop_of_a_suspended_job(slurm: Slurm) -> None:
    """Slurm kills all of it at once, without resuming it; one that got SIGSTOP ends cleanly."""
    job = start(slurm)
    slurm.run(LOGIN, ["scontrol", "suspend", job.id], check=True)
    wait_until(lambda: job.state() == "SUSPENDED", timeout_s=20, what="the suspended job")
    assert "Slurm has suspended the job" in raycluster(slurm, "stop", job.id).stderr
    assert job.wait().state == "CANCELLED"
    assert told(slurm, "status", job.id, "--json")["over"]
    for host in ("n1", "n2", "n3"):
        raycluster(slurm, "stop", "--here", host=host)
    slurm.assert_nothing_left()
    job = start(slurm)
    job.cancel("--signal=STOP")
    wait_until(lambda: job.state() == "STOPPED", timeout_s=20, what="the stopped job")
    assert told(slurm, "status", job.id, "--json")["state"] == "suspended"
    raycluster(slurm, "stop", job.id)
    assert job.wait().exit_code == 143
    slurm.assert_nothing_left()


def test_jobs_in_which_raycluster_never_started(slurm: Slurm) -> None:
    job = slurm.sbatch("true", "-N1", "--output=/no/such/directory/x.out", user="alice")
    assert job.wait().state == "FAILED"
    page = " ".join(raycluster(slurm, "why", job.id).stdout.split())
    assert "Slurm could not start the batch script" in page
    found = told(slurm, "status", job.id, "--json")
    assert (found["state"], found["reason"], found["over"]) == ("failed", "no-record", True)
    missing = slurm.sbatch("no-such-program", "-N1", user="alice")
    missing.wait()
    page = " ".join(raycluster(slurm, "why", missing.id).stdout.split())
    assert "was not found on the node" in page and "no-such-program: command not found" in page
    sleeping = slurm.sbatch("sleep 600", "-N1", user="alice")
    wait_until(lambda: sleeping.state() == "RUNNING", timeout_s=20, what="the job without a cluster")
    assert told(slurm, "status", sleeping.id, "--json")["state"] == "no record"
    early = raycluster(slurm, "stop", sleeping.id, "--timeout", "3", code=1).stderr
    assert "raycluster did not start in it within" in early
    assert "the job belongs to alice" in raycluster(slurm, "status", sleeping.id, user="bob", code=2).stderr
    raycluster(slurm, "stop", sleeping.id, "--yes", "--timeout", "3")
    wait_until(lambda: sleeping.state() == "CANCELLED", timeout_s=20, what="the cancelled job")


@pytest.mark.parametrize("shape", ["batch", "task", "salloc"])
def test_env_wherever_it_is_asked(slurm: Slurm, shape: str) -> None:
    options = ("-N2", "--exclusive", "--mem=3000", "--time=10")
    if shape == "salloc":
        done = slurm.run(
            LOGIN, ["salloc", *options, "raycluster", "env", "--json"], user="alice", timeout_s=120
        )
        text = done.stdout
    else:
        lead = "srun -N1 -n1 " if shape == "task" else ""
        job = slurm.sbatch(f"{lead}raycluster env --json > /home/alice/env.json", *options, user="alice")
        job.wait()
        text = Path(slurm.bed.path(LOGIN, "/home/alice/env.json")).read_text()
    found = json.loads(text)
    where = {"batch": "the batch script", "task": "task 0 of 1 in step 0", "salloc": "a shell of the job"}
    assert found["slurm"]["where"].startswith(where[shape])
    settings = {one["name"]: one for one in found["settings"]}
    expected = 0 if shape == "task" else 1
    assert settings["expected_workers"]["value"] == expected
    assert settings["expected_workers"]["source"].startswith("Slurm (")
    if shape != "salloc":
        assert found["granted"]["memory_bytes"]["value"] <= 3000 * 2**20


def test_status_without_slurm(slurm: Slurm) -> None:
    job = start(slurm)
    words = [sys.executable, "-m", "raycluster_cli", "status", job.id, "--json"]
    done = slurm.run(LOGIN, words, user="alice", env={"PATH": "/nonexistent"}, wd=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["state"], found["slurm_state"]) == ("running", "")
    raycluster(slurm, "stop", job.id)
    job.wait()
    path = record(slurm.bed, job)
    assert read(path / "head.json") is not None
    assert line_with("stopped by", (path / "events.log").read_text())
