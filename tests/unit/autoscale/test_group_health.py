"""Failed starts in a row, pauses that become longer, and the hosts that are avoided."""

from __future__ import annotations

from raycluster_cli.autoscale.group_health import (
    EXCLUDED_S,
    FIRST_PAUSE_S,
    FIRST_RETRY_S,
    LONGEST_PAUSE_S,
    LONGEST_RETRY_S,
    NEVER_S,
    GroupHealth,
    after_failed_start,
    after_joined,
    after_never,
    after_refusal,
    after_submission,
    without_exclusion,
)

NEW = GroupHealth()


def failed(health: GroupHealth, *hosts: str, now: float) -> GroupHealth:
    for host in hosts:
        health = after_failed_start(health, (host,), "no Ray", now)
    return health


def test_the_third_failed_start_in_a_row_pauses_and_names_the_hosts() -> None:
    two = failed(NEW, "n1", "n2", now=100.0)
    assert not two.is_closed(100.0)
    assert two.hosts_to_avoid(100.0) == ()
    three = failed(two, "n1", now=110.0)
    assert three.is_closed(110.0 + FIRST_PAUSE_S - 1)
    assert not three.is_closed(110.0 + FIRST_PAUSE_S)
    assert three.problem == "3 starts failed in a row on n1, n2; the last because no Ray"
    assert three.hosts_to_avoid(200.0) == ("n1", "n2")
    assert three.hosts_to_avoid(110.0 + EXCLUDED_S) == ()
    state = three.state("gpu", 111.0)
    assert (state.group, state.paused_until, state.excluded) == ("gpu", 110.0 + FIRST_PAUSE_S, ("n1", "n2"))
    assert three.state("gpu", 1000.0).paused_until == 0.0


def test_a_job_that_joins_in_between_begins_the_row_anew() -> None:
    two = failed(NEW, "n1", "n2", now=100.0)
    assert after_joined(two) == NEW
    assert not failed(after_joined(two), "n1", "n2", now=110.0).is_closed(110.0)


def test_hosts_stay_avoided_after_others_have_joined() -> None:
    joined = after_joined(failed(NEW, "n1", "n1", "n1", now=100.0))
    assert joined.hosts_to_avoid(200.0) == ("n1",)
    assert joined.problem == ""


def test_each_pause_is_twice_as_long_as_the_one_before() -> None:
    health, lengths = NEW, []
    now = 0.0
    for _ in range(9):
        health = failed(health, "n1", "n2", "n3", now=now)
        lengths.append(health.until - now)
        now = health.until
    assert lengths[:4] == [60.0, 120.0, 240.0, 480.0]
    assert lengths[-1] == LONGEST_PAUSE_S


def test_the_next_pause_avoids_the_hosts_of_its_own_failures_alone() -> None:
    """Else a mistake that all hosts meet would leave none."""
    health = failed(NEW, "n1", "n2", "n3", now=0.0)
    assert failed(health, "n4", "n5", "n6", now=health.until).excluded == ("n4", "n5", "n6")


def test_failures_during_a_pause_do_not_make_it_longer() -> None:
    health = failed(NEW, "n1", "n1", "n1", now=0.0)
    more = failed(health, "n2", "n3", now=5.0)
    assert more.until == health.until
    assert more.pauses == 1
    assert more.hosts_to_avoid(5.0) == ("n1", "n2", "n3")


def test_a_failure_without_host() -> None:
    health = NEW
    for _ in range(3):
        health = after_failed_start(health, (), "it was cancelled while it was pending", 0.0)
    assert health.problem == (
        "3 starts failed in a row; the last because it was cancelled while it was pending"
    )
    assert health.hosts_to_avoid(1.0) == ()


def test_no_node_can_be_had() -> None:
    health = after_never(NEW, "PartitionTimeLimit", 100.0)
    assert health.is_closed(100.0 + NEVER_S - 1)
    assert not health.is_closed(100.0 + NEVER_S)
    assert health.problem == "PartitionTimeLimit"


def test_slurm_takes_no_job_for_now() -> None:
    health, waits = NEW, []
    for _ in range(8):
        health = after_refusal(health, "Slurm does not answer", 0.0)
        waits.append(health.until)
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert waits[-1] == LONGEST_RETRY_S
    assert after_submission(health) == NEW


def test_a_submission_does_not_make_failed_starts_undone() -> None:
    health = failed(NEW, "n1", "n1", "n1", now=0.0)
    submitted = after_submission(health)
    assert submitted.problem == health.problem
    assert submitted.pauses == 1
    assert submitted.excluded == ("n1",)
    assert without_exclusion(submitted).hosts_to_avoid(1.0) == ()
