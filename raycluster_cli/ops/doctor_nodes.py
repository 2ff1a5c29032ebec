"""Checks between nodes: one srun on all, a connection to the head's port, a file in the state directory.

The node that would be the head listens on the port on which its GCS would listen; each other node
connects to it, as a worker would, and compares clocks.  All leave a file in the state directory and look
for the head's: that is how a shared directory is told from a local one of the same name.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import RayclusterError, UsageError
from ..model.hostlist import format_hostlist
from ..model.wording import count
from ..rayproc.boot import raycluster_command
from ..slurm.allocation import Allocation
from ..slurm.queue import outside_job
from ..slurm.refusal import hint_for
from ..system.ports import derived_gcs_ports
from .checkup import Checkup
from .doctor_network import addresses_of
from .findings import Finding, NodeFindings, Verdict

#: Tells the tasks of the srun which nodes check one another: "ID HEAD NODES".
VARIABLE = "RAYCLUSTER_DOCTOR"

#: Nodes start within this of each other, slow imports included.
MEETING_S = 9.0
SRUN_TIMEOUT_S = 19.0

#: How long srun may take to end, after SIGTERM and again after SIGKILL.
SRUN_END_S = 2.0

#: How long a node of a partition may take to become free.
ALLOCATION_S = 120.0

SKEW_WARNING_S = 5.0

#: Of a report, on a line: less than what srun keeps whole.
PIECE = 800
_MARK = "raycluster-doctor"


@dataclass(frozen=True)
class NodeChecks:
    """Nodes that check one another: a name that only they know, the head, and how many."""

    id: str
    head: str
    nodes: int

    @classmethod
    def from_text(cls, text: str) -> NodeChecks | None:
        parts = text.split()
        return cls(parts[0], parts[1], int(parts[2])) if len(parts) == 3 else None

    def __str__(self) -> str:
        return f"{self.id} {self.head} {self.nodes}"

    def checks(self) -> list[tuple[str, Callable[[Checkup], None]]]:
        if self.nodes < 2:
            return []
        return [("shared directory", self.see_canary), ("way to the head", self.reach_head)]

    # -- the canary ------------------------------------------------------------------------------

    def directory(self, checkup: Checkup) -> Path:
        return checkup.state_dir / f".doctor-{self.id}"

    def see_canary(self, checkup: Checkup) -> None:
        """Leave our own file, and look for the head's (on the head for all)."""
        where = self.directory(checkup)
        checkup.make_state_dir()
        where.mkdir(mode=0o700, exist_ok=True)
        (where / checkup.host).touch()
        wanted = self.nodes if checkup.host == self.head else 1
        deadline = time.monotonic() + MEETING_S
        while True:
            there = set(os.listdir(where))
            if self.head in there and len(there) >= wanted:
                checkup.add(Verdict.OK, f"all nodes see the same {checkup.state_dir}")
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        checkup.add(
            Verdict.FAIL,
            f"{checkup.state_dir} is not the same on {self.head} and on other nodes"
            if checkup.host == self.head
            else f"what {self.head} writes into {checkup.state_dir} is not seen here",
            "Give a directory on a file system that all nodes share: --state-dir or RAYCLUSTER_STATE_DIR.",
        )

    def clean(self, checkup: Checkup) -> None:
        """Afterwards: whether each node has seen what the others have written.

        Each removes its own file, since the directory may be another one on each node.  Whoever is the
        last there removes it.
        """
        with contextlib.suppress(OSError):
            (self.directory(checkup) / checkup.host).unlink()
            self.directory(checkup).rmdir()

    # -- the port --------------------------------------------------------------------------------

    def ports(self) -> list[int]:
        return list(derived_gcs_ports(f"doctor/{self.id}"))

    def reach_head(self, checkup: Checkup) -> None:
        if checkup.host == self.head:
            self._listen(checkup)
        else:
            self._connect(checkup)

    def _listen(self, checkup: Checkup) -> None:
        address = checkup.address.ip if checkup.address else ""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for port in self.ports():
                with contextlib.suppress(OSError):
                    server.bind((address, port))
                    break
            else:
                checkup.add(Verdict.WARNING, "no port was free for the connection test; try again")
                return
            server.listen(min(self.nodes + 8, 1024))
            came: set[str] = set()
            deadline = time.monotonic() + MEETING_S
            while len(came) < self.nodes - 1 and (left_s := deadline - time.monotonic()) > 0:
                server.settimeout(left_s)
                with contextlib.suppress(OSError):
                    peer, _ = server.accept()
                    with peer:
                        peer.settimeout(2.0)
                        asked = peer.recv(200).decode("utf-8", "replace").split()
                        if len(asked) == 2 and asked[0] == self.id:
                            came.add(asked[1])
                            peer.sendall(f"{self.id} {time.time()}\n".encode())
        if len(came) == self.nodes - 1:
            checkup.add(Verdict.OK, f"reached by {count(self.nodes - 1, 'other node')}")
        else:
            missing = [host for host in checkup.others if host not in came]
            checkup.add(
                Verdict.FAIL,
                f"not reached by {format_hostlist(missing)}" if missing else "not reached by all nodes",
                "See the findings of these nodes.",
            )

    def _connect(self, checkup: Checkup) -> None:
        """Connect as a worker would: the head's name, the port that follows from the job."""
        deadline = time.monotonic() + MEETING_S
        why = ""
        while True:
            for address in sorted(addresses_of(self.head)) or [""]:
                if not address:
                    why = f"{self.head} has no address"
                    continue
                for port in self.ports():
                    try:
                        skew_s, round_trip_s = self._ask(address, port, checkup.host)
                    except OSError as error:
                        why = f"{address} port {port}: {error.strerror or error or 'no answer'}"
                        continue
                    checkup.add(Verdict.OK, f"{self.head} is reached", round_trip_s=round_trip_s)
                    self._clock(checkup, skew_s)
                    return
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        checkup.add(
            Verdict.FAIL,
            f"{self.head} cannot be reached from here ({why})",
            "Is there a firewall between nodes, or several networks? Choose one by --network or --interface.",
        )

    def _ask(self, address: str, port: int, host: str) -> tuple[float, float]:
        """(its clock less ours, round trip) in seconds.  Raises OSError."""
        with socket.create_connection((address, port), timeout=1.5) as head:
            began = time.time()
            head.sendall(f"{self.id} {host}\n".encode())
            said = head.recv(200).decode("utf-8", "replace").split()
            took_s = time.time() - began
        if len(said) != 2 or said[0] != self.id:
            raise ConnectionError("another program answers there")
        return float(said[1]) - (began + took_s / 2), took_s

    def _clock(self, checkup: Checkup, skew_s: float) -> None:
        if abs(skew_s) > SKEW_WARNING_S:
            checkup.add(
                Verdict.WARNING,
                f"differs from that of {self.head} by {skew_s:+.0f} s: times in logs and records mislead",
                "Ask the site to check the time service (chrony, ntpd) of the node.",
                check="clock",
            )
        else:
            checkup.add(Verdict.OK, f"agrees with that of {self.head}", check="clock", off_by_s=abs(skew_s))


