"""`raycluster doctor`: where it looks, what it prints, and how it ends; the checks themselves are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.cli import doctor as command
from raycluster_cli.ops import doctor as doctor_checks
from raycluster_cli.ops import doctor_nodes
from raycluster_cli.ops.checkup import Checkup
from raycluster_cli.ops.findings import Finding, NodeFindings, Verdict
from raycluster_cli.slurm.allocation import Allocation
from tests.unit.command_lines import run_line

JOB = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
TASK = {
    **JOB,
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURMD_NODENAME": "n2",
    "SLURM_STEP_NUM_NODES": "2",
}
FINE = Finding("ports", Verdict.OK, "a block is free")
BAD = Finding("names", Verdict.FAIL, "no address is known for n2", "Ask the site.")

Asked = list[tuple[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What was asked for: the checks of this node, of all, or of one of a partition."""
    calls: Asked = []

    def here(checkup: Checkup, more: Any = ()) -> NodeFindings:
        calls.append(("here", [name for name, _ in more]))
        return NodeFindings("n1", {"ray": "2.60.0", "python": "3.11.7"}, (FINE,))

    def everywhere(
        allocation: Allocation, env: Mapping[str, str], variables: Mapping[str, str], where: Path
    ) -> list[NodeFindings]:
        calls.append(("all", dict(variables)))
        facts = {"ray": "2.60.0", "python": "3.11.7"}
        return [NodeFindings("n1", facts, (FINE,)), NodeFindings("n2", facts, (FINE, BAD))]

    def elsewhere(partition: str, env: Mapping[str, str], variables: Mapping[str, str]) -> NodeFindings:
        calls.append((partition, dict(variables)))
        return NodeFindings("n7", {}, (FINE,))

    monkeypatch.setattr(doctor_checks, "examine", here)
    monkeypatch.setattr(doctor_nodes, "on_all_nodes", everywhere)
    monkeypatch.setattr(doctor_nodes, "on_partition", elsewhere)
    return calls


OPTIONS = ("--no-auth", "--num-cpus=4", "--dashboard")
VARIABLES = {"RAYCLUSTER_AUTH": "0", "RAYCLUSTER_NUM_CPUS": "4", "RAYCLUSTER_DASHBOARD": "1"}
MEETING = ["shared directory", "way to the head"]


@pytest.mark.parametrize(
    ("env", "words", "expected"),
    [
        ({}, (), ("here", [])),
        ({}, ("-p", "gpu", *OPTIONS), ("gpu", VARIABLES)),
        (JOB, ("-p", "gpu"), ("gpu", {})),
        (JOB, (), ("all", {})),
        (JOB, OPTIONS, ("all", VARIABLES)),  # the tasks get them as variables
        (JOB, ("--here",), ("here", [])),
        (TASK, (), ("here", MEETING)),  # srun raycluster doctor: the tasks meet
        (TASK, ("--here",), ("here", [])),
        ({**TASK, "SLURM_STEP_NODELIST": "n2", "SLURM_STEP_NUM_NODES": "1"}, (), ("here", [])),
    ],
)
def test_where_it_looks(
    asked: Asked, tmp_path: Path, env: Mapping[str, str], words: tuple[str, ...], expected: object
) -> None:
    run_line("doctor", *words, env={"HOME": str(tmp_path), **env})
    assert asked == [expected]


def test_a_task_of_another_doctors_srun_prints_what_that_reads(asked: Asked, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), **TASK, doctor_nodes.VARIABLE: "abc n1 2"}
    done = run_line("doctor", "--json", env=env)
    assert (done.returncode, asked) == (0, [("here", MEETING)])
    report = NodeFindings("n1", {"ray": "2.60.0", "python": "3.11.7"}, (FINE,))
    assert done.stdout.splitlines() == doctor_nodes.as_lines(report)


def test_what_it_prints(asked: Asked, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), **JOB}
    done = run_line("doctor", env=env)
    assert done.returncode == 1
    assert done.stderr == "raycluster: checking 2 nodes of job 7 (up to 20 s)\n"
    *lines, last = done.stdout.splitlines()
    assert lines == [
        "ok       ports     a block is free",
        "fail     names     no address is known for n2 [n2]",
        "                   → Ask the site.",
        "ok       versions  Ray 2.60.0 and Python 3.11.7 on all nodes",
    ]
    assert last.endswith(" s: 1 check failed, 0 warnings.")


def test_json(asked: Asked, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path)}
    done = run_line("doctor", "--json", env={**env, **JOB})
    document = json.loads(done.stdout)
    assert (done.returncode, document["schema"], document["verdict"]) == (1, 1, "fail")
    assert [node["host"] for node in document["nodes"]] == ["n1", "n2"]
    assert [one["verdict"] for one in document["across"]] == ["ok"]
    assert done.stdout.count("\n") > 10
    done = run_line("doctor", "--json", env={**env, **TASK})
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1  # the tasks of a step share one output
    assert json.loads(done.stdout)["verdict"] == "ok"


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("ports  a block is free", 80, ["ports  a block is free"]),
        ("ports  a block is free", 20, ["ports  a block is", "       free"]),
        ("       → Ask the site for it.", 22, ["       → Ask the site", "         for it."]),
        ("3 nodes, 1 s: no check failed", 20, ["3 nodes, 1 s: no", "check failed"]),
        ("ports  a block is free", 1, ["ports  a block is", "       free"]),  # of a screen that says so
    ],
)
def test_lines_of_a_screen(text: str, width: int, lines: list[str]) -> None:
    assert command.wrapped(text, width) == lines


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("import s", [1.21, 0.9], "import 0.9 to 1.2 s"),
        ("free GiB", [12.04, 12.01], "free 12 GiB"),
        ("off by s", [0.001], "off by 0.001 s"),
    ],
)
def test_ranges_of_what_was_measured(name: str, values: list[float], text: str) -> None:
    reports = [
        NodeFindings(f"n{number}", {}, (Finding("x", Verdict.OK, "y", numbers={name: value}),))
        for number, value in enumerate(values)
    ]
    assert command.table(reports, [], 0.0)[0][1] == f"x  y; {text}"
