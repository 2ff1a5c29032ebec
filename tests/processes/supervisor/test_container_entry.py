"""`raycluster run --container`: what goes into the container, and what is wrong before it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raycluster_cli.model.settings import Settings
from raycluster_cli.supervisor.container_entry import arguments_inside, environment_inside, gpu_words

RUNTIME = """#!/bin/sh
# A runtime that starts no container: `apptainer exec [OPTION]... IMAGE COMMAND`.
[ "$1" = exec ] || exit 9
echo "$@" >> {log}
while [ "${{1%.sif}}" = "$1" ]; do shift; done
[ "$3" = image-check ] && exit {code}
echo STARTED "$@" "venv=$VIRTUAL_ENV" "container=$RAYCLUSTER_CONTAINER"
exit 7
"""


def call(
    tmp_path: Path, *arguments: str, code: int = 0, **env: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """`raycluster ARGUMENTS` with RUNTIME as apptainer: what it did, and how the runtime was called."""
    log = tmp_path / "calls"
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "apptainer").write_text(RUNTIME.format(log=log, code=code))
    (binaries / "apptainer").chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "raycluster_cli", *arguments],
        env={
            "HOME": str(tmp_path),
            "USER": "ada",
            "VIRTUAL_ENV": "/venv",
            "PATH": str(binaries),
            "RAYCLUSTER_CONFIG_FILES": "0",
            **env,
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, log.read_text() if log.exists() else ""


@pytest.mark.parametrize("command", ["run", "head"])
@pytest.mark.parametrize("groups", [("--max-nodes=4",), ("--config=groups.toml",)])
def test_worker_jobs_would_start_outside_the_container(
    tmp_path: Path, command: str, groups: tuple[str, ...]
) -> None:
    (tmp_path / "groups.toml").write_text("[workers.gpu]\nmax = 4\n")
    done, calls = call(tmp_path, command, "--container=ray.sif", *groups)
    assert (done.returncode, calls) == (2, "")
    assert "--container and worker groups" in done.stderr
    assert "raycluster worker --cluster JOB --container IMAGE" in done.stderr


def test_the_same_command_starts_in_the_image(tmp_path: Path) -> None:
    line = ("run", "--container", "ray.sif", "--timeout=60", "--", "python", "train.py", "--container=x")
    done, calls = call(tmp_path, *line)
    assert done.returncode == 7, done.stderr
    inside = "raycluster run --timeout=60 --no-config-files -- python train.py --container=x"
    assert done.stdout == f"STARTED ray.sif {inside} venv= container=\n"
    check = f"exec ray.sif raycluster image-check --state-dir={tmp_path}/.raycluster"
    assert calls.splitlines() == [check, f"exec ray.sif {inside}"]


def test_by_variables_and_not_checked_by_each_node(tmp_path: Path) -> None:
    done, calls = call(tmp_path, "run", "--", "true", SLURM_PROCID="1", RAYCLUSTER_CONTAINER="ray.sif")
    assert done.stdout.startswith("STARTED ray.sif raycluster run --no-config-files -- true "), done.stderr
    assert len(calls.splitlines()) == 1


@pytest.mark.parametrize(("code", "said"), [(255, "has no raycluster in its PATH (exit code 255)"), (2, "")])
def test_an_image_that_is_wrong(tmp_path: Path, code: int, said: str) -> None:
    done, calls = call(tmp_path, "head", "--container=ray.sif", "--", "true", code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == (1 if said else 0)
    assert len(calls.splitlines()) == 1


def test_no_runtime(tmp_path: Path) -> None:
    done, _ = call(tmp_path, "run", "--container=ray.sif", "--container-runtime=podman", PATH="/nowhere")
    assert done.returncode == 2
    assert "podman was not found on" in done.stderr


def test_pyxis_cannot_be_started_from_here(tmp_path: Path) -> None:
    done, _ = call(tmp_path, "worker", "--container=nvcr.io#nvidia/ray:1")
    assert done.returncode == 2
    assert "no runtime that can start nvcr.io#nvidia/ray:1 was found" in done.stderr
    assert "srun --container-image=IMAGE" in done.stderr


def test_a_driver_with_such_an_option_is_no_container(tmp_path: Path) -> None:
    done, calls = call(tmp_path, "run", "driver", "--container=ray.sif")
    assert done.returncode == 2
    assert "was started outside a Slurm job" in done.stderr
    assert not calls


def test_what_variables_set_is_said_again() -> None:
    """Also where it is the default: the variable is there in the container."""
    assert arguments_inside("worker", Settings(), {"RAYCLUSTER_TIMEOUT": "60"}) == [
        *("worker", "--timeout=300", "--no-config-files")
    ]


def test_the_environment() -> None:
    env = {"SLURM_JOB_ID": "7", "CONDA_PREFIX": "/conda", "RAYCLUSTER_CONTAINER_MOUNTS": "/x"}
    assert environment_inside(env) == {"SLURM_JOB_ID": "7"}


def test_gpus() -> None:
    words = ("--rocm",) if os.path.exists("/dev/kfd") else ("--nv",)
    assert gpu_words("apptainer", Settings(), {"SLURM_GPUS_ON_NODE": "2"}) == words
    assert gpu_words("apptainer", Settings(num_gpus=1), {}) == words
    assert gpu_words("apptainer", Settings(), {}) == ()
    assert gpu_words("charliecloud", Settings(num_gpus=1), {}) == ()


#: A runtime whose container hears one signal, as the keeper in a real one: they are blocked until then.
HEARS = """#!{python}
import os, signal, sys, time
if "image-check" in sys.argv:
    print("CHECKING", flush=True)
    while not os.path.exists("{go}"):
        time.sleep(0.01)
    sys.exit(0)
heard = []
signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
print("STARTED", flush=True)
while not heard:
    time.sleep(0.01)
print("HEARD", *heard, flush=True)
sys.exit(5)
"""


@pytest.mark.parametrize("when", ["CHECKING", "STARTED"])
def test_a_signal_to_the_keeper_outside_reaches_the_container(tmp_path: Path, when: str) -> None:
    """Slurm may signal the process alone that it has started (proctrack/cgroup)."""
    go = tmp_path / "go"
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "apptainer").write_text(HEARS.format(python=sys.executable, go=go))
    (binaries / "apptainer").chmod(0o755)
    env = {
        "HOME": str(tmp_path),
        "USER": "ada",
        "PATH": str(binaries),
        "RAYCLUSTER_CONFIG_FILES": "0",
        "SLURM_PROCID": "0",
    }
    line = [sys.executable, "-m", "raycluster_cli", "run", "--container=ray.sif", "--", "true"]
    with subprocess.Popen(line, env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if when == "STARTED":
            go.touch()
        while process.stdout.readline() != f"{when}\n":
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        go.touch()
        said, _ = process.communicate(timeout=60)
    assert said.splitlines()[-1] == f"HEARD {int(signal.SIGTERM)}"
    assert process.returncode == 5
