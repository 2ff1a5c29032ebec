"""Job ids that mean several jobs: of a controller set up anew, of one at MaxJobId, of an array."""

from __future__ import annotations

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import SRUN, batch, driver, read, record
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.versions

EARLIER = """
import os, sys, time
from pathlib import Path
from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.state.record import Record
from raycluster_cli.system.ports import derived_gcs_ports

record = Record.create(Path.home() / ".raycluster", "bed", sys.argv[1])
record.take_lease(host="n1")
port = derived_gcs_ports(f"bed/{sys.argv[1]}+")[0]
record.write_head(
    HeadInfo("n1", "10.77.0.1", port, identity="x" * 32, step="0", launch=sys.argv[2], state="up")
)
for host in ("n1", "n2", "n3"):
    record.write_node(NodeReport(host, "worker", "failed", message="of the earlier cluster", exit_code=5))
end = EndReport(time.time(), 5, "head-lost", "n1", "the earlier cluster's head was lost")
record.write_refusal("0", end)
if sys.argv[3:] == ["killed"]:  # its host lost its power: it has no end
    os.utime(next(record.path.glob("head.claim.*")), (1, 1))
else:
    record.write_end(end)
"""


@pytest.mark.parametrize("launch", ["", "0-39114"], ids=["version 0.1", "this version"])
def test_the_record_of_an_earlier_job_with_the_same_id_is_not_taken_for_ours(
    slurm: Slurm, launch: str
) -> None:
    job = batch(slurm, f"{SRUN} raycluster run -- {driver(7, '--tasks')}", "--hold", user="alice")
    slurm.run(LOGIN, ["python", "-c", EARLIER, job.id, launch], user="alice", check=True)
    slurm.run(LOGIN, ["scontrol", "release", job.id], check=True)
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    assert "TASKS n1 n2 n3" in job.output()
    assert "earlier" not in job.output()
    end = read(record(slurm.bed, job) / "end.json")
    assert end is not None
    assert (end["exit_code"], end["reason"]) == (7, "driver")
    slurm.assert_nothing_left()


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_workers_and_head_in_steps_of_their_own(slurm: Slurm, how: str) -> None:
    """Workers that come first read the earlier cluster's address, which is that of our head, too."""
    job = batch(
        slurm,
        f"""
        {SRUN} --nodes=2 --ntasks=2 --exclude=n1 raycluster worker &
        until grep -qs '"waiting for head"' ~/.raycluster/bed/$SLURM_JOB_ID/nodes/n2.json; do sleep 0.1; done
        raycluster head -- {driver(7, "--tasks")}
        code=$?
        wait
        exit $code
        """,
        "--hold",
        user="alice",
    )
    slurm.run(LOGIN, ["python", "-c", EARLIER, job.id, "0-39114", how], user="alice", check=True)
    slurm.run(LOGIN, ["scontrol", "release", job.id], check=True)
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    assert "TASKS n1 n2 n3" in job.output()
    slurm.assert_nothing_left()


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("READY", flush=True)
time.sleep(600)
"""


def test_the_last_task_of_an_array_is_requeued_alone(slurm: Slurm) -> None:
    """It has the array's id, which means all tasks to `scontrol requeue`."""
    home = slurm.bed.path(LOGIN, "/home/alice")
    (home / "saves.py").write_text(SAVES)
    array = slurm.sbatch(
        f"{SRUN} raycluster run --requeue-on-preempt -- python /home/alice/saves.py",
        *("--array=0-1", "--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=1500"),
        *("--requeue", "--open-mode=append", "--output=/home/alice/array-%a.out"),
        user="alice",
    )

    def starts() -> list[int]:
        found = [home / f"array-{number}.out" for number in (0, 1)]
        return [path.read_text().count("READY") if path.exists() else 0 for path in found]

    wait_until(lambda: starts() == [1, 1], timeout_s=90, what="both tasks")
    slurm.run(LOGIN, ["scancel", "--signal=TERM", f"{array.id}_1"], check=True)

    def was_requeued() -> bool:
        tasks = {fields["ArrayTaskId"]: fields for fields in array.show()}
        assert (tasks["0"]["JobState"], tasks["0"]["Restarts"]) == ("RUNNING", "0"), tasks
        return tasks["1"]["Restarts"] == "1"

    wait_until(was_requeued, timeout_s=60, what="the task that was requeued")
    assert starts()[0] == 1
    assert "the driver asks for a requeue" not in (home / "array-0.out").read_text()
    # That is for good, though their drivers ask for a requeue then, too.
    stop = ["raycluster", "stop", f"{array.id}_0", f"{array.id}_1"]
    slurm.run(LOGIN, stop, user="alice", check=True)
    squeue = ["squeue", "--noheader"]
    wait_until(lambda: not slurm.run(LOGIN, squeue).stdout, timeout_s=60, what="the end of the array")


@pytest.mark.parametrize("tasks", ["1-99:2", ",".join(str(n) for n in range(1, 99) if n % 3 or n % 7 == 0)])
def test_stop_of_the_tasks_of_an_array_that_wait(slurm: Slurm, tasks: str) -> None:
    """squeue shows steps, which scancel refuses, and of many single tasks only the first."""
    array = slurm.sbatch("sleep 600", "--nodes=1", f"--array={tasks}%1", user="alice")

    def states() -> str:
        command = ["squeue", "--noheader", "--format=%i %T"]
        return slurm.run(LOGIN, command, user="alice", check=True).stdout.strip()

    wait_until(lambda: "RUNNING" in states(), timeout_s=60, what="the first task")
    slurm.run(LOGIN, ["raycluster", "stop", array.id], user="alice", check=True)
    wait_until(lambda: states() == f"{array.id}_1 RUNNING", timeout_s=20, what="the first task alone")
    array.cancel()
    wait_until(lambda: not states(), timeout_s=60, what="the end of the array")
