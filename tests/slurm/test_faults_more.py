"""More faults on real Slurm hosts: of raycluster's own processes, of srun, of what Ray's processes need."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycluster_cli.supervisor.silent_hosts import CUT_OFF_S, HUNG_S
from tests.bed.bed import REPOSITORY
from tests.bed.spec import BedSpec
from tests.slurm.cluster import DRIVER, SLACK_S, Cluster
from tests.slurm.conftest import Beds
from tests.slurm.jobs import Job, Slurm
from tests.waiting import wait_until

chaos = pytest.mark.chaos


# -- keeper and supervisor at once -------------------------------------------------------------------


def kill_keeper_and_supervisor(cluster: Cluster, host: str) -> None:
    """As the kernel does when memory is short, or an administrator.

    Stopped first: on a busy machine the one that is killed second would see that the other has gone.  The
    supervisor is killed first: the kernel continues a stopped process whose parent, the keeper, has ended.
    """
    pids = [str(cluster.pid(host, kind)) for kind in ("supervisor", "keeper")]
    cluster.bed.run(host, ["kill", "-STOP", *pids], check=True)
    cluster.fault_at = time.time()
    cluster.bed.run(host, ["kill", "-KILL", *pids], check=True)


@pytest.mark.versions
def test_keeper_and_supervisor_of_a_worker_are_killed_at_once(slurm: Slurm) -> None:
    """Ray does not stay: its agents notice, the raylet ends with them, and the node is cleared."""
    cluster = Cluster.start(slurm).driving()
    kill_keeper_and_supervisor(cluster, "n2")
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (5, "worker-lost")
    assert cluster.end["failed_host"] == "n2"
    assert cluster.known_after_s()["n1"] < 2.0 + SLACK_S
    assert "supervisor and keeper on n2 were killed" in cluster.node("n2")["message"]
    slurm.assert_nothing_left()


@pytest.mark.parametrize("host", ["n2", pytest.param("n1", marks=chaos)])
def test_keeper_and_supervisor_are_killed_before_ray_runs(slurm: Slurm, host: str) -> None:
    """Nothing on the node can report it, so Slurm is asked; the others would wait until --timeout."""
    late_head = "sh -c 'test $SLURM_PROCID != 0 || sleep 4; exec \"$@\"' sh"
    cluster = Cluster.start(slurm, prefix=late_head if host == "n2" else "")
    begun = cluster.record / ("nodes/n2.json" if host == "n2" else "head.json")
    wait_until(begun.exists, timeout_s=30, what=f"{begun}", interval_s=0.01)
    kill_keeper_and_supervisor(cluster, host)
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert time.time() - cluster.fault_at < 30.0 + SLACK_S
    if host == "n2":
        assert "n2: its task ended without reporting why (last report: " in cluster.end["message"]
    slurm.run(host, ["raycluster", "stop", "--here"], check=True)
    slurm.assert_nothing_left()


@chaos
def test_srun_does_not_wait_for_ever_for_a_supervisor_that_hangs(slurm: Slurm) -> None:
    """As in a call on a file system that does not return.  Its host responds, and its raylet leaves."""
    go = slurm.bed.path("login", "/home/admin/go")
    driver = "import os, sys, time\nprint('DRIVING', flush=True)"
    wait = "while not os.path.exists('/home/admin/go'): time.sleep(0.1)\nsys.exit(7)"
    cluster = Cluster.start(slurm, wait, preamble=driver, nodes=2).driving()
    try:
        with cluster.held("n2", "supervisor"):
            go.touch()
            cluster.wait_end()
            end = cluster.job.wait(timeout_s=HUNG_S + 60)
    finally:
        go.unlink()
    output = cluster.job.output()
    assert "n2 has not reported its end, and srun waits for its task: if that has not ended" in output
    assert "Job step aborted" in output
    assert (end.exit_code or 128 + end.signal) == 137, output
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (7, "driver")


@pytest.mark.parametrize(
    "stopped",
    [
        pytest.param((("n1", "keeper"), ("n2", "keeper")), id="keepers"),
        pytest.param((("n1", "supervisor"), ("n3", "supervisor")), id="supervisors", marks=chaos),
    ],
)
def test_processes_of_raycluster_that_were_stopped_do_not_keep_the_job(
    slurm: Slurm, stopped: tuple[tuple[str, str], ...]
) -> None:
    """SIGSTOP for good: they are continued when there is something for them to do."""
    go = slurm.bed.path("login", "/home/admin/go")
    wait = f"while not os.path.exists({'/home/admin/go'!r}): time.sleep(0.1)\nsys.exit(7)"
    cluster = Cluster.start(slurm, wait).driving()
    for host, process in stopped:
        cluster.signal(host, process, "STOP")
    go.touch()
    try:
        assert cluster.job.wait(timeout_s=90).exit_code == 7, cluster.job.output()
    finally:
        go.unlink()
    assert cluster.job.output().count("was stopped (SIGSTOP)") == 2
    slurm.assert_nothing_left()


#: Stops the first process with this text on its command line, once it is there, and says so.
_STOP_FIRST = """
import glob, os, signal, sys
while True:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if sys.argv[1] in open(path).read() and int(path.split("/")[2]) != os.getpid():
                os.kill(int(path.split("/")[2]), signal.SIGSTOP)
                sys.exit(print("stopped", open(path).read().split(chr(0))[:3]))
        except OSError:
            pass
