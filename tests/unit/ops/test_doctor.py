"""doctor: what it finds here, what it makes of several nodes, and how they meet."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.cli.doctor import table
from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.ops import doctor as doctor_checks
from raycluster_cli.ops import doctor_host, doctor_network, doctor_nodes, doctor_ray, doctor_slurm
from raycluster_cli.ops.checkup import Checkup
from raycluster_cli.ops.doctor_host import file_system
from raycluster_cli.ops.doctor_nodes import NodeChecks, as_lines, compare, on_all_nodes, on_partition
from raycluster_cli.ops.findings import Finding, NodeFindings, Verdict
from raycluster_cli.slurm.allocation import Allocation
from tests.unit.slurm.programs import programs


def report(host: str, *findings: Finding, **facts: str) -> NodeFindings:
    return NodeFindings(host, facts, findings)


def checkup(tmp_path: Path, env: Mapping[str, str] | None = None, **settings: Any) -> Checkup:
    return Checkup(Settings(**settings), {"PATH": "/bin", **(env or {})}, tmp_path / "state")


def found(made: Checkup, name: str) -> list[Finding]:
    return [finding for finding in made.findings if finding.check == name]


def run(made: Checkup, *checks: Callable[[Checkup], None]) -> Checkup:
    for check in checks:
        made.make(check.__name__.removeprefix("check_"), check)
    return made


def test_a_node_that_is_well(tmp_path: Path) -> None:
    made = run(
        checkup(tmp_path),
        doctor_ray.check_python,
        doctor_network.check_address,
        doctor_host.check_grants,
        doctor_host.check_temp_dir,
        doctor_host.check_limits,
        doctor_host.check_state_dir,
        doctor_network.check_proxies,
    )
    assert {finding.check for finding in made.findings} >= {"cpus", "memory", "gpus", "/dev/shm", "limits"}
    assert not [finding for finding in made.findings if finding.verdict is Verdict.FAIL]
    assert list((tmp_path / "state").iterdir()) == []
    assert found(made, "proxies")[0].text == "none set"


def test_what_will_fail(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    made = run(
        checkup(tmp_path, {"HTTP_PROXY": "http://proxy"}),
        doctor_host.check_state_dir,
        doctor_network.check_proxies,
    )
    assert [finding.verdict for finding in made.findings] == [Verdict.FAIL, Verdict.NOTE]
    assert "chmod" in made.findings[0].remedy
    (tmp_path / "file").touch()
    made = Checkup(Settings(), {}, tmp_path / "file" / "state")
    run(made, doctor_host.check_state_dir)
    assert "cannot be written" in made.findings[0].text


def test_errors_of_the_start_arefindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = checkup(tmp_path, temp_dir=str(tmp_path / ("long" * 20)), network="1.2.3.0/24")
    importing = SimpleNamespace(
        communicate=lambda timeout: ('{"version": "2.40.0", "path": "/x", "took_s": 1}\n', ""), returncode=0
    )
    monkeypatch.setattr(doctor_checks, "begin_import", lambda checkup: importing)
    verdicts = {finding.check: finding for finding in doctor_checks.examine(made).findings}
    assert verdicts["address"].verdict is Verdict.FAIL
    assert verdicts["temp directory"].verdict is Verdict.FAIL
    assert "short local directory" in verdicts["temp directory"].text
    assert verdicts["ray"].verdict is Verdict.FAIL
    assert "2.52 or newer" in verdicts["ray"].text


@pytest.mark.parametrize(
    ("out", "err", "code", "verdict"),
    [
        ('{"version": "2.60.0", "path": "/x", "took_s": 0.6}', "", 0, Verdict.OK),
        ('{"version": "2.60.0", "path": "/x", "took_s": 9.1}', "", 0, Verdict.WARNING),
        ("", "Traceback\nModuleNotFoundError: No module named 'ray'\n", 1, Verdict.FAIL),
    ],
)
def test_importing_ray(tmp_path: Path, out: str, err: str, code: int, verdict: Verdict) -> None:
    made = checkup(tmp_path)
    importing: Any = SimpleNamespace(communicate=lambda timeout: (out, err), returncode=code)
    doctor_ray.check_ray(made, importing)
    assert made.findings[0].verdict is verdict


def test_versions_must_be_equal() -> None:
    same = [report(host, ray="2.60.0", python="3.11.7") for host in ("n1", "n2")]
    assert [finding.verdict for finding in compare(same)] == [Verdict.OK]
    other = [*same, report("n3", ray="2.59.0", python="3.11.9")]
    ray, python = compare(other)
    assert (ray.verdict, ray.text) == (Verdict.FAIL, "Ray differs: 2.60.0 on n[1-2], 2.59.0 on n3")
    assert python.verdict is Verdict.WARNING  # the last number may differ
    minor = [*same, report("n3", ray="2.60.0", python="3.12.1")]
    assert compare(minor)[0].verdict is Verdict.FAIL
    newer = [*same, report("n3", ray="2.60.0", python="3.11.7", raycluster="0.3")]
    assert compare(newer) == compare(same)  # the others do not say theirs
    assert compare([*same, report("n3")]) == []  # one has not answered: nothing is known of all
    assert compare(same[:1]) == compare([]) == []


def test_table_tells_what_is_common_once() -> None:
    good = Finding("ray", Verdict.OK, "2.60.0 on ext4", numbers={"import s": 0.81})
    slow = Finding("ray", Verdict.OK, "2.60.0 on ext4", numbers={"import s": 1.32})
    bad = Finding("names", Verdict.FAIL, "no address is known for n9", "Ask the site.")
    lines = table([report("n1", good), report("n2", slow, bad)], [], 3.21)
    assert lines == [
        ("ok", "ray    2.60.0 on ext4; import 0.81 to 1.3 s"),
        ("fail", "names  no address is known for n9 [n2]"),
        ("", "       → Ask the site."),
        ("", "2 nodes (n[1-2]), 3.2 s: 1 check failed, 0 warnings."),
    ]


def test_reports_travel_as_json() -> None:
    one = report("n1", Finding("ray", Verdict.NOTE, "x", "y", {"import s": 1.0}), ray="2.60.0")
    assert NodeFindings.from_json(json.loads(json.dumps(one.as_json()))) == one


def node(tmp_path: Path, host: str, others: list[str]) -> Any:
    """As much of a checkup as a node_checks needs; every host is this machine."""
    made = checkup(tmp_path)
    made.host = host
    made.address = SimpleNamespace(ip="127.0.0.1")  # type: ignore[assignment]
    made.allocation = SimpleNamespace(job_nodes=[host, *others])  # type: ignore[assignment]
    return made


def test_nodes_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster_cli.ops.doctor_nodes.addresses_of", lambda name: {"127.0.0.1"})
    node_checks = NodeChecks(f"unit-{time.time_ns()}", "n1", 2)
    assert NodeChecks.from_text(str(node_checks)) == node_checks
    head, other = node(tmp_path, "n1", ["n2"]), node(tmp_path, "n2", ["n1"])
    threads = [
        threading.Thread(target=lambda made=made: [check(made) for _, check in node_checks.checks()])
        for made in (head, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [finding.verdict for finding in (*head.findings, *other.findings)] == [Verdict.OK] * 5
    assert "agrees" in found(other, "clock")[0].text


def test_nodes_that_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster_cli.ops.doctor_nodes.addresses_of", lambda name: {"127.0.0.1"})
    monkeypatch.setattr("raycluster_cli.ops.doctor_nodes.MEETING_S", 0.0)
    node_checks = NodeChecks(f"unit-{time.time_ns()}", "n1", 2)
    other = node(tmp_path, "n2", ["n1"])
    for _, check in node_checks.checks():
        check(other)
    canary, way = other.findings
    assert (canary.verdict, way.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert "n1 cannot be reached from here (127.0.0.1 port" in way.text
    assert "not seen here" in canary.text
    head = node(tmp_path / "elsewhere", "n1", ["n2"])
    for _, check in node_checks.checks():
        check(head)
    assert head.findings[1].text == "not reached by n2"


def test_one_srun_for_all(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    long = report("n1", *[Finding("x", Verdict.OK, "y" * 300)] * 9)
    (tmp_path / "lines").write_text("\nnoise\n".join(reversed(as_lines(long))) + "\n")
    srun.write_text(
        f'#!/bin/sh\necho "$RAYCLUSTER_DOCTOR" >{tmp_path}/said\ncat {tmp_path}/lines\n'
        "echo 'srun: error: n2: down' >&2\n"
    )
    srun.chmod(0o755)
    allocation = Allocation("7", ("n1", "n2"))
    env = {"PATH": f"{tmp_path}:/bin:/usr/bin"}
    reports = on_all_nodes(allocation, env, {}, tmp_path)
    assert [one.host for one in reports] == ["n1", "n2"]
    assert reports[0] == long
    assert reports[1].findings[0].text == "none: srun: error: n2: down"
    assert (tmp_path / "said").read_text().split()[1:] == ["n1", "2"]


@pytest.mark.parametrize("ignored", ["", "trap '' TERM; "])
def test_what_some_nodes_said_counts_where_another_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignored: str
) -> None:
    """srun waits for the task of a node without power, also after SIGTERM; its child has the pipes."""
    monkeypatch.setattr(doctor_nodes, "SRUN_TIMEOUT_S", 2.0)
    monkeypatch.setattr(doctor_nodes, "SRUN_END_S", 0.1)
    there = report("n1", Finding("x", Verdict.OK, "y"))
    (tmp_path / "lines").write_text("\n".join(as_lines(there)) + "\n")
    env = programs(tmp_path, srun=f"{ignored}cat {tmp_path}/lines; sleep 120 & echo $! >{tmp_path}/pid; wait")
    began = time.monotonic()
    reports = on_all_nodes(Allocation("7", ("n1", "n2")), env, {}, tmp_path)
    took_s = time.monotonic() - began
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert reports[0] == there
    assert reports[1].findings[0].text == "none: no answer within 2 s"
    assert took_s < 60


def test_without_srun_no_node_answers(tmp_path: Path) -> None:
    reports = on_all_nodes(Allocation("7", ("n1", "n2")), {"PATH": str(tmp_path)}, {}, tmp_path)
    assert {one.host: one.findings[0].text for one in reports} == dict.fromkeys(
        ("n1", "n2"), "none: there is no srun here"
    )
    with pytest.raises(UsageError, match="srun was not found here"):
        on_partition("gpu", {"PATH": str(tmp_path)}, {})


def test_a_heterogeneous_job_is_checked_in_all_components(tmp_path: Path) -> None:
    env = programs(tmp_path, srun=f'echo "$@" >{tmp_path}/said')
    on_all_nodes(Allocation("7", ("n1", "n2"), het_size=2), env, {}, tmp_path)
    assert "--het-group=0,1 " in (tmp_path / "said").read_text()


def test_a_job_of_its_own_checks_a_node_of_a_partition(tmp_path: Path) -> None:
    there = report("n7", Finding("x", Verdict.OK, "y"))
    (tmp_path / "lines").write_text("\n".join(as_lines(there)) + "\n")
    env = programs(tmp_path, srun=f'echo "$@" $RAYCLUSTER_DOCTOR >{tmp_path}/said; cat {tmp_path}/lines')
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "4"}
    assert on_partition("gpu", {**env, **job}, {}) == there
    said = (tmp_path / "said").read_text()
    assert "--partition=gpu --nodes=1 --ntasks=1" in said
    node_checks = NodeChecks.from_text(said.partition(" doctor --json ")[2])
    assert node_checks is not None and node_checks.checks() == []
    env = programs(tmp_path, srun="echo 'srun: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(
        RayclusterError, match=r"invalid partition specified: gpu.*lists the partitions"
    ) as found:
        on_partition("gpu", env, {})
    assert "waits" not in str(found.value)


def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where nodes see the same directory nor where they do not; what was there before stays."""
    monkeypatch.setattr("raycluster_cli.ops.doctor_nodes.MEETING_S", 0.0)
    monkeypatch.setattr("raycluster_cli.ops.doctor_nodes.addresses_of", lambda name: {"127.0.0.1"})
    before = tmp_path / "one"
    before.mkdir()
    node_checks = NodeChecks(f"unit-{time.time_ns()}", "n1", 2)
    for where in (before, tmp_path / "other" / "deep"):
        made = node(tmp_path, "n2", ["n1"])
        made.state_dir = where
        run(made, node_checks.see_canary, doctor_host.check_state_dir)
        assert where.is_dir()
        node_checks.clean(made)
        made.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert list(before.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "in_job", "expected"),
    [
        ("echo NodeName=n1", False, []),
        ("echo 'Node login not found'; exit 1", False, [Verdict.NOTE]),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", False, []),
        ("echo 'Node login not found'; exit 1", True, []),
    ],
)
def test_a_login_node_is_told_from_a_compute_node(
    tmp_path: Path, answer: str, in_job: bool, expected: list[Verdict]
) -> None:
    made = checkup(tmp_path, programs(tmp_path, scontrol=answer))
    made.host, made.allocation = "login", Allocation("7", ("login",)) if in_job else None
    doctor_slurm.check_place(made)
    assert [one.verdict for one in made.findings] == expected


