"""Screens are functions of a status: what they show, and that they fit."""

from __future__ import annotations

import io
import itertools
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from raycluster_cli.cli.cluster_table import cluster_lines
from raycluster_cli.cli.drawing import ASCII, UNICODE, bar
from raycluster_cli.cli.node_table import node_lines
from raycluster_cli.cli.screen import View, facts, live_screen, report, total_lines
from raycluster_cli.cli.timeline import slowest_phase, timing_lines
from raycluster_cli.model.cluster_status import ClusterStatus, Usage
from raycluster_cli.model.record import EndReport
from raycluster_cli.ops.clusters import job_without_record, read_all
from raycluster_cli.ops.reader import read_cluster
from raycluster_cli.slurm.queue import Job
from tests.unit.records_by_hand import write_record

SIZES = [(80, 24), (40, 12), (200, 60), (20, 6), (132, 43), (60, 3)]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClusterStatus]:
    """Clusters in many states, by name."""
    end = EndReport(time.time() - 5, 5, "worker-lost", "n003", "worker n003 is lost: raylet died")
    cases = {
        "three": {"nodes": 3},
        "gpus": {"nodes": 4, "gpus": 8},
        "starting": {"nodes": 4, "starting": 2, "silent": 1, "age_s": 3.0},
        "degraded": {"nodes": 6, "failed": 2, "silent": 1},
        "many": {"nodes": 500, "failed": 2, "silent": 3},
        "many starting": {"nodes": 500, "starting": 200, "silent": 100, "age_s": 9.0},
        "failed": {"nodes": 3, "end": end},
        "unmeasured": {"nodes": 3, "usage": False, "time_left_s": None},
    }
    found = {}
    for name, case in cases.items():
        record = write_record(tmp_path_factory.mktemp("state"), **case)  # type: ignore[arg-type]
        found[name] = read_cluster(record)
    found["waiting"] = job_without_record(Job("9", "9", "PENDING", reason="Resources", nodes="n[1-4]"))
    return found


def shown(status: ClusterStatus, width: int, height: int, view: View | None = None) -> list[str]:
    return [line.plain for line in live_screen(status, width, height, view or View(keys=True))]


def test_every_screen_fits(clusters: dict[str, ClusterStatus]) -> None:
    views = [View(), View(keys=True, groups=True), View(groups=False, offset=7), View(stale_s=9.0)]
    drawn = zip(views, itertools.cycle((UNICODE, ASCII)), strict=False)
    for (name, status), (width, height), (view, glyphs) in itertools.product(clusters.items(), SIZES, drawn):
        lines = live_screen(status, width, height, view, glyphs)
        assert len(lines) == height, (name, width, height)
        assert all(line.cell_len <= width for line in lines), (name, width, [line.plain for line in lines])


def test_ascii_is_ascii(clusters: dict[str, ClusterStatus]) -> None:
    for status in clusters.values():
        for line in [*live_screen(status, 80, 24, View(keys=True), ASCII), *report(status, 80, ASCII)]:
            assert line.plain.isascii(), line.plain


def test_the_list_at_80_columns_has_room_for_the_driver(clusters: dict[str, ClusterStatus]) -> None:
    named = replace(clusters["failed"], name="py-ce7d4c12")
    head, *lines = [line.plain for line in cluster_lines([named, clusters["three"]], 80)]
    assert all("python train.py" in line for line in lines), lines
    assert {line.index("python train.py") for line in lines} == {head.index("DRIVER")}


def test_tasks_that_wait_are_counted(clusters: dict[str, ClusterStatus]) -> None:
    for tasks, told in ((1, "1 task waits for resources"), (2, "2 tasks wait for resources")):
        assert told in "\n".join(shown(replace(clusters["three"], pending_tasks=tasks), 120, 24))


def test_three_nodes_at_80_by_24(clusters: dict[str, ClusterStatus]) -> None:
    lines = shown(clusters["three"], 80, 24)
    assert lines[0].startswith(" raycluster 4711  RUNNING")
    assert "1h29m left" in lines[0] or "1h30m left" in lines[0]
    assert lines[1].strip() == "Driver runs on 3 nodes"
    text = "\n".join(lines)
    assert "python train.py --epochs 20" in text
    for word in ("n001", "n002", "n003", "CPU", "MEMORY", "STORE", "PROCS", "EVENTS", "q quit"):
        assert word in text


def test_problem_nodes_come_first(clusters: dict[str, ClusterStatus]) -> None:
    lines = shown(clusters["many"], 80, 24)
    title = next(number for number, line in enumerate(lines) if line.startswith(" NODE "))
    assert lines[title + 1].startswith(" n499")
    assert lines[title + 2].startswith(" n500")
    assert "killed by SIGKILL" in lines[title + 1]


def test_five_hundred_nodes_are_summed_up(clusters: dict[str, ClusterStatus]) -> None:
    text = "\n".join(shown(clusters["many"], 80, 24))
    assert "495 ready" in text
    assert "2 lost" in text and "n[499-500]" in text
    assert "3 not reported" in text and "n[496-498]" in text
    assert re.search(r" one character per \d nodes: · idle █ busy ▏▋ starting ✗ lost \? not reported", text)
    assert "of 500" in text