"""


@pytest.mark.parametrize(
    ("host", "program"),
    [
        pytest.param("n1", "raylet/raylet", id="raylet of the head"),
        pytest.param("n2", "raylet/raylet", id="raylet of a worker", marks=chaos),
        pytest.param("n1", "gcs/gcs_server", id="GCS", marks=chaos),
        pytest.param("n1", "rayproc.companion", id="companion", marks=chaos),
    ],
)
def test_a_process_that_is_stopped_while_ray_starts_is_continued(
    slurm: Slurm, host: str, program: str
) -> None:
    """SIGSTOP for good, before it has registered: no one else would notice, and the start would hang."""
    command = slurm.bed.command(host, [sys.executable, "-c", _STOP_FIRST, program])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stopper:
        cluster = Cluster.start(slurm, "pass")
        stopped, _ = stopper.communicate(timeout=60)
        assert stopped.startswith("stopped"), stopped
    assert cluster.job.wait(timeout_s=60).exit_code == 0, cluster.job.output()
    assert f"on {host} was stopped (SIGSTOP) while Ray starts: it is continued" in cluster.job.output()
    slurm.assert_nothing_left()


def test_keeper_and_supervisor_of_the_head_are_killed_at_once(slurm: Slurm) -> None:
    """The GCS does not stay either; the workers end and say why."""
    cluster = Cluster.start(slurm).driving()
    kill_keeper_and_supervisor(cluster, "n1")
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("supervisor-killed", "n1")
    for host in ("n2", "n3"):
        assert cluster.known_after_s()[host] < 2.0 + SLACK_S
        assert cluster.node(host)["exit_code"] == 5
        assert "supervisor and keeper on n1 were killed" in cluster.node(host)["message"]
    slurm.assert_nothing_left()


@chaos
def test_keeper_and_supervisor_are_killed_where_an_agent_is_awake(slurm: Slurm) -> None:
    """The agent itself watches as its stand-in did."""
    text = """
        @ray.remote(num_cpus=0, runtime_env={"env_vars": {"WITH": "an environment"}})
        def there():
            return os.environ["WITH"]

        for node in mine:
            place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            ray.get(there.options(scheduling_strategy=place).remote())
        print("AGENTS AWAKE", flush=True)
        time.sleep(600)
    """
    cluster = Cluster.start(slurm, textwrap.dedent(text))
    cluster.job.wait_for("AGENTS AWAKE")
    kill_keeper_and_supervisor(cluster, "n2")
    cluster.job.wait()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("worker-lost", "n2")
    wait_until(lambda: not cluster.find("n2", "raylet"), timeout_s=20, what="n2 without a raylet")
    slurm.assert_nothing_left()


# -- the keeper --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["n1", pytest.param("n2", marks=chaos)])
@pytest.mark.versions
@pytest.mark.cgroup2
def test_keeper_is_killed_where_slurm_tracks_by_cgroup(strict_slurm: Slurm, host: str) -> None:
    """Slurm kills all other processes of the task at once: nothing there can clear up or report its end."""
    cluster = Cluster.start(strict_slurm).driving()
    cluster.signal(host, "keeper")
    end = cluster.job.wait()
    assert (end.exit_code or 128 + end.signal) == 137, cluster.job.output()
    assert cluster.end["failed_host"] == host
    if host == "n1":
        # Whether the supervisor could write down why is a matter of milliseconds.
        why = {
            "keeper-killed": "raycluster's keeper on n1 was killed",
            "supervisor-killed": "raycluster on n1 and all of its processes ended at once without reporting",
        }[cluster.end["reason"]]
        assert cluster.end["message"].startswith(why)
        for worker in ("n2", "n3"):
            assert cluster.node(worker)["exit_code"] == 5
            assert why in cluster.node(worker)["message"]
    else:
        assert cluster.end["reason"] == "worker-lost"
    again = Cluster.start(strict_slurm, "time.sleep(1)")
    assert again.job.wait().exit_code == 0, again.job.output()
    strict_slurm.assert_nothing_left()


#: For one host: the first child of the first process, which is the supervisor, exits when it is told to.
ERROR = """
import os, sys, threading, time

