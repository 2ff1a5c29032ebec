"""`raycluster submit` from the login node, and what people do with the cluster from there."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import NODES
from tests.slurm.jobs import Job, JobEnd, Slurm
from tests.waiting import wait_until

SHAPE = ("--nodes=3", "--exclusive", "--time=10", "--no-requeue")

WORDS = ("it's", 'say "hi"', "$HOME $(id)", "two\nlines", "back\\slash", "@DRIVER@", "", "*")

PRINT_WORDS = "import json, sys; print('WORDS', json.dumps(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(slurm: Slurm) -> Iterator[None]:
    """Also when the test has not come to know its id."""
    yield
    slurm.run(LOGIN, ["scancel", "--quiet", "--user=alice"])


def raycluster(
    slurm: Slurm, *words: str, user: str = "alice", timeout_s: float = 120
) -> subprocess.CompletedProcess[str]:
    """`raycluster WORDS` on the login host."""
    return slurm.run(LOGIN, ["raycluster", *words], user=user, timeout_s=timeout_s)


def submitted(slurm: Slurm, output: str, user: str = "alice") -> Job:
    """The job that submit has told of; cancelled after the test."""
    line = next(line for line in output.splitlines() if line.startswith("Submitted batch job "))
    job = Job(slurm.bed, line.split()[-1], user)
    slurm.jobs.append(job)
    return job


@pytest.mark.versions
def test_followed_to_its_end_with_the_drivers_code_and_words(slurm: Slurm) -> None:
    # slurmctld leaves patterns of the node, and those with a width, in the name that it tells.
    words = ("--comment", "it's a $HOME", "--output=%x-%5j-%N-%t.out", "--follow")
    done = raycluster(slurm, "submit", *SHAPE, *words, "--", *NODES, "7", "--tasks")
    job = submitted(slurm, done.stdout)
    assert done.returncode == 7, done.stderr
    assert "NODES n1 n2 n3" in done.stdout
    assert "runs on n[1-3]" in done.stderr
    assert "failed, exit code 7" in done.stderr
    # Slurm has no more to say of where the output went than the record has.
    again = raycluster(slurm, "logs", job.id, "--component", "driver")
    assert "NODES n1 n2 n3" in again.stdout
    assert "raycluster:" not in again.stdout
    ours = raycluster(slurm, "logs", job.id, "--component", "raycluster")
    assert "3 nodes ready" in ours.stdout
    assert all(line.startswith(("raycluster: ", "srun: ")) for line in ours.stdout.splitlines())
    kept = raycluster(slurm, "logs", job.id, "--component", "gcs", "--lines", "3")
    assert kept.returncode == 0, kept.stderr
    assert "(gcs_server)" in kept.stdout
    refused = raycluster(slurm, "exec", job.id, "--", "true")
    assert refused.returncode == 1
    assert "has ended" in refused.stderr
    slurm.assert_nothing_left()


def test_the_drivers_words_arrive_whole(slurm: Slurm) -> None:
    done = raycluster(
        slurm, "submit", "--nodes=1", "--exclusive", "--follow", "--", "python", "-c", PRINT_WORDS, *WORDS
    )
    submitted(slurm, done.stdout)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("WORDS "))
    assert tuple(json.loads(line.removeprefix("WORDS "))) == WORDS


def test_dry_run_save_and_template(slurm: Slurm) -> None:
    words = ("submit", *SHAPE, "-p", "main", "--timeout", "60", "--save", "kept.sbatch", "--dry-run")
    done = raycluster(slurm, *words, "--", "python", "train.py")
    assert done.returncode == 0, done.stderr
    for line in ("#SBATCH --nodes=3", "#SBATCH -p main", "#SBATCH --job-name=train"):
        assert line in done.stdout.splitlines()
    assert "run --timeout=60 \\\n    -- python train.py &\n" in done.stdout
    kept = slurm.bed.path(LOGIN, "/home/alice/kept.sbatch")
    assert kept.read_text() == done.stdout
    assert slurm.run(LOGIN, ["squeue", "--noheader", "--user=alice", "--states=PD,R"]).stdout == ""
    template = "#!/bin/bash\n@SBATCH@\n@ENVIRONMENT@\necho OWN\nsrun --ntasks=1 @DRIVER@\n"
    slurm.bed.path(LOGIN, "/home/alice/own.sbatch").write_text(template)
    done = raycluster(
        slurm, "submit", "--nodes=1", "--exclusive", "--template", "own.sbatch", "--follow", "--", "hostname"
    )
    submitted(slurm, done.stdout)
    assert (done.returncode, done.stdout.splitlines()[-2:]) == (0, ["OWN", "n1"]), done.stderr


def test_a_saved_script_has_the_options_as_they_were_typed(slurm: Slurm) -> None:
    words = ("submit", *SHAPE, "--comment=two words", "-Jmy job", "--save", "typed.sbatch", "--dry-run")
    done = raycluster(slurm, *words, "--", "hostname")
    assert done.returncode == 0, done.stderr
    sbatch = ["sbatch", "--parsable", "--hold", "typed.sbatch"]
    job = slurm.run(LOGIN, sbatch, user="alice", check=True).stdout.strip()
    shown = slurm.run(LOGIN, ["squeue", "--noheader", "--format=%k|%j", f"--jobs={job}"]).stdout
    slurm.run(LOGIN, ["scancel", job], check=True)
    assert shown.strip() == "two words|my job"


def test_wait_is_quiet(slurm: Slurm) -> None:
    """Also: an option is stronger than sbatch's own variable."""
    words = ["raycluster", "submit", "--nodes=1", "--exclusive", "-p", "main", "--wait", "--", *NODES, "3"]
    done = slurm.run(LOGIN, words, user="alice", env={"SBATCH_PARTITION": "nowhere"}, timeout_s=120)
    submitted(slurm, done.stdout)
    assert done.returncode == 3, done.stderr
    assert "NODES" not in done.stdout


