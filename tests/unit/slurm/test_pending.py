"""Slurm's reasons for a pending job, as squeue(1) lists them."""

from __future__ import annotations

import pytest

from raycluster_cli.slurm.pending import Wait, advice_for, explain, wait_of


@pytest.mark.parametrize(
    "reason",
    [
        *("", "Priority", "Resources", "Dependency", "BeginTime", "Licenses", "Reservation", "Cleaning"),
        *("ReqNodeNotAvail, UnavailableNodes:n3", "ReqNodeNotAvail, May be reserved for other job"),
        "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
        *("PartitionDown", "PartitionInactive", "NodeDown", "BurstBufferResources", "Prolog"),
    ],
)
def test_it_waits_for_its_turn(reason: str) -> None:
    assert wait_of(reason) is Wait.TURN


@pytest.mark.parametrize(
    "reason",
    [
        *("QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "QOSGrpCpuLimit", "QOSGrpGRES"),
        *("AssocGrpCpuLimit", "AssocGrpCPURunMinutesLimit", "AssocMaxJobsLimit", "AssocGrpNodeLimit"),
        *("QOSGrpCpuRunMinutesLimit", "MaxSubmitJobsPerUser", "QOSUsageThreshold", "JobArrayTaskLimit"),
    ],
)
def test_it_waits_for_the_end_of_other_jobs(reason: str) -> None:
    assert wait_of(reason) is Wait.LIMIT
    assert advice_for(reason) == ""


@pytest.mark.parametrize(
    "reason",
    ["AssocGrpCPUMinutesLimit", "QOSGrpCPUMinutesLimit", "AssocGrpGRESMinutes", "QOSGrpBillingMinutes"],
)
def test_the_end_of_other_jobs_brings_no_computing_time_back(reason: str) -> None:
    assert wait_of(reason) is Wait.LIMIT
    assert "used up" in advice_for(reason)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("JobHeldUser", "scontrol release"),
        ("launch failed requeued held", "sinfo -R"),
        ("launch_failed_requeued_held", "scontrol release"),  # as scontrol writes it (Slurm 22.05)
        ("job requeued in held state", "scontrol release"),
        ("JobHeldAdmin", "site's support"),
    ],
)
def test_it_is_held(reason: str, advice: str) -> None:
    assert wait_of(reason) is Wait.HELD
    assert advice in advice_for(reason)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("PartitionNodeLimit", "sinfo -o '%P %D %s'"),
        ("PartitionNodeLimit", "so few (MaxNodes, MinNodes)"),
        ("PartitionTimeLimit", "--time"),
        ("PartitionConfig", "sinfo -N -l"),
        ("BadConstraints", "%f"),
        ("DependencyNeverSatisfied", "--dependency"),
        ("QOSMaxNodePerJobLimit", "single job"),
        ("QOSMaxWallDurationPerJobLimit", "single job"),
        ("AssocMaxCpuPerJobLimit", "single job"),
        ("AssocMaxCpuMinutesPerJobLimit", "single job"),
        ("QOSMaxMemoryPerNode", "single job"),
        ("QOSMinGRES", "less"),
        ("InvalidAccount", "--account"),
        ("InvalidQOS", "--qos"),
        ("Job's account not known, so it can't use this partition (acct allows phys)", "--account"),
    ],
)
def test_it_can_never_start(reason: str, advice: str) -> None:
    assert wait_of(reason) is Wait.NEVER
    assert advice in advice_for(reason)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("", ""),
        ("Priority", ""),
        ("Dependency", ""),
        (
            "PartitionNodeLimit",
            "it will never start; cancel it. The partition has fewer nodes, or allows no job of so",
        ),
        (
            "QOSMaxNodePerJobLimit",
            "it will never start; cancel it. The limit is one for a single job: ask for less.",
        ),
        (
            "AssocMaxWallDurationPerJobLimit",
            "it will never start; cancel it. The limit is one for a single job",
        ),
        ("QOSMinGRES", "it will never start; cancel it. The job asks for less than the limits require."),
        ("JobHeldUser", "it is held. `scontrol release JOB`"),
        ("JobHeldAdmin", "it is held. An administrator holds it"),
        ("launch failed requeued held", "it is held. Slurm could not start it on a node"),
        (
            "QOSMaxCpuPerUserLimit",
            "a limit of your account or QOS is reached; it starts when other jobs end.",
        ),
        ("AssocGrpCPURunMinutesLimit", "a limit of your account or QOS is reached"),
        ("AssocGrpCPUMinutesLimit", "the computing time of the account or QOS is used up"),
        ("PartitionDown", "its partition starts no jobs now"),
        ("ReqNodeNotAvail, UnavailableNodes:n3", "nodes that it needs are down or reserved"),
    ],
)
def test_what_a_reason_means(reason: str, meaning: str) -> None:
    assert explain(reason).startswith(meaning)
    assert bool(explain(reason)) is bool(meaning)
