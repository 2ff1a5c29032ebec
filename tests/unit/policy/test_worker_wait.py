"""The texts of the head's wait for its workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from raycluster_cli.policy.values import WorkerReport
from raycluster_cli.policy.worker_wait import missing_workers, too_late, too_many_cannot_join

FAILED = {host: WorkerReport("failed", f"{host} has another Ray") for host in ("n5", "n2", "n4", "n3")}
JOINING = {"n2": WorkerReport("waiting for head", "")}


@pytest.mark.parametrize(
    ("reports", "without_task", "quorum", "text"),
    [
        ({}, [], 4, None),
        (JOINING, [], 4, None),
        (FAILED, [], 1, "4 workers of 4 cannot join: n2: has another Ray; n3: has another Ray; "
         "n4: has another Ray"),
        (FAILED, [], 0, None),
        ({"n2": WorkerReport("failed", "no route to the head")}, [], 4,
         "1 worker of 4 cannot join: n2: no route to the head"),
        ({"n2": WorkerReport("gone", "ended by SIGTERM", age_s=2)}, [], 4,
         "1 worker of 4 cannot join: n2: ended by SIGTERM"),
        ({"n2": WorkerReport("gone", "ended by SIGTERM", age_s=1)}, [], 4, None),  # perhaps scancel
        ({"n2": WorkerReport("gone", "ended by SIGTERM", age_s=2)}, [], 3, None),
        ({}, ["n3", "n4"], 3,
         "2 workers of 4 cannot join: on n[3-4] the task ended before raycluster ran in it. "),
        ({}, ["n3", "n4"], 2, None),
    ],
)  # fmt: skip
def test_when_too_many_of_four_cannot_join(
    reports: Mapping[str, WorkerReport], without_task: Sequence[str], quorum: int, text: str | None
) -> None:
    found = too_many_cannot_join(reports, without_task, expected=4, quorum=quorum)
    assert found == text if text is None or not without_task else (found or "").startswith(text)


@pytest.mark.parametrize(
    ("hosts", "joined", "reports", "text"),
    [
        (["n2", "n3"], ["n2"], {}, "n3 (never reported)"),
        (["n3"], [], {"n3": WorkerReport("starting ray", "", 3)}, "n3 (last report 13 s ago: starting ray)"),
        (["n3"], [], {"n3": WorkerReport("starting ray", "attempt 2", 50)},
         "n3 (last report 1 min 0 s ago: attempt 2)"),
        ([], ["n2"], {"n2": WorkerReport("joined"), "n3": WorkerReport("launched", "", 0)},
         "n3 (last report 10 s ago: launched)"),
        ([], [], {}, "2 more (their hosts are not known)"),
        ([f"n{number}" for number in range(10, 30)], [], {},
         ", ".join(f"n{number} (never reported)" for number in range(10, 18)) + ", and 12 more: n[18-29]"),
    ],
)  # fmt: skip
def test_who_is_missing(
    hosts: Sequence[str], joined: Sequence[str], reports: Mapping[str, WorkerReport], text: str
) -> None:
    assert missing_workers(hosts, joined, reports, awaited=2, since_read_s=10) == text


def test_the_error_at_the_deadline() -> None:
    assert too_late("n3 (never reported)", awaited=1, expected=3, timeout_s=300) == (
        "1 of 3 workers did not join within 300 s: n3 (never reported). See these hosts' lines above, or "
        "give more time with --timeout."
    )
    assert missing_workers([], [], {}, awaited=1) == "1 more (its host is not known)"
    unknown = missing_workers([], [], {}, awaited=2)
    assert too_late(unknown, awaited=2, expected=3, timeout_s=15) == (
        "2 of 3 workers did not join within 15 s: 2 more (their hosts are not known). Start them within this "
        "time (--timeout), or expect fewer (--expected-workers)."
    )