@pytest.mark.versions
def test_refusals_come_with_a_hint(slurm: Slurm) -> None:
    refused = (
        ("--partition=nowhere", "sinfo -s"),
        ("--tmie=3", "Did you mean --time? It is not an option of raycluster"),
        ("--folow", "Did you mean --follow?"),
        ("--wrap=true", "its command would run instead of the cluster"),
        ("--output=none-such/x.out", "mkdir -p /home/alice/none-such"),
    )
    for option, hint in refused:
        done = raycluster(slurm, "submit", option, "--", "true")
        assert done.returncode == 2
        # Where the environment of the tests is in a directory of the node alone, a warning comes first.
        (error,) = (line for line in done.stderr.splitlines() if "not on a shared file system" not in line)
        assert hint in error


@pytest.mark.versions
def test_a_job_that_will_never_start_is_told_so_once(slurm: Slurm) -> None:
    """EnforcePartLimits is NO by default: Slurm takes such a job and lets it wait."""
    words = ["raycluster", "submit", "--partition=brief", "--time=60", "--follow", "--", "true"]
    scontrol(slurm, "create", "PartitionName=brief", "Nodes=ALL", "MaxTime=5")
    try:
        with follower(slurm.bed.command(LOGIN, words, user="alice")) as (child, out, err):
            wait_until(lambda: "will never start" in err.read_text(), timeout_s=30, what="the reason")
            submitted(slurm, out.read_text()).cancel()
            assert child.wait(60) == 143
            assert err.read_text().count("will never start") == 1
    finally:
        scontrol(slurm, "delete", "PartitionName=brief")


def scontrol(slurm: Slurm, *words: str) -> None:
    slurm.bed.run(LOGIN, ["scontrol", *words], check=True)


class follower:
    """A command whose output goes to files, so that a test can look at it while it runs."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv

    def __enter__(self) -> tuple[subprocess.Popen[bytes], Path, Path]:
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        out, err = Path(self.directory.name, "out"), Path(self.directory.name, "err")
        with out.open("wb") as one, err.open("wb") as other:
            self.child = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=one, stderr=other, start_new_session=True
            )
        self.out, self.err = out, err
        return self.child, out, err

    def __exit__(self, *_: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.directory.cleanup()


#: Prints a line, and the next when the one before has been seen in the terminal.
TICKS = """
import os, sys, time
for tick in range(3):
    print("TICK", tick, flush=True)
    deadline = time.monotonic() + 60
    while not os.path.exists(f"seen-{tick}"):
        if time.monotonic() > deadline:
            sys.exit(9)
        time.sleep(0.05)