def test_file_systems() -> None:
    assert file_system("/proc/self") == "proc (unknown)"
    assert file_system("/no/such/place")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("WaitTime                = 0 sec\nKillWait = 30 sec", [(Verdict.OK, "WaitTime=0, KillWait=30")]),
        ("WaitTime = 10 sec\nKillWait = 30 sec", [(Verdict.WARNING, "WaitTime=10: 10 s after a task")]),
        ("WaitTime = 0 sec\nKillWait = 5 sec", [(Verdict.WARNING, "KillWait=5: 5 s after scancel")]),
        ("", []),
    ],
)
def test_times_after_which_slurm_kills(
    tmp_path: Path, config: str, expected: list[tuple[Verdict, str]]
) -> None:
    env = programs(tmp_path, scontrol=f"cat <<END\n{config}\nEND")
    made = run(checkup(tmp_path, env), doctor_slurm.check_slurm)
    assert [
        (one.verdict, one.text[: len(text)]) for one, (_, text) in zip(made.findings, expected, strict=True)
    ] == expected


@pytest.mark.parametrize(
    ("kill_s", "advice"), [(20, "Give --grace 10 or less."), (5, "Give --grace 0, and ask ")]
)
def test_the_grace_that_fits_slurms(tmp_path: Path, kill_s: int, advice: str) -> None:
    env = programs(tmp_path, scontrol=f"echo 'KillWait = {kill_s} sec'")
    [found] = run(checkup(tmp_path, env), doctor_slurm.check_slurm).findings
    assert found.remedy.startswith(advice)


def test_the_controller_is_asked_once_for_a_job(tmp_path: Path) -> None:
    env = programs(tmp_path, scontrol="echo 'WaitTime = 10 sec'")
    nodes = {host: checkup(tmp_path, env) for host in ("n1", "n2")}
    for host, made in nodes.items():
        made.host, made.allocation = host, Allocation("7", ("n1", "n2"))
        doctor_slurm.check_slurm(made)
    assert [len(made.findings) for made in nodes.values()] == [1, 0]
