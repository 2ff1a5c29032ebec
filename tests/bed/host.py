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
from tests.bed.kernel import MS_MOVE, MS_PRIVATE, MS_REC, Process, bind, mount, tmpfs, unmount
from tests.bed.spec import LOGIN, BedSpec
from tests.bed.warden import BRIDGE


def main(directory: Path, host: str) -> None:
    """Sets the host up, says so in ``hosts/HOST.json``, and stays as its init."""
    spec = BedSpec.from_json((directory / "spec.json").read_text())
    warden = Process.load(directory / "warden.json")
    assert warden is not None
    me = Process.own()  # Before /proc is the host's own.
    socket.sethostname(host)
    own_cgroups = cgroup.version() if cgroup.apart(spec.cgroups) else 0
    if own_cgroups:
        cgroup.enter(directory.name, host)
    plug_in(spec, host, warden.pid)
    mount_all(directory, spec, host, own_cgroups)
    start_munged(directory)
    _run("slurmctld" if host == LOGIN else f"slurmd -N {host}")  # They go into the background by themselves.
    reap()
    me.save(directory / "hosts" / f"{host}.json")
    while True:
        signal.pause()


def plug_in(spec: BedSpec, host: str, warden_pid: int) -> None:
    """A cable from eth0 to the bridge; no route leads anywhere else."""
    switch = f"/proc/{warden_pid}/ns/net"
    _run(f"ip link add eth0 type veth peer name {host} netns {switch}")
    _run(f"nsenter --net={switch} ip link set {host} master {BRIDGE} up")
    _run("ip link set lo up")
    _run(f"ip address add {spec.address(host)}/24 dev eth0")
    _run(f"ip address add {spec.address6(host)}/64 dev eth0 nodad")
    _run("ip link set eth0 up")


def mount_all(directory: Path, spec: BedSpec, host: str, own_cgroups: int) -> None:
    """The host's own directories and files over the machine's; the machine itself is not changed.

    ``own_cgroups`` is the version of the host's own cgroups; 0 when it has none.
    """
    kept = {path: os.open(path, os.O_PATH) for path in spec.keep}
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc")
    tmpfs("/dev/shm", spec.shm_mib, mode="1777")
    tmpfs("/tmp", 2048, mode="1777")
    tmpfs("/var/tmp", 512, mode="1777")
    tmpfs("/run", 256)
    tmpfs("/root", 16)
    mount_sys(own_cgroups)
    bind(directory / "home", "/home")
    for name in ("hosts", "passwd", "group", "slurm"):
        bind(directory / "etc" / name, f"/etc/{name}")
    for path, fd in kept.items():
        show(Path(path), fd)
    Path("/run/lock").mkdir()
    Path("/run/slurmd").mkdir()
    for gpu in range(spec.gpus_of(host)):
        # As good as a GPU for Slurm, which only counts the files: /dev/null by another name.
        os.mknod(f"/run/fakegpu{gpu}", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def mount_sys(own_cgroups: int) -> None:
    """A /sys that shows this host's network, and its own cgroups of this version, or with 0 the machine's."""
    aside = Path("/run/cgroup")
    aside.mkdir()
    bind(cgroup.MOUNTS, aside)
    unmount("/sys")
    mount("sysfs", "/sys", "sysfs")
    if own_cgroups:
        unmount(aside)
        cgroup.mount_own(own_cgroups)
    else:
        mount(aside, cgroup.MOUNTS, flags=MS_MOVE)
    aside.rmdir()


def show(path: Path, fd: int) -> None:
    """Makes the directory ``fd`` of the machine reachable at ``path`` for every user.

    A directory on the way that is not for everybody (a temporary one, say) is covered by an empty
    one that is; what else it holds is out of sight on this host.
    """
    for parent in reversed(path.parents):
        if parent.exists() and not _open_to_all(parent):
            tmpfs(parent, 16)
    path.mkdir(parents=True, exist_ok=True)
    original = Path(f"/proc/self/fd/{fd}")
    if not original.samefile(path):
        bind(original, path)
    if not _open_to_all(path):
        tmpfs(path, 16)
        for entry in original.iterdir():
            if entry.is_symlink():
                (path / entry.name).symlink_to(entry.readlink())
            elif entry.is_dir() or entry.is_file():
                (path / entry.name).mkdir() if entry.is_dir() else (path / entry.name).touch()
                bind(entry, path / entry.name)
    os.close(fd)


def _open_to_all(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IXOTH)


def start_munged(directory: Path) -> None:
    """munged with the bed's key, below the host's own /run."""
    run = Path("/run/munge")
    run.mkdir()
    shutil.copy(directory / "etc" / "munge.key", run / "key")
    shutil.chown(run, "munge", "munge")
    shutil.chown(run / "key", "munge", "munge")
    (run / "key").chmod(0o400)
    _run(
        "setpriv --reuid munge --regid munge --init-groups munged --num-threads 1 --key-file /run/munge/key "
        "--pid-file /run/munge/pid --log-file /run/munge/log --seed-file /run/munge/seed"
    )


def reap() -> None:
    """From now on the kernel reaps what ends here; not earlier, since the daemons would inherit that."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
