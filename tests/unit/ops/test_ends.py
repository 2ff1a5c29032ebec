"""For each way to end, `status`, `why`, `--follow` and the exit code agree and name the cause."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from raycluster_cli.model.cluster_status import ClusterStatus
from raycluster_cli.model.record import HeadInfo, NodeReport
from raycluster_cli.ops.follow import follow
from raycluster_cli.ops.post_mortem import PostMortem, post_mortem
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.verdict import judge
from raycluster_cli.ops.why import page, why_json
from raycluster_cli.slurm.job_state import JobState
from raycluster_cli.slurm.queue import Job
from raycluster_cli.state.record import Record
from tests.unit.ops.ends import CASES, NOW, Case


def test_there_are_thirty() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30


def examined(case: Case, directory: Path) -> PostMortem:
    """What is left of such an end, read as `why` reads it."""
    record = Record.create(directory / "state", "c", "4711")
    record.write_head(HeadInfo("n1", "10.0.0.1", 20000, started=NOW - 60, driver=("python", "train.py")))
    for node in case.nodes:
        role = "head" if node.host == "n1" else "worker"
        record.write_node(
            NodeReport(
                node.host,
                role,
                node.phase,
                exit_code=node.exit_code,
                message=node.message,
                updated=NOW,
                deaths=node.deaths,
                oom_kills=node.oom_kills,
            )
        )
        os.utime(record.path / "nodes" / f"{node.host}.json", (NOW, NOW))
    for name, text in case.logs.items():
        host, _, file = name.partition("/")
        (record.log_dir(host) / file).write_text(text)
    outputs = []
    for name, text in (("job.out", case.output), ("job.err", case.errors)):
        if text:
            (directory / name).write_text(text)
            outputs.append(directory / name)
    if case.end is not None:
        record.write_end(case.end)
    return post_mortem(record, status=_status(record, case), slurm=case.slurm, outputs=outputs)


def _status(record: Record, case: Case) -> ClusterStatus:
    """As `status` reads it, an hour later."""
    os.utime(record.path, (NOW, NOW))
    jobs = {} if case.slurm is None else {"4711": Job("4711", "4711", case.slurm.state)}
    return read_cluster(record, jobs, now=NOW + 3600)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_commands_agree_and_name_the_cause(case: Case, tmp_path: Path) -> None:
    post = examined(case, tmp_path)
    judgement = judge(post)
    assert post.status.phase.value == case.phase
    assert case.verdict in judgement.verdict
    assert case.line in (judgement.shown_by.line if judgement.shown_by is not None else "")
    text = " ".join(page(post).split())
    for shown in (case.verdict, *case.shows):
        assert shown in text
    for hidden in case.hides:
        assert hidden not in text
    document = why_json(post)
    json.dumps(document)
    assert (document["state"], document["verdict"], document["running"]) == (
        case.phase,
        judgement.verdict,
        False,
    )
    if case.end is not None and case.slurm is not None:
        assert post.status.exit_code == document["exit_code"] == case.end.exit_code
    if case.end is not None:
        assert post.status.headline.startswith(case.end.message)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_follow_ends_with_the_code(case: Case) -> None:
    if case.slurm is None:
        pytest.skip("Slurm does not know it any more")

    def ask(job: str, env: Mapping[str, str]) -> JobState | None:
        return case.slurm

    assert follow("4711", {}, output=False, ask=ask, sleep=lambda s: None) == case.code
