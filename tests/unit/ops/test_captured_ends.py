"""Ends of jobs as they were on Slurm 22.05 with Ray 2.60: records, logs, output and what scontrol said.

tests/slurm writes these files where RAYCLUSTER_CAPTURE names a directory (tests/slurm/cluster.py).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from raycluster_cli.ops.follow import follow
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.verdict import judge
from raycluster_cli.ops.why import page
from raycluster_cli.slurm.job_state import parse_job
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record

ENDS = sorted((Path(__file__).parents[2] / "data" / "ends").glob("*.json"))


@pytest.mark.parametrize("path", ENDS, ids=[path.stem for path in ENDS])
def test_what_was_told_on_slurm(path: Path, tmp_path: Path) -> None:
    captured = json.loads(path.read_text())
    record = Record.create(tmp_path / "state", "bed", captured["job"])
    last = 0.0
    for name, text in captured["record"].items():
        file = record.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        if name.startswith("nodes/"):
            updated = json.loads(text)["updated"]
            last = max(last, updated)
            os.utime(file, (updated, updated))
    os.utime(record.path, (last, last))
    output = tmp_path / "output"
    output.write_text(captured["output"])
    slurm = parse_job(captured["scontrol"])
    jobs = {record.job_id: Job(record.job_id, record.job_id, slurm.state)}
    status = read_cluster(record, jobs, now=last + 3600)
    post = post_mortem(record, status=status, slurm=slurm, outputs=[output])
    assert status.phase.value == captured["state"]
    assert captured["verdict"] in judge(post).verdict
    assert " ".join(judge(post).verdict.split()) in " ".join(page(post).split())
    if not slurm.has_ended:  # Slurm was still waiting for a host that had gone
        return
    code = follow(record.job_id, {}, output=False, ask=lambda job, env: slurm, sleep=lambda s: None)
    # srun ends with the highest code of its tasks; the record has the cluster's own.
    assert code != 0 if status.exit_code is None else code >= status.exit_code


def test_there_are_some() -> None:
    assert len(ENDS) >= 10
