"""The bundle of modules: what a start imports comes from one file, and never from one that is out of date."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raycluster_cli
from raycluster_cli.system.bundle_writer import library_modules, write_bundle
from raycluster_cli.system.module_bundle import open_bundle

#: What a start imports: a supervisor.  Prints which of raycluster's and Python's files were opened for it.
START = """
import json, os, sys
from raycluster_cli.system.module_bundle import use_bundle
used = use_bundle(os.environ) is not None
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import raycluster_cli.supervisor.worker, raycluster_cli.model.text
from raycluster_cli.system.module_bundle import forget_code
forget_code()
import raycluster_cli.supervisor.losses, raycluster_cli.cli.errors
from raycluster_cli.supervisor import worker
print(json.dumps({
    "used": used,
    "opened": [path for path in opened if path.endswith((".py", ".pyc"))],
    "file": worker.__file__,
    "code": worker.WorkerRun.step.__code__.co_filename,
    "path": list(raycluster_cli.supervisor.__path__),
    "marker": getattr(raycluster_cli.model.text, "MARKER", ""),
}))
"""

#: What a head does once it is ready.
REFRESH = """
import os, sys
import raycluster_cli.supervisor.head, raycluster_cli.supervisor.worker
from raycluster_cli.system.bundle_writer import refresh_bundle
print(refresh_bundle(os.environ, sys.modules))
"""


class Installation:
    """raycluster below a site-packages of its own, and a user of it."""

    def __init__(self, directory: Path) -> None:
        self.package = directory / "lib/site-packages/raycluster_cli"
        self.home = directory / "home"
        (self.home / ".raycluster").mkdir(parents=True)

    def python(self, code: str, *arguments: str, **variables: str) -> str:
        # Not isolated, so that PYTHONPATH is read; without site, which makes a checkout importable.
        env = {"PYTHONPATH": str(self.package.parent), "HOME": str(self.home), **variables}
        argv = [sys.executable, "-S", "-c", code, *arguments]
        done = subprocess.run(
            argv, env=env, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def start(self, **variables: str) -> dict[str, Any]:
        return dict(json.loads(self.python(START, **variables)))

    def refresh(self, **variables: str) -> str:
        return self.python(REFRESH, **variables)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with compiled modules."""
    installation = Installation(tmp_path_factory.mktemp("compiled"))
    source = Path(raycluster_cli.__file__).parent
    shutil.copytree(source, installation.package, ignore=shutil.ignore_patterns("__pycache__", "scripts"))
    code = "import compileall, sys; compileall.compile_dir(sys.argv[1], quiet=1)"
    installation.python(code, str(installation.package))
    return installation.package


@pytest.fixture
def installation(compiled: Path, tmp_path: Path) -> Installation:
    found = Installation(tmp_path)
    shutil.copytree(compiled, found.package)
    return found


def test_a_start_opens_no_module_once_there_is_a_bundle(installation: Installation) -> None:
    before = installation.start()
    assert not before["used"]
    assert len(before["opened"]) > 100
    path = installation.refresh()
    assert path == str(next(installation.package.glob("__pycache__/*.bundle")))
    after = installation.start()
    assert after["used"]
    assert after["opened"] == []
    same = ("file", "code", "path")
    assert [after[name] for name in same] == [before[name] for name in same]
    assert installation.refresh() == ""  # up to date


def _in_place(text: Path) -> None:
    """As an editor that keeps the file; its directory does not change."""
    with text.open("a") as file:
        file.write("\nMARKER = 'changed'\n")


def _by_rename(text: Path) -> None:
    """As pip, rsync, patch and most editors do it."""
    new = text.with_suffix(".new")
    new.write_text(text.read_text() + "\nMARKER = 'changed'\n")
    new.rename(text)


