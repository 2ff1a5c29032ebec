"""Jobs in a container of Charliecloud: `submit` with a profile, `run --container`, exec, a wrong image."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bed.spec import LOGIN
from tests.slurm.batches import NODES, batch
from tests.slurm.cluster import Cluster
from tests.slurm.images import IMAGE, SHOWN, image_of_alice, no_container
from tests.slurm.jobs import JobEnd, Slurm
from tests.slurm.test_submit import raycluster, submitted

CONFIG = "/home/alice/.config/raycluster/config.toml"

IN_CONTAINER = (
    "python",
    "-c",
    "import os; print('IN', os.environ.get('CH_RUNNING'), os.path.exists('/image'))",
)


@pytest.fixture
def image(slurm: Slurm) -> Iterator[Path]:
    """A directory that ch-run takes for an image; skips without ch-run or user namespaces."""
    if why := no_container(slurm):
        (pytest.fail if os.environ.get("CI") == "true" and "ch-run" in why else pytest.skip)(why)
    with image_of_alice(slurm) as root:
        yield root
    slurm.bed.path(LOGIN, CONFIG).unlink(missing_ok=True)  # other tests have no configuration file


def profile(slurm: Slurm, image: str = IMAGE) -> None:
    """A configuration file of alice's with the profile `box`."""
    text = f"""[profiles.box]
container = "{image}"
container_runtime = "charliecloud"
container_mounts = {list(SHOWN)}
"""
    path = slurm.bed.path(LOGIN, CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_job_in_a_container(slurm: Slurm, image: Path) -> None:
    profile(slurm)
    hold = f"{shlex.join(NODES)} 0 --tasks && {shlex.join(IN_CONTAINER)} && echo HOLDING && sleep 600"
    done = raycluster(
        slurm, "submit", "--profile=box", "--nodes=3", "--exclusive", "--time=10", "--", "bash", "-c", hold
    )
    assert done.returncode == 0, done.stderr
    job = submitted(slurm, done.stdout)
    output = job.wait_for("HOLDING")
    assert output.count("the image has raycluster") == 1
    assert "NODES n1 n2 n3" in output
    assert "TASKS n1 n2 n3" in output
    assert "IN Weird Al Yankovic True" in output
    inside = raycluster(
        slurm, "exec", job.id, "--node", "n3", "--", "bash", "-c", "ls /image; echo $RAY_ADDRESS; exit 6"
    )
    assert inside.returncode == 6, inside.stderr
    assert inside.stdout.startswith("/image\n10.")
    job.cancel()
    assert job.wait().state == "CANCELLED"
    slurm.assert_nothing_left()


def test_an_image_without_raycluster_is_told_once(slurm: Slurm, image: Path) -> None:
    (image / "ch/environment").write_text("PATH=/usr/bin:/bin\n")
    profile(slurm)
    done = raycluster(slurm, "submit", "--profile=box", "--nodes=3", "--follow", "--", *NODES, "0")
    submitted(slurm, done.stdout)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.count("raycluster: error:") == 1
    assert "has no raycluster in its PATH" in done.stdout


def test_run_starts_the_container_by_itself(slurm: Slurm, image: Path) -> None:
    options = f"--container={IMAGE} --container-mounts={','.join(SHOWN)}"
    driver = f"{shlex.join(NODES)} 0; {shlex.join(IN_CONTAINER)}; exit 7"
    job = batch(
        slurm,
        f"srun --kill-on-bad-exit=0 raycluster run {options} -- bash -c {shlex.quote(driver)}",
        nodes=2,
        user="alice",
    )
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    output = job.output()
    assert output.count("the image has raycluster") == 1
    assert "NODES n1 n2" in output
    assert "IN Weird Al Yankovic True" in output
    slurm.assert_nothing_left()


SAVES = """
import os, signal, sys, time
def save(number, _):
    print("GOT", number, flush=True)
    time.sleep(2)
    print("SAVED", flush=True)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, save)
print("DRIVING", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("number", "alone"), [("TERM", True), ("INT", True), ("INT", False)])
def test_a_signal_reaches_the_driver_in_the_container_once(
    slurm: Slurm, image: Path, number: str, alone: bool
) -> None:
    """Also one that only the process gets that Slurm has started, the keeper outside."""
    options = f"--container={IMAGE} --container-mounts={','.join(SHOWN)}"
    run = f"srun --kill-on-bad-exit=0 raycluster run {options} -- python -c {shlex.quote(SAVES)}"
    job = batch(slurm, run, nodes=2, user="alice")
    job.wait_for("DRIVING")
    if alone:
        keeper = Cluster(slurm, job, "").pid("n1", "keeper")
        slurm.run("n1", ["kill", f"-{number}", str(keeper)], check=True)
    else:
        slurm.run(LOGIN, ["scancel", f"--signal={number}", f"{job.id}.0"], user="alice", check=True)
    end = job.wait()
    assert (end.exit_code or 128 + end.signal) == {"TERM": 143, "INT": 130}[number], job.output()
    said = [line for line in job.output().splitlines() if line.startswith(("GOT", "SAVED"))]
    assert said == [f"GOT {int(signal.Signals[f'SIG{number}'])}", "SAVED"], job.output()
    slurm.assert_nothing_left()
