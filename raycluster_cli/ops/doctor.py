"""Checks before a long job, on this node: what a cluster would meet here, and what to do about it.

Each check asks as the start itself asks (host, resources, ports, node_root, network, limits) and gives
back what it took.  Nothing here changes anything but for a moment.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLong
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._version import __version__
from ..model.errors import RayclusterError
from ..model.settings import Settings
from ..node.directory import make_node_root
from ..node.grants import HostFacts, read_host
from ..node.places import LOCAL, NETWORK, mount_of, parse_mountinfo
from ..node.resources import plan_from_settings
from ..slurm.allocation import Allocation
from ..system.limits import raise_limits
from ..system.network import NodeAddress, node_address
from ..system.port_probe import port_error, port_holder
from ..system.ports import claim_ports
from ..system.proctree import PROC, all_stats

#: Ray is imported once in a child: longer than this is as good as never.
IMPORT_TIMEOUT_S = 12.0

#: Ray's raylet waits 15 s for its agents' imports, which take twice as long as this one.
IMPORT_SLOW_S = 5.0

#: A resolver that does not answer takes 5 s and more for a name.
LOOKUP_TIMEOUT_S = 5.0

#: Ray stops making objects where the disk is fuller than 95 %.
NEARLY_FULL = 0.9

#: A record's file is written in well under a millisecond on most file systems.
SLOW_WRITE_S = 1.0

_IMPORT = """\
import sys, time
sys.path = [part for part in sys.path if part]
began = time.time()
import ray
took = time.time() - began
import json
print(json.dumps({"version": ray.__version__, "path": ray.__file__, "took_s": took}))
"""


class Verdict(str, enum.Enum):
    """What a finding means for a cluster here."""

    OK = "ok"
    NOTE = "note"
    """Worth knowing; nothing to do."""
    WARNING = "warning"
    """It will work, but not as well as it could, or not always."""
    FAIL = "fail"
    """A cluster will not start here, or not hold."""

    @property
    def rank(self) -> int:
        return [*Verdict].index(self)


@dataclass(frozen=True)
class Finding:
    check: str
    verdict: Verdict
    text: str
    remedy: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name and unit ("import s"): differs from node to node, says nothing by itself."""


