"""Failures of a start, told apart by the text that Ray prints and logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycluster_cli.rayproc.failure import StartFailure, explain

#: What raylets of Ray 2.60 have written when they ended.
DATA = Path(__file__).parents[2] / "data" / "ray-logs"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("F Check failed: bound: Address already in use", "ports"),
        ("Session name a does not match persisted value b'c'", "ports"),
        ("RuntimeError: Version mismatch: The cluster was started with:", "version mismatch"),
        ("RPC error: InvalidAuthToken: Authentication token is missing", "auth"),
        ("Timed out while waiting for GCS to become available.", "timed out"),
        ("OSError: AF_UNIX path length cannot exceed 107 bytes", "ray"),
    ],
)
def test_known_words_of_ray_have_a_meaning(text: str, kind: str) -> None:
    found = explain(f"first line\n{text}\nlast line")
    assert found is not None
    assert found[0] == kind
    failure = StartFailure.from_text(f"first line\n{text}\nlast line", default=("ray", "?"))
    assert failure.kind == kind
    assert text in failure.message


def test_the_line_by_which_a_daemon_ended_itself_is_told() -> None:
    log = (DATA / "check-failed.err").read_text()
    failure = StartFailure.from_text(log, default=("ray", "raylet ended during its start (SIGABRT)."))
    assert failure.message == (
        "raylet ended during its start (SIGABRT). "
        "Ray said: Check failed: allow_cluster_id_nil Unexpected nil Cluster ID."
    )


def test_unknown_words_get_the_default() -> None:
    assert explain("all is well") is None
    assert StartFailure.from_text("all is well", default=("timed out", "x")).kind == "timed out"