"""


def test_each_line_is_shown_in_a_terminal_before_the_next_is_printed(slurm: Slurm) -> None:
    home = slurm.bed.path(LOGIN, "/home/alice")
    words = ["raycluster", "submit", "--nodes=1", "--exclusive", "--follow", "--", "python", "-c", TICKS]
    with Terminal(slurm.bed.command(LOGIN, words, user="alice")) as terminal:
        for tick in range(3):
            terminal.wait_for(f"TICK {tick}", timeout_s=60)
            (home / f"seen-{tick}").touch()
        terminal.wait_for_end(timeout_s=60)
        text = terminal.text
    submitted(slurm, text)
    assert "completed" in text, text
    assert text.index("TICK 2") < text.rindex("raycluster: the") < text.index("completed"), text


def test_stderr_is_followed_and_an_output_that_only_the_node_sees_is_told(slurm: Slurm) -> None:
    files = ("--output=/tmp/there-%j.out", "--error=err-%j.txt")
    fail = "import ray; ray.init(log_to_driver=False); print('HIDDEN'); raise SystemError('the cause')"
    words = ("submit", "--nodes=1", "--exclusive", *files, "--follow", "--", "python", "-c", fail)
    done = raycluster(slurm, *words)
    job = submitted(slurm, done.stdout)
    assert done.returncode == 1
    assert "SystemError: the cause" in done.stderr
    assert "HIDDEN" not in done.stdout
    end = done.stderr.index(f"raycluster: job {job.id} ended: failed, exit code 1")
    hidden = f"/tmp/there-{job.id}.out is not visible on this host. If it is on a disk of n"
    assert done.stderr.index("SystemError: the cause") < end < done.stderr.index(hidden)


class Terminal:
    """A command in a terminal of its own, and what it has shown there."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv
        self.text = ""

    def __enter__(self) -> Terminal:
        self.pid, self.fd = os.forkpty()
        if self.pid == 0:
            os.execvp(self.argv[0], self.argv)
        return self

    def _read(self) -> bool:
        """Read what there is; whether all that had the terminal open have ended."""
        if select.select([self.fd], [], [], 0.05)[0]:
            try:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:
                return True
        return False

    def wait_for(self, what: str, timeout_s: float) -> None:
        wait_until(
            lambda: self._read() or what in self.text, timeout_s=timeout_s, what=f"{what!r} on the screen"
        )
        assert what in self.text, self.text

    def wait_for_end(self, timeout_s: float) -> None:
        wait_until(self._read, timeout_s=timeout_s, what="the end of the command in the terminal")

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


NOTE_PID = """
import pathlib, subprocess, sys
child = subprocess.Popen(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
sys.exit(child.wait())
"""

HOLD = "import time; print('HOLDING', flush=True); time.sleep(600)"


@pytest.fixture
def running(slurm: Slurm) -> Iterator[Job]:
    """A cluster of three nodes whose driver stays."""
    done = raycluster(slurm, "submit", *SHAPE, "--", "python", "-c", HOLD)
    job = submitted(slurm, done.stdout)
    job.wait_for("HOLDING")
    yield job


def test_detaching_leaves_the_job(slurm: Slurm) -> None:
    words = ["raycluster", "submit", *SHAPE, "--follow", "--", "python", "-c", HOLD]
    started = ["python", "-c", NOTE_PID, "pid", *words]
    with follower(slurm.bed.command(LOGIN, started, user="alice")) as (child, out, err):
        wait_until(lambda: "HOLDING" in out.read_text(), timeout_s=90, what="the driver's output")
        slurm.run(LOGIN, ["bash", "-c", "kill -INT $(cat /home/alice/pid)"], check=True)
        assert child.wait(30) == 130
        text = err.read_text()
        job = submitted(slurm, out.read_text())
    assert f"raycluster logs {job.id} --follow" in text
    assert job.state() == "RUNNING"
    stopped = raycluster(slurm, "stop", job.id)
    assert stopped.returncode == 0, stopped.stderr
    job.wait()
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_a_cluster_from_the_login_node(slurm: Slurm, running: Job) -> None:
    """exec and attach see the cluster and pass codes on, logs are read on the nodes, the token is nowhere."""
    ask = "import ray; ray.init(log_to_driver=False); print('SEES', len(ray.nodes()))"
    done = raycluster(slurm, "exec", running.id, "--", "python", "-c", ask)
    assert "SEES 3" in done.stdout, done.stderr
    there = raycluster(slurm, "exec", running.id, "--node", "n2", "--", "bash", "-c", "hostname; env; exit 9")
    assert there.returncode == 9
    assert there.stdout.splitlines()[0] == "n2"
    assert "RAYCLUSTER_NODE_ROOT" not in there.stdout
    token = slurm.bed.path(LOGIN, f"/home/alice/.raycluster/bed/{running.id}/token").read_text()
    assert token not in there.stdout
    shell = slurm.run(
        LOGIN, ["raycluster", "attach", running.id, "--node", "n3"], user="alice", stdin="hostname; exit 4\n"
    )
    assert (shell.returncode, shell.stdout) == (4, "n3\n"), shell.stderr
    words = [
        "raycluster",
        "exec",
        running.id,
        "-t",
        "--",
        "python",
        "-c",
        "print('SEES', open('/dev/tty').isatty())",
    ]
    with Terminal(slurm.bed.command(LOGIN, words, user="alice")) as terminal:
        terminal.wait_for("SEES True", timeout_s=60)
        terminal.wait_for_end(timeout_s=60)
    raylet = raycluster(slurm, "logs", running.id, "--component", "raylet", "--node", "n3", "--lines", "2")
    assert "raylet.out <==" in raylet.stdout, raylet.stderr
    way = raycluster(slurm, "dashboard", running.id)  # with ray[default]: tests/slurm/test_dashboard.py
    assert (way.returncode, way.stdout) == (1, ""), way.stderr
    assert "pip install 'ray[default]'" in way.stderr
    assert raycluster(slurm, "exec", running.id, "--", "true", user="bob").returncode == 2
    running.cancel()
    running.wait()
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_a_job_submitted_in_a_task_knows_nothing_of_it(slurm: Slurm) -> None:
    """sbatch hands SLURM_* on to the jobs that a task submits; raycluster does not."""
    inner = (
        "raycluster submit --nodes=2 --exclusive --time=5 -- python -c 'import os; print(sorted(os.environ))'"
    )
    outer = slurm.sbatch(
        f"srun --nodes=1 --ntasks=1 {inner}", "--nodes=1", "--exclusive", "--time=5", user="alice"
    )
    outer.wait()
    job = submitted(slurm, outer.output())
    assert job.wait().exit_code == 0, job.output()
    assert "2 nodes ready" in job.output()


