"""`raycluster run --container`: this process becomes the container, with the same command in the image.

Supervisor and Ray are in the container, and so is the keeper that looks after them.  The keeper outside waits
for the container, and hands on the signals that it gets.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from ..config.worker_groups import read_worker_groups
from ..model.errors import ExitCode, RayclusterError, UsageError
from ..model.settings import Settings, option_words, settings_of, variable_name
from ..model.variables import CONTAINER
from ..system.container_runtime import GPU_WORDS, PROGRAMS, ContainerRun, choose_runtime, container_run
from ..system.image import HOST_PYTHON, check_words, failure, worker_groups_refused
from ..system.keeper_link import Keeper

#: How long the check of the image may take: it may have to be unpacked first.
CHECK_S = 600.0


def enter_container(
    command: str,
    settings: Settings,
    driver: tuple[str, ...],
    env: Mapping[str, str],
    state_dir: Path,
    keeper: Keeper | None,
) -> NoReturn:
    """Replace this process by the container.  Raises UsageError where the image cannot be used.

    The head checks what is in the image before it starts; the other nodes rely on it.
    """
    if settings.max_nodes is not None or (settings.config and read_worker_groups(Path(settings.config))):
        raise worker_groups_refused()
    container = _container(settings, env, state_dir)
    program = shutil.which(container.program, path=env.get("PATH"))
    if program is None:
        raise UsageError(
            f"{container.program} was not found on {socket.gethostname()}.",
            "Load its module, or name another runtime with --container-runtime.",
        )
    words = container.words(gpu_words(container.runtime, settings, env))
    inner = environment_inside(env)
    if command == "head" or (command == "run" and env.get("SLURM_PROCID", "0") == "0"):
        _check(container, [*words, *check_words(state_dir)], inner)
    line = [*words, "raycluster", *arguments_inside(command, settings, env)]
    line += ["--", *driver] if driver else []
    if settings.verbose:
        print(f"raycluster: starting {shlex.join(line)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for number in keeper.signals_not_read() if keeper is not None else b"":
        os.kill(os.getpid(), number)  # blocked, and so it waits for the keeper in the container
    os.execve(program, line, inner)


def _container(settings: Settings, env: Mapping[str, str], state_dir: Path) -> ContainerRun:
    path = env.get("PATH")

    def is_there(runtime: str) -> bool:
        return runtime != "pyxis" and shutil.which(PROGRAMS[runtime], path=path) is not None

    image = settings.container
    runtime = choose_runtime(image, settings.container_runtime, is_there, is_directory=os.path.isdir(image))
    if runtime == "pyxis":
        raise UsageError(
            f"no runtime that can start {image} was found on {socket.gethostname()}."
            if settings.container_runtime == "auto"
            else "pyxis starts the container with srun, before raycluster starts.",
            "Give srun --container-image=IMAGE, or use `raycluster submit --container IMAGE`; "
            "--container-runtime names another runtime.",
        )
    user = pwd.getpwuid(os.geteuid())
    return container_run(
        image,
        runtime,
        settings.container_mounts,
        settings.container_workdir,
        home=env.get("HOME") or user.pw_dir,
        directory=os.getcwd(),
        user=env.get("USER") or user.pw_name,
        is_root=os.geteuid() == 0,
        records=str(state_dir),
    )


def gpu_words(runtime: str, settings: Settings, env: Mapping[str, str]) -> tuple[str, ...]:
    """The runtime's options for GPUs, on a node that was granted some."""
    granted = settings.num_gpus or any(
        env.get(name) for name in ("SLURM_GPUS_ON_NODE", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
    )
    if not granted or runtime not in GPU_WORDS:
        return ()
    nvidia, amd = GPU_WORDS[runtime]
    return amd if os.path.exists("/dev/kfd") else nvidia


def arguments_inside(command: str, settings: Settings, env: Mapping[str, str]) -> list[str]:
    """The arguments of raycluster in the container: what was set outside, from all sources.

    >>> arguments_inside("run", Settings(container="x.sif", timeout=60.0, tls=True), {})
    ['run', '--timeout=60', '--no-config-files', '--tls']
    """
    words = [command]
    for one in settings_of(command):
        value = getattr(settings, one.name)
        if one.name == "config_files":
            words.append("--no-config-files")
        elif one.name not in (*CONTAINER, "profile") and (
            value != one.default or variable_name(one.name) in env
        ):
            words += option_words(one.name, value)
    return words


def environment_inside(env: Mapping[str, str]) -> dict[str, str]:
    """The variables in the container: none of the host's Python, nor of the container's own options."""
    dropped = {*HOST_PYTHON, *map(variable_name, CONTAINER)}
    return {name: text for name, text in env.items() if name not in dropped}


def _check(container: ContainerRun, line: list[str], env: Mapping[str, str]) -> None:
    """Start the image once to check what is in it.  Raises RayclusterError where it cannot be used."""
    try:
        done = subprocess.run(line, env=env, stdin=subprocess.DEVNULL, timeout=CHECK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise RayclusterError(
            f"the image {container.image} did not start within {CHECK_S:g} s.",
            f"Try `{shlex.join(line)}` on a node.",
        ) from error
    except OSError as error:
        raise RayclusterError(f"{container.program} cannot be started: {error.strerror}.") from error
    if done.returncode == ExitCode.USAGE:  # it has said why
        sys.exit(int(ExitCode.USAGE))
    if done.returncode:
        raise UsageError(*failure(container.image, container.program, done.returncode))
