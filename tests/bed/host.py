"""The init of one host: PID 1 in namespaces of its own.

Run by :meth:`tests.bed.bed.Bed.power_on` as ``unshare … python -m tests.bed.host DIRECTORY HOST``,
inside the warden's PID and network namespaces.  It plugs the host's cable into the warden's
bridge, gives the host its own directories, starts munged and the Slurm daemon, and reaps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

from tests.bed import cgroup
from tests.bed.kernel import MS_PRIVATE, MS_REC, Process, bind, mount
from tests.bed.spec import LOGIN, BedSpec
from tests.bed.warden import BRIDGE

PRIVATE_MIB = {"/tmp": 2048, "/var/tmp": 512, "/run": 256, "/root": 16}
"""Directories that are not shared between hosts, and the sizes of their tmpfs."""


def main(directory: Path, host: str) -> None:
    """Sets the host up, says so in ``hosts/HOST.json``, and stays as its init."""
    spec = BedSpec.from_json((directory / "spec.json").read_text())
    warden = Process.load(directory / "warden.json")
    assert warden is not None
    me = Process.own()  # Before /proc is the host's own.
    socket.sethostname(host)
    if spec.cgroups:
        cgroup.create(directory.name, host)
    plug_in(spec, host, warden.pid)
    mount_all(directory, spec, host)
    start_munged(directory)
    start_slurm(host)
    me.save(directory / "hosts" / f"{host}.json")
    reap()
    while True:
        signal.pause()


def reap() -> None:
    """From now on the kernel reaps what ends; not earlier, since the daemons would inherit that."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def plug_in(spec: BedSpec, host: str, warden_pid: int) -> None:
    """A cable from eth0 to the bridge; no route leads anywhere else."""
    switch = f"/proc/{warden_pid}/ns/net"
    _run(f"ip link add eth0 type veth peer name {host} netns {switch}")
    _run(f"nsenter --net={switch} ip link set {host} master {BRIDGE} up")
    _run("ip link set lo up")
    _run(f"ip address add {spec.address(host)}/24 dev eth0")
    _run(f"ip address add {spec.address6(host)}/64 dev eth0 nodad")
    _run("ip link set eth0 up")


def mount_all(directory: Path, spec: BedSpec, host: str) -> None:
    """The host's own directories and files over the machine's; the machine itself is not changed."""
    kept = {path: os.open(path, os.O_PATH) for path in sorted(spec.keep)}
    cgroups = os.open(cgroup.MOUNTS, os.O_PATH)
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")
    bind(f"/proc/self/fd/{cgroups}", cgroup.MOUNTS)
    if spec.cgroups:
        for controller in cgroup.CONTROLLERS:
            bind(cgroup.path(controller, directory.name, host), cgroup.MOUNTS / controller)
    mount("tmpfs", "/dev/shm", "tmpfs", options=f"mode=1777,size={spec.shm_mib}m")
    for path, size_mib in PRIVATE_MIB.items():
        mode = "1777" if path.endswith("tmp") else "755"
        mount("tmpfs", path, "tmpfs", options=f"mode={mode},size={size_mib}m")
    bind(directory / "home", "/home")
    for name in ("hosts", "passwd", "group", "slurm"):
        bind(directory / "etc" / name, f"/etc/{name}")
    for path, fd in kept.items():
        show(path, fd)
    for path in ("/run/lock", "/run/slurmd", "/run/slurmctld"):
        os.mkdir(path)
    for gpu in range(spec.gpus_of(host)):
        # As good as a GPU for Slurm, which only counts the files: /dev/null by another name.
        os.mknod(f"/run/fakegpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def show(path: str, fd: int) -> None:
    """Makes the directory ``fd`` reachable at ``path`` for every user.

    A directory on the way that is not for everybody (/root, a temporary one) is covered by an
    empty one that is; what else it holds is out of sight on this host.
    """
    for parent in reversed(Path(path).parents):
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            mount("tmpfs", str(parent), "tmpfs", options="mode=755,size=16m")
    os.makedirs(path, exist_ok=True)
    if not os.path.samestat(os.stat(path), os.fstat(fd)):
        bind(f"/proc/self/fd/{fd}", path)
    os.close(fd)


def start_munged(directory: Path) -> None:
    """munged with the bed's key, below the host's own /run."""
    run = Path("/run/munge")
    run.mkdir(mode=0o755)
    shutil.copy(directory / "etc" / "munge.key", run / "key")
    shutil.chown(run, "munge", "munge")
    shutil.chown(run / "key", "munge", "munge")
    (run / "key").chmod(0o400)
    _run(
        "setpriv --reuid munge --regid munge --init-groups munged --num-threads 1 --key-file /run/munge/key "
        "--pid-file /run/munge/pid --log-file /run/munge/log --seed-file /run/munge/seed"
    )


def start_slurm(host: str) -> None:
    """slurmctld on the login host, slurmd on the others; both go into the background by themselves."""
    _run("slurmctld" if host == LOGIN else f"slurmd -N {host}")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
