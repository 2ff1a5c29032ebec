"""Environments as a site has them, made of checkouts: raycluster installed, and Python itself beside it."""

from __future__ import annotations

import compileall
import os
import shutil
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What makes a checkout importable, or measures tests.
_NOT_INSTALLED = (
    *("__editable__*", "raycluster-*.dist-info"),
    *("a1_coverage.pth", "distutils-precedence.pth"),
)


def make_environment(checkout: Path, there: Path, seen_as: Path) -> None:
    """Copy a checkout's `.venv` and its raycluster to ``there``, a directory that is to be seen as another.

    It has what raycluster and Ray need, not what checks the checkout.  Files are links where that can be:
    neither copy may be written to in place.
    """
    source = checkout / ".venv"
    unneeded = _unneeded(
        distributions(path=[str(path) for path in source.glob("lib/python3*/site-packages")])
    )

    def left_out(directory: str, names: list[str]) -> set[str]:
        return unneeded & {*names} if os.path.basename(directory) == "site-packages" else set()

    shutil.copytree(source, there, symlinks=True, copy_function=_link, ignore=left_out)
    packages = next(there.glob("lib/python3*/site-packages"))
    for pattern in _NOT_INSTALLED:
        for path in packages.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(
        checkout / "raycluster_cli",
        packages / "raycluster_cli",
        ignore=shutil.ignore_patterns("__pycache__", "scripts"),
    )
    compileall.compile_dir(packages / "raycluster_cli", quiet=1)
    home = (source / "bin/python").resolve().parents[1]
    if not (there.parent / "python").exists():
        ignore = shutil.ignore_patterns("site-packages", "test")
        shutil.copytree(home, there.parent / "python", symlinks=True, copy_function=_link, ignore=ignore)
    configuration = there / "pyvenv.cfg"
    text = configuration.read_text().replace(str(home), str(seen_as.parent / "python"))
    configuration.unlink()
    configuration.write_text(text.replace(str(source), str(seen_as)))
    python = there / "bin/python3"
    python.unlink()
    python.symlink_to(seen_as.parent / "python" / "bin" / (source / "bin/python").resolve().name)
    for name in ("raycluster", "ray"):
        script = there / "bin" / name
        lines = script.read_text().splitlines(keepends=True)
        script.unlink()
        script.write_text("".join([f"#!{seen_as}/bin/python\n", *lines[1:]]))
        script.chmod(0o755)


def _unneeded(installed: Iterable[Distribution]) -> set[str]:
    """What lies in site-packages only for distributions that raycluster does not need."""
    by_name = {canonicalize_name(one.metadata["Name"]): one for one in installed}
    needed = set()
    work = [canonicalize_name(name) for name in ("raycluster", "pip", "setuptools")]
    while work:
        if (name := work.pop()) in needed or name not in by_name:
            continue
        needed.add(name)
        for requirement in map(Requirement, by_name[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                work.append(canonicalize_name(requirement.name))
    tops: dict[bool, set[str]] = {True: set(), False: set()}
    for name, one in by_name.items():
        tops[name in needed] |= {file.parts[0] for file in one.files or ()}
    return tops[False] - tops[True] - {"..", "__pycache__"}


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
