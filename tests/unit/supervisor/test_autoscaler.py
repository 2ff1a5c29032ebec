"""What the head tells Ray's autoscaler of itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.slurm.sbatch import HeadJob, mark_of
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.autoscaler import Autoscaler


def head_job(record: Record) -> HeadJob:
    """The head's job as the autoscaler makes it of the request."""
    context = SimpleNamespace(key=record.key, env={}, settings=Settings())
    parts: Any = SimpleNamespace(context=context, reports=SimpleNamespace(record=record))
    started = SimpleNamespace(session_dir="/tmp/rc/r/session")
    node: Any = SimpleNamespace(client_environment=dict, started=started)
    never: Any = None
    head = Autoscaler(parts, node, "10.0.0.1:20480", (), never)._request()["head"]
    return HeadJob(head["key"], head["name"], record.path, head["directory"], tuple(head["raycluster"]), ())


@pytest.mark.parametrize(("key", "name"), [("4711", ""), ("4711", "tune"), ("4711.r1", "tune")])
def test_jobs_have_the_mark_by_which_they_are_found_at_the_end(tmp_path: Path, key: str, name: str) -> None:
    record = Record.create(tmp_path / "state", "tux", key, name)
    assert head_job(record).mark == mark_of(record.path.name)


def test_two_clusters_of_one_job_do_not_take_each_others_jobs_for_their_own(tmp_path: Path) -> None:
    one, other = (Record.create(tmp_path / "state", "tux", "4711", name) for name in ("tune", "eval"))
    assert head_job(one).mark != head_job(other).mark
