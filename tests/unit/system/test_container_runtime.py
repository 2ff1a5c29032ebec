"""Command lines of container runtimes, as their manuals have them."""

from __future__ import annotations

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.system.container_runtime import (
    GPU_WORDS,
    BindMount,
    ContainerRun,
    choose_runtime,
    container_run,
    parse_mounts,
)

HOME, HERE = "/home/ada", "/home/ada/project"

KEPT = ["--network=host", "--ipc=host", "--uts=host", "--cgroups=disabled"]
PODMAN = ["podman", "run", "--rm", *KEPT, "--env-host", "--ulimit=host", "--security-opt=label=disable"]


def made(image: str, runtime: str, mounts: str = "", workdir: str = "", **more: object) -> ContainerRun:
    values: dict[str, object] = {
        "home": HOME,
        "directory": HERE,
        "user": "ada",
        "is_root": False,
        "records": f"{HOME}/.raycluster",
        "exists": lambda path: False,
    }
    return container_run(image, runtime, mounts, workdir, **(values | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("program", ["apptainer", "singularity"])
def test_apptainer(program: str) -> None:
    nvidia, amd = GPU_WORDS[program]
    plain = made("ray.sif", program)
    assert plain.words() == [program, "exec", "ray.sif"]
    assert plain.words(nvidia) == [program, "exec", "--nv", "ray.sif"]
    assert plain.words(amd) == [program, "exec", "--rocm", "ray.sif"]
    full = made("docker://rayproject/ray", program, "/scratch,/data:/in:ro", "/in")
    options = ["--bind=/scratch:/scratch", "--bind=/data:/in:ro", "--pwd=/in"]
    assert full.words() == [program, "exec", *options, "docker://rayproject/ray"]


def test_pyxis_gets_options_of_srun() -> None:
    assert made("nvcr.io#nvidia/ray:1", "pyxis", "/data:/in:ro").words() == [
        "--container-image=nvcr.io#nvidia/ray:1",
        "--container-mounts=/home/ada:/home/ada,/tmp:/tmp,/data:/in:ro",
        "--container-workdir=/home/ada/project",
        "--no-container-remap-root",
    ]
    elsewhere = made("x", "pyxis", directory="/scratch/ada", workdir="/w").words()
    assert elsewhere[1] == "--container-mounts=/home/ada:/home/ada,/scratch/ada:/scratch/ada,/tmp:/tmp"
    assert elsewhere[2] == "--container-workdir=/w"


def test_podman_keeps_the_hosts_namespaces_and_the_steps_cgroup() -> None:
    nvidia, amd = GPU_WORDS["podman"]
    places = ["--volume=/home/ada:/home/ada", "--volume=/tmp:/tmp"]
    end = ["--workdir=/home/ada/project", "--entrypoint=", "ray:1"]
    assert made("ray:1", "podman").words() == [*PODMAN, "--userns=keep-id", *places, *end]
    assert made("ray:1", "podman", is_root=True).words() == [*PODMAN, *places, *end]
    assert "--device=nvidia.com/gpu=all" in made("ray:1", "podman").words(nvidia)
    assert made("ray:1", "podman").words(amd)[11:13] == ["--device=/dev/kfd", "--device=/dev/dri"]
    directory = made("image", "podman", "/data:/data:ro", exists={"image"}.__contains__).words()
    assert directory[-2:] == ["--rootfs", "./image"]
    assert "--volume=/data:/data:ro" in directory


def test_charliecloud() -> None:
    plain = made("image", "charliecloud", exists={"image", "./image/ch/environment"}.__contains__)
    variables = "--set-env=./image/ch/environment"
    assert plain.words() == ["ch-run", "--home", "--cd=/home/ada/project", variables, "./image", "--"]
    other = made("/i", "charliecloud", "/data", "/data", home="/users/ada", directory="/scratch")
    assert other.words() == [
        *("ch-run", "--bind=/users/ada:/users/ada", "--bind=/scratch:/scratch"),
        *(
            "--bind=/data:/data",
            "--bind=/home/ada/.raycluster:/home/ada/.raycluster",
            "--cd=/data",
            "/i",
            "--",
        ),
    ]


@pytest.mark.parametrize(
    ("records", "mounted"),
    [
        (f"{HOME}/.raycluster", ()),
        (f"{HERE}/records", ()),
        ("/shared/records", (BindMount("/shared/records", "/shared/records"),)),
    ],
)
def test_the_records_are_seen_in_the_container(records: str, mounted: tuple[BindMount, ...]) -> None:
    assert made("ray.sif", "apptainer", records=records).mounts == mounted
    assert len(made("ray.sif", "apptainer", "/shared", records=records).mounts) == 1


@pytest.mark.parametrize(
    ("image", "there", "is_directory", "chosen"),
    [
        ("ray.sif", (), False, "apptainer"),
        ("ray.sif", ("singularity", "podman"), False, "singularity"),
        ("docker://rayproject/ray", ("pyxis", "podman"), False, "apptainer"),
        ("image", ("charliecloud", "podman"), True, "charliecloud"),
        ("image", ("podman",), True, "podman"),
        ("image", (), True, "apptainer"),
        ("ray.sqsh", ("charliecloud",), False, "charliecloud"),
        ("ray.sqsh", ("pyxis", "apptainer"), False, "pyxis"),
        ("ray.sqsh", (), False, "pyxis"),
        ("rayproject/ray:2.60", ("podman", "apptainer"), False, "podman"),
        ("rayproject/ray:2.60", ("apptainer",), False, "pyxis"),
    ],
)
def test_the_runtime_that_is_there(
    image: str, there: tuple[str, ...], is_directory: bool, chosen: str
) -> None:
    assert choose_runtime(image, "auto", there.__contains__, is_directory=is_directory) == chosen
    assert choose_runtime(image, "podman", there.__contains__, is_directory=is_directory) == "podman"


@pytest.mark.parametrize("text", ["data", "/data:in", "/data:/in:rw2", "/a:/b:ro:x", ":/in", "./x:/in"])
def test_wrong_mounts(text: str) -> None:
    with pytest.raises(UsageError, match="--container-mounts has"):
        parse_mounts(text)


def test_what_a_runtime_cannot_do() -> None:
    with pytest.raises(UsageError, match=":ro, which ch-run"):
        made("image", "charliecloud", "/data:/data:ro")
    with pytest.raises(UsageError, match="absolute path"):
        made("ray.sif", "apptainer", workdir="project")
    with pytest.raises(UsageError, match="a colon or a comma"):
        made("ray.sif", "apptainer", directory="/home/ada/a,b")
