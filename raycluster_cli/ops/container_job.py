"""The container of a job that is submitted: the part of its batch script, and the check of the image."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Mapping
from pathlib import Path

from ..model.settings import Settings
from ..model.value import Value
from ..rayproc.requirements import ray_version
from ..slurm.answer import answer_of
from ..system.container_runtime import GPU_WORDS, PROGRAMS, ContainerRun, choose_runtime, container_run
from ..system.image import check_lines, check_words, worker_groups_refused
from ..system.programs import find_program

#: Options of sbatch that ask for GPUs.
GPU_OPTIONS = ("gpus-per-node", "gpus", "gres", "gpus-per-task", "gpus-per-socket")

SRUN_TIMEOUT_S = 20.0


class ContainerLines(Value):
    """The parts of a batch script that are there for the container."""

    prefix: str = ""
    """What comes before raycluster, with a space at its end; "" without a container."""
    check: tuple[str, ...] = ()
    """Lines that check the image; none with pyxis, which would import the image once more for it."""


NO_CONTAINER = ContainerLines()


def container_lines(
    settings: Settings, env: Mapping[str, str], state_dir: Path, *, here: Path, gpus: bool
) -> ContainerLines:
    """The lines for the container that the settings ask for.  Raises UsageError for what no runtime can do.

    ``here``: the job's working directory; ``gpus``: the job asks for GPUs.
    """
    image = settings.container
    if not image:
        return NO_CONTAINER
    if settings.max_nodes is not None or settings.config:
        raise worker_groups_refused()
    is_directory = os.path.isdir(here / image)
    runtime = choose_runtime(
        image, settings.container_runtime, lambda each: is_there(each, env), is_directory=is_directory
    )
    user = pwd.getpwuid(os.geteuid())
    container = container_run(
        image,
        runtime,
        settings.container_mounts,
        settings.container_workdir,
        home=env.get("HOME") or user.pw_dir,
        directory=str(here),
        user=env.get("USER") or user.pw_name,
        is_root=os.geteuid() == 0,
        records=str(state_dir),
        exists=lambda path: os.path.exists(here / path),
    )
    words = shell_words(container, gpus=gpus)
    check = (
        []
        if runtime == "pyxis"
        else check_lines(words, check_words(state_dir, ray_version()), image, container.program)
    )
    return ContainerLines(f"{words} ", tuple(check))


def shell_words(container: ContainerRun, *, gpus: bool) -> str:
    """The words before the command, quoted for the shell; which GPUs a node has is seen in the job.

    >>> shell_words(ContainerRun("my ray.sif", "apptainer", "/home/ada", "/home/ada"), gpus=True)
    "apptainer exec $([ -e /dev/kfd ] && echo --rocm || echo --nv) 'my ray.sif'"
    """
    if not gpus or container.runtime not in GPU_WORDS:
        return shlex.join(container.words())
    nvidia, amd = GPU_WORDS[container.runtime]
    choice = f"$([ -e /dev/kfd ] && echo {shlex.join(amd)} || echo {shlex.join(nvidia)})"
    return shlex.join(container.words(("@GPU@",))).replace("@GPU@", choice, 1)


def is_there(runtime: str, env: Mapping[str, str]) -> bool:
    """Whether this host has a container runtime; pyxis shows in the help of srun."""
    program = find_program(PROGRAMS[runtime], env)
    if program is None or runtime != "pyxis":
        return program is not None
    done = answer_of([program, "--help"], env, timeout_s=SRUN_TIMEOUT_S)
    return done is not None and "--container-image" in done.stdout
