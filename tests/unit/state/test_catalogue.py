"""Finding a record by what the user calls it, listing records, and removing old ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.record import EndReport, HeadInfo
from raycluster_cli.model.worker_job import WorkerJob, WorkerJobsReport
from raycluster_cli.state.catalogue import NoRecordError, list_records, prune, record_of
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles


def keys(state: Path, *leaves: str) -> dict[str, Record]:
    made = {}
    for n, leaf in enumerate(leaves):
        cluster, _, leaf_name = leaf.rpartition("/")
        key, _, name = leaf_name.partition("+")
        made[leaf] = Record.create(state, cluster or "tux", key, name)
        os.utime(made[leaf].path, (1000 + n, 1000 + n))
    return made


def test_find_by_all_the_names_that_a_person_may_use(state: Path) -> None:
    made = keys(state, "100", "123", "123.r2", "123.r10", "200+left", "200+right", "other/300")
    same = {leaf: leaf for leaf in made if leaf != "123"}
    others = {"tux/100": "100", "123": "123.r10", "300": "other/300", "right": "200+right"}
    expected = {**same, **others}
    for asked, leaf in expected.items():
        assert record_of(state, asked).path == made[leaf].path, asked
    assert record_of(state, str(made["100"].path)).key == "100"


def test_find_prefers_what_still_runs_and_asks_when_several_do(state: Path) -> None:
    made = keys(state, "200+left", "200+right")
    with pytest.raises(UsageError, match=r"matches several clusters: tux/200\+right, tux/200\+left"):
        record_of(state, "200")
    made["200+left"].write_end(EndReport(1.0, 0))
    assert record_of(state, "200").path == made["200+right"].path


def test_find_by_alias_takes_the_newest(state: Path) -> None:
    made = keys(state, "100", "101", "102")
    made["100"].write_head(HeadInfo("a", "10.0.0.1", 1, aliases=("99_1", "train")))
    made["101"].write_head(HeadInfo("a", "10.0.0.1", 1, aliases=("99_2", "train")))
    for n, leaf in enumerate(made):
        os.utime(made[leaf].path, (5000 + n, 5000 + n))
    assert record_of(state, "99_1").key == "100"
    assert record_of(state, "train").key == "101"


@pytest.mark.parametrize("job", ["4713_1", "4713", "4716", "4720"])
def test_a_worker_job_is_no_cluster(state: Path, job: str) -> None:
    made = keys(state, "4711", "4712")
    numbers = {"4713_0": "", "4713_1": "4716", "4720": ""}
    jobs = tuple(WorkerJob(one, "gpu", "ended", 1.0, number=number) for one, number in numbers.items())
    WorkerJobFiles(made["4711"].path).write_jobs(WorkerJobsReport(1.0, jobs))
    with pytest.raises(NoRecordError, match=f"^{job} is a worker job of cluster 4711, and no cluster"):
        record_of(state, job)
    with pytest.raises(NoRecordError, match=r"^no record of '47'"):
        record_of(state, "47")


def test_find_without_a_match_names_what_there_is(state: Path) -> None:
    keys(state, "1", "2")
    with pytest.raises(
        UsageError,
        match=r"no record of '3' was found in .*; the newest records there: 2, 1\. `raycluster status`",
    ):
        record_of(state, "3")
    with pytest.raises(UsageError, match="the newest records there: none"):
        record_of(state / "missing", "3")


def test_a_record_that_cannot_be_read_is_told_with_its_mode(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keys(state, "2")["2"].path
    path.chmod(0o000)
    monkeypatch.setattr("os.access", lambda where, mode: where != path)  # also for root
    message = (
        rf"the record {path} cannot be read: the directory is yours, with mode 0000\. chmod u\+rwx {path}"
    )
    with pytest.raises(UsageError, match=message):
        record_of(state, "2")


def test_records_are_listed_newest_first_without_opening_a_file(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys(state, "5", "3", "other/4")
    (state / "tux" / "stray file").write_text("")
    monkeypatch.setattr(os, "open", None)
    assert [record.path.name for record in list_records(state)] == ["4", "3", "5"]


def test_old_records_are_pruned_and_old_ones_that_still_beat_are_not(state: Path) -> None:
    made = keys(state, "1", "2", "3")
    made["2"].take_lease()
    now = time.time()
    for leaf in ("1", "2"):
        for path in [*made[leaf].path.rglob("*"), made[leaf].path]:
            os.utime(path, (now - 40 * 86400, now - 40 * 86400))
    os.utime(made["3"].path)
    made["2"].leases.beat()
    old = made["2"].path.stat().st_mtime
    assert now - old > 39 * 86400
    assert prune(state) == [made["1"].path]
    assert {record.key for record in list_records(state)} == {"2", "3"}


def test_prune_takes_the_oldest_and_only_so_many(state: Path) -> None:
    keys(state, "1", "2", "3")
    for n in (1, 2, 3):
        os.utime(state / "tux" / str(n) / "nodes", (1000, 1000))
    assert [path.name for path in prune(state, limit=2)] == ["1", "2"]
