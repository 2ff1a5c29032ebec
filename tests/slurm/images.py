"""An image for Charliecloud in a user's home: directories over which the machine's programs are mounted."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.jobs import Slurm

IMAGE = "/home/alice/image"

#: An image of no registry: empty directories over which the machine's programs and Pythons are mounted.
SHOWN = tuple(dict.fromkeys(("/usr", str(REPOSITORY), sys.prefix, sys.base_prefix)))


def no_container(slurm: Slurm) -> str:
    """Why there can be no container here; empty when there can."""
    if shutil.which("ch-run") is None:
        return "ch-run is missing: apt-get install charliecloud"
    done = slurm.run(LOGIN, ["unshare", "--user", "--mount", "true"], user="alice")
    return f"the kernel forbids user namespaces: {done.stderr.strip()}" if done.returncode else ""


@contextlib.contextmanager
def image_of_alice(slurm: Slurm) -> Iterator[Path]:
    """A directory at IMAGE that ch-run takes for an image."""
    root = slurm.bed.path(LOGIN, IMAGE)
    for place in ("etc", "dev", "proc", "sys", "tmp", "home", "ch", *(each.strip("/") for each in SHOWN)):
        (root / place).mkdir(parents=True, exist_ok=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{link}"):
            (root / link).symlink_to(os.readlink(f"/{link}"))
    for name in ("passwd", "group", "hosts", "resolv.conf"):
        (root / "etc" / name).touch()
    (root / "image").touch()
    (root / "ch/environment").write_text(f"PATH={sys.prefix}/bin:/usr/bin:/bin\n")
    try:
        yield root
    finally:
        shutil.rmtree(root)
