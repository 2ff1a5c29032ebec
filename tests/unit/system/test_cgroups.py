"""Limits of control groups, on trees as kernels, Slurm and containers make them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raycluster_cli.system.cgroups import Limit, cpu_quotas, memory_limits, oom_kills, process_limits

from ..trees import NO_LIMIT_V1, cgroup_v1, cgroup_v2, write

SLURM_V1 = "/slurm/uid_1000/job_7/step_0/task_0"
SLURM_V2 = "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0"


def test_version_1_walks_from_the_own_group_to_the_top(tmp_path: Path) -> None:
    cgroup_v1(
        tmp_path,
        SLURM_V1,
        {
            f"memory{SLURM_V1}/memory.limit_in_bytes": NO_LIMIT_V1,
            "memory/slurm/uid_1000/job_7/step_0/memory.limit_in_bytes": "3145728000",
            "memory/slurm/uid_1000/job_7/memory.limit_in_bytes": "4194304000",
            "memory/slurm/uid_1000/memory.limit_in_bytes": NO_LIMIT_V1,
            "memory/memory.limit_in_bytes": NO_LIMIT_V1,
        },
    )
    assert memory_limits(tmp_path) == [
        Limit(3145728000, "cgroup memory.limit_in_bytes of /slurm/uid_1000/job_7/step_0"),
        Limit(4194304000, "cgroup memory.limit_in_bytes of /slurm/uid_1000/job_7"),
    ]


def test_version_2_walks_and_counts_memory_high(tmp_path: Path) -> None:
    cgroup_v2(
        tmp_path,
        SLURM_V2,
        {
            f"{SLURM_V2[1:]}/memory.max": "max",
            "system.slice/slurmstepd.scope/job_7/step_0/memory.max": "3145728000",
            "system.slice/slurmstepd.scope/job_7/step_0/memory.high": "3000000000",
            "system.slice/slurmstepd.scope/job_7/memory.max": "4194304000",
            "system.slice/slurmstepd.scope/job_7/memory.high": "max",
        },
    )
    job = "/system.slice/slurmstepd.scope/job_7"
    assert memory_limits(tmp_path) == [
        Limit(3145728000, f"cgroup memory.max of {job}/step_0"),
        Limit(3000000000, f"cgroup memory.high of {job}/step_0"),
        Limit(4194304000, f"cgroup memory.max of {job}"),
    ]


def test_a_part_of_the_tree_bound_over_the_whole(tmp_path: Path) -> None:
    """Docker without a cgroup namespace: the name is the host's, the mount shows the container's part."""
    cgroup_v1(tmp_path, "/docker/c0ffee", {"memory/memory.limit_in_bytes": "1000000"}, top="/docker/c0ffee")
    assert memory_limits(tmp_path) == [Limit(1000000, "cgroup memory.limit_in_bytes of /docker/c0ffee")]


def test_own_group_below_a_bound_part(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/host1/slurm/job_7", {"memory/slurm/memory.limit_in_bytes": "2000000"}, top="/host1")
    assert memory_limits(tmp_path) == [Limit(2000000, "cgroup memory.limit_in_bytes of /host1/slurm")]


def test_of_two_mounts_at_one_place_the_last_counts(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/host1/job", {"memory/job/memory.limit_in_bytes": "2000000"}, top="/host1")
    hidden = "20 19 0:9 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    path = tmp_path / "proc/self/mountinfo"
    path.write_text(hidden + path.read_text())
    assert [limit.value for limit in memory_limits(tmp_path)] == [2000000]


def test_a_cgroup_namespace_names_the_own_group_as_the_top(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/", {"memory.max": "5000000"})
    assert memory_limits(tmp_path) == [Limit(5000000, "cgroup memory.max of /")]


@pytest.mark.parametrize("group", ["/not/mounted/here", "/../../elsewhere"])
def test_a_group_that_is_not_to_be_seen_falls_back_to_the_top_of_the_mount(
    tmp_path: Path, group: str
) -> None:
    cgroup_v2(tmp_path, "/", {"memory.max": "5000000"})
    write(tmp_path, {"proc/self/cgroup": f"0::{group}"})
    assert [limit.value for limit in memory_limits(tmp_path)] == [5000000]


def test_a_hybrid_machine_asks_version_1_where_the_controller_is(tmp_path: Path) -> None:
    cgroup_v1(tmp_path, "/a/b", {"memory/a/memory.limit_in_bytes": "7000000", "memory/a/b/x": ""})
    path = tmp_path / "proc/self/mountinfo"
    path.write_text(path.read_text() + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "sys/fs/cgroup/unified").mkdir()
    assert [limit.value for limit in memory_limits(tmp_path)] == [7000000]


def test_blanks_in_a_mount_point(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/x",
            "proc/self/mountinfo": r"31 24 0:26 / /sys/c\040g rw - cgroup2 cgroup2 rw",
            "sys/c g/x/memory.max": "9000000",
        },
    )
    assert [limit.value for limit in memory_limits(tmp_path)] == [9000000]


@pytest.mark.parametrize(
    ("quota", "period", "cpus"),
    [("-1", "100000", []), ("150000", "100000", [1]), ("50000", "100000", [1]), ("800000", "100000", [8])],
)
def test_version_1_quota(tmp_path: Path, quota: str, period: str, cpus: list[int]) -> None:
    cgroup_v1(
        tmp_path,
        "/job",
        {"cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cpu,cpuacct/job/cpu.cfs_period_us": period},
    )
    assert [limit.value for limit in cpu_quotas(tmp_path)] == cpus


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("max 100000", []), ("250000 100000", [2]), ("10000 100000", [1]), ("nonsense", []), ("1 0", [])],
)
def test_version_2_quota(tmp_path: Path, text: str, cpus: list[int]) -> None:
    cgroup_v2(tmp_path, "/job", {"job/cpu.max": text})
    assert [limit.value for limit in cpu_quotas(tmp_path)] == cpus


def test_pids_limit(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/user/job", {"user/job/pids.max": "max", "user/pids.max": "512"})
    assert process_limits(tmp_path) == [Limit(512, "cgroup pids.max of /user")]


def test_oom_kills_of_the_own_group(tmp_path: Path) -> None:
    cgroup_v2(tmp_path / "v2", "/job", {"job/memory.events": "low 0\noom 2\noom_kill 1"})
    cgroup_v1(
        tmp_path / "v1",
        "/job",
        {"memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3"},
    )
    assert (oom_kills(tmp_path / "v2"), oom_kills(tmp_path / "v1")) == (1, 3)
    assert oom_kills(tmp_path) is None


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/self/cgroup": "", "proc/self/mountinfo": ""},
        {"proc/self/cgroup": "rubbish\n::\n0:", "proc/self/mountinfo": "a b c\n1 - cgroup2\n - - -"},
        {"proc/self/cgroup": "0::/x", "proc/self/mountinfo": "1 2 3:4 / /nowhere rw - cgroup2 c rw"},
    ],
)
def test_nothing_to_be_seen_is_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    write(tmp_path, files)
    assert memory_limits(tmp_path) == cpu_quotas(tmp_path) == process_limits(tmp_path) == []


def test_unreadable_numbers_are_no_limit(tmp_path: Path) -> None:
    cgroup_v2(tmp_path, "/job", {"job/memory.max": "12x", "job/memory.high": "", "job/pids.max": "-"})
    assert memory_limits(tmp_path) == process_limits(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_this_machine_can_be_asked() -> None:
    """No more than that nothing is raised here and what is said is a limit."""
    assert all(limit.value > 0 for limit in [*memory_limits(), *cpu_quotas(), *process_limits()])
