"""How a job ended, as `status`, `why` and the exit code tell it: on real Slurm.

The whole table of ends is in tests/unit/ops/ends.py; here are those in which Slurm's own words, files and
states count.
"""

from __future__ import annotations

import json
from typing import Any

from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

CONNECT = "import ray; ray.init(log_to_driver=False); print('WORKING', flush=True)"
SLEEP = f"{CONNECT}; import time; time.sleep(600)"


def start(slurm: Slurm, code: str, *options: str, nodes: int = 1) -> Job:
    script = f'{SRUN} raycluster run -- python -c "{code}"'
    return slurm.sbatch(script, f"--nodes={nodes}", "--ntasks-per-node=1", "--exclusive", "--mem=0", *options)


def told(slurm: Slurm, command: str, job: Job) -> dict[str, Any]:
    done = slurm.run(LOGIN, ["raycluster", command, job.id, "--json"], check=True, timeout_s=60)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def agree(slurm: Slurm, job: Job, state: str, code: int | None) -> str:
    """Check that both commands tell the same; returns why's page as one line."""
    status, why = told(slurm, "status", job), told(slurm, "why", job)
    assert (status["state"], status["exit_code"]) == (state, code), status
    assert (why["state"], why["exit_code"], why["running"]) == (state, code, False), why
    assert status["cause"] == why["verdict"]
    page = slurm.run(LOGIN, ["raycluster", "why", job.id], check=True, timeout_s=60).stdout
    return " ".join(page.split())


def test_the_drivers_own_failure(slurm: Slurm) -> None:
    """A traceback in a file of its own, seconds after the start: the record does not know that file yet."""
    warning = "print('WARNING 11-28 [a.py:1] errors like Too many open files', flush=True)"
    job = start(slurm, f"{CONNECT}; {warning}; raise ValueError('bad input')", "--error=/home/admin/%j.err")
    assert job.wait().exit_code == 1
    page = agree(slurm, job, "failed", 1)
    assert "The driver failed: ValueError: bad input." in page
    assert f"Exception in /home/admin/{job.id}.err" in page
    assert "limit on open files" not in page
    words = ["raycluster", "submit", "--nodes=1", "--exclusive", "--mem=0", "--time=5", "--follow", "--"]
    code = f"{CONNECT}; print('the data is not there'); raise SystemExit(7)"
    done = slurm.run(LOGIN, [*words, "python", "-c", code], timeout_s=120)
    assert done.returncode == 7, done
    job = Job(slurm.bed, done.stdout.split("Submitted batch job ")[1].split()[0], "root")
    assert "The driver itself failed: it ended with code 7" in done.stderr
    assert f"More: raycluster why {job.id}" in done.stderr
    page = agree(slurm, job, "failed", 7)
    assert "The driver itself failed: it ended with code 7" in page
    assert "the data is not there" in page


def test_a_cancelled_job(slurm: Slurm) -> None:
    job = start(slurm, SLEEP)
    job.wait_for("WORKING")
    running = told(slurm, "why", job)
    assert running["running"] and "The cluster has not ended: driver runs on 1 node" in running["verdict"]
    job.cancel()
    wait_until(lambda: job.state() == "CANCELLED", timeout_s=60, what="the cancelled job")
    page = agree(slurm, job, "stopped", 143)
    assert "The job was cancelled by SIGTERM (scancel)" in page
    assert "raylet.err" not in page and "gcs_server" not in page


def test_a_job_that_was_killed_at_once(slurm: Slurm) -> None:
    """Slurm is asked where nothing of raycluster was left to write how the cluster ended.

    Slurm kills one process after the other: the keeper, or what takes the place of Ray's agents, may see the
    end of the supervisor first, and write it.
    """
    job = start(slurm, SLEEP)
    job.wait_for("WORKING")
    slurm.run(LOGIN, ["scancel", "--signal=KILL", f"{job.id}.0"], check=True)
    assert job.wait().exit_code == 137
    if told(slurm, "status", job)["state"] == "lost":
        page = agree(slurm, job, "lost", None)
        assert "processes were killed at once (SIGKILL)" in page
        assert "Exited without reporting: n1" in page
    else:
        page = agree(slurm, job, "failed", 137)
        assert "raycluster on n1" in page and "was killed from outside" in page
