"""A virtual machine with cgroup v2 alone, in which a command runs, beds and all.

    python -m tests.bed.machine trixie -- python -m pytest tests/slurm/test_grants.py

It boots the root of a Debian suite (:mod:`tests.bed.suite`) with Debian's own kernel in qemu, by
KVM where the CPU has virtualization, else emulated, which is several times slower.  The command
sees a copy of the checkout at /opt/raycluster; what it writes goes with the machine.  Its output
is shown, and its exit code is this program's.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bed.suite import CHECKOUT, REPOSITORY, Suite, SuiteError, environment

PROGRAMS = ("debootstrap", "qemu-system-x86_64", "mke2fs")
CPUS = 2
MEMORY_MIB = 8192
IMAGE_MIB = 4096
LIMIT_S = 5400.0
EMULATED = "tcg,thread=single"
"""With a thread for each CPU the guest's kernel panicked after some tests (qemu 7.2, Linux 6.12)."""
SLOWER = 5
"""Tests in an emulated machine wait that many times longer than elsewhere (:mod:`tests.waiting`)."""
ENDED = re.compile(r"the machine's command ended with (\d+)")

INIT = f"""#!/bin/sh
mount -n -t ext4 -o ro /dev/vdb /mnt && mount -n -t tmpfs -o mode=755 none {CHECKOUT}
cp -a /mnt/. {CHECKOUT}
exec /bin/sh {CHECKOUT}/boot
"""
"""/opt/init of the root: the second disk holds the checkout and what to do."""

BOOT = """
for place in /tmp /var/tmp; do mount -n -t tmpfs -o mode=1777 none $place; done
mkdir -p /dev/shm && mount -n -t tmpfs -o mode=1777 none /dev/shm
mount -n -t cgroup2 none /sys/fs/cgroup
echo +cpu +cpuset +memory +pids >/sys/fs/cgroup/cgroup.subtree_control
ip link set lo up
hostname machine
cd {checkout}
{command}
echo "the machine's command ended with $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def make_image(suite: Suite) -> Path:
    """The disk with the suite's root, kept beside it; made anew when the root is newer."""
    root = suite.make()
    image = root.with_suffix(".ext4")
    if not image.exists() or image.stat().st_mtime < (root / "opt/made-of").stat().st_mtime:
        init = root / "opt/init"
        init.write_text(INIT)
        init.chmod(0o755)
        _make_disk(root, image, IMAGE_MIB)
    return image


def make_checkout(directory: Path, command: Sequence[str], env: Mapping[str, str]) -> Path:
    """A disk with the checkout's files and the script that runs ``command`` after the boot."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    ).stdout.decode()
    tree = directory / "checkout"
    tree.mkdir()
    for name in filter(None, files.split("\0")):
        if (REPOSITORY / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, tree / name, follow_symlinks=False)
    words = ["env", "-i", *(f"{key}={value}" for key, value in env.items()), *command]
    (tree / "boot").write_text(BOOT.format(checkout=CHECKOUT, command=shlex.join(words)))
    image = directory / "checkout.ext4"
    _make_disk(tree, image, 64)
    return image


def accelerator(cpuinfo: Path = Path("/proc/cpuinfo"), kvm: Path = Path("/dev/kvm")) -> str:
    """How qemu runs the machine: by KVM only on a CPU with virtualization.

    Where KVM works without (kvm_pvm), the boot stops with "KVM internal error": it does not know all
    instructions of the kernel.
    """
    flags = re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo.read_text(), re.MULTILINE)
    return "kvm" if flags and os.access(kvm, os.R_OK | os.W_OK) else EMULATED


def qemu(root: Path, image: Path, checkout: Path) -> list[str]:
    """The command that boots the machine; its console is this process's output."""
    (kernel,), (initrd,) = (root / "boot").glob("vmlinuz-*"), (root / "boot").glob("initrd.img-*")
    disks = [f"file={disk},format=raw,if=virtio,snapshot=on" for disk in (image, checkout)]
    append = "root=/dev/vda rw console=ttyS0 init=/opt/init cgroup_no_v1=all panic=-1 quiet loglevel=1"
    return [
        *("qemu-system-x86_64", "-accel", accelerator(), "-cpu", "max"),
        *("-smp", str(CPUS), "-m", str(MEMORY_MIB), "-nic", "none", "-device", "virtio-rng-pci"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *(word for disk in disks for word in ("-drive", disk)),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", append),
    ]


def run(suite: Suite, command: Sequence[str], env: Mapping[str, str], limit_s: float = LIMIT_S) -> int:
    """Boots the machine, shows what the command prints, and gives its exit code; 1 without one."""
    image = make_image(suite)
    with tempfile.TemporaryDirectory() as directory:
        words = qemu(suite.root, image, make_checkout(Path(directory), command, env))
        code = 1
        words = ["timeout", f"{limit_s:.0f}", *words]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
        ) as machine:
            assert machine.stdout is not None
            for line in machine.stdout:
                print(line.rstrip("\r\n"), flush=True)
                if found := ENDED.search(line):
                    code = int(found[1])
    return code


def _make_disk(tree: Path, image: Path, size_mib: int) -> None:
    """An ext4 file system with the files of ``tree``."""
    new = image.with_name(f"{image.name}.new")
    new.unlink(missing_ok=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, new, f"{size_mib}M"], check=True)
    new.rename(image)


def main() -> int:
    """Runs one command in a machine."""
    parser = argparse.ArgumentParser(
        "python -m tests.bed.machine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("suite", help="a Debian suite: trixie, sid")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if absent := [name for name in PROGRAMS if not shutil.which(name)]:
        print(f"machine: {', '.join(absent)} needed", file=sys.stderr)
        return 1
    suite = Suite.from_environment(options.suite, os.environ, kernel=True)
    try:
        env = environment(os.environ)
        if accelerator() == EMULATED:
            env.setdefault("RAYCLUSTER_SLOWER", str(SLOWER))
        return run(suite, options.command, env)
    except (SuiteError, OSError) as error:
        print(f"machine {suite.name}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
