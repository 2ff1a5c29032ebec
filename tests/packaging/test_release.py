"""The wheel contains what a user needs, the sdist what a checkout has. `make packaging` runs these tests.

`python -m build` makes the sdist from the checkout and the wheel from the sdist. Both stay in dist/.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="compares with the files that git knows")


def files_of_the_checkout(*below: str) -> set[str]:
    """The files that git knows, as paths from the root."""
    done = subprocess.run(
        ["git", "ls-files", "-z", *below], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {name for name in done.stdout.split("\0") if name and not (ROOT / name).is_symlink()}


@pytest.fixture(scope="session")
def build() -> str:
    """Builds sdist and wheel into dist/; the output of the build."""
    command = [sys.executable, "-m", "build", "--outdir", str(ROOT / "dist"), str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="session")
def wheel(build: str) -> dict[str, bytes]:
    """The wheel's files but its dist-info, with their content."""
    (path,) = (ROOT / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="session")
def sdist(build: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    (path,) = (ROOT / "dist").glob("*.tar.gz")
    into = tmp_path_factory.mktemp("sdist")
    with tarfile.open(path) as archive:
        archive.extractall(into)
    (unpacked,) = into.iterdir()
    return unpacked


def test_the_build_gives_no_warnings(build: str) -> None:
    lines = [line for line in build.splitlines() if "warn" in line.lower()]
    # The usual line: pip compiles when it installs.
    assert [line for line in lines if "byte-compiling is disabled" not in line] == []


def test_the_wheel_has_the_package_and_the_batch_scripts_and_nothing_else(wheel: dict[str, bytes]) -> None:
    scripts = {PurePosixPath(name).name for name in files_of_the_checkout("slurm")}
    expected = files_of_the_checkout("raycluster_cli")
    expected |= {f"raycluster_cli/ops/scripts/{name}" for name in scripts if name.endswith(".sbatch")}
    links = [path for path in (ROOT / "raycluster_cli/ops/templates").iterdir() if path.is_symlink()]
    expected |= {str(path.relative_to(ROOT)) for path in links}
    assert set(wheel) == expected


def test_the_wheel_alone_writes_a_project(wheel: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in wheel.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    everything = ("--gpu", "--service", "--elastic", "--container")
    done = subprocess.run(
        [sys.executable, "-m", "raycluster_cli", "init", "x", *everything],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    minimal = (ROOT / "examples/minimal.py").read_text()
    assert (tmp_path / "x/driver.py").read_text() == minimal.replace("examples/minimal.py", "driver.py")


def test_the_batch_scripts_are_those_of_the_checkout(wheel: dict[str, bytes]) -> None:
    for path in (ROOT / "slurm").glob("*.sbatch"):
        assert wheel[f"raycluster_cli/ops/scripts/{path.name}"] == path.read_bytes(), path.name


def test_the_sdist_has_every_file_of_the_checkout(sdist: Path) -> None:
    left_out = {".gitignore"}
    missing = [name for name in files_of_the_checkout() if not (sdist / name).is_file()]
    assert sorted(set(missing) - left_out) == []


def test_the_sdist_passes_its_tests(sdist: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "3",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    command += ["tests/unit", "tests/processes"]
    done = subprocess.run(
        command, cwd=sdist, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
