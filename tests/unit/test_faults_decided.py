"""What is decided about faults without a cluster: settings, codes, who counts as lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.rayproc.environment import gcs_settings
from raycluster_cli.rayproc.gcs_monitor import CHECK_TIMEOUT_S, FAILED_CHECKS
from raycluster_cli.rayproc.requirements import refuse_recovery

ROOT = Path(__file__).resolve().parents[2]


def seconds(nodes: int) -> tuple[float, float, float]:
    """After how long a dead and a silent raylet is known, and which pause is forgiven."""
    values = {name: int(value) for name, value in gcs_settings(nodes).items() if "health_check" in name}
    period_s = values["RAY_health_check_period_ms"] / 1000
    timeout_s = values["RAY_health_check_timeout_ms"] / 1000
    failures = values["RAY_health_check_failure_threshold"]
    return period_s * failures, (period_s + timeout_s) * failures, timeout_s * (failures - 1)


@pytest.mark.parametrize("nodes", [1, 64, 65, 256, 2000])
def test_dead_within_two_seconds_silent_within_fifteen(nodes: int) -> None:
    dead_s, silent_s, forgiven_s = seconds(nodes)
    assert dead_s <= (2.0 if nodes <= 256 else 5.0)  # beyond, the node itself tells the head sooner
    assert silent_s <= 15.0
    assert forgiven_s > 5.0


def test_large_clusters_are_asked_less_often() -> None:
    period_s = int(gcs_settings(2000)["RAY_health_check_period_ms"]) / 1000
    assert 2000 / period_s < 1500  # checks a second


def test_a_silent_gcs_is_known_within_fifteen_seconds_and_a_pause_of_five_forgiven() -> None:
    assert Settings().check_interval + FAILED_CHECKS * CHECK_TIMEOUT_S <= 15.0
    assert FAILED_CHECKS * CHECK_TIMEOUT_S > 5.0


def test_recovery_needs_a_ray_that_keeps_its_state() -> None:
    refuse_recovery("2.58.0")
    refuse_recovery("3.0.0.dev0")
    with pytest.raises(UsageError, match=r"Ray 2\.55\.1"):
        refuse_recovery("2.55.1")


def test_every_row_of_the_page_names_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    rows = [
        line
        for line in (ROOT / "docs/reliability.md").read_text().split("## How soon")[0].splitlines()
        if line.startswith("| ") and "|---" not in line and not re.match(r"\| (Fault|Event)", line)
    ]
    assert len(rows) >= 35
    for row in rows:
        names = re.findall(r"`(test_\w+)", row)
        assert names, row
        for name in names:
            assert f"def {name}(" in tests, row