first = True

def exit_when_told():
    while not os.path.exists("/home/admin/error"):
        time.sleep(0.05)
    os._exit(1)

def in_child():
    if first and sys.argv[1:2] == ["run"] and os.environ.get("SLURMD_NODENAME") == "{host}":
        threading.Thread(target=exit_when_told, daemon=True).start()

def in_parent():
    global first
    first = False

os.register_at_fork(after_in_child=in_child, after_in_parent=in_parent)
"""


@pytest.mark.parametrize("host", ["n2", pytest.param("n1", marks=chaos)])
def test_supervisor_that_exits_by_an_error_is_cleared_up_after(slurm: Slurm, host: str) -> None:
    directory = slurm.bed.path("login", "/home/admin/error-of-raycluster")
    directory.mkdir(exist_ok=True)
    (directory / "sitecustomize.py").write_text(ERROR.replace("{host}", host))
    told = slurm.bed.path("login", "/home/admin/error")
    before = "export PYTHONPATH=/home/admin/error-of-raycluster:$PYTHONPATH"
    cluster = Cluster.start(slurm, before=before).driving()
    told.touch()
    try:
        end = cluster.job.wait()
    finally:
        told.unlink()
    assert end.exit_code == (5 if host == "n2" else 1), cluster.job.output()
    assert cluster.end["failed_host"] == host
    assert "exited with code 1 without clearing up" in cluster.node(host)["message"]
    slurm.assert_nothing_left()


# -- a raylet that hangs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "reason"), [pytest.param("n2", "worker-lost", marks=chaos), ("n1", "head-lost")]
)
def test_raylet_that_hangs_is_a_loss(slurm: Slurm, host: str, reason: str) -> None:
    """It is stopped for good: its parent sees a process that runs, the GCS one that does not respond."""
    cluster = Cluster.start(slurm).driving()
    cluster.signal(host, "raylet", "STOP")
    assert cluster.job.wait().exit_code == 5, cluster.job.output()
    assert (cluster.end["reason"], cluster.end["failed_host"]) == (reason, host)
    assert cluster.known_after_s()["n1"] < 15.0 + SLACK_S
    slurm.assert_nothing_left()


# -- what Ray's processes need -----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sockets", pytest.param("everything", marks=chaos)])
@pytest.mark.parametrize("host", ["n1", pytest.param("n2", marks=chaos)])
def test_a_program_that_cleans_tmp_removes_rays_files(slurm: Slurm, host: str, what: str) -> None:
    """Without a guard the driver's next call waits forever, and nothing says why."""
    cluster = Cluster.start(slurm).driving()
    root = str(cluster.node(host)["node_root"])
    common = str(cluster.node("n1")["node_root"])  # Ray knows a worker's directory by the path of the head's
    below = f"{root}/r/session_2*/sockets/*" if what == "sockets" else f"{root}/*"
    cluster.fault_at = time.time()
    slurm.run(host, ["sh", "-c", f"rm -r {below}"], check=True)
    assert cluster.job.wait().exit_code == 5, cluster.job.output()
    assert cluster.end["reason"] == ("head-lost" if host == "n1" else "worker-lost")
    assert cluster.end["failed_host"] == host
    assert f"{common}/r/session_" in cluster.end["message"]
    assert f" on {host} was removed while Ray needed it" in cluster.end["message"]
    assert "--temp-dir" in cluster.job.output()
    assert cluster.known_after_s()[host] < 12.0 + SLACK_S
    slurm.assert_nothing_left()


