"""The bed itself: what the other tests rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed import cgroup
from tests.bed.bed import REPOSITORY, Bed, BedError
from tests.bed.spec import ROOT, BedSpec
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

HELD = "sleep 1000"


@pytest.mark.versions
@pytest.mark.cgroup2
def test_three_hosts_are_idle(bed: Bed) -> None:
    assert bed.spec.nodes == ["n1", "n2", "n3"]
    assert bed.idle()


def test_a_job_runs_on_all_hosts(slurm: Slurm) -> None:
    job = slurm.sbatch("srun hostname", "-N3")
    assert job.wait() == JobEnd("COMPLETED", 0, 0)
    assert sorted(job.output().split()) == ["n1", "n2", "n3"]
    slurm.assert_nothing_left()


def test_the_job_has_the_exit_code_of_its_script(slurm: Slurm) -> None:
    assert slurm.sbatch("exit 7").wait() == JobEnd("FAILED", 7, 0)
    assert slurm.srun("-N3", "bash", "-c", "exit $((SLURM_PROCID + 3))").returncode == 5


def test_two_jobs_share_the_hosts(slurm: Slurm) -> None:
    jobs = [slurm.sbatch(f"echo here; {HELD}", "-N3", "--mem=4000", user=user) for user in ("alice", "bob")]
    for job in jobs:
        job.wait_for("here")
    for job in jobs:
        job.cancel()
        assert job.wait().state == "CANCELLED"


def test_unprivileged_users_have_homes_and_this_python(slurm: Slurm) -> None:
    says = "import getpass, os; print(getpass.getuser(), os.getuid() > 1000, os.environ['HOME'], os.getcwd())"
    job = slurm.sbatch(f"srun {sys.executable} -c {says!r}", "-N2", user="alice")
    assert job.wait().exit_code == 0, job.output()
    assert job.output().splitlines() == ["alice True /home/alice /home/alice"] * 2
    script = REPOSITORY / "pyproject.toml"
    assert slurm.srun("cat", str(script), user="bob").stdout == script.read_text()
    assert slurm.srun("ls", "/home/alice", user="bob").returncode != 0


def test_hosts_share_homes_but_neither_temporary_files_nor_processes(slurm: Slurm, tmp_path: Path) -> None:
    slurm.run("n1", ["touch", "/tmp/x", "/dev/shm/x", "/run/x", "/home/admin/x"])
    assert (
        slurm.run("n2", ["ls", "/tmp/x", "/dev/shm/x", "/run/x", "/home/admin/x"]).stdout == "/home/admin/x\n"
    )
    assert not slurm.run("n1", ["ls", str(tmp_path)]).stdout
    assert not Path("/home/admin/x").exists()
    assert "slurmctld" in slurm.run("login", ["ps", "-A"]).stdout
    assert "slurmctld" not in slurm.run("n1", ["ps", "-A"]).stdout
    assert slurm.run("n1", ["cat", "/proc/sys/kernel/hostname"]).stdout == "n1\n"
    slurm.run("n1", ["rm", "/tmp/x", "/dev/shm/x", "/run/x", "/home/admin/x"])


def test_hosts_reach_each_other_and_nothing_else(slurm: Slurm) -> None:
    assert not slurm.run("n1", ["bash", "-c", "</dev/tcp/n2/6818"]).stderr
    assert "refused" in slurm.run("n1", ["bash", "-c", "</dev/tcp/fd77::2/1"]).stderr  # By n2: it is reached.
    assert "unreachable" in slurm.run("n1", ["bash", "-c", "</dev/tcp/198.51.100.1/80"]).stderr
    assert slurm.run("n1", ["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
    assert slurm.run("n1", ["ip", "route"]).stdout.startswith("10.77.0.0/24 dev eth0")


@pytest.mark.versions
def test_the_parts_of_a_heterogeneous_job_are_waited_for(slurm: Slurm) -> None:
    job = slurm.sbatch("srun --het-group=0,1 hostname; exit 3", "-N1", ":", "-N2")
    assert job.wait() == JobEnd("FAILED", 3, 0)
    assert sorted(job.output().split()) == ["n1", "n2", "n3"]


def test_a_pulled_cable_cuts_a_host_off_until_it_is_plugged_in(slurm: Slurm) -> None:
    knock = ["timeout", "1", "bash", "-c", "</dev/tcp/n2/6818"]
    slurm.bed.cable("n2", up=False)
    assert slurm.run("n1", knock).returncode != 0
    assert slurm.run("n2", ["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
    slurm.bed.cable("n2", up=True)
    wait_until(lambda: slurm.run("n1", knock).returncode == 0, timeout_s=20, what="n2 reached again")


def test_a_host_loses_its_power_and_comes_back(slurm: Slurm) -> None:
    slurm.run("n3", ["bash", "-c", f"setsid {HELD} >/dev/null 2>&1 & touch /tmp/x"])
    slurm.bed.power_off("n3")
    assert not slurm.bed.is_on("n3")
    with pytest.raises(BedError, match="no host n3 that is on"):
        slurm.run("n3", ["true"])
    slurm.bed.power_on("n3")
    wait_until(slurm.bed.idle, timeout_s=60, what="n3 idle again")
    assert slurm.srun("-w", "n3", "hostname").stdout == "n3\n"
    slurm.assert_nothing_left()


def test_leftovers_name_processes_files_and_sockets(slurm: Slurm) -> None:
    listen = (
        "import socket, time; s = socket.create_server(('', 4321)); open('/tmp/mine', 'w'); time.sleep(1000)"
    )
    command = slurm.bed.command("n1", ["python", "-c", listen])
    with subprocess.Popen(command) as process:
        wait_until(lambda: len(slurm.bed.leftovers("n1")) == 3, timeout_s=10, what="three leftovers")
        found = slurm.bed.leftovers("n1")
        process.kill()
    assert found[0].startswith("process ")
    assert found[1:] == ["file /tmp/mine", "socket tcp port 4321"]
    wait_until(
        lambda: slurm.bed.leftovers("n1") == ["file /tmp/mine"], timeout_s=10, what="the process's end"
    )
    assert slurm.bed.leftovers("n2") == []
    slurm.run("n1", ["rm", "/tmp/mine"])


def test_hosts_are_as_new_after_a_test_that_left_something(slurm: Slurm) -> None:
    slurm.sbatch(HELD, "-N2")
    for host in ("login", "n2"):
        slurm.run(host, ["touch", "/tmp/mine"], check=True)
    slurm.bed.power_off("n1")
    slurm.restore()
    assert slurm.leftovers() == {}
    assert slurm.bed.idle()
    assert int(slurm.sbatch("true").id) > int(slurm.jobs[0].id)  # No two jobs of a bed have the same id.


@pytest.mark.versions
def test_an_urgent_job_preempts_and_the_other_is_requeued(slurm: Slurm) -> None:
    script = 'echo restarts: ${SLURM_RESTART_COUNT:-0}; [ -n "$SLURM_RESTART_COUNT" ] || ' + HELD
    job = slurm.sbatch(script, "-N3", "--exclusive", "--open-mode=append")
    job.wait_for("restarts: 0")
    assert slurm.sbatch("true", "-N3", "--exclusive", "--partition=urgent").wait().state == "COMPLETED"
    # Slurm holds a requeued job back for a while; told to, it starts soon.
    wait_until(lambda: job.state() == "PENDING", timeout_s=60, what="the job requeued")
    slurm.run("login", ["scontrol", "update", f"JobId={job.id}", "StartTime=now+2seconds"])
    job.wait_for("restarts: 1", timeout_s=180)


@pytest.mark.versions
@pytest.mark.cgroup2
def test_limits_pin_cpus_and_kill_who_takes_too_much_memory(strict_slurm: Slurm) -> None:
    count = "import os; print(len(os.sched_getaffinity(0)))"
    assert strict_slurm.srun("-c1", "--mem=200", "python", "-c", count).stdout == "1\n"
    assert strict_slurm.srun("-c2", "--mem=200", "python", "-c", count).stdout == "2\n"
    own = strict_slurm.srun("--mem=200", "cat", "/proc/self/cgroup").stdout
    # As on a machine of its own: nothing of the bed shows.
    assert ":memory:/slurm_n" in own or own.startswith("0::/system.slice/n"), own
    greedy = strict_slurm.srun("--mem=200", "python", "-c", "bytearray(600 << 20)")
    assert greedy.returncode != 0
    assert "Out Of Memory" in greedy.stderr
    assert strict_slurm.srun("--mem=900", "python", "-c", "bytearray(600 << 20)").returncode == 0


@pytest.mark.versions
def test_gpus_that_are_not_there_are_handed_out(strict_slurm: Slurm) -> None:
    says = "echo $SLURM_GPUS_ON_NODE $CUDA_VISIBLE_DEVICES"
    assert strict_slurm.srun("-N2", "--gres=gpu:2", "bash", "-c", says).stdout == "2 0,1\n" * 2
    assert strict_slurm.srun("-w", "n1", "bash", "-c", says).stdout == "\n"


@pytest.fixture
def name(bed: Bed) -> Iterator[str]:
    """A name for a further bed; ``bed`` stands for the checks whether this machine can have one."""
    name = f"further-{os.getpid()}"
    yield name
    if (ROOT / name / "spec.json").exists():
        Bed(name).down()


def test_down_leaves_nothing_on_the_machine(bed: Bed, name: str) -> None:
    enforce = cgroup.available()
    before = _on_the_machine()
    further = Bed.up(name, BedSpec(hosts=2, cgroups=enforce))
    assert further.idle()
    further.run("n1", ["bash", "-c", f"setsid {HELD} >/dev/null 2>&1 &"], check=True)
    assert name in " ".join(_processes())
    with pytest.raises(BedError, match="up already"):
        Bed.up(name, BedSpec(hosts=1))
    further.down()
    further.down()
    assert _on_the_machine() == before
    assert name not in " ".join(_processes())
    assert not list(Path("/sys/fs/cgroup").glob(f"*/*{name}"))
    assert bed.idle()


def test_a_bed_ends_with_its_owner(bed: Bed, name: str) -> None:
    script = f"""
