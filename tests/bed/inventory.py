"""What is on a host: its processes, its files in private directories, its listening sockets.

Everything is read from outside, through the init's /proc entry, so that looking leaves no trace.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root")
SLURM_PLACES = ("/run/slurm", "/run/munge")
"""What Slurm and munge themselves write during a job."""
TCP_LISTEN = "0A"


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What a host holds; ``things`` are files and sockets, a readable line each."""

    processes: Mapping[str, str]
    """Command lines by process id, zombies left out."""
    things: tuple[str, ...]

    @classmethod
    def take(cls, init_pid: int) -> Inventory:
        """Looks at the host whose init has this id on the machine."""
        root = Path(f"/proc/{init_pid}/root")
        things = _files(root) | _sockets(Path(f"/proc/{init_pid}/net"))
        return cls(_processes(root / "proc"), tuple(sorted(things)))

    @classmethod
    def load(cls, path: Path) -> Inventory:
        """Reads what :meth:`save` wrote."""
        return cls(**json.loads(path.read_text()))

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)))

    def more_than(self, before: Inventory) -> list[str]:
        """What is here and was not ``before``, a line each.

        A process counts as the same when its command line is: daemons may have been started again.
        """
        known = set(before.processes.values())
        processes = [f"process {pid} {line}" for pid, line in self.processes.items() if line not in known]
        return processes + [thing for thing in self.things if thing not in before.things]


def _processes(proc: Path) -> dict[str, str]:
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                name, _, rest = (entry / "stat").read_text().rpartition(")")
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if rest.split()[0] not in "ZX":
                    found[entry.name] = words.strip() or name.partition("(")[2]
    return found


def _files(root: Path) -> set[str]:
    """`file PATH` for all files and directories of the private places, Slurm's own excepted."""
    found = set()
    for place in PLACES:
        top = f"{root}{place}"
        device = _device(top)
        for directory, directories, files in os.walk(top):
            # What is mounted below (this checkout, say) is not the host's own.
            directories[:] = [name for name in directories if _device(f"{directory}/{name}") == device]
            for name in [*directories, *files]:
                path = f"{directory}/{name}".removeprefix(str(root))
                if not path.startswith(SLURM_PLACES):
                    found.add(f"file {path}")
    return found


def _device(path: str) -> int:
    try:
        return Path(path).lstat().st_dev
    except OSError:
        return -1


def _sockets(net: Path) -> set[str]:
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
    return found
