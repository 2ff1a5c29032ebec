"""What `why` decides by values of the record, whatever its messages say; by texts only in older records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raycluster_cli.model.record import EndReport
from raycluster_cli.model.status import EndDetail
from raycluster_cli.ops.end_detail import end_detail, killed_process
from raycluster_cli.ops.post_mortem import NodeEnd
from raycluster_cli.ops.verdict import judge

from .ends import NOW, Case
from .test_ends import examined


def end(
    detail: EndDetail, reason: str, code: int, host: str = "n1", message: str = "in other words"
) -> EndReport:
    return EndReport(NOW, code, reason, host, message, detail.value)


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (end(EndDetail.NEVER_CONNECTED, "driver", 0, ""), "it did not use this cluster"),
        (end(EndDetail.SIGINT, "signal", 75), "Ctrl-C was pressed"),  # a driver that asks for a requeue
        (end(EndDetail.SIGHUP, "signal", 75), "The terminal of the job was closed"),
        (end(EndDetail.SIGTERM, "signal", 75), "cancelled by SIGTERM"),
        (
            end(EndDetail.ALL_AT_ONCE, "supervisor-killed", 137),
            "on n1, with all of its processes, was killed",
        ),
        (
            end(EndDetail.KEEPER_TOO, "supervisor-killed", 137),
            "on n1, its keeper included, was killed",
        ),
    ],
)
def test_the_value_decides(report: EndReport, verdict: str, tmp_path: Path) -> None:
    case = Case("", report, "failed", report.exit_code, verdict, None)
    assert verdict in judge(examined(case, tmp_path)).verdict


@pytest.mark.parametrize(
    ("detail", "remedy"),
    [
        (EndDetail.NOTHING_LISTENS, "Give the server its port and address"),
        (EndDetail.NOT_FOUND, "Give --health-path a path that the server has"),
        (None, "A large model may need a longer --ready-timeout"),
    ],
)
def test_the_value_decides_what_to_change_about_a_server(
    detail: EndDetail | None, remedy: str, tmp_path: Path
) -> None:
    report = EndReport(NOW, 5, "service", "n1", "it was not ready", detail.value if detail else "")
    (found,) = judge(examined(Case("", report, "failed", 5, "", None), tmp_path)).remedies
    assert found.startswith(remedy)


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        (
            "the driver ended with code 0; no driver has connected to this cluster",
            "never-connected",
        ),
        ("raycluster on n1 and all of its processes ended at once without reporting: Slurm", "all-at-once"),
        ("raycluster's supervisor and keeper on n1 were killed", "keeper-too"),
        ("not ready after 30 s (--ready-timeout): nothing listens on 10.0.0.1:20491", "nothing-listens"),
        ("not ready after 30 s (--ready-timeout): GET /x is answered with 404 Not Found", "not-found"),
        ("ended by SIGINT; the driver ended with code 75", "sigint"),
        ("the driver ended with code 1", ""),
    ],
)
def test_records_of_0_1_have_only_texts(message: str, detail: str) -> None:
    report = EndReport(NOW, 1, "", "n1", message)
    assert end_detail(report) == detail
    assert end_detail(replace(report, detail="sigterm")) == "sigterm"


LOST = NodeEnd("n2", "worker", "failed", "it was killed", 137, NOW)


@pytest.mark.parametrize(
    ("reason", "message", "failed", "killed"),
    [
        ("keeper-killed", "", None, "raycluster's keeper"),
        ("supervisor-killed", "", None, "raycluster's supervisor"),
        ("worker-lost", "", replace(LOST, reason="keeper-killed"), "raycluster's keeper"),
        ("worker-lost", "", LOST, ""),
        ("supervisor-killed", "", replace(LOST, reason="keeper-killed"), "raycluster's supervisor"),
        ("worker-lost", "lost n2: raycluster's keeper on n2 was killed", LOST, "raycluster's keeper"),
        ("worker-lost", "lost n2: raycluster's keeper on n3 was killed", LOST, ""),
    ],
)
def test_which_process_of_raycluster_was_killed(
    reason: str, message: str, failed: NodeEnd | None, killed: str
) -> None:
    assert killed_process(EndReport(NOW, 5, reason, "n2", message), failed) == killed


def test_a_worker_that_was_killed_with_its_keeper_says_so_itself() -> None:
    lost = EndReport(NOW, 5, "worker-lost", "n2", "lost n2: its raycluster was killed by SIGKILL")
    assert end_detail(lost, replace(LOST, detail="keeper-too")) == "keeper-too"
