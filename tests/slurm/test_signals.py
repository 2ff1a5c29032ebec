"""Who gets which signal on real Slurm: the table of docs/decisions/0013-signals-and-the-driver.md."""

from __future__ import annotations

import os
import select
import signal
import sys

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.cluster import Cluster
from tests.slurm.jobs import Slurm
from tests.waiting import wait_until

pytestmark = pytest.mark.versions

#: A shell that runs the training program, and does something after it: the most common batch driver.
#: A helper runs beside it in a session of its own.  Each prints what it gets; after SIGTERM it saves for
#: three seconds.
DRIVER = """
import os, sys

program = '''
import os, signal, sys, time
name = sys.argv[1]
def say(text):  # in one write: the two programs share the output, and print makes several (PYTHONUNBUFFERED)
    os.write(1, (name + " " + text + chr(10)).encode())
def got(number, frame):
    say("GOT " + signal.Signals(number).name)
    if number == signal.SIGTERM:
        time.sleep(3)
        say("SAVED")
        os._exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGQUIT, signal.SIGALRM):
    signal.signal(number, got)
say("RUNS")
while True:
    time.sleep(0.05)
'''
with open("/home/admin/program.py", "w") as file:
    file.write(program)
run = f"{sys.executable} /home/admin/program.py"
os.execv("/bin/bash", ["bash", "-c", f"(setsid {run} helper &); {run} train TRAIN"])
"""

NAMES = ("train", "helper")

#: Signals that raycluster hands on, of those that the programs handle.
FOR_THE_DRIVER = ("USR1", "QUIT", "ALRM")


def start(
    slurm: Slurm, *, options: str = "", sbatch: tuple[str, ...] = (), after: str = "; echo done"
) -> Cluster:
    """One node, --grace 10 by default; returns when both programs run."""
    driver = DRIVER.replace(" TRAIN", after)
    cluster = Cluster.start(slurm, "", preamble=driver, nodes=1, options=options, sbatch=sbatch)
    for name in NAMES:
        cluster.job.wait_for(f"{name} RUNS")
    return cluster


def check_saved(cluster: Cluster) -> None:
    """Both have got SIGTERM once and had the time to save, and nothing is left."""
    cluster.job.wait()
    output = cluster.job.output()
    for name in NAMES:
        assert output.count(f"{name} GOT SIGTERM") == 1, output
        assert output.count(f"{name} SAVED") == 1, output
    cluster.slurm.assert_nothing_left()


def test_scancel_lets_all_of_the_driver_save(slurm: Slurm) -> None:
    cluster = start(slurm)
    cluster.job.cancel()
    assert cluster.wait_end()["exit_code"] == 143
    check_saved(cluster)
    # Slurm has signalled Ray's log monitor, too.
    assert "the cluster continues" not in cluster.job.output()


def test_scancel_where_slurm_signals_the_task_alone(strict_slurm: Slurm) -> None:
    """proctrack/cgroup: only the process that slurmstepd started, the keeper, gets the signal."""
    cluster = start(strict_slurm)
    for number in FOR_THE_DRIVER:
        cluster.job.cancel(f"--signal={number}")
        for name in NAMES:
            cluster.job.wait_for(f"{name} GOT SIG{number}")
    cluster.job.cancel()
    assert cluster.wait_end()["exit_code"] == 143
    check_saved(cluster)
    for number in FOR_THE_DRIVER:
        assert cluster.job.output().count(f"GOT SIG{number}") == len(NAMES)


def test_stop_waits_for_the_grace_of_the_head(slurm: Slurm) -> None:
    """--timeout is shorter than what the programs need, --grace is not."""
    cluster = start(slurm)
    stop = [sys.executable, "-m", "raycluster_cli", "stop", cluster.job.id, "--timeout", "2"]
    done = slurm.run(LOGIN, stop, env={"PYTHONPATH": str(REPOSITORY)}, timeout_s=120)
    assert done.returncode == 0, done.stderr
    assert "ended after" in done.stderr
    assert (cluster.end["exit_code"], cluster.end["reason"]) == (143, "stop")
    check_saved(cluster)


def test_stop_before_the_time_limit(slurm: Slurm) -> None:
    cluster = start(slurm, options="--stop-before 50", sbatch=("--time=1",))
    assert cluster.wait_end(timeout_s=90)["reason"] == "time-limit"
    check_saved(cluster)


def test_programs_that_a_driver_leaves_running_may_save(slurm: Slurm) -> None:
    told = slurm.bed.path(LOGIN, "/home/admin/told")
    cluster = start(slurm, after=" & until [ -e /home/admin/told ]; do sleep 0.1; done; exit 4")
    told.touch()
    try:
        end = cluster.wait_end()
    finally:
        told.unlink()
    assert (end["exit_code"], end["reason"]) == (4, "driver")
    check_saved(cluster)


@pytest.mark.parametrize("numbers", [("USR1", "QUIT"), ("INT",)])
def test_a_signal_to_the_step_comes_once(slurm: Slurm, numbers: tuple[str, ...]) -> None:
    """Every process of the step gets it; Ray's ignore those that are meant for the driver."""
    cluster = start(slurm, options="--grace 1")
    for number in numbers:
        slurm.run(LOGIN, ["scancel", f"--signal={number}", f"{cluster.job.id}.0"], check=True)
        for name in NAMES:
            cluster.job.wait_for(f"{name} GOT SIG{number}")
    if numbers != ("INT",) and not cluster.end:
        cluster.job.cancel()
    cluster.job.wait()
    for number in numbers:
        for name in NAMES:
            assert cluster.job.output().count(f"{name} GOT SIG{number}") == 1
    slurm.assert_nothing_left()


#: Reads a line from its terminal, and then prints what it gets.
INTERACTIVE = """
import signal, time
print("READ", input(), flush=True)
signal.signal(signal.SIGINT, lambda number, frame: print("GOT SIGINT", flush=True))
print("WAITS", flush=True)
while True:
    time.sleep(0.05)
"""


def test_an_interactive_driver_reads_from_the_terminal_and_gets_ctrl_c_once(slurm: Slurm) -> None:
    path = slurm.bed.path(LOGIN, "/home/admin") / "interactive.py"
    path.write_text(INTERACTIVE)
    srun = ["srun", "--pty", "-N1", "-n1", "--mem=3000", sys.executable, "-m", "raycluster_cli", "run"]
    driver = ["--grace", "2", "--", sys.executable, "/home/admin/interactive.py"]
    argv = slurm.bed.command(LOGIN, [*srun, *driver], env={"PYTHONPATH": str(REPOSITORY)})
    pid, terminal = os.forkpty()
    if pid == 0:
        os.execvp(argv[0], argv)
    text = ""

    def shown(what: str) -> bool:
        nonlocal text
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                text += os.read(terminal, 4096).decode("utf-8", "replace")
            except OSError:  # all that had it open have ended
                return True
        return what in text

    try:
        wait_until(lambda: shown("node ready"), timeout_s=60, what="the cluster in the terminal")
        os.write(terminal, b"hello\n")
        wait_until(lambda: shown("WAITS"), timeout_s=30, what="the driver in the terminal")
        os.write(terminal, b"\x03")
        wait_until(lambda: shown("\0"), timeout_s=30, what="the end of the terminal")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    assert "READ hello" in text
    assert text.count("GOT SIGINT") == 1, text
    assert "exit code 130" in text
    assert "the driver has 2 s to end; a second Ctrl-C ends everything at once" in text
    assert "`raycluster attach " in text
    slurm.assert_nothing_left()
