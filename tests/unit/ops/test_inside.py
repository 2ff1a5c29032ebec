"""Into clusters: which node, what is started there with which environment, tunnels, and completion."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from raycluster_cli.cli import completion
from raycluster_cli.cli.inside import in_node
from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import EndReport
from raycluster_cli.ops.inside import (
    choose_live_node,
    choose_node,
    dashboard_address,
    is_here,
    live_head,
    on_node,
)
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.ops.tunnel import Tunnel, free_local_port, hold_tunnel, tunnel_to
from raycluster_cli.rayproc.client import write_client
from raycluster_cli.state import submitted
from tests.unit.records_by_hand import write_record


def test_which_node(tmp_path: Path) -> None:
    record = write_record(tmp_path, 3, failed=1)
    assert choose_node(record).host == "n001"
    assert choose_node(record, "n002.site.example").host == "n002"
    with pytest.raises(UsageError, match="n001, n002, n003"):
        choose_node(record, "n9")
    with pytest.raises(RayclusterError, match="not up on n003"):
        choose_live_node(record, "n003")
    record.write_end(EndReport(1.0, 7, "driver", "n001", "the driver ended with code 7"))
    with pytest.raises(RayclusterError, match="has ended: the driver ended with code 7"):
        live_head(record)


def test_without_ray_default_there_is_no_dashboard(tmp_path: Path) -> None:
    """Before, `ray job submit` was started all the same and printed a traceback of 30 lines."""
    record = write_record(tmp_path, 1)
    head = dataclasses.replace(live_head(record), dashboard_port_at="127.0.0.1:20003")
    assert dashboard_address(record, head) == "127.0.0.1:20003"
    with pytest.raises(RayclusterError, match=r"no job API: they need `pip install 'ray\[default\]'`"):
        dashboard_address(record, dataclasses.replace(head, without_dashboard=True))


def test_a_message_of_whole_sentences_has_one_full_stop(tmp_path: Path) -> None:
    record = write_record(tmp_path, 1)
    record.write_end(EndReport(1.0, 2, "error", "n001", "too little memory. Give the node more."))
    with pytest.raises(
        RayclusterError, match=r"has ended: too little memory\. Give the node more\. `raycluster why"
    ):
        live_head(record)
    assert read_cluster(record).headline == "too little memory. Give the node more (exit code 2)"


def test_srun_to_a_node(tmp_path: Path) -> None:
    record = write_record(tmp_path / "state", 2)
    word = choose_node(record, "n002")
    srun = tmp_path / "srun"
    srun.touch(mode=0o755)
    env = {"PATH": str(tmp_path), "SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "9", "HOME": "/h"}
    argv, outer = on_node(record, word, ["in-node", "x"], env, pty=True)
    assert argv[:4] == [str(srun), "--jobid=4711", "--overlap", "--nodelist=n002"]
    assert "--pty" in argv
    assert argv[-2:] == ["in-node", "x"]
    assert outer == {"PATH": str(tmp_path), "HOME": "/h"}
    component = dataclasses.replace(word, het_group=1)
    assert "--het-group=1" in on_node(record, component, [], env)[0]
    with pytest.raises(UsageError, match="no srun here"):
        on_node(record, word, [], {"PATH": "/nowhere"})


def test_here(tmp_path: Path) -> None:
    record = write_record(tmp_path, 2)
    word = choose_node(record, "n002")
    assert is_here(record, word, {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n002"})
    assert not is_here(record, word, {"SLURM_JOB_ID": "4712", "SLURMD_NODENAME": "n002"})
    assert not is_here(record, word, {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "n001"})
    local = write_record(tmp_path, 2, key="local-1", cluster="local")
    assert is_here(local, choose_node(local), {})


def test_tunnels() -> None:
    loopback = Tunnel("me", "login", "gpu01", "127.0.0.1", 20483)
    assert loopback.from_afar() == ["ssh", "-N", "-L", "8265:127.0.0.1:20483", "-J", "me@login", "me@gpu01"]
    assert loopback.from_here()[-3:] == ["-L", "8265:127.0.0.1:20483", "me@gpu01"]
    wide = Tunnel("me", "login", "gpu01", "0.0.0.0", 20483, 9000)
    assert wide.from_afar() == ["ssh", "-N", "-L", "9000:gpu01:20483", "me@login"]
    found = tunnel_to("[::1]:8265", "n1", 9001)
    assert (found.address, found.port, found.local_port, found.is_loopback) == ("::1", 8265, 9001, True)
    assert found.from_here()[-2] == "9001:[::1]:8265"


def test_tunnel_that_fails(tmp_path: Path) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    tunnel = Tunnel("me", "login", "gpu01", "127.0.0.1", 20483, free_local_port(None))
    with pytest.raises(RayclusterError, match="ssh to gpu01 opened no tunnel"):
        hold_tunnel(tunnel, {"PATH": f"{tmp_path}:/bin:/usr/bin"}, pytest.fail)
    with pytest.raises(UsageError, match="ssh was not found"):
        hold_tunnel(tunnel, {"PATH": str(tmp_path / "none")}, pytest.fail)


@pytest.mark.parametrize(
    ("users", "end"),
    [
        ([set(), {0}], 0),
        ([set(), {4711}], "another user took port 9001 here while ssh logged in to gpu01"),
        ([set(), {0, 4711}], "another user took port 9001"),
    ],
    ids=["ssh listens", "another user listens", "ssh listens, and another user at another address"],
)
def test_a_tunnel_is_open_once_ssh_listens_and_nobody_else(
    tmp_path: Path, users: list[set[int]], end: int | str
) -> None:
    """The port is free when it is chosen; while ssh logs in, another user can take it."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nuntil [ -e {tmp_path}/told ]; do sleep 0.02; done\n")
    ssh.chmod(0o755)
    found = [{os.geteuid() if user == 0 else user for user in each} for each in users]
    tunnel, env = Tunnel("me", "login", "gpu01", "127.0.0.1", 20483, 9001), {"PATH": f"{tmp_path}:/bin"}
    tell = (tmp_path / "told").touch
    if isinstance(end, int):
        assert hold_tunnel(tunnel, env, tell, listeners=lambda _: found.pop(0)) == end
    else:
        with pytest.raises(RayclusterError, match=end):
            hold_tunnel(tunnel, env, pytest.fail, listeners=lambda _: found.pop(0))


