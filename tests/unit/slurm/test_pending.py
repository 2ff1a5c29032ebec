"""Slurm's reasons for a pending job, as squeue(1) lists them."""

from __future__ import annotations

import pytest

from raycluster_cli.slurm.pending import Wait, advice_for, wait_of


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
    "reason", ["JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "job requeued in held state"]
)
def test_it_is_held(reason: str) -> None:
    assert wait_of(reason) is Wait.HELD
    assert "scontrol release" in advice_for(reason)


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
