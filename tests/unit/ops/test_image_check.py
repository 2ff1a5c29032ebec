"""What a container image has, as it is looked at from inside."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from raycluster_cli import __version__
from raycluster_cli.model.errors import UsageError
from raycluster_cli.ops import image_check
from raycluster_cli.ops.image_check import check_image
from tests.unit.command_lines import run_line

HAS = f"the image has raycluster {__version__}, Ray 2.60.0 and Python {platform.python_version()}"
Image = Callable[..., Path]


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    """Says which Ray there is, and what cannot be written; returns the state directory."""

    def one(ray: str = "2.60.0", *read_only: str) -> Path:
        monkeypatch.setattr(image_check, "ray_version", lambda: ray)
        access = os.access
        monkeypatch.setattr(
            os, "access", lambda path, mode: str(path) not in map(str, read_only) and access(path, mode)
        )
        return tmp_path / "shared" / "state"

    return one


@pytest.mark.parametrize(
    ("outside", "lines"),
    [
        ("", [HAS]),
        ("2.60.0", [HAS]),
        (
            "2.52.1",
            [
                HAS,
                "warning: where the job was submitted, Ray is 2.52.1; ray.init() from there does not connect "
                "to Ray 2.60.0",
            ],
        ),
    ],
)
def test_an_image_that_works(image: Image, outside: str, lines: list[str]) -> None:
    where = image()
    assert check_image(where, outside) == lines
    assert not where.parent.exists()  # nothing is made
    done = run_line("image-check", f"--state-dir={where}", f"--ray={outside}")
    assert (done.returncode, done.stderr.splitlines()) == (0, [f"raycluster: {line}" for line in lines])


@pytest.mark.parametrize(
    ("ray", "read_only", "message"),
    [
        ("", (), "the image has raycluster, but no Ray for its "),
        ("2.51.9", (), "the image has Ray 2.51.9; raycluster needs 2.52 or newer"),
        ("1.99", (), "the image has Ray 1.99; raycluster needs 2.52 or newer"),
        ("2.60.0", ("/tmp",), "/tmp cannot be written in the container; Ray needs it"),
        ("2.60.0", ("/dev/shm",), "/dev/shm cannot be written in the container; Ray needs it"),
    ],
)
def test_an_image_in_which_no_node_starts(
    image: Image, ray: str, read_only: tuple[str, ...], message: str
) -> None:
    where = image(ray, *read_only)
    with pytest.raises(UsageError, match=message):
        check_image(where)
    done = run_line("image-check", f"--state-dir={where}")
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize("below", ["", "state", "a/b", "n" * 300])
def test_the_records_need_a_directory_that_can_be_written(image: Image, tmp_path: Path, below: str) -> None:
    """The nearest one that is there; one whose name cannot be looked at is not."""
    image("2.60.0", str(tmp_path))
    with pytest.raises(UsageError, match=f"and {tmp_path} cannot be written in the container"):
        check_image(tmp_path / below)


@pytest.mark.parametrize("ray", ["2.52.0", "2.60.0", "3.0.0.dev0"])
def test_versions_of_ray_that_are_new_enough(image: Image, tmp_path: Path, ray: str) -> None:
    image(ray)
    assert f"Ray {ray} and" in check_image(tmp_path)[0]
