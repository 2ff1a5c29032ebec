"""What a program that waits for its cluster is told, and when the wait ends; no time passes here."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from raycluster_cli.api.start_wait import POLL_S, UNKNOWN_S, wait_until_running
from raycluster_cli.model.cluster_status import ClusterPhase, ClusterStatus
from raycluster_cli.model.errors import RayclusterError, UsageError, WorkersMissingError


def status(phase: ClusterPhase, message: str = "") -> ClusterStatus:
    return ClusterStatus("7", "", phase, (), 3, started=1.0, message=message)


PENDING = status(ClusterPhase.PENDING, "waiting in Slurm's queue (Resources)")
RUNNING = status(ClusterPhase.RUNNING)
DEGRADED = status(ClusterPhase.DEGRADED)
OVER = status(ClusterPhase.FAILED, "the head failed to start.")


class Waiting:
    """A wait with a clock that each pause moves on; of the looks the last stays."""

    def __init__(self, looks: Iterable[ClusterStatus | None], timeout_s: float | None = None) -> None:
        self.looks = list(looks)
        self.now = 100.0
        self.told: list[str] = []
        self.timeout_s = timeout_s

    def look(self) -> ClusterStatus | None:
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def run(self) -> float:
        """Wait; how long it took."""
        wait_until_running(
            self.look,
            title="cluster 7",
            tell=self.told.append,
            failed=lambda found: RayclusterError(f"ended: {found.message}"),
            unknown=lambda: UsageError("nothing is known of it."),
            timeout_s=self.timeout_s,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        return self.now - 100.0


@pytest.mark.parametrize("last", [RUNNING, DEGRADED])
def test_each_state_is_told_once(last: ClusterStatus) -> None:
    waiting = Waiting([PENDING, PENDING, PENDING, last])
    assert waiting.run() == 3 * POLL_S
    assert waiting.told == [
        f"cluster 7: {PENDING.headline} (0.0 s)",
        f"cluster 7: {last.headline} (1.5 s)",
    ]


def test_one_that_has_ended_is_an_error_at_once() -> None:
    waiting = Waiting([PENDING, OVER])
    with pytest.raises(RayclusterError, match="ended: the head failed to start"):
        waiting.run()
    assert waiting.now == 100.0 + POLL_S


def test_a_job_that_nobody_knows_gets_a_minute() -> None:
    waiting = Waiting([None])
    with pytest.raises(UsageError, match="nothing is known of it"):
        waiting.run()
    assert UNKNOWN_S < waiting.now - 100.0 <= UNKNOWN_S + POLL_S


def test_the_minute_counts_from_when_it_was_last_known() -> None:
    looks = int(UNKNOWN_S / POLL_S) - 1
    waiting = Waiting([*[None] * looks, PENDING, *[None] * looks, RUNNING])
    assert waiting.run() > 1.5 * UNKNOWN_S


@pytest.mark.parametrize(
    ("looks", "told"), [([PENDING], "waiting in Slurm's queue (Resources)"), ([None], "not known")]
)
def test_one_that_is_not_ready_in_time(looks: list[ClusterStatus | None], told: str) -> None:
    waiting = Waiting(looks, timeout_s=5.0)
    with pytest.raises(WorkersMissingError) as error:
        waiting.run()
    assert told in error.value.message
    assert error.value.message.startswith("cluster 7 was not ready within 5 s")
    assert 5.0 < waiting.now - 100.0 <= 5.0 + POLL_S