def test_submitted_jobs_are_remembered(tmp_path: Path) -> None:
    submitted.remember(tmp_path / "state", "12", "/home/x/train-12.out", ["python", "train.py"])
    assert submitted.output_of(tmp_path / "state", "12") == "/home/x/train-12.out"
    assert submitted.output_of(tmp_path / "state", "13") == ""
    assert json.loads((tmp_path / "state/submitted/12").read_text())["driver"] == ["python", "train.py"]


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_record(tmp_path, 2, key="4711")
    write_record(tmp_path, 2, key="4712", name="blue", end=EndReport(2e9, 7))
    submitted.remember(tmp_path, "4713", "", [])
    monkeypatch.setenv("RAYCLUSTER_STATE_DIR", str(tmp_path))
    line = "4713|4713|PENDING|N/A|N/A|Priority||wait"

    def squeue(argv: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 0, line, "")

    monkeypatch.setattr("raycluster_cli.cli.completion.subprocess.run", squeue)
    monkeypatch.setattr("raycluster_cli.slurm.queue.find_program", lambda name, env: name)
    assert list(completion.complete_job("47")) == [
        ("4711", "running: python train.py --epochs 20"),
        ("4713", "in the queue: wait"),
        ("4712+blue", "ended, exit code 7: python train.py --epochs 20"),
    ]
    assert list(completion.complete_job("5")) == []
    assert list(completion.complete_live_job("47")) == [("4713", "in the queue: wait")], "Slurm has no 4711"
    line = "4711|4711|RUNNING|N/A|N/A|||train"
    assert list(completion.complete_live_job("47")) == [("4711", "running: python train.py --epochs 20")]
    write_record(tmp_path, 2, key="47-local", cluster="local")
    assert {job for job, _ in completion.complete_live_job("47")} == {"4711", "47-local"}
    monkeypatch.setattr("raycluster_cli.cli.completion._state_dir", lambda given: 1 / 0)
    assert list(completion.complete_job("")) == []


def test_profiles_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raycluster.toml").write_text("[profiles.gpu]\n[profiles.cpu]\n")
    (tmp_path / "other.toml").write_text("[profiles.gpu]\n[profiles.debug]\n")
    (tmp_path / "wrong.toml").write_text("[profiles")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    offered = completion.complete_profile(SimpleNamespace(params={}), "")
    assert offered == [("gpu", "raycluster.toml"), ("cpu", "raycluster.toml")]
    with_config = SimpleNamespace(params={"config": "other.toml"})
    assert completion.complete_profile(with_config, "de") == [("debug", "other.toml")]
    assert completion.complete_profile(SimpleNamespace(params={"config": "wrong.toml"}), "x") == []


def test_why_a_command_does_not_start_is_told_behind_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = write_record(tmp_path / "state", 1)
    report = dataclasses.replace(choose_node(record), node_root=str(tmp_path), pid=0)
    record.write_node(report)
    write_client(tmp_path, {"RAY_ADDRESS": "n1:1", "PATH": "/usr/bin:/bin"}, ["RAY_ADDRESS"])
    (tmp_path / "data").write_text("no program")
    (tmp_path / "data").chmod(0o755)
    for program, message in (
        ("no-such", f"'no-such' was not found on {report.host}."),
        (str(tmp_path / "data"), f"{tmp_path}/data cannot be started on {report.host}: Exec format error."),
    ):
        with pytest.raises(SystemExit) as end:
            in_node(str(record.path), report.host, [program], mark="7f ")
        assert end.value.code == 2
        mark, _, told = capsys.readouterr().err.partition(" ")
        assert (mark, json.loads(told)["message"]) == ("7f", message)
        with pytest.raises(UsageError, match=re.escape(message)):
            in_node(str(record.path), report.host, [program], mark="")