@pytest.mark.versions
def test_doctor_asks_all_nodes_of_an_allocation(slurm: Slurm) -> None:
    """One srun; a state directory that is local to each node is found out; nothing stays behind."""
    salloc = ["salloc", "--quiet", "--nodes=3", "--exclusive", "--time=5"]
    well = slurm.run(LOGIN, [*salloc, "raycluster", "doctor", "--json"], user="alice", timeout_s=90)
    found = json.loads(well.stdout)
    assert [node["host"] for node in found["nodes"]] == ["n1", "n2", "n3"]
    assert found["across"][0]["verdict"] == "ok"
    every = [finding for node in found["nodes"] for finding in node["findings"]]
    assert [finding for finding in every if finding["verdict"] == "fail"] == []
    assert {"clock", "way to the head", "shared directory", "ray"} <= {finding["check"] for finding in every}
    assert well.returncode == 0
    bad = slurm.run(
        LOGIN, [*salloc, "raycluster", "doctor", "--state-dir=/tmp/mine"], user="alice", timeout_s=90
    )
    assert bad.returncode == 1
    assert "what n1 writes into /tmp/mine is not seen here [n[2-3]]" in bad.stdout
    assert not list(slurm.bed.path(LOGIN, "/home/alice/.raycluster").glob(".doctor*"))
    for host in ("n1", "n2", "n3"):
        assert not slurm.bed.path(host, "/tmp/mine").exists()


def test_doctor_on_the_login_node_and_on_a_node_of_a_partition(slurm: Slurm) -> None:
    here = raycluster(slurm, "doctor")
    assert "login is not a compute node of this Slurm" in here.stdout
    there = raycluster(slurm, "doctor", "-p", "main", "--json")
    (node,) = json.loads(there.stdout)["nodes"]
    assert node["host"] in ("n1", "n2", "n3"), there.stderr
    assert raycluster(slurm, "doctor", "-p", "none").returncode == 1


def test_a_profile_shared_by_two_projects(slurm: Slurm) -> None:
    """The user's file has it; one project changes a key, the other has no file."""
    home = slurm.bed.path(LOGIN, "/home/alice")
    files = {
        ".config/raycluster/config.toml": '[profiles.small]\nsbatch = "-N 2 --exclusive -t 10"\n'
        'setup = ["export SHARED=yes"]\ngrace = 5\n',
        "one/raycluster.toml": '[profiles.small]\nsbatch = "-N 1 -p nowhere"\n',
    }
    for name, text in files.items():
        slurm.run(LOGIN, ["mkdir", "-p", str(Path("/home/alice", name).parent)], user="alice", check=True)
        (home / name).write_text(text)
    slurm.run(LOGIN, ["mkdir", "-p", "/home/alice/two"], user="alice", check=True)
    driver = "import os; print('JOB', os.environ['SLURM_JOB_NUM_NODES'], os.environ['SHARED'])"
    for project, typed, nodes in (("one", " -p main", "1"), ("two", "", "2")):
        words = f'cd ~/{project} && raycluster submit --profile small{typed} --follow -- python -c "$0"'
        try:
            done = slurm.run(LOGIN, ["bash", "-c", words, driver], user="alice", timeout_s=120)
        finally:
            if project == "two":
                (home / ".config/raycluster/config.toml").unlink()
        assert done.returncode == 0, done.stderr
        assert f"JOB {nodes} yes" in done.stdout
    (home / "one/raycluster.toml").write_text("[defaults]\ntiemout = 3\n")
    done = slurm.run(LOGIN, ["bash", "-c", "cd ~/one && raycluster submit -- true"], user="alice")
    assert done.returncode == 2
    assert "raycluster.toml, [defaults]: there is no key 'tiemout'. Did you mean timeout?" in done.stderr


