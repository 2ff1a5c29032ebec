"""The container of a job that is submitted: lines of its batch script, run by a shell."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from raycluster_cli.model.errors import UsageError
from raycluster_cli.model.settings import Settings
from raycluster_cli.ops.container_job import ContainerLines, container_lines, is_there

PLAIN = "#!/bin/sh\nexit 0\n"


def program(directory: Path, name: str, text: str = PLAIN) -> dict[str, str]:
    """An environment in whose PATH a program is."""
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)
    return {"HOME": "/home/ada", "USER": "ada", "PATH": f"{directory}:/usr/bin:/bin"}


def lines(here: Path, env: dict[str, str], *, gpus: bool = False, **settings: str) -> ContainerLines:
    records = Path("/home/ada/.raycluster")
    return container_lines(Settings(**settings), env, records, here=here, gpus=gpus)  # type: ignore[arg-type]


def test_no_container(tmp_path: Path) -> None:
    assert lines(tmp_path, {}) == ContainerLines()


def test_the_gpus_are_those_of_the_node(tmp_path: Path) -> None:
    found = lines(tmp_path, {"HOME": "/home/ada"}, gpus=True, container="my ray.sif")
    shell = ["bash", "-c", f"printf '<%s>' {found.prefix}"]
    shown = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    flag = "--rocm" if os.path.exists("/dev/kfd") else "--nv"
    assert shown == f"<apptainer><exec><{flag}><my ray.sif>"


def test_pyxis_is_seen_in_the_help_of_srun_and_checks_nothing(tmp_path: Path) -> None:
    with_it = program(tmp_path / "a", "srun", "#!/bin/sh\necho '  --container-image=IMAGE  [pyxis]'\n")
    without = program(tmp_path / "b", "srun", "#!/bin/sh\necho '  --container=PATH  OCI bundle'\n")
    assert (is_there("pyxis", with_it), is_there("pyxis", without)) == (True, False)
    found = lines(tmp_path, with_it, container="ray.sqsh")
    assert found.prefix.startswith("--container-image=ray.sqsh --container-mounts=/home/ada:/home/ada,")
    assert found.check == ()


@pytest.mark.parametrize(
    ("code", "ends", "said"),
    [
        (0, 0, ""),
        (2, 2, ""),
        (127, 2, "the image ray.sif does not start with apptainer, or has no raycluster in its PATH"),
        (None, 2, "apptainer was not found on this node"),
    ],
)
def test_the_check(tmp_path: Path, code: int | None, ends: int, said: str) -> None:
    """An image that has told its own error (2) needs no other."""
    env = program(tmp_path / "bin", "apptainer", f"#!/bin/sh\nexit {code}\n")
    found = lines(tmp_path, env, container="ray.sif")
    if code is None:
        (tmp_path / "bin/apptainer").unlink()
    script = "\n".join([*found.check, "echo GOES ON"])
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (ends, "" if ends else "GOES ON\n")
    assert said in done.stderr
    assert done.stderr.count("\n") == (1 if said else 0)


def test_worker_jobs_would_be_outside(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="do not go together"):
        container_lines(
            Settings(container="ray.sif", max_nodes=4),
            {"HOME": "/home/ada"},
            tmp_path,
            here=tmp_path,
            gpus=False,
        )