from tests.bed.bed import Bed, BedSpec
Bed.up({name!r}, BedSpec(hosts=1))
print("up", flush=True)
input()
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        owner.send_signal(signal.SIGKILL)
    wait_until(lambda: not (ROOT / name).exists(), timeout_s=20, what="the bed gone with its owner")
    wait_until(lambda: name not in " ".join(_processes()), timeout_s=10, what="its processes gone")


def test_the_next_up_clears_what_a_killed_bed_left(bed: Bed, name: str) -> None:
    first = Bed.up(name, BedSpec(hosts=1))
    warden = first._warden()
    assert warden.kill()
    assert (ROOT / name).exists()
    with Bed.up(name, BedSpec(hosts=1)) as second:
        assert second.idle()


def test_a_bed_that_cannot_come_up_leaves_nothing(bed: Bed, name: str) -> None:
    # Since Slurm 24.11 slurmctld goes into the background before it reads this.
    with pytest.raises(BedError, match=r"did not start|not all nodes were idle"):
        Bed.up(name, BedSpec(hosts=1, slurm={"SelectType": "select/nonsense"}))
    assert not (ROOT / name).exists()
    assert name not in " ".join(_processes())


def _on_the_machine() -> tuple[str, str, list[str]]:
    """The machine's interfaces, mounts and users: none of them may change."""
    interfaces = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    files = [Path(path).read_text() for path in ("/etc/passwd", "/etc/group", "/etc/hosts")]
    return interfaces, Path("/proc/mounts").read_text(), files


def _processes() -> list[str]:
    """The command lines of all processes of the machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text().replace("\0", " "))
        except OSError:
            continue
    return lines
