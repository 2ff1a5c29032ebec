"""`raycluster logs`: where the lines come from."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.cli.logs import _show
from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.model.record import EndReport
from raycluster_cli.model.worker_job import WorkerJob, WorkerJobsReport
from raycluster_cli.ops.logs import Source
from raycluster_cli.state.record import Record
from raycluster_cli.state.worker_jobs import WorkerJobFiles
from tests.unit.cli.test_commands import Call, call, said, slurm
from tests.unit.records_by_hand import change_head, write_record
from tests.unit.slurm_by_hand import SlurmCommands

__all__ = ["call", "slurm"]

LOST = EndReport(time.time() - 100, 5, "worker-lost", "n002", "lost")


def head_of(record: Record, **facts: Any) -> Record:
    change_head(record, **facts)
    return record


def on_this_node(record: Record, directory: Path, *files: str) -> None:
    """The head's directory is here, with these files in its session."""
    logs = directory / "node" / "r" / "session_1" / "logs"
    logs.mkdir(parents=True)
    for name in files:
        (logs / name).write_text(f"of {name}\n")
    report = record.read_node("n001")
    assert report is not None
    record.write_node(dataclasses.replace(report, node_root=str(directory / "node")))


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ((), "srun: error\nraycluster: 2 nodes ready\nepoch 1\n"),
        (("-c", "driver"), "epoch 1\n"),
        (("-c", "raycluster"), "srun: error\nraycluster: 2 nodes ready\n"),
        (("--lines", "1"), "epoch 1\n"),
        (("--lines", "0"), ""),
    ],
)
def test_the_output_of_the_job(call: Call, tmp_path: Path, words: tuple[str, ...], shown: str) -> None:
    (tmp_path / "out").write_text("srun: error\nraycluster: 2 nodes ready\nepoch 1\n")
    head_of(write_record(tmp_path, 2), output=str(tmp_path / "out"))
    assert call("logs", "4711", *words).stdout == shown


def test_without_an_output_file_the_record_has_raycluster_s_events(call: Call, tmp_path: Path) -> None:
    write_record(tmp_path, 2)
    text = call("logs", "4711", "-c", "raycluster", "--lines", "1").stdout
    assert text[8:] == " 2 nodes ready at 10.0.0.1:20480 after 5.0 s; driver: python train.py\n"
    assert "the output file of job 4711 is not known" in said(call("logs", "4711", "-c", "driver"))


def test_a_job_that_ended_before_raycluster_wrote_anything(
    call: Call, slurm: SlurmCommands, tmp_path: Path
) -> None:
    slurm.answer("scontrol", "", code=1)
    (tmp_path / "submitted").mkdir()
    (tmp_path / "submitted" / "9").write_text(f'{{"output": "{tmp_path}/out"}}')
    assert "no record of '9' was found" in said(call("logs", "9"))
    (tmp_path / "out").write_text("bash: no such module\nraycluster: x\n")
    assert call("logs", "9").stdout == "bash: no such module\nraycluster: x\n"
    assert call("logs", "9", "-c", "driver").stdout == "bash: no such module\n"
    assert "no record of '9' was found" in said(call("logs", "9", "-c", "gcs"))


@pytest.mark.parametrize("node", ["4715_2", "n002"])
def test_the_output_of_a_worker_job(call: Call, tmp_path: Path, node: str) -> None:
    record = head_of(write_record(tmp_path, 2), worker_groups=True)
    report = record.read_node("n002")
    assert report is not None
    record.write_node(dataclasses.replace(report, job="4715_2"))
    job = WorkerJob("4715_2", "gpu", "ready", 1.0, output=str(tmp_path / "job.out"))
    WorkerJobFiles(record.path).write_jobs(WorkerJobsReport(1.0, (job,)))
    assert f"worker job 4715_2, {tmp_path}/job.out, is not there (yet)" in said(
        call("logs", "4711", "-n", node)
    )
    (tmp_path / "job.out").write_text("of the worker\n")
    assert call("logs", "4711", "-n", node).stdout == "of the worker\n"


def test_logs_of_ray_on_this_node(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    on_this_node(record, tmp_path, "raylet.err", "raylet.out")
    here = {"SLURMD_NODENAME": "n001"}
    shown = call("logs", "4711", "-c", "raylet", **here).stdout
    assert [line for line in shown.splitlines() if line and "==>" not in line] == [
        "of raylet.err",
        "of raylet.out",
    ]
    text = said(call("logs", "4711", "-c", "gcs", **here))
    assert "there are no logs of gcs on n001: Ray has not written any yet." in text


def test_the_node_that_failed_is_meant_where_its_logs_were_kept(call: Call, tmp_path: Path) -> None:
    record = write_record(tmp_path, 2, end=LOST)
    assert "there are no logs of raylet on n001" in said(call("logs", "4711", "-c", "raylet"))
    (record.log_dir("n002") / "raylet.err").write_text("why\n")
    (record.log_dir("n001") / "raylet.err").write_text("fine\n")
    assert call("logs", "4711", "-c", "raylet").stdout == "why\n"
    assert call("logs", "4711", "-c", "raylet", "-n", "n001").stdout == "fine\n"


def test_logs_on_another_node_are_read_by_srun(
    call: Call, tmp_path: Path, slurm: SlurmCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        os, "execve", lambda program, argv, env: run.append((argv, env["RAYCLUSTER_LOGS_HERE"]))
    )
    (slurm.directory / "srun").write_text("#!/bin/sh\n")
    (slurm.directory / "srun").chmod(0o755)
    record = write_record(tmp_path, 2)
    call("logs", "4711", "-c", "raylet", "-n", "n002", "--follow", "--lines", "9")
    ((argv, here),) = run
    assert (argv[0], here) == (str(slurm.directory / "srun"), "1")
    assert "--nodelist=n002" in argv
    words = ["--node", "n002", "--component", "raylet", "--lines", "9", "--follow"]
    assert argv[argv.index("logs") :] == ["logs", str(record.path), *words]
    run.clear()
    text = said(call("logs", "4711", "-c", "raylet", "-n", "n002", RAYCLUSTER_LOGS_HERE="1"))
    assert "there are no logs of raylet on n002: its directory  is not visible there" in text
    assert run == []  # not again and again


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/out"),
            RayclusterError,
            "/a/out cannot be read: Per",
        ),
        (
            OSError(errno.ESTALE, "Stale file handle"),
            RayclusterError,
            "/b/out cannot be read: Stale file handle.",
        ),
        (KeyboardInterrupt(), SystemExit, "130"),
        # of the output, not of the log: cli.errors says so
        (OSError(errno.ENOSPC, "No space left on device"), OSError, "No space left"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), BrokenPipeError, "Broken pipe"),
    ],
)
def test_a_log_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: type[BaseException], message: str
) -> None:
    def show(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("raycluster_cli.ops.logs.show", show)
    with pytest.raises(kind, match=message) as found:
        _show([Source(Path("/b/out"))], 5, True, lambda: True)
    assert type(found.value) is kind
