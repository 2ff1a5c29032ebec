"""What is on a host: its processes, its files in private directories, its listening sockets.

Everything is read from outside, through the init's /proc entry, so that looking leaves no trace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root")
SLURM_PLACES = ("/run/slurm", "/run/munge")
"""What Slurm and munge themselves write during a job."""
TCP_LISTEN = "0A"


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a host holds; each set has one readable line for each thing."""

    processes: frozenset[str]
    files: frozenset[str]
    sockets: frozenset[str]

    @classmethod
    def take(cls, init_pid: int) -> Inventory:
        """Looks at the host whose init has this id on the machine."""
        root = Path(f"/proc/{init_pid}/root")
        return cls(_processes(root / "proc"), _files(root), _sockets(Path(f"/proc/{init_pid}/net")))

    @classmethod
    def load(cls, path: Path) -> Inventory:
        """Reads what :meth:`save` wrote."""
        return cls(**{name: frozenset(lines) for name, lines in json.loads(path.read_text()).items()})

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps({name: sorted(lines) for name, lines in vars(self).items()}))

    def more_than(self, before: Inventory) -> list[str]:
        """What is here and was not ``before``."""
        return [
            *sorted(self.processes - before.processes),
            *sorted(self.files - before.files),
            *sorted(self.sockets - before.sockets),
        ]


def _processes(proc: Path) -> frozenset[str]:
    """`process PID COMMAND LINE` for each that is not a zombie."""
    found = set()
    for entry in os.listdir(proc):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = (proc / entry / "stat").read_text().rpartition(")")
                if rest.split()[0] not in "ZX":
                    words = (proc / entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found.add(f"process {entry} {words.strip() or name.partition('(')[2]}")
    return frozenset(found)


def _files(root: Path) -> frozenset[str]:
    """`file PATH` for all files and directories of the private places, Slurm's own excepted."""
    found = set()
    for place in PLACES:
        top = f"{root}{place}"
        device = os.stat(top).st_dev
        for directory, directories, files in os.walk(top):
            # What is mounted below (this checkout, say) is not the host's own.
            directories[:] = [name for name in directories if _device(f"{directory}/{name}") == device]
            for name in [*directories, *files]:
                path = f"{directory}/{name}".removeprefix(str(root))
                if not path.startswith(SLURM_PLACES):
                    found.add(f"file {path}")
    return frozenset(found)


def _device(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return -1


def _sockets(net: Path) -> frozenset[str]:
    """`socket …` for every listening TCP socket, every bound UDP port and every named Unix socket."""
    found = set()
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in (net / kind).read_text().splitlines()[1:]:
                fields = line.split()
                if kind.startswith("udp") or fields[3] == TCP_LISTEN:
                    found.add(f"socket {kind} port {int(fields[1].rpartition(':')[2], 16)}")
    for line in (net / "unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and not fields[7].startswith(SLURM_PLACES):
            found.add(f"socket unix {fields[7]}")
    return frozenset(found)