@pytest.mark.parametrize("change", [_by_rename, _in_place])
def test_a_change_is_noticed_at_the_latest_by_the_next_head(
    installation: Installation, change: Callable[[Path], None]
) -> None:
    installation.refresh()
    change(installation.package / "model/text.py")
    if change is _by_rename:
        assert installation.start()["marker"] == "changed"
    assert installation.refresh() != ""
    after = installation.start()
    assert (after["used"], after["marker"]) == (True, "changed")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "no tables": lambda path: path.write_bytes(b"rcbundle3\n" + bytes(64)),
    "another Python": lambda path: path.write_bytes(
        path.read_bytes().replace(sys.version.encode(), b"0" * len(sys.version))
    ),
    "removed": lambda path: path.unlink(),
}


def test_without_a_bundle_that_fits_python_imports_as_usual(installation: Installation) -> None:
    path = Path(installation.refresh())
    for what, damage in DAMAGES.items():
        damage(path)
        assert not installation.start()["used"], what
        assert installation.refresh() == str(path), what
        assert installation.start()["used"], what


def test_code_that_cannot_be_read_comes_from_the_module(installation: Installation) -> None:
    path = Path(installation.refresh())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2].ljust(len(content), b"\0"))
    start = installation.start()
    assert start["used"]
    assert len(start["opened"]) > 5


def test_where_the_installation_may_not_be_written_to_the_bundle_lies_with_the_records(
    installation: Installation, tmp_path: Path
) -> None:
    # A file in place of the directory: root may write anywhere.
    shutil.rmtree(installation.package / "__pycache__")
    (installation.package / "__pycache__").touch()
    path = Path(installation.refresh())
    assert path.parent == installation.home / ".raycluster"
    assert installation.start()["used"]
    other = tmp_path / "other"
    other.mkdir()
    assert not installation.start(RAYCLUSTER_STATE_DIR=str(other))["used"]
    path.chmod(0o666)  # others may have written it
    assert not installation.start()["used"]


def test_little_is_imported_before_the_bundle_is_open(installation: Installation) -> None:
    """Each module costs a start six paths of a shared file system."""
    code = """
import os, sys  # as Python's own start
before = {*sys.modules}
import raycluster_cli.__main__, raycluster_cli.system.module_bundle
print(*sorted({*sys.modules} - before - {*sys.builtin_module_names}))
"""
    assert installation.python(code).split() == [
        *("raycluster_cli", "raycluster_cli.__main__"),
        *("raycluster_cli.system", "raycluster_cli.system.module_bundle"),
    ]


def test_none_is_written_where_python_is_to_write_none(installation: Installation) -> None:
    assert installation.refresh(PYTHONDONTWRITEBYTECODE="1") == ""
    assert not list(installation.package.glob("__pycache__/*.bundle"))


def test_a_checkout_has_no_bundle() -> None:
    code = (
        REFRESH
        + "\nfrom raycluster_cli.system.module_bundle import use_bundle\nprint(use_bundle(os.environ))"
    )
    root = str(Path(raycluster_cli.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["None"]


def test_what_a_killed_writer_has_left_is_removed(installation: Installation) -> None:
    path = Path(installation.refresh())
    left, young = Path(f"{path}.1.abc"), Path(f"{path}.2.abc")
    for file in (left, young):
        file.touch()
    os.utime(left, (0, time.time() - 7200))
    path.unlink()
    installation.refresh()
    assert (left.exists(), young.exists()) == (False, True)


def test_threads_that_import_at_a_time_get_their_own_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reads its part of the bundle while another one waits for its own."""
    names = ("json", "json.decoder", "json.encoder", "json.scanner")
    places = {name: place for name, place in library_modules(sys.modules) if name in names}
    path = str(tmp_path / "bundle")
    write_bundle(path, {name: places[name] for name in names}, {}, {})
    bundle = open_bundle(path)
    assert bundle is not None
    files = [bundle.code(name).co_filename for name in names]
    bundle.forget()
    read, others = os.pread, ["json.decoder"]

    def pread(fd: int, size: int, offset: int) -> bytes:
        if others:
            bundle.code(others.pop())
        return read(fd, size, offset)

    monkeypatch.setattr("raycluster_cli.system.module_bundle.os.pread", pread)
    assert [bundle.code(name).co_filename for name in names] == files
    bundle.close()
