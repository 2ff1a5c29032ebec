"""The bed as its users see it: up, down, run, and what can go wrong with a host."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.bed import cgroup
from tests.bed.inventory import Inventory
from tests.bed.kernel import Process
from tests.bed.spec import LOGIN, ROOT, USERS, BedSpec, home
from tests.bed.warden import remove_directories
from tests.waiting import SLOWER

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "nsenter", "unshare", "setpriv")
REPOSITORY = Path(__file__).resolve().parents[2]
UP_DEADLINE_S = 180.0  # An emulated machine is slow.
NOTHING: Mapping[str, str] = MappingProxyType({})


class BedError(Exception):
    """The bed could not be made, or it is not there, or what it was told to do failed."""


def missing(spec: BedSpec) -> str:
    """Why this machine cannot have such a bed, in one line; empty when it can."""
    if os.geteuid() != 0:
        return "a bed of Slurm hosts needs root"
    if absent := [program for program in PROGRAMS if not shutil.which(program, path=_path())]:
        return f"a bed of Slurm hosts needs {', '.join(absent)}"
    if spec.cgroups and not cgroup.available():
        return "a bed with limits needs cgroup v1 below /sys/fs/cgroup, or a machine with v2 to itself"
    if spec.cgroups and max(spec.cpus) > (found := os.cpu_count() or 1):
        return f"a bed with limits cannot pin jobs to {max(spec.cpus)} CPUs: this machine has {found}"
    return ""


class Bed:
    """A Slurm cluster of namespaces on this machine, known by its name.

    As a context manager it is taken down at the end.
    """

    def __init__(self, name: str) -> None:
        """The bed called ``name``; BedError when there is none."""
        self.name = name
        self.directory = ROOT / name
        self._children: list[subprocess.Popen[bytes]] = []
        try:
            self.spec = BedSpec.from_json((self.directory / "spec.json").read_text())
        except FileNotFoundError:
            raise BedError(f"there is no bed called {name}") from None

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @classmethod
    def up(cls, name: str, spec: BedSpec, *, owner_pid: int | None = None) -> Bed:
        """Makes a bed and waits until all of its nodes are idle.

        The bed ends with the process ``owner_pid`` (by default this one).  What a bed of that name
        left behind is removed first; one that is still up is an error.
        """
        if why := missing(spec):
            raise BedError(why)
        with _one_at_a_time():
            clear(name)
            _write_files(ROOT / name, spec)
            bed = cls(name)
            with bed._or_down():
                bed._start_warden(owner_pid or os.getpid())
        with bed._or_down():
            bed._start_hosts()
        return bed

    def detach(self) -> None:
        """Lets the bed live on when its owner ends, until somebody calls :meth:`down`."""
        (self.directory / "detached").touch()

    def down(self) -> None:
        """Ends every process of the bed and removes what it had on the machine.  May be repeated."""
        warden = Process.load(self.directory / "warden.json")
        if warden is not None and not warden.kill():
            raise BedError(f"process {warden.pid} of bed {self.name} does not end")
        for child in self._children:
            child.wait()
        remove_directories(self.directory)

    @contextlib.contextmanager
    def _or_down(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.down()
            raise

    def _start_warden(self, owner_pid: int) -> None:
        owner_fd = os.pidfd_open(owner_pid)
        warden = [*_module("warden"), str(self.directory), str(owner_fd)]
        child = self._spawn(["unshare", "--net", "--pid", "--fork", "--", *warden], "warden", owner_fd)
        os.close(owner_fd)
        self._await_file(self.directory / "warden.json", child, "warden")

    def _start_hosts(self) -> None:
        children = {host: self._boot(host) for host in self.spec.names}
        for host, child in children.items():
            self._await_file(self._host_file(host), child, host)
        deadline = time.monotonic() + UP_DEADLINE_S
        while not self.idle():
            if time.monotonic() > deadline:
                state = self.run(LOGIN, ["sinfo", "-N", "-o", "%N %T %E"]).stdout
                logs = "\n".join(self._ends_of_logs())
                raise BedError(f"not all nodes were idle within {UP_DEADLINE_S:.0f} s: {state}\n{logs}")
            time.sleep(0.1)
        for host in self.spec.names:
            self._inventory(host).save(self.directory / "hosts" / f"{host}.inventory")

    def _ends_of_logs(self, lines: int = 5) -> Iterator[str]:
        """The last lines of each daemon's log."""
        for path in sorted((self.directory / "log").iterdir()):
            yield from (f"{path.name}: {line}" for line in path.read_text().splitlines()[-lines:])

    def _boot(self, host: str) -> subprocess.Popen[bytes]:
        self._host_file(host).unlink(missing_ok=True)
        into = ["nsenter", "--target", str(self._warden().pid), "--net", "--pid", "--"]
        apart = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--"]
        return self._spawn([*into, *apart, *_module("host"), str(self.directory), host], host)

    def _spawn(self, command: Sequence[str], log: str, *keep_fds: int) -> subprocess.Popen[bytes]:
        with (self.directory / "log" / f"{log}.log").open("ab") as file:
            child = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={"PATH": _path(), "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                pass_fds=keep_fds,
            )
        self._children.append(child)
        return child

    def _await_file(self, path: Path, child: subprocess.Popen[bytes], log: str) -> None:
        deadline = time.monotonic() + UP_DEADLINE_S
        while not path.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                text = (self.directory / "log" / f"{log}.log").read_text()
                raise BedError(f"{log} of bed {self.name} did not start:\n{text}")
            time.sleep(0.01)

    def command(
        self,
        host: str,
        command: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] = NOTHING,
        wd: str = "",
    ) -> list[str]:
        """The argument list that runs ``command`` on ``host``, as :meth:`run` does.

        The command gets a login's environment and ``env``, starts in the user's home or in ``wd``,
        and is killed when the process that executes this list is.
        """
        variables = {
            "PATH": _path(),
            "HOME": home(user),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "RAY_USAGE_STATS_ENABLED": "0",
            **env,
        }
        return [
            *[
                "nsenter",
                "--target",
                str(self._host(host).pid),
                "--net",
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
            ],
            *(["--cgroup", "--", *cgroup.move()] if cgroup.apart(self.spec.cgroups) else ["--"]),
            *["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--pdeathsig", "KILL", "--"],
            *["env", "--ignore-environment", f"--chdir={wd or variables['HOME']}"],
            *[f"{name}={value}" for name, value in variables.items()],
            *command,
        ]

    def run(
        self,
        host: str,
        command: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] = NOTHING,
        wd: str = "",
        stdin: str = "",
        timeout_s: float = 60,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``command`` on ``host`` and waits; its output comes as text, its errors apart.

        Raises subprocess.TimeoutExpired (the command is killed) and, with ``check``, BedError with
        the output when the exit code is not 0.
        """
        argv = self.command(host, command, user=user, env=env, wd=wd)
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=timeout_s * SLOWER, check=False
        )
        if check and done.returncode != 0:
            said = f"{done.stdout}{done.stderr}"
            raise BedError(f"{' '.join(command)} on {host} ended with {done.returncode}:\n{said}")
        return done

    def path(self, host: str, path: str) -> Path:
        """Where this process finds the file that ``host`` has at the absolute ``path``."""
        return Path(f"/proc/{self._host(host).pid}/root{path}")

    def idle(self) -> bool:
        """Whether Slurm has every node up and without a job."""
        states = self.run(LOGIN, ["sinfo", "-h", "-N", "-p", "main", "-o", "%T"]).stdout.split()
        return states == ["idle"] * self.spec.hosts

    def is_on(self, host: str) -> bool:
        """Whether ``host`` is powered."""
        process = Process.load(self._host_file(host))
        return process is not None and process.alive()

    def power_off(self, host: str) -> None:
        """Ends everything on ``host`` at once, with no chance to say goodbye."""
        if not self._host(host).kill():
            raise BedError(f"{host} does not end")

    def power_on(self, host: str) -> None:
        """Boots a host that was powered off, with empty /tmp and /dev/shm; returns once slurmd runs."""
        if self.is_on(host):
            raise BedError(f"{host} is on already")
        # The old cable goes with the old network namespace, but that can take a moment.
        subprocess.run(
            [*self._switch(), "ip", "link", "delete", host], stderr=subprocess.DEVNULL, check=False
        )
        cgroup.remove(self.name, host)
        self._await_file(self._host_file(host), self._boot(host), host)

    def cable(self, host: str, *, up: bool) -> None:
        """Plugs the network cable of ``host`` in or pulls it: packets vanish, the interface stays."""
        subprocess.run([*self._switch(), "ip", "link", "set", host, "up" if up else "down"], check=True)

    def leftovers(self, host: str) -> list[str]:
        """Processes, files and sockets that ``host`` has and had not when the bed was new, a line each."""
        before = Inventory.load(self.directory / "hosts" / f"{host}.inventory")
        return self._inventory(host).more_than(before)

    def _inventory(self, host: str) -> Inventory:
        return Inventory.take(self._host(host).pid)

    def _switch(self) -> list[str]:
        """What runs a command in the network namespace that holds the bridge."""
        return ["nsenter", f"--net=/proc/{self._warden().pid}/ns/net"]

    def _host_file(self, host: str) -> Path:
        return self.directory / "hosts" / f"{host}.json"

    def _host(self, host: str) -> Process:
        process = Process.load(self._host_file(host))
        if process is None or not process.alive():
            raise BedError(f"bed {self.name} has no host {host} that is on")
        return process

    def _warden(self) -> Process:
        warden = Process.load(self.directory / "warden.json")
        if warden is None or not warden.alive():
            raise BedError(f"bed {self.name} is not up")
        return warden


def clear(name: str) -> None:
    """Removes what a bed left behind whose warden was killed; BedError when the bed is up."""
    warden = Process.load(ROOT / name / "warden.json")
    if warden is not None and warden.alive():
        raise BedError(f"a bed called {name} is up already")
    remove_directories(ROOT / name)


def _write_files(directory: Path, spec: BedSpec) -> None:
    """The bed's directory: configuration, homes, logs."""
    etc, homes = directory / "etc", directory / "home"
    for path in (etc / "slurm", directory / "log", directory / "hosts", directory / "slurmctld", homes):
        path.mkdir(parents=True)
    for user, uid in {"root": 0, **USERS}.items():
        own = homes / Path(home(user)).name
        own.mkdir(mode=0o700)
        shutil.chown(own, uid, uid)
    keep = {str(REPOSITORY), sys.prefix, sys.base_prefix, *spec.keep}
    real = {os.path.realpath(path) for path in keep}
    # Symbolic links come last: what they lead to must be there first.
    spec = dataclasses.replace(spec, keep=(*sorted(real), *sorted(keep - real)))
    (directory / "spec.json").write_text(spec.to_json())
    (etc / "slurm" / "slurm.conf").write_text(spec.slurm_conf(directory))
    (etc / "slurm" / "cgroup.conf").write_text(spec.cgroup_conf(cgroup.version()))
    (etc / "slurm" / "gres.conf").write_text(spec.gres_conf())
    (etc / "hosts").write_text(spec.hosts_file())
    (etc / "passwd").write_text(spec.passwd_file(Path("/etc/passwd").read_text()))
    (etc / "group").write_text(spec.group_file(Path("/etc/group").read_text()))
    key = etc / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(64))


def _module(name: str) -> list[str]:
    """The command that runs one of this package's modules, on the standard library alone."""
    return [sys.executable, "-S", "-m", f"tests.bed.{name}"]


def _path() -> str:
    """PATH on the hosts: this Python's programs first, the system's directories after."""
    return f"{Path(sys.executable).parent}:/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin"


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Keeps two processes from clearing up for a bed of one name at the same time."""
    ROOT.mkdir(exist_ok=True)
    fd = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
