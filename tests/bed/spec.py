"""What a bed is made of, and the texts of its configuration files: values in, text out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path("/var/lib/raycluster-bed")
"""Where the beds' directories lie: one for each bed, seen by all of its hosts."""

LOGIN = "login"
USERS = {"alice": 62001, "bob": 62002}
"""The unprivileged users and their uids (and gids); they exist in beds only."""


def home(user: str) -> str:
    """The home of a user in beds; root's is not named after it, so that nobody takes it for the machine's."""
    return "/home/admin" if user == "root" else f"/home/{user}"


@dataclasses.dataclass(frozen=True)
class BedSpec:
    """The shape of a bed.  ``cpus``, ``memory_mib``, ``gpus``: one value for all hosts, or one for each."""

    hosts: int = 3
    cpus: tuple[int, ...] = (2,)
    memory_mib: tuple[int, ...] = (6000,)
    gpus: tuple[int, ...] = (0,)
    cgroups: bool = False
    shm_mib: int = 3072
    slurm: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings for slurm.conf that replace or add to the usual ones."""
    keep: tuple[str, ...] = ()
    """Further directories that every user of every host must be able to reach."""

    def __post_init__(self) -> None:
        if not 1 <= self.hosts <= 100:
            raise ValueError(f"a bed has 1 to 100 hosts, not {self.hosts}")
        for what in ("cpus", "memory_mib", "gpus"):
            if len(getattr(self, what)) not in (1, self.hosts):
                raise ValueError(f"{what}: one value or {self.hosts} (one for each host) needed")

    @property
    def nodes(self) -> list[str]:
        """The compute nodes: n1 to nN."""
        return [f"n{number}" for number in range(1, self.hosts + 1)]

    @property
    def names(self) -> list[str]:
        """All hosts, the login host first."""
        return [LOGIN, *self.nodes]

    def address(self, host: str) -> str:
        """The IPv4 address: 10.77.0.N for nN, 10.77.0.254 for login.  Every bed has the same."""
        return "10.77.0.254" if host == LOGIN else f"10.77.0.{self._number(host)}"

    def address6(self, host: str) -> str:
        """The IPv6 address, on the same interface."""
        return "fd77::fe" if host == LOGIN else f"fd77::{self._number(host):x}"

    def gpus_of(self, host: str) -> int:
        """The number of GPUs that ``host`` pretends to have."""
        return 0 if host == LOGIN else _of(self.gpus, self._number(host))

    def _number(self, host: str) -> int:
        return self.nodes.index(host) + 1

    def slurm_conf(self, directory: Path) -> str:
        """slurm.conf; the daemons' logs and slurmctld's state lie in the bed's ``directory``."""
        settings = {
            "ClusterName": "bed",
            "SlurmctldHost": LOGIN,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "CryptoType": "crypto/munge",
            "MpiDefault": "none",
            "ProctrackType": "proctrack/cgroup" if self.cgroups else "proctrack/linuxproc",
            "TaskPlugin": "task/cgroup,task/affinity" if self.cgroups else "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "ReturnToService": "2",
            "SlurmctldPidFile": "/run/slurmctld.pid",
            "SlurmdPidFile": "/run/slurmd.pid",
            "SlurmdSpoolDir": "/run/slurmd",
            "StateSaveLocation": f"{directory}/slurmctld",
            "SlurmctldLogFile": f"{directory}/log/slurmctld.log",
            "SlurmdLogFile": f"{directory}/log/slurmd.%n.log",
            # Nodes may claim more CPUs and memory than the machine has.
            "SlurmdParameters": "config_overrides",
            # Jobs start at once and stay known, and a host that loses its power is soon noticed.
            "SchedulerParameters": "batch_sched_delay=0,bf_interval=1,sched_interval=1",
            "MinJobAge": "86400",
            "SlurmdTimeout": "30",
        }
        if any(self.gpus):
            settings["GresTypes"] = "gpu"
        lines = [f"{key}={value}" for key, value in (settings | dict(self.slurm)).items()]
        for number, node in enumerate(self.nodes, 1):
            gres = f" Gres=gpu:{gpus}" if (gpus := self.gpus_of(node)) else ""
            lines.append(
                f"NodeName={node} CPUs={_of(self.cpus, number)} "
                f"RealMemory={_of(self.memory_mib, number)}{gres} State=UNKNOWN"
            )
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1")
        lines.append("PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10")
        return "\n".join(lines) + "\n"

    def cgroup_conf(self, version: int = 1) -> str:
        """cgroup.conf: slurmd reads it even where no cgroup is used."""
        lines = [f"CgroupPlugin=cgroup/v{version}", "CgroupMountpoint=/sys/fs/cgroup"]
        # Slurm 22.05 mounts v1's controllers if not told otherwise, and no systemd makes scopes in beds.
        lines += ["CgroupAutomount=no"] if version == 1 else ["IgnoreSystemd=yes", "EnableControllers=yes"]
        if self.cgroups:
            lines += ["ConstrainCores=yes", "ConstrainRAMSpace=yes"]
        return "\n".join(lines) + "\n"

    def gres_conf(self) -> str:
        """gres.conf: the devices are made by each host in its own /run."""
        lines = ["AutoDetect=off"]
        for node in self.nodes:
            if gpus := self.gpus_of(node):
                files = "/run/fakegpu0" if gpus == 1 else f"/run/fakegpu[0-{gpus - 1}]"
                lines.append(f"NodeName={node} Name=gpu File={files}")
        return "\n".join(lines) + "\n"

    def hosts_file(self) -> str:
        """/etc/hosts of every host: IPv4 names only, so that a name means one address."""
        lines = ["127.0.0.1 localhost", "::1 ip6-localhost"]
        lines += [f"{self.address(host)} {host}" for host in self.names]
        return "\n".join(lines) + "\n"

    def passwd_file(self, machine: str) -> str:
        """/etc/passwd: the machine's, with root's home among the shared ones, alice and bob added."""
        lines = [line for line in machine.splitlines() if line.split(":")[0] not in ("root", *USERS)]
        lines.insert(0, f"root:x:0:0:root:{home('root')}:/bin/bash")
        lines += [f"{user}:x:{uid}:{uid}::/home/{user}:/bin/bash" for user, uid in USERS.items()]
        return "\n".join(lines) + "\n"

    def group_file(self, machine: str) -> str:
        """/etc/group: the machine's, with alice's and bob's added."""
        lines = [line for line in machine.splitlines() if line.split(":")[0] not in USERS]
        lines += [f"{user}:x:{uid}:" for user, uid in USERS.items()]
        return "\n".join(lines) + "\n"

    def to_json(self) -> str:
        """The spec as JSON, read back by :meth:`from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BedSpec:
        """The spec that :meth:`to_json` wrote."""
        values: Any = json.loads(text)
        for key in ("cpus", "memory_mib", "gpus", "keep"):
            values[key] = tuple(values[key])
        return cls(**values)


def _of(values: tuple[int, ...], number: int) -> int:
    """The value for host ``number`` (from 1): ``values`` holds one for all or one for each."""
    return values[0] if len(values) == 1 else values[number - 1]