def test_a_project_of_init_runs_as_it_is(slurm: Slurm) -> None:
    words = "rm -rf x && raycluster init x && cd x && sbatch --parsable symmetric.sbatch"
    done = slurm.run(LOGIN, ["env", "-u", "VIRTUAL_ENV", "bash", "-c", words], user="alice", check=True)
    job = Job(slurm.bed, done.stdout.split()[-1], "alice")
    slurm.jobs.append(job)
    assert job.wait() == JobEnd("COMPLETED", 0, 0)
    output = slurm.bed.path(LOGIN, f"/home/alice/x/ray-{job.id}.out").read_text()
    for host in ("n1", "n2", "n3"):
        assert f"{host}: hello from {host}" in output
    again = raycluster(slurm, "init", "x")
    assert (again.returncode, "exists" in again.stderr) == (0, False)
    slurm.bed.path(LOGIN, "/home/alice/x/driver.py").write_text("mine")
    again = raycluster(slurm, "init", "x")
    assert again.returncode == 2
    assert "x/driver.py exists already; nothing was written" in again.stderr


# -- what lies around a job: its home, its records, its output ------------------------------------------


@pytest.mark.chaos
def test_what_is_appended_to_an_output_is_shown_and_not_what_was_there(slurm: Slurm) -> None:
    output = slurm.bed.path(LOGIN, "/home/alice/appended.out")
    output.write_text("OF AN EARLIER JOB\n")
    slurm.run(LOGIN, ["chown", "alice", "/home/alice/appended.out"], check=True)
    words = ("submit", "--nodes=1", "--exclusive", "--open-mode=append", "--output=appended.out", "--follow")
    done = raycluster(slurm, *words, "--", "hostname")
    submitted(slurm, done.stdout)
    assert (done.returncode, "n1" in done.stdout.splitlines()) == (0, True), done.stderr
    assert "EARLIER" not in done.stdout
    assert "EARLIER" in output.read_text()


@pytest.mark.chaos
def test_submit_warns_of_records_that_cannot_be_written(slurm: Slurm) -> None:
    slurm.run(LOGIN, ["install", "-d", "-m", "555", "/home/alice/sealed"], check=True)
    words = ("submit", "--nodes=1", "--exclusive", "--state-dir=/home/alice/sealed/records", "--dry-run")
    done = raycluster(slurm, *words, "--", "hostname")
    assert done.returncode == 0, done.stderr
    assert "/home/alice/sealed" in done.stderr


@pytest.mark.chaos
@pytest.mark.parametrize("home", ["", "relative"])
def test_a_home_that_is_no_place_is_refused(slurm: Slurm, home: str) -> None:
    words = ["env", f"HOME={home}", "raycluster", "submit", "--nodes=1", "--exclusive", "--", "hostname"]
    done = slurm.run(LOGIN, words, user="alice", timeout_s=120)
    assert done.returncode == 2, done.stdout
    assert "HOME" in done.stderr and "Traceback" not in done.stderr
    inside = slurm.sbatch(f"HOME={home} exec srun raycluster run -- hostname", "--nodes=2", user="alice")
    assert inside.wait().exit_code == 2, inside.output()
    assert "HOME" in inside.output() and "Traceback" not in inside.output()


@pytest.mark.chaos
def test_a_job_that_could_keep_no_record_is_told_as_it_was(slurm: Slurm) -> None:
    done = raycluster(
        slurm, "submit", "--nodes=1", "--exclusive", "--state-dir=/proc/none", "--follow", "--", *NODES, "0"
    )
    job = submitted(slurm, done.stdout)
    why = raycluster(slurm, "why", job.id)
    status = raycluster(slurm, "status", job.id)
    for said in (why.stdout + why.stderr, status.stdout + status.stderr):
        assert "before raycluster started" not in said
        assert "raycluster ran in it" in said
