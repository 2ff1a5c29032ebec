"""Container runtimes: the command line with which each of them runs a command in an image.

The container keeps what a Ray node needs of its host: network, /dev/shm, /tmp, the home directory, the
working directory and the environment with Slurm's variables.  Nothing here runs a command.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable

from ..model.errors import UsageError
from ..model.value import Value

#: Runtimes and their programs; pyxis is a plugin of srun, which gets options instead.
PROGRAMS = {
    "apptainer": "apptainer",
    "singularity": "singularity",
    "pyxis": "srun",
    "podman": "podman",
    "charliecloud": "ch-run",
}

#: Options that let a container use the GPUs of NVIDIA, and those of AMD.
GPU_WORDS = {
    "apptainer": (("--nv",), ("--rocm",)),
    "singularity": (("--nv",), ("--rocm",)),
    "podman": (("--device=nvidia.com/gpu=all",), ("--device=/dev/kfd", "--device=/dev/dri")),
}

#: Which runtimes can start an image, by what it looks like; the first is taken where none is found.
_BY_KIND = {
    "file": ("apptainer", "singularity"),
    "url": ("apptainer", "singularity"),
    "squashfs": ("pyxis", "apptainer", "singularity", "charliecloud"),
    "directory": ("apptainer", "singularity", "charliecloud", "podman"),
    "name": ("pyxis", "podman"),
}


class BindMount(Value):
    """A directory or file of the host in the container."""

    source: str
    target: str
    read_only: bool = False

    def text(self) -> str:
        """As apptainer, podman and pyxis take it.

        >>> BindMount("/data", "/in", True).text()
        '/data:/in:ro'
        """
        return f"{self.source}:{self.target}{':ro' if self.read_only else ''}"


class ContainerRun(Value):
    """How the commands of a node run in a container."""

    image: str
    runtime: str
    """A key of :data:`PROGRAMS`."""
    home: str
    """The home directory, which the container sees under the same name."""
    directory: str
    """The working directory of the job, which the container sees under the same name."""
    user: str = ""
    is_root: bool = False
    mounts: tuple[BindMount, ...] = ()
    workdir: str = ""
    """The working directory in the container, if it is another one."""
    environment_file: str = ""
    """A file with the image's variables; charliecloud does not read it by itself."""

    @property
    def program(self) -> str:
        """The command that must be there."""
        return PROGRAMS[self.runtime]

    def words(self, gpu: tuple[str, ...] = ()) -> list[str]:
        """What comes before the command that runs in the container; for pyxis these are options of srun.

        ``gpu``: options from :data:`GPU_WORDS`.

        >>> ContainerRun("ray.sif", "apptainer", "/home/ada", "/home/ada/x").words(("--nv",))
        ['apptainer', 'exec', '--nv', 'ray.sif']
        """
        return {"pyxis": self._pyxis, "podman": self._podman, "charliecloud": self._charliecloud}.get(
            self.runtime, self._apptainer
        )(gpu)

    def _apptainer(self, gpu: tuple[str, ...]) -> list[str]:
        # It binds /tmp, /dev/shm, the home and the working directory by itself, and keeps the environment.
        # --pwd: newer versions of apptainer call it --cwd too, singularity does not.
        binds = [f"--bind={mount.text()}" for mount in self.mounts]
        workdir = [f"--pwd={self.workdir}"] if self.workdir else []
        return [self.program, "exec", *gpu, *binds, *workdir, self.image]

    def _pyxis(self, _: tuple[str, ...]) -> list[str]:
        # enroot has a small tmpfs of its own at /tmp; it shows the host's /dev/shm and the GPUs by itself.
        mounts = [*self._places(), BindMount("/tmp", "/tmp"), *self.mounts]
        return [
            f"--container-image={self.image}",
            f"--container-mounts={','.join(mount.text() for mount in mounts)}",
            f"--container-workdir={self.workdir or self.directory}",
            "--no-container-remap-root",
        ]

    def _podman(self, gpu: tuple[str, ...]) -> list[str]:
        mounts = [*self._places(), BindMount("/tmp", "/tmp"), *self.mounts]
        return [
            *("podman", "run", "--rm"),
            *("--network=host", "--ipc=host", "--uts=host"),
            # The processes stay in the cgroup of the Slurm step, which limits and ends them.  podman refuses
            # --pid=host with it: raycluster is process 1 of the container, and its end the end of all in it.
            "--cgroups=disabled",
            *("--env-host", "--ulimit=host", "--security-opt=label=disable"),
            *(() if self.is_root else ("--userns=keep-id",)),
            *gpu,
            *(f"--volume={mount.text()}" for mount in mounts),
            f"--workdir={self.workdir or self.directory}",
            "--entrypoint=",
            *(("--rootfs",) if self.image.startswith(("/", "./", "../")) else ()),
            self.image,
        ]

    def _charliecloud(self, _: tuple[str, ...]) -> list[str]:
        # ch-run shows the host's /dev and /tmp by itself.  Only below /home it makes missing mount points.
        is_usual = self.home == f"/home/{self.user}"
        places = [place for place in self._places() if not (is_usual and place.source == self.home)]
        return [
            "ch-run",
            *(("--home",) if is_usual else ()),
            *(f"--bind={mount.source}:{mount.target}" for mount in (*places, *self.mounts)),
            f"--cd={self.workdir or self.directory}",
            *((f"--set-env={self.environment_file}",) if self.environment_file else ()),
            self.image,
            "--",
        ]

    def _places(self) -> list[BindMount]:
        """The home and the working directory, where it is not in another place that is there."""
        inside = any(is_below(self.directory, place) for place in (self.home, "/tmp"))
        return [BindMount(place, place) for place in (self.home, *(() if inside else (self.directory,)))]


