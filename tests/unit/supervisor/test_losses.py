"""How a cluster ended by the last report of a head that could not write its end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raycluster_cli.model.record import EndReport, NodeReport, ProcessDeath
from raycluster_cli.policy.values import Worker
from raycluster_cli.rayproc.listed_node import NodeDeath
from raycluster_cli.supervisor.losses import cause_of_loss, end_by_report
from tests.unit.loops import run_loop

KILLED = NodeReport(
    "n1",
    "head",
    "stopping",
    message="raycluster's keeper on n1 was killed",
    reason="keeper-killed",
    updated=9.0,
)


@pytest.mark.parametrize(
    ("report", "since", "end"),
    [
        (None, 5.0, None),
        (NodeReport("n1", "head", "joined", updated=9.0), 5.0, None),
        (KILLED, 9.5, None),  # an earlier head's
        (KILLED, 5.0, EndReport(9.0, 137, "keeper-killed", "n1", "raycluster's keeper on n1 was killed")),
        (
            NodeReport("n1", "head", "gone", message="done", reason="driver", exit_code=0, updated=9.0),
            5.0,
            EndReport(9.0, 0, "driver", "n1", "done"),
        ),
    ],
)
def test_end_by_report(report: NodeReport | None, since: float, end: EndReport | None) -> None:
    assert end_by_report(report, since) == end


RAYLET_LEFT = NodeReport("n2.7", "worker", "stopping", deaths=(ProcessDeath("raylet", 9, 0, 1.0),))
RAYLET_DIED = NodeReport("n2.7", "worker", "stopping", deaths=(ProcessDeath("raylet", 9, -9, 1.0),))
IDLE = NodeDeath("autoscaler_drain_idle", "Termination of node that's idle for 5.2 seconds.")
SILENT = NodeDeath("unexpected_termination", "health check failed")


@pytest.mark.parametrize(
    ("job", "report", "death", "text", "orderly"),
    [
        ("7", None, IDLE, "Termination of node that's idle for 5.2 seconds", True),
        ("7", RAYLET_LEFT, NodeDeath(), "it was drained", True),  # its own report is faster than the GCS
        ("7", RAYLET_DIED, SILENT, "its raylet was killed by SIGKILL", False),
        ("", RAYLET_LEFT, IDLE, "its raylet ended with code 0", False),
    ],
)
def test_worker_jobs_that_are_drained_are_no_losses(
    job: str, report: NodeReport | None, death: NodeDeath, text: str, orderly: bool
) -> None:
    record: Any = SimpleNamespace(read_node=lambda host: report)
    reports: Any = Reports()

    async def find() -> Any:
        return await cause_of_loss(Worker("aa", "n2.7", "", job), death, record, reports)

    found = run_loop(find())
    assert (found.text, found.orderly) == (text, orderly)


class Reports:
    """As ReportWriter, of a record that answers at once."""

    async def look(self, call: Any, *arguments: Any, timeout_s: float, default: object) -> object:
        return call(*arguments)


STOPPING = NodeReport("n2", "worker", "stopping", message="raycluster's keeper on n2 was killed")


@pytest.mark.parametrize(
    ("report", "responding", "text"),
    [
        (STOPPING, True, "raycluster's keeper on n2 was killed"),
        (None, False, "health check failed"),
        (None, True, "health check failed; its host responds, but raycluster there has not reported why"),
    ],
)
def test_a_loss_without_a_report(report: NodeReport | None, responding: bool, text: str) -> None:
    async def probe(address: str) -> bool:
        assert address == "10.0.0.2"
        return responding

    record: Any = SimpleNamespace(read_node=lambda host: report)
    reports: Any = Reports()
    death = NodeDeath(message="health check failed")
    worker = Worker("id", "n2", "10.0.0.2")
    assert run_loop(cause_of_loss(worker, death, record, reports, probe)).text == text
