"""The record of a growing cluster that never ran, for tests of what people look at.

python -m tests.unit.growing DIR    writes one, to look at by hand
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

from raycluster_cli.model.record import NodeReport, ProcessDeath
from raycluster_cli.model.worker_group import GroupsReport, WorkerGroup
from raycluster_cli.model.worker_job import GroupState, WorkerJob, WorkerJobsReport
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.unit.records_by_hand import change_head, write_record


def write_growing_record(state_dir: Path, now: float | None = None) -> Record:
    """A head alone in its job, with workers of two groups; the third group is paused."""
    now = time.time() if now is None else now
    record = write_record(state_dir, 1, usage=False, now=now)
    change_head(record, worker_groups=True)
    for host, phase, group in (
        ("n101.4712_1", "joined", "gpu"),
        ("n102.4712_2", "joined", "gpu"),
        ("n103.4709", "gone", "gpu"),
        ("n104.4708", "joined", "gpu"),  # it was killed with its host and reported nothing
        ("n201.4720", "joined", "cpu"),
    ):
        phases = {"joined": now - 300, phase: now - 200}
        job = host.partition(".")[2]
        deaths = (ProcessDeath("raylet", 7, 0, now - 200),) if phase == "gone" else ()
        report = NodeReport(host, "worker", phase, phases, ip="10.0.0.2", updated=now, deaths=deaths)
        record.write_node(replace(report, job=job, group=group))
    output = record.path / "jobs" / "4712_1.out"
    output.parent.mkdir()
    output.write_text("raycluster: joined cluster 4711\n")
    files = WorkerJobFiles(record.path)
    files.write_groups(
        GroupsReport(
            (WorkerGroup("gpu", 8, sbatch=("--gres=gpu:4",)), WorkerGroup("cpu", 9, 1), WorkerGroup("fat", 2))
        )
    )
    files.write_jobs(
        WorkerJobsReport(
            now,
            (
                WorkerJob("4708", "gpu", "ended", now - 90, "NODE_FAIL"),
                WorkerJob("4709", "gpu", "ended", now - 80, "idle for 5 min"),
                WorkerJob("4712_1", "gpu", "ready", now - 300, hosts=("n101",), output=str(output)),
                WorkerJob("4712_2", "gpu", "idle", now - 42, hosts=("n102",)),
                WorkerJob("4712_3", "gpu", "starting", now - 3, hosts=("n105",)),
                WorkerJob("4713_1", "gpu", "pending", now - 7300, "Priority", now + 600, nodes=2),
                WorkerJob("4720", "cpu", "ready", now - 600, hosts=("n201",)),
            ),
            (
                GroupState("gpu"),
                GroupState("fat", now + 250, "3 starts in a row failed: the worker ended with 3", ("n40",)),
            ),
        )
    )
    return record


if __name__ == "__main__":
    print(write_growing_record(Path(sys.argv[1])).path)