@dataclass(frozen=True)
class NodeReport:
    """What was found on one node."""

    host: str
    facts: Mapping[str, str]
    """What must be equal on all nodes: python, ray, raycluster."""
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {
            "findings": [asdict(one) | {"verdict": one.verdict.value} for one in self.findings]
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NodeReport:
        """The inverse.  Raises KeyError, TypeError or ValueError."""
        findings = [Finding(**{**one, "verdict": Verdict(one["verdict"])}) for one in value["findings"]]
        return cls(str(value["host"]), dict(value["facts"]), tuple(findings))


class Checkup:
    """The checks of one node; ``run`` makes them all."""

    def __init__(self, settings: Settings, env: Mapping[str, str], state_dir: Path) -> None:
        self.settings = settings
        self.env = env
        self.state_dir = state_dir
        self.allocation = Allocation.from_environ(env)
        named = self.allocation.node_name if self.allocation else None
        self.host = named or socket.gethostname().partition(".")[0]
        self.facts: HostFacts | None = None
        self.address: NodeAddress | None = None
        self.versions = {"python": ".".join(map(str, sys.version_info[:3])), "raycluster": __version__}
        self._findings: list[Finding] = []
        self._check = ""
        self._lookups = ThreadPoolExecutor(max_workers=16, thread_name_prefix="lookup")

    def run(self, more: Sequence[tuple[str, Callable[[Checkup], None]]] = ()) -> NodeReport:
        """All checks, and ``more`` of them that need other nodes."""
        importing = self._begin_import()
        checks: list[tuple[str, Callable[[], None]]] = [
            ("python", self._python),
            ("address", self._address),
            ("cpus, memory, gpus", self._grants),
            ("temp directory", self._temp_dir),
            ("limits", self._limits),
            ("ports", self._ports),
            ("names", self._names),
            ("state directory", self._state_dir),
            ("proxies", self._proxies),
            ("other rays", self._other_rays),
            *((name, lambda check=check: check(self)) for name, check in more),
            ("ray", lambda: self._ray(importing)),
        ]
        for name, check in checks:
            self._check = name
            try:
                check()
            except RayclusterError as error:
                self.add(Verdict.FAIL, error.message, error.hint)
            except OSError as error:
                self.add(Verdict.WARNING, f"could not be checked: {error}")
        self._lookups.shutdown(wait=False, cancel_futures=True)
        return NodeReport(self.host, self.versions, tuple(self._findings))

    def add(
        self, verdict: Verdict, text: str, remedy: str = "", *, check: str = "", **numbers: float
    ) -> None:
        """Note what the running check has found.  ``import_s=1.2`` is shown as "import 1.2 s"."""
        measured = {name.replace("_", " "): round(value, 3) for name, value in numbers.items()}
        self._findings.append(Finding(check or self._check, verdict, text, remedy, measured))

    # -- Python and Ray --------------------------------------------------------------------------

    def _begin_import(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _IMPORT],
            env={**self.env, "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _python(self) -> None:
        self.add(
            Verdict.OK,
            f"{self.versions['python']} at {sys.executable} on {file_system(sys.executable)}; "
            f"raycluster {__version__}",
        )

    def _ray(self, importing: subprocess.Popen[str]) -> None:
        try:
            out, err = importing.communicate(timeout=IMPORT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            importing.kill()
            importing.communicate()
            self.add(
                Verdict.FAIL,
                f"`import ray` took longer than {IMPORT_TIMEOUT_S:g} s; {sys.prefix} is on "
                f"{file_system(sys.prefix)}",
                "Put the environment on a local disk or into a container image.",
            )
            return
        if importing.returncode != 0:
            last = (err.strip().splitlines() or ["no message"])[-1]
            self.add(
                Verdict.FAIL, f"`import ray` failed: {last}", f"{sys.executable} -m pip install 'ray>=2.52'"
            )
            return
        found = json.loads(out.strip().splitlines()[-1])
        version, took_s, where = str(found["version"]), float(found["took_s"]), file_system(found["path"])
        self.versions["ray"] = version
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers < (2, 52):
            self.add(Verdict.FAIL, f"Ray is {version}; 2.52 or newer is needed", "Update Ray on all nodes.")
        elif took_s > IMPORT_SLOW_S:
            self.add(
                Verdict.WARNING,
                f"{version} on {where}: `import ray` takes longer than {IMPORT_SLOW_S:g} s, in each process",
                "Put the environment on a local disk or into a container image.",
                import_s=took_s,
            )
        else:
            self.add(Verdict.OK, f"{version} on {where}", import_s=took_s)

    # -- what the node grants --------------------------------------------------------------------

    def _grants(self) -> None:
        settings = self.settings
        facts = self.facts = read_host(self.env, self.allocation)
        plan = plan_from_settings(facts, settings, head=True)
        self._num_cpus = plan.num_cpus
        self._granted("cpus", f"{plan.num_cpus}: {plan.sources.get('num_cpus', '')}", facts.cpus.warnings)
        memory = f"{_gib(plan.memory_bytes)} for tasks of {_gib(facts.memory_bytes.value)}"
        self._granted("memory", f"{memory} ({facts.memory_bytes.source})", facts.memory_bytes.warnings)
        self._granted("gpus", f"{plan.num_gpus}: {facts.gpus.source}", facts.gpus.warnings)
        store_bytes, free = plan.object_store_bytes, facts.shm_free_bytes
        if facts.shm_bytes.value == 0:
            self.add(
                Verdict.WARNING,
                "there is no /dev/shm: objects go to disk",
                "In a container bind the node's.",
                check="/dev/shm",
            )
        elif free < store_bytes:
            self.add(
                Verdict.WARNING,
                f"{_gib(free)} free, the object store would be {_gib(store_bytes)}",
                "See with `ls -la /dev/shm` what fills it; `raycluster stop --here` clears what crashed "
                "clusters of yours left.",
                check="/dev/shm",
            )
        else:
            text = f"object store {_gib(store_bytes)} of {_gib(facts.shm_bytes.value)}"
            self._granted("/dev/shm", text, facts.shm_bytes.warnings)
        known = {
            warning
            for grant in (facts.cpus, facts.memory_bytes, facts.gpus, facts.shm_bytes)
            for warning in grant.warnings
        }
        for warning in plan.warnings:
            if warning not in known:
                self.add(Verdict.WARNING, warning, check="resources")

    def _granted(self, check: str, text: str, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.add(Verdict.WARNING, warning, check=check)
        if not warnings:
            self.add(Verdict.OK, text, check=check)

    # -- places ----------------------------------------------------------------------------------

    def _temp_dir(self) -> None:
        base = Path(self.settings.temp_dir) if self.settings.temp_dir else None
        root = make_node_root(f"doctor/{os.getpid()}", env=self.env, base=base, role="doctor")
        try:
            where = root.path.parent
            space = shutil.disk_usage(where)
            text = f"{where} on {file_system(where)}, {len(os.fsencode(root.path))} bytes long"
            for warning in root.warnings:
                self.add(Verdict.NOTE, warning)
            if space.used > NEARLY_FULL * (space.used + space.free):
                self.add(
                    Verdict.WARNING,
                    f"{text}: more than {NEARLY_FULL:.0%} full; at 95 % Ray makes no more objects",
                    "Free some space, or name another place by --temp-dir, and --spill-dir for objects.",
                    free_GiB=space.free / 2**30,
                )
            else:
                self.add(Verdict.OK, text, free_GiB=space.free / 2**30)
        finally:
            root.remove()

    def _state_dir(self) -> None:
        path = self.state_dir
        kind = file_system(path)
        canary = path / f".doctor.{self.host}.{os.getpid()}"
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            began = time.monotonic()
            canary.write_text("x")
            took_s = time.monotonic() - began
            canary.unlink()
        except OSError as error:
            self.add(
                Verdict.FAIL,
                f"{path} cannot be written: {error.strerror}",
                "Give a shared directory that you can write by --state-dir or RAYCLUSTER_STATE_DIR.",
            )
            return
        if path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o022:
            self.add(
                Verdict.FAIL,
                f"{path} is not yours alone: it holds the clusters' tokens",
                f"chmod go-w {path}",
            )
        elif took_s > SLOW_WRITE_S:
            self.add(
                Verdict.WARNING,
                f"{path} on {kind} is slow",
                "A file server under load makes starts slow; another one can be given by --state-dir.",
                write_s=took_s,
            )
        else:
            self.add(Verdict.OK, f"{path} on {kind}", write_s=took_s)

    def _limits(self) -> None:
        report = raise_limits(num_cpus=getattr(self, "_num_cpus", 1))
        for warning in report.warnings:
            self.add(Verdict.WARNING, warning)
        if not report.warnings:
            self.add(
                Verdict.OK,
                f"open files {_limit(report.files)}, processes {_limit(report.processes)}, at most",
            )

    # -- network ---------------------------------------------------------------------------------

    @property
    def others(self) -> list[str]:
        """The other nodes of the job."""
        nodes = self.allocation.job_nodes if self.allocation else ()
        return [node for node in nodes if node != self.host]

    def _address(self) -> None:
        self.address = node_address(
            interface=self.settings.interface or None,
            network=self.settings.network or None,
            route_to=self.settings.master_ip or (self.others[0] if self.others else None),
            env=self.env,
        )
        # Other on each node: not a part of the text.
        self.add(Verdict.OK, f"on {self.address.interface}, {_same(self.address.source, self.others)}")
        self.versions["address"] = self.address.ip

    def _ports(self) -> None:
        if self.address is None:
            return
        wanted = self.settings.master_port
        if wanted is not None and (error := port_error(wanted)) is not None:
            holder = port_holder(wanted)
            self.add(
                Verdict.FAIL,
                f"port {wanted} cannot be used: {error.strerror}{f', held by {holder}' if holder else ''}",
                "Leave --master-port out, and a free one is taken.",
            )
            return
        with claim_ports(f"doctor/{os.getpid()}", address=self.address.ip, head=True) as claim:
            for warning in claim.warnings:
                self.add(Verdict.WARNING, warning)
            if not claim.warnings:
                low, high = claim.ports.worker_low, claim.ports.worker_high
                self.add(Verdict.OK, f"a block is free, with {high - low + 1} for worker processes")

    def _names(self) -> None:
        """Every node's name leads to an address, and our own address back to a name."""
        asked = [self.host, *self.others[:200]]
        answers = dict(zip(asked, self._look_up(asked), strict=True))
        unknown = [name for name in asked if not answers[name]]
        if self.allocation is not None and unknown:
            self.add(
                Verdict.FAIL,
                f"no address is known for {', '.join(unknown[:5])}{' …' if len(unknown) > 5 else ''}",
                "Nodes must resolve each other's names (DNS or /etc/hosts), or give --master-ip as a number.",
            )
            return
        if self.address is None or self.allocation is None:
            self.add(Verdict.OK, "names of other nodes matter in a job only")
            return
        name = self._within(lambda: socket.gethostbyaddr(self.address.ip)[0] if self.address else "")
        if name is None:
            self.add(
                Verdict.NOTE,
                "this node's address leads to no name",
                "Slow logins and warnings of MPI come from that; Ray works without.",
            )
        elif self.address.ip not in answers[self.host]:
            self.add(
                Verdict.NOTE,
                f"the node's name leads to {' '.join(sorted(answers[self.host]))} here, not to the address "
                "by which it reaches the others",
            )
        else:
            self.add(Verdict.OK, "names lead to addresses and back")

    def _look_up(self, names: Sequence[str]) -> Iterator[set[str]]:
        waiting = [self._lookups.submit(addresses_of, name) for name in names]
        deadline = time.monotonic() + LOOKUP_TIMEOUT_S
        for one in waiting:
            try:
                yield one.result(max(deadline - time.monotonic(), 0.0))
            except TooLong:
                yield set()

    def _within(self, call: Callable[[], str]) -> str | None:
        try:
            return self._lookups.submit(call).result(LOOKUP_TIMEOUT_S)
        except (OSError, TooLong):
            return None

    def _proxies(self) -> None:
        names = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
        found = [name for name in names if self.env.get(name) or self.env.get(name.upper())]
        if not found:
            self.add(Verdict.OK, "none set")
            return
        self.add(
            Verdict.NOTE,
            f"{', '.join(found)} set; the cluster's nodes are added to no_proxy for Ray and the driver",
            "A server of your own on a node is reached by way of the proxy unless no_proxy names the node.",
        )

    # -- neighbours ------------------------------------------------------------------------------

    def _other_rays(self) -> None:
        mine, others = [], 0
        for stat in all_stats():
            if stat.name not in ("raylet", "gcs_server"):
                continue
            with contextlib.suppress(OSError):
                if (PROC / str(stat.pid)).stat().st_uid == os.geteuid():
                    mine.append((stat.name, stat.pid))
                else:
                    others += 1
        by_hand = [port for port in (6379, 8265, 10001) if port_error(port) is not None]
        text = "none of mine here"
        if mine:
            text = "mine here: " + ", ".join(f"{name} (pid {pid})" for name, pid in mine[:6])
        if others:
            text += f"; {others} processes of other users' Rays"
        if by_hand:
            text += f"; Ray's default ports {', '.join(map(str, by_hand))} are taken (not by raycluster)"
        self.add(
            Verdict.NOTE if mine or by_hand else Verdict.OK,
            text,
            "They are left alone. `raycluster status` shows your clusters, `raycluster stop --here` clears "
            "what crashed ones left."
            if mine
            else "",
        )


def addresses_of(name: str) -> set[str]:
    """The addresses that a name leads to; empty when there are none."""
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return set()


def file_system(path: str | os.PathLike[str]) -> str:
    """The type of the file system that a path is (or would be) on, and whether it is another machine's.

    "nfs4 (network)", "ext4".
    """
    real = os.path.realpath(path)
    try:
        text = (PROC / "self/mountinfo").read_text(errors="replace")
    except OSError:
        return "an unknown file system"
    kind = mount_of(real, parse_mountinfo(text)).type
    return f"{kind} (network)" if kind in NETWORK else kind if kind in LOCAL else f"{kind} (unknown)"


def user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def _same(source: str, hosts: Sequence[str]) -> str:
    """A source of an address without the name of another node, which differs from node to node."""
    for host in hosts:
        if source.endswith(f" {host}"):
            return f"{source.removesuffix(host)}the other nodes"
    return source


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _limit(number: int) -> str:
    return "unlimited" if number < 0 else str(number)
