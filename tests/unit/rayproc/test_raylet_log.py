"""Why a raylet ended, from its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.rayproc.raylet_log import drain_reason, read_drain_reason

DRAINED = (
    "[2026-11-20 10:00:00,000 I 7 7] (raylet) node_manager.cc:2036: Drain raylet RPC has been received. "
    "Deadline is 0. Drain reason: DRAIN_NODE_REASON_PREEMPTION. Drain reason message: the driver failed\n"
    "[2026-11-20 10:00:00,010 I 7 7] (raylet) main.cc:481: Raylet graceful shutdown triggered\n"
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DRAINED, "the driver failed"),
        ('reason_message: "dashboard_agent failed and raylet fate-shares with it."', None),
        ("killed in mid-sentence", None),
        ("", None),
    ],
)
def test_reason(text: str, reason: str | None) -> None:
    assert drain_reason(text) == reason


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "raylet.out"
    log.write_bytes(b"\xff" * 200_000 + DRAINED.encode())
    assert read_drain_reason(str(log)) == "the driver failed"
    log.write_bytes(DRAINED.encode() + b"x" * 200_000)
    assert read_drain_reason(str(log)) is None
    assert read_drain_reason(str(tmp_path / "nowhere")) is None