# -- srun waits for a host that is gone --------------------------------------------------------------

#: Slurm's default is 30 s; srun gives up a step that is cancelled after KillWait + 2 s.
KILL_WAIT_S = 10

#: By when the head, or a worker, knows that a host does not respond, and has ended all that it can reach.
KNOWN_S = 15.0

#: The job itself goes on until Slurm has heard of its end from the host that is gone.
TELL_END = "trap 'echo SRUN ENDED WITH $?' EXIT"


@pytest.fixture(scope="module")
def patient_beds() -> Iterator[Beds]:
    """Slurm marks a host as down after 300 s, as it does by default."""
    settings = {"SlurmdTimeout": "300", "KillWait": str(KILL_WAIT_S)}
    beds = Beds("patient", BedSpec(cpus=(16,), memory_mib=(16000,), slurm=settings))
    yield beds
    beds.down()


@pytest.fixture
def patient_slurm(patient_beds: Beds) -> Iterator[Slurm]:
    yield from patient_beds.jobs()


@pytest.mark.versions
def test_plain_srun_ends_when_a_workers_host_has_gone(patient_slurm: Slurm) -> None:
    """srun has no option that says how long it waits; its code is the cluster's."""
    cluster = Cluster.start(patient_slurm, before=TELL_END, wrap="", waits="").driving()
    began = time.time()
    patient_slurm.bed.power_off("n2")
    assert "SRUN ENDED WITH 5\n" in cluster.job.wait_for("SRUN ENDED")
    assert time.time() - began < KNOWN_S + KILL_WAIT_S + 2 + 2 * SLACK_S
    assert (cluster.end["reason"], cluster.end["failed_host"]) == ("worker-lost", "n2")
    assert "n2 does not respond, and srun waits for its task" in cluster.job.output()
    for host in ("n1", "n3"):
        assert cluster.node(host)["phase"] in ("gone", "failed")


@chaos
@pytest.mark.versions
def test_plain_srun_ends_when_the_heads_host_has_gone(patient_slurm: Slurm, tmp_path: Path) -> None:
    """srun runs on the login host here: a batch script on the head's host has gone with it."""
    bed = patient_slurm.bed
    (bed.path("login", "/home/admin") / "plain.py").write_text(f"{DRIVER}\ntime.sleep(600)\n")
    raycluster = [sys.executable, "-m", "raycluster_cli", "run", "--", sys.executable, "plain.py"]
    words = ["srun", "-N3", "--ntasks-per-node=1", "--mem=1000", *raycluster]
    command = bed.command("login", words, env={"PYTHONPATH": str(REPOSITORY)})
    output = tmp_path / "output"
    with output.open("w") as file:
        srun = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: "DRIVING" in output.read_text(), timeout_s=60, what="the driver")
        running = ["squeue", "-h", "-t", "RUNNING", "-o", "%i"]
        job = Job(bed, bed.run("login", running, check=True).stdout.split()[0], "root")
        patient_slurm.jobs.append(job)
        began = time.time()
        bed.power_off("n1")
        assert srun.wait(120) == 5, output.read_text()
        assert time.time() - began < KNOWN_S + KILL_WAIT_S + 2 + 2 * SLACK_S
        assert output.read_text().count("n1 does not respond, and srun waits for its task") == 1
    finally:
        srun.kill()
        srun.wait()


