"""Which directories make up this process's Python environment, and where each lies in the copy.

A virtual environment, with the Python that it was made from where that lies on the same file system; a conda
environment; a Python of its own; the user's site-packages; package directories of PYTHONPATH.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ..model.value import Value

#: Parts of the operating system, which every node has.
SYSTEM = ("/", "/usr", "/usr/local")


class Interpreter(Value):
    """What sys and site say of the running Python."""

    executable: str
    prefix: str
    base_prefix: str
    version: str
    """As in lib/python3.11."""
    user_site: str = ""
    """The user's site-packages, where Python reads them; else empty."""

    @property
    def is_venv(self) -> bool:
        return self.prefix != self.base_prefix


class Source(Value):
    """A directory to be copied."""

    path: str
    target: str
    """Relative to the copy."""
    skip: tuple[str, ...] = ()
    """Relative paths that are left out."""
    only: tuple[str, ...] = ()
    """Relative paths outside of which nothing is copied; none: all is."""
    conda: bool = False
    """conda-meta says which of its files name its path."""


def this_interpreter() -> Interpreter:
    """The running Python."""
    import site
    import sys

    user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    return Interpreter(
        executable=sys.executable,
        prefix=sys.prefix,
        base_prefix=sys.base_prefix,
        version=f"python{sys.version_info[0]}.{sys.version_info[1]}",
        user_site=user if user in sys.path else "",
    )


def find_sources(
    python: Interpreter,
    env: Mapping[str, str],
    *,
    is_remote: bool | None = None,
    same_device: bool | None = None,
) -> list[Source]:
    """The directories to be copied; none where all of Python is the operating system's.

    ``is_remote`` and ``same_device``: whether the base Python of a virtual environment lies on a network file
    system, or on that of the environment; found out where not given.
    """
    found: list[Source] = []
    lib = f"lib/{python.version}"
    conda = os.path.isdir(f"{python.prefix}/conda-meta")
    if python.is_venv or conda or python.prefix not in SYSTEM:
        skip = ("pkgs", "envs", "conda-bld") if conda else ()
        found.append(Source(python.prefix, "env", skip=skip, conda=conda))
    if python.is_venv and python.base_prefix not in SYSTEM:
        if same_device is None:
            same_device = _device(python.base_prefix) == _device(python.prefix)
        if same_device or is_remote:
            skipped = [f"{lib}/{name}" for name in ("test", "idlelib", "lib2to3/tests", "ensurepip")]
            if not includes_base_packages(python.prefix):
                skipped.append(f"{lib}/site-packages")
            skipped += ["lib/pkgconfig", "lib/cmake", "lib/itcl4.2.4", "lib/python"]
            only = ("bin", "lib", "lib64", "ssl", "etc")
            base_conda = os.path.isdir(f"{python.base_prefix}/conda-meta")
            found.append(Source(python.base_prefix, "base", tuple(skipped), only, base_conda))
    if python.user_site and os.path.isdir(python.user_site):
        found.append(Source(python.user_site, f"user/{lib}/site-packages"))
    for number, path in enumerate(package_directories(env)):
        found.append(Source(path, f"path{number}"))
    return [source for source in found if not _is_inside(source, found)]


def package_directories(env: Mapping[str, str]) -> list[str]:
    """Directories of PYTHONPATH in which packages were installed; others may hold data, and stay."""
    found = []
    for path in dict.fromkeys(env.get("PYTHONPATH", "").split(os.pathsep)):
        if not os.path.isabs(path) or path in SYSTEM or path.startswith("/usr/"):
            continue
        path = os.path.normpath(path)
        try:
            names = os.listdir(path)
        except OSError:
            continue
        if os.path.basename(path) in ("site-packages", "dist-packages") or any(
            name.endswith(".dist-info")  # not .egg-info, which checkouts have too
            for name in names
        ):
            found.append(path)
    return found


def includes_base_packages(prefix: str) -> bool:
    """Whether a virtual environment also uses its base Python's packages."""
    try:
        with open(f"{prefix}/pyvenv.cfg", encoding="utf-8") as file:
            text = file.read().lower().replace(" ", "")
    except OSError:
        return False
    return "include-system-site-packages=true" in text


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return -1


def _is_inside(source: Source, others: Sequence[Source]) -> bool:
    return any(
        other is not source and source.path.startswith(other.path + "/") and not other.only
        for other in others
    )