def on_all_nodes(
    allocation: Allocation, env: Mapping[str, str], variables: Mapping[str, str], state_dir: Path
) -> list[NodeFindings]:
    """One task a node of the allocation, by one srun; for a node that does not answer the report says so."""
    hosts = list(allocation.job_nodes)
    node_checks = NodeChecks(secrets.token_hex(8), allocation.first_job_node, len(hosts))
    program = shutil.which("srun", path=env.get("PATH"))
    if program is None:
        return [_no_answer(host, "there is no srun here") for host in hosts]
    argv = [
        *(program, "--overlap", "--ntasks-per-node=1", *_shape(allocation)),
        *("--cpu-bind=none", "--mem=0", "--quiet", "--kill-on-bad-exit=0", "--wait=0", "--input=none"),
        *(f"--jobid={allocation.job_id}", *raycluster_command("doctor", "--json")),
    ]
    child = subprocess.Popen(
        argv,
        # The job's own SLURM_*, as the batch scripts' srun has them: the tasks see what a start would see.
        env={**env, **variables, VARIABLE: str(node_checks)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = child.communicate(timeout=SRUN_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        out, err = _cut_off(child)
    finally:
        shutil.rmtree(state_dir / f".doctor-{node_checks.id}", ignore_errors=True)
    reports = {report.host: report for report in _reports(out)}
    said = " ".join((err.strip().splitlines() or [f"no answer within {SRUN_TIMEOUT_S:g} s"])[-1:])
    return [reports.get(host) or _no_answer(host, said) for host in hosts]


def _cut_off(child: subprocess.Popen[str]) -> tuple[str, str]:
    """End srun, and return what it printed.

    It waits for a task that does not end for KillWait + 2 s, 32 s by default; its child may hold the pipes.
    """
    out = err = None
    for end in (child.terminate, child.kill):
        end()
        try:
            return child.communicate(timeout=SRUN_END_S)
        except subprocess.TimeoutExpired as late:
            out, err = late.stdout, late.stderr
    return _text(out), _text(err)


def _text(output: str | bytes | None) -> str:
    """What a command printed before it was cut off: bytes, also where text was asked for."""
    return output.decode("utf-8", "replace") if isinstance(output, bytes) else output or ""


def on_partition(partition: str, env: Mapping[str, str], variables: Mapping[str, str]) -> NodeFindings:
    """What a job of the default size finds on one node of a partition.

    Raises RayclusterError when Slurm gives no node within ALLOCATION_S.
    """
    program = shutil.which("srun", path=env.get("PATH"))
    if program is None:
        raise UsageError("srun was not found here.", "Run this on a login node of the cluster.")
    argv = [
        *(program, f"--partition={partition}", "--nodes=1", "--ntasks=1", "--time=2", "--quiet"),
        *(f"--immediate={ALLOCATION_S:.0f}", "--job-name=raycluster-doctor", "--input=none"),
        *raycluster_command("doctor", "--json"),
    ]
    node_checks = NodeChecks(secrets.token_hex(8), "-", 1)  # no other node
    try:
        done = subprocess.run(
            argv,
            env={**outside_job(env), **variables, VARIABLE: str(node_checks)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ALLOCATION_S + SRUN_TIMEOUT_S + 60.0,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RayclusterError(f"srun did not end within {error.timeout:.0f} s.") from error
    for report in _reports(done.stdout):
        return report
    said = " ".join(done.stderr.split()) or f"srun ended with code {done.returncode}"
    raise RayclusterError(
        f"no node of partition {partition} was checked: {said}.",
        hint_for(done.stderr)
        or f"doctor waits {ALLOCATION_S:.0f} s at most for a node; `sinfo -s` shows how many are idle.",
    )


def _shape(allocation: Allocation) -> list[str]:
    """All nodes of the job; of a heterogeneous one all components."""
    if allocation.het_size > 1:
        return [f"--het-group={','.join(str(number) for number in range(allocation.het_size))}"]
    nodes = len(allocation.job_nodes)
    return [f"--nodes={nodes}", f"--ntasks={nodes}"]


def as_lines(report: NodeFindings) -> list[str]:
    """A report in lines that srun keeps whole: it mixes the output of tasks in pieces of 1024 bytes."""
    text = json.dumps(report.as_json())
    parts = [text[begin : begin + PIECE] for begin in range(0, len(text), PIECE)]
    return [f"{_MARK} {report.host} {number} {len(parts)} {part}" for number, part in enumerate(parts)]


def _reports(text: str) -> Iterable[NodeFindings]:
    """What came whole of all that srun's tasks have said."""
    pieces: dict[str, dict[int, str]] = {}
    wanted: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split(" ", 4)
        if len(fields) == 5 and fields[0] == _MARK and fields[2].isdigit() and fields[3].isdigit():
            pieces.setdefault(fields[1], {})[int(fields[2])] = fields[4]
            wanted[fields[1]] = int(fields[3])
    for host, parts in pieces.items():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if len(parts) == wanted[host]:
                yield NodeFindings.from_json(json.loads("".join(parts[number] for number in sorted(parts))))


def _no_answer(host: str, why: str) -> NodeFindings:
    remedy = f"`srun --overlap -w {host} hostname` shows whether Slurm reaches it."
    return NodeFindings(host, {}, (Finding("answer", Verdict.FAIL, f"none: {why}", remedy),))


def compare(reports: list[NodeFindings]) -> list[Finding]:
    """What must be the same on all nodes."""
    findings = []
    for name, title in (("ray", "Ray"), ("python", "Python"), ("raycluster", "raycluster")):
        hosts: dict[str, list[str]] = {}
        for report in reports:
            if name in report.facts:
                hosts.setdefault(report.facts[name], []).append(report.host)
        if len(hosts) > 1:
            told = ", ".join(f"{version} on {format_hostlist(where)}" for version, where in hosts.items())
            minor = {".".join(version.split(".")[:2]) for version in hosts}
            # Ray wants the same Python but for its last number; of itself exactly the same.
            harmless = name == "raycluster" or (name == "python" and len(minor) == 1)
            findings.append(
                Finding(
                    "versions",
                    Verdict.WARNING if harmless else Verdict.FAIL,
                    f"{title} differs: {told}",
                    "Use one environment for all nodes, on a file system that they share.",
                )
            )
    same = reports[0].facts if reports else {}
    if not findings and len(reports) > 1 and all("ray" in report.facts for report in reports):
        findings.append(
            Finding("versions", Verdict.OK, f"Ray {same['ray']} and Python {same['python']} on all nodes")
        )
    return findings