@chaos
def test_plain_srun_that_was_not_told_of_an_end(patient_slurm: Slurm) -> None:
    """A worker is cut off, and ends by itself; its host is back when the message to srun has been lost."""
    go = patient_slurm.bed.path("login", "/home/admin/go")
    wait = "while not os.path.exists('/home/admin/go'): time.sleep(0.1)\nsys.exit(7)"
    cluster = Cluster.start(patient_slurm, wait, before=TELL_END, wrap="", waits="").driving()
    patient_slurm.bed.cable("n2", up=False)
    time.sleep(4)  # it is not lost yet when the driver ends
    go.touch()
    try:
        cluster.wait_node_end("n2")
        time.sleep(8)  # slurmstepd gives up
    finally:
        go.unlink()
        patient_slurm.bed.cable("n2", up=True)
    began = time.time()
    assert "SRUN ENDED WITH 7\n" in cluster.job.wait_for("SRUN ENDED")
    assert time.time() - began < CUT_OFF_S + KILL_WAIT_S + 2 + 2 * SLACK_S
    cluster.job.wait()
    patient_slurm.assert_nothing_left()


#: A head in the batch step, and a script that waits for the workers' srun for as long as it takes.
WAITS_FOR_WORKERS = """
    srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --exclude=$SLURMD_NODENAME --mem=0 --kill-on-bad-exit=0 \\
        --wait=0 {prefix} {python} -m raycluster_cli worker --master-ip $SLURMD_NODENAME {options} &
    {prefix} {python} -m raycluster_cli head --expected-workers 2 {options} -- {driver}
    code=$?
    wait
    echo SCRIPT ENDED WITH $code
    exit $code
"""


@chaos
@pytest.mark.parametrize("fault", ["power", "cable"])
def test_a_script_that_waits_for_the_srun_of_its_workers(patient_slurm: Slurm, fault: str) -> None:
    """That srun is not told that the task on the failed host has ended: the head of another step ends it."""
    cluster = Cluster.start(patient_slurm, script=WAITS_FOR_WORKERS).driving()
    began = time.time()
    if fault == "power":
        patient_slurm.bed.power_off("n2")
    else:
        patient_slurm.bed.cable("n2", up=False)
        time.sleep(25)  # n2 has ended, and slurmstepd has given up
        patient_slurm.bed.cable("n2", up=True)
    assert "SCRIPT ENDED WITH 5\n" in cluster.job.wait_for("SCRIPT ENDED")
    assert time.time() - began < KNOWN_S + CUT_OFF_S + KILL_WAIT_S + 2 + 2 * SLACK_S
    assert "n2 does not respond, and srun waits for it: step 0 of the job is ended" in cluster.job.output()
    if fault == "cable":
        cluster.job.wait()
        patient_slurm.assert_nothing_left()


@chaos
def test_plain_srun_with_a_policy_that_goes_on(patient_slurm: Slurm) -> None:
    """The driver ends by itself, long after the loss; srun does not wait for the lost host then either."""
    text = """
        while sum(node["Alive"] for node in ray.nodes()) > 2:
            time.sleep(0.1)
        print("TWO LEFT", flush=True)
    """
    cluster = Cluster.start(
        patient_slurm,
        textwrap.dedent(text),
        options="--on-worker-loss continue",
        before=TELL_END,
        wrap="",
        waits="",
    ).driving()
    patient_slurm.bed.power_off("n3")
    output = cluster.job.wait_for("SRUN ENDED")
    assert "TWO LEFT" in output
    assert "SRUN ENDED WITH 0\n" in output


@chaos
@pytest.mark.parametrize(("srun", "times", "code"), [("", 2, 137), ("--disable-status", 1, 130)])
def test_ctrl_c_at_srun(slurm: Slurm, srun: str, times: int, code: int) -> None:
    """At the second Ctrl-C within a second srun sends SIGINT and then SIGKILL, the first shows a status only.
    With --disable-status the first one is SIGINT."""
    cluster = Cluster.start(slurm, wrap="", srun=srun).driving()
    process = next(one for one in cluster.processes("n1") if one.argv and one.argv[0].endswith("srun"))
    press = f"for n in $(seq {times}); do kill -INT {process.pid}; sleep 0.3; done"
    cluster.bed.run("n1", ["sh", "-c", press], check=True)
    assert cluster.job.wait().exit_code == code, cluster.job.output()
    if code == 137:
        again = Cluster.start(slurm, "time.sleep(1)")
        assert again.job.wait().exit_code == 0, again.job.output()
    else:
        assert (cluster.end["exit_code"], cluster.end["reason"]) == (130, "signal")
    slurm.assert_nothing_left()