def test_full_use_of_cpus_is_no_alarm(tmp_path: Path) -> None:
    """Red is for what is nearly full and must not be: memory and object store."""
    status = read_cluster(write_record(tmp_path, 1), None)
    full = Usage(
        cpus_total=8.0,
        cpus_used=8.0,
        gpus_total=2.0,
        gpus_used=2.0,
        memory_total_bytes=100,
        memory_used_bytes=99,
        object_store_total_bytes=100,
        object_store_used_bytes=80,
    )
    status = replace(status, nodes=(replace(status.nodes[0], usage=full),))
    for lines in (total_lines(status, 120, UNICODE), node_lines(status.nodes, status, 120, UNICODE)[1:]):
        styles = [
            str(span.style)
            for line in lines
            for span in line.spans
            if span.style and "█" in line.plain[span.start : span.end]
        ]
        assert styles == ["green", "green", "red", "yellow"]


def test_a_node_that_was_in_is_lost_and_one_that_never_was_has_failed(tmp_path: Path) -> None:
    status = read_cluster(write_record(tmp_path, 3, failed=1), None)
    (lost,) = status.problems
    assert (lost.label, lost.state) == ("lost", "failed")
    never = {name: when for name, when in lost.phases.items() if name != "joined"}
    assert replace(lost, phases=never).label == "failed"


def test_groups_can_be_opened_and_scrolled(clusters: dict[str, ClusterStatus]) -> None:
    status = clusters["many"]
    lines = shown(status, 80, 24, View(groups=False, offset=5))
    assert not any("495 ready" in line for line in lines)
    assert any(line.startswith(" n001") for line in lines)
    last = shown(status, 80, 24, View(groups=False, offset=10_000))
    assert any(line.startswith(" n495") for line in last)
    assert View(offset=3).moved(-10, 500).offset == 0
    assert View(offset=3).moved(10**6, 500).offset == 499


def test_start_up_shows_progress(clusters: dict[str, ClusterStatus]) -> None:
    text = "\n".join(shown(clusters["starting"], 80, 24))
    assert "1 of 4 ready" in text
    assert "PROGRESS" in text
    assert "1 not reported" in text


def test_gpus_have_a_column_only_where_there_are_some(clusters: dict[str, ClusterStatus]) -> None:
    assert "GPU" in "\n".join(shown(clusters["gpus"], 100, 24))
    assert "GPU" not in "\n".join(shown(clusters["three"], 100, 24))


def test_report_of_a_failure_says_why(clusters: dict[str, ClusterStatus]) -> None:
    text = "\n".join(line.plain for line in report(clusters["failed"], 100))
    assert "FAILED" in text
    assert "Worker n003 is lost: raylet died (exit code 5)" in text
    assert ("record", clusters["failed"].record) in facts(clusters["failed"])


def test_list(tmp_path: Path) -> None:
    write_record(tmp_path, 3, key="1", name="two")
    write_record(tmp_path, 3, key="2", end=EndReport(time.time(), 0, "driver"))
    lines = [line.plain.rstrip() for line in cluster_lines(read_all(tmp_path, None), 80)]
    assert lines[0].split() == ["JOB", "STATE", "NODES", "AGE", "LEFT", "CODE", "ENDED", "DRIVER"]
    assert lines[1].split()[:3] == ["1+two", "running", "3/3"]
    assert lines[2].split()[:3] == ["2", "ended", "3"]
    assert lines[2].split()[5] == "0"
    only_running = cluster_lines(read_all(tmp_path, None)[:1], 80)
    assert "CODE" not in only_running[0].plain


def test_timing_names_the_slowest(clusters: dict[str, ClusterStatus]) -> None:
    slowest = slowest_phase(clusters["three"])
    assert slowest is not None
    host, phase, seconds = slowest
    assert (host, phase) == ("n003", "waiting for head")
    assert seconds == pytest.approx(2.4, abs=0.2)
    lines = [line.plain for line in timing_lines(clusters["three"], 80, letters=True)]
    assert lines[1].startswith(" n003")
    assert "w" in lines[1] and "s" in lines[1]
    assert any(line.startswith(" slowest: n003") for line in lines)
    assert all(len(line) <= 80 for line in lines)


def test_bars_never_claim_nothing_or_all() -> None:
    assert bar(0.0, 4, ASCII).plain == "...."
    assert bar(1.0, 4, ASCII).plain == "####"
    assert bar(0.001, 4, UNICODE).plain != "░░░░"
    assert bar(7.0, 4, UNICODE).plain == "████"


def test_no_color(clusters: dict[str, ClusterStatus]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=80, color_system="truecolor")
    for line in live_screen(clusters["degraded"], 80, 24, View()):
        console.print(line)
    assert "\x1b[31m" not in out.getvalue() and "\x1b[32m" not in out.getvalue()


def test_a_screen_of_500_nodes_is_drawn_quickly(clusters: dict[str, ClusterStatus]) -> None:
    began = time.process_time()
    live_screen(clusters["many"], 200, 60, View())
    assert time.process_time() - began < 0.5