def is_below(path: str, directory: str) -> bool:
    """Whether a path is a directory, or something in it, by its name.

    >>> is_below("/home/ada/x", "/home/ada"), is_below("/home/adam", "/home/ada")
    (True, False)
    """
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def parse_mounts(text: str) -> tuple[BindMount, ...]:
    """Read --container-mounts.  Raises UsageError.

    >>> [mount.text() for mount in parse_mounts("/scratch,/data:/in:ro")]
    ['/scratch:/scratch', '/data:/in:ro']
    """
    mounts = []
    for word in filter(None, text.split(",")):
        match = re.fullmatch(r"(/[^:]*)(?::(/[^:]*))?(?::(ro|rw))?", word)
        if not match:
            raise UsageError(
                f"--container-mounts has {word!r}; a mount is SOURCE:TARGET or SOURCE:TARGET:ro, with "
                "absolute paths.",
                "For example --container-mounts=/scratch:/scratch,/data:/data:ro.",
            )
        mounts.append(BindMount(match[1], match[2] or match[1], match[3] == "ro"))
    return tuple(mounts)


def choose_runtime(image: str, given: str, is_there: Callable[[str], bool], *, is_directory: bool) -> str:
    """The runtime for an image: the one that was given, else the first that is there and can start it.

    Where none is there, the job may find it on its nodes (`module load`): the most usual one.

    >>> choose_runtime("ray.sif", "auto", lambda runtime: False, is_directory=False)
    'apptainer'
    >>> choose_runtime("nvcr.io#nvidia/ray:25.01", "auto", {"podman"}.__contains__, is_directory=False)
    'podman'
    """
    if given != "auto":
        return given
    fitting = _BY_KIND[_kind(image, is_directory)]
    return next((runtime for runtime in fitting if is_there(runtime)), fitting[0])


def _kind(image: str, is_directory: bool) -> str:
    if is_directory:
        return "directory"
    if "://" in image:
        return "url"
    ending = os.path.splitext(image)[1]
    if ending in (".sqsh", ".squashfs", ".sqfs"):
        return "squashfs"
    return "file" if ending in (".sif", ".img", ".simg") else "name"


def container_run(
    image: str,
    runtime: str,
    mounts: str,
    workdir: str,
    *,
    home: str,
    directory: str,
    user: str,
    is_root: bool,
    records: str,
    exists: Callable[[str], bool] = os.path.exists,
) -> ContainerRun:
    """The container that settings ask for; ``records`` is the directory of the records, which it must see.

    Raises UsageError for what the runtime cannot do.
    """
    found = parse_mounts(mounts)
    if workdir and not os.path.isabs(workdir):
        raise UsageError(f"--container-workdir is {workdir!r}; it must be an absolute path.")
    if re.search(r"[:,]", home + directory):
        raise UsageError(f"a container cannot mount {directory}: its name has a colon or a comma.")
    if runtime == "charliecloud" and any(mount.read_only for mount in found):
        raise UsageError(
            "--container-mounts has a mount with :ro, which ch-run (Charliecloud) does not know.",
            "Leave :ro out; files are as writable in the container as they are for you outside.",
        )
    if not any(is_below(records, place) for place in (home, directory, *(each.target for each in found))):
        found = (*found, BindMount(records, records))
    if runtime in ("charliecloud", "podman") and is_path(image, exists) and not image.startswith(("/", ".")):
        image = f"./{image}"  # else it is the name of an image in the runtime's storage
    variables = f"{image}/ch/environment"
    return ContainerRun(
        image,
        runtime,
        home,
        directory,
        user=user,
        is_root=is_root,
        mounts=found,
        workdir=workdir,
        environment_file=variables if runtime == "charliecloud" and exists(variables) else "",
    )


def is_path(image: str, exists: Callable[[str], bool]) -> bool:
    """Whether an image is a file or directory of this host."""
    return image.startswith(("/", "./", "../")) or exists(image)
