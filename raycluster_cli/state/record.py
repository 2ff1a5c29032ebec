"""The job's record: how head, workers and commands on other machines know of each other.

One directory per cluster, mode 0700, on a file system that all nodes share:
``<state dir>/<Slurm cluster or "local">/<job id[.rRESTART]>[+NAME]/``

======================  ==========================================================================
``head.claim.N``        who is head, the highest N counts; made with link(2), so only one can win
``head.json``           HeadInfo: written once by the head when the GCS answers
``token``               the cluster's authentication token, mode 0600
``authority``           with --tls: key and certificate of the cluster's authority, PEM, mode 0600
``template.json``       what a worker's raylet is executed with (rayproc.template), by the head
``nodes/HOST.json``     NodeReport: each node writes its own and only its own
``notices/NODE_ID.json``  Notice: a worker in a job of its own will go (state.notices)
``lost/NODE_ID``        empty: the raylet of that id died; by the node's supervisor, who holds it
``stop.json``           StopRequest: somebody asks the head to end the cluster
``end.json``            EndReport: how it ended, written once by the head
``refused/LAUNCH.json``   EndReport: the head of this step failed to start, before it could name itself
``service.json``        ServiceReport: what the server does, with --service; by the head
``events.log``          what happened, one JSON object a line, appended by the head alone
``watching``            touched by `raycluster monitor` while somebody watches
``usage.json``          ClusterUsage: by the head, only while somebody watches
``usage/HOST.json``     NodeUsage: by each node, only while somebody watches
``logs/HOST/``          logs kept from a node
``groups.json`` …       of clusters with worker groups: worker_jobs has these files
``earlier/N/``          files of the cluster before this one under the same key (a second run in one salloc)
======================  ==========================================================================

**What it costs.** A node writes one small file per change of phase and reads two
(``head.json``, ``end.json``).  Only the head, and commands that people run, list ``nodes``.
No fsync: a record does not outlive the power of the file server, and need not.

How files are written and read: files; what they hold: model.record; who is head: lease; the event log:
events; usage: usage; token and authority: secrets.

**How long.** Records are small (some kB, or the logs kept).  A head that starts removes those that
nobody has touched for 30 days, at most 20 at a time (:func:`catalogue.prune`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.record import EndReport, HeadInfo, Lease, NodeReport, StopRequest, decode
from ..system.proctree import ProcessRef, is_running
from ..system.removal import remove_tree
from .events import EventLog
from .files import needs, own_directory, own_state_dir, part, read_bytes, stamp_of, user, write_whole
from .lease import LEASE_STALE_S, Leases
from .usage import UsageFiles

if TYPE_CHECKING:
    from ..model.service import ServiceReport

_RESTART = re.compile(r"(?P<job>.+?)(?:\.r(?P<restart>\d+))?\Z")


class Record(EventLog, UsageFiles):
    """One cluster's directory.  Writers raise RayclusterError; readers return None."""

    def __init__(self, path: Path, slurm_cluster: str, key: str, name: str) -> None:
        super().__init__(path)
        self.slurm_cluster = slurm_cluster
        self.key = key
        self.name = name
        self.leases = Leases(path, lambda: self.read_end() is not None)
        self._reports: dict[str, tuple[tuple[int, int, int], NodeReport]] = {}

    def __repr__(self) -> str:
        return f"Record({str(self.path)!r})"

    @classmethod
    def create(cls, state_dir: Path, slurm_cluster: str, key: str, name: str = "") -> Record:
        """The record of this job, made when it is not there.  Every node may call this at once.

        Raises UsageError when the place cannot be used or is not the user's own.
        """
        cluster = part(slurm_cluster or "local", "the Slurm cluster's name")
        leaf = part(key, "job id") + (f"+{part(name, 'name')}" if name else "")
        base = own_state_dir(state_dir)
        own_directory(base / cluster)
        path = base / cluster / leaf
        own_directory(path)
        own_directory(path / "nodes")
        return cls(path, cluster, key, name)

    @classmethod
    def open(cls, path: Path) -> Record:
        """A record that is there.  UsageError when it is not, or is somebody else's."""
        own_directory(path, make=False)
        return cls.at(path)

    @classmethod
    def at(cls, path: Path) -> Record:
        """A record to look at, by its path; nothing is checked."""
        key, _, name = path.name.partition("+")
        return cls(path, path.parent.name, key, name)

    @property
    def owner(self) -> int:
        """The user id of its owner: root can look at the records of others, but changes none."""
        try:
            return os.stat(self.path).st_uid
        except OSError:
            return os.geteuid()

    @property
    def is_mine(self) -> bool:
        return self.owner == os.geteuid()

    @property
    def job_id(self) -> str:
        """The key without the restart: ``123.r2`` → ``123``."""
        match = _RESTART.match(self.key)
        return match["job"] if match else self.key

    @property
    def restart(self) -> int:
        match = _RESTART.match(self.key)
        return int(match["restart"] or 0) if match else 0

    # ------------------------------------------------------------------ the place of the head

    def take_lease(
        self,
        *,
        host: str = "",
        pid: int = 0,
        alive: Callable[[ProcessRef], bool] = is_running,
        stale_s: float = LEASE_STALE_S,
    ) -> Lease:
        """Become the head of this record, or UsageError naming the one that is (:meth:`Leases.take`).

        What an earlier holder left is moved to ``earlier/``.
        """
        claim, earlier = self.leases.take(host=host, pid=pid, alive=alive, stale_s=stale_s)
        if earlier:
            self._put_away(earlier)
        return claim

    def _put_away(self, number: int) -> None:
        """Move the earlier cluster's files to ``earlier/N``: head.json first, end.json after it.

        Reports that nodes have written since it ended belong to the new cluster (its workers may start before
        its head) and stay.
        """
        away = self.path / "earlier" / str(number)
        try:
            (away / "nodes").mkdir(parents=True, mode=0o700, exist_ok=True)
            last = 0.0
            for name in ("end.json", "head.json"):
                with contextlib.suppress(OSError):
                    last = max(last, os.stat(self.path / name).st_mtime)
            with os.scandir(self.path / "nodes") as entries:
                for entry in entries:
                    report = decode(NodeReport, read_bytes(Path(entry.path)))
                    over = report is None or report.has_ended
                    with contextlib.suppress(FileNotFoundError):
                        if over or entry.stat(follow_symlinks=False).st_mtime <= last:
                            os.rename(entry.path, away / "nodes" / entry.name)
            logs = ("service.json", "usage.json", "usage", "events.log", "events.log.1", "logs")
            elastic = ("groups.json", "scale.json", "worker-jobs.json", "launch", "jobs")  # worker_jobs
            for name in ("head.json", "stop.json", "lost", "notices", "refused", *elastic, *logs, "end.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path / name, away / name)
            for name in ("token", "authority", "template.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path / name)
        except OSError as error:
            raise needs(away, error, "write") from error
        self._reports.clear()

    def remove_earlier(self) -> None:
        """Remove what runs under this key left before the last one that ended.  Ignores errors.

        In a long allocation with many runs the record would grow with each of them.
        """
        with contextlib.suppress(OSError):
            kept = sorted(name for name in os.listdir(self.path / "earlier") if name.isdigit())
            for name in sorted(kept, key=int)[:-1]:
                remove_tree(self.path / "earlier" / name)
        self.leases.remove_old()

    # ------------------------------------------------------------------ head, nodes and the end

    def write_head(self, head: HeadInfo) -> None:
        write_whole(self.path / "head.json", self._encoded(head))

    def read_head(self) -> HeadInfo | None:
        """The head as it stands in the record, also of a cluster that has ended."""
        return decode(HeadInfo, read_bytes(self.path / "head.json"))

    def write_template(self, template: Mapping[str, Any]) -> None:
        """What the raylets of workers are executed with; Template.as_json of rayproc.template."""
        text = json.dumps(template, separators=(",", ":"))
        write_whole(self.path / "template.json", self.masked(text).encode())

    def read_template(self) -> bytes | None:
        """What write_template wrote; None when there is none (yet)."""
        return read_bytes(self.path / "template.json")

    def remove_template(self) -> None:
        """Until there is another one, workers start in other ways."""
        with contextlib.suppress(OSError):
            os.unlink(self.path / "template.json")

    def write_node(self, report: NodeReport) -> None:
        if not report.updated:
            report = dataclasses.replace(report, updated=time.time())
        write_whole(self._node_path(report.host), self._encoded(report))

    def head_wrote_since(self, host: str, before_s: float) -> bool:
        """Whether the head wrote here since ``host`` wrote its report, or up to ``before_s`` seconds earlier.

        By the file server's clock, whatever those of the nodes say.
        """
        reported = stamp_of(self._node_path(host))
        written = [stamp_of(self.path / name) for name in ("events.log", "end.json")]
        beat = self.leases.last_heartbeat()
        newest = max([stamp / 1e9 for stamp in written if stamp is not None] + [beat or 0.0])
        return reported is not None and newest >= reported / 1e9 - before_s

    def read_node(self, host: str) -> NodeReport | None:
        return decode(NodeReport, read_bytes(self._node_path(host)))

    def read_nodes(self) -> dict[str, NodeReport]:
        """Every node's last report, by host.  Files that have not changed are not read again."""
        reports: dict[str, tuple[tuple[int, int, int], NodeReport]] = {}
        try:
            with os.scandir(self.path / "nodes") as entries:
                for entry in entries:
                    if entry.name.startswith(".") or not entry.name.endswith(".json"):
                        continue
                    host = entry.name[:-5]
                    try:
                        found = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    version = (found.st_ino, found.st_mtime_ns, found.st_size)
                    known = self._reports.get(host)
                    if known is not None and known[0] == version:
                        reports[host] = known
                        continue
                    report = decode(NodeReport, read_bytes(Path(entry.path)))
                    if report is not None and report.host == host:
                        reports[host] = (version, report)
                    elif known is not None:
                        reports[host] = known  # about to be replaced: the last good report stands
        except OSError:
            pass
        self._reports = reports
        return {host: report for host, (_, report) in sorted(reports.items())}

    def _node_path(self, host: str) -> Path:
        return self.path / "nodes" / f"{part(host, 'host name')}.json"

    def write_end(self, end: EndReport) -> None:
        write_whole(self.path / "end.json", self._encoded(end))

    def read_end(self) -> EndReport | None:
        return decode(EndReport, read_bytes(self.path / "end.json"))

    def end_stamp(self) -> int | None:
        """When the end was written, in the file server's nanoseconds; None without one."""
        return stamp_of(self.path / "end.json")

    def write_service(self, report: ServiceReport) -> None:
        write_whole(self.path / "service.json", self._encoded(report))

    def read_service(self) -> ServiceReport | None:
        from ..model.service import ServiceReport  # only of a cluster with --service

        return decode(ServiceReport, read_bytes(self.path / "service.json"))

    def write_refusal(self, launch: str, end: EndReport) -> None:
        """A head that failed to start tells the other tasks of its step, which wait for it.

        It may be another head's record: its own files are left alone.
        """
        path = self.path / "refused" / f"{part(launch, 'launch')}.json"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.parent, 0o700)
        write_whole(path, self._encoded(end))

    def read_refusal(self, launch: str) -> EndReport | None:
        return decode(EndReport, read_bytes(self.path / "refused" / f"{part(launch, 'launch')}.json"))

    def request_stop(self, reason: str = "", *, by: str = "") -> StopRequest:
        """Ask the head to end the cluster; the first who asked stands."""
        asked = self.stop_requested()
        if asked is None:
            asked = StopRequest(time.time(), by or f"{user(os.geteuid())}@{socket.gethostname()}", reason)
            write_whole(self.path / "stop.json", self._encoded(asked))
        return asked

    def stop_requested(self) -> StopRequest | None:
        return decode(StopRequest, read_bytes(self.path / "stop.json"))

    def tell_loss(self, node_id: str) -> bool:
        """Say that the raylet of this id has died, sooner than the GCS of a large cluster asks it again.

        Never raises: whether it was written.
        """
        path = self.path / "lost" / part(node_id, "node id")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.touch(mode=0o600)
        except OSError:
            return False
        return True

    def lost_node_ids(self) -> list[str]:
        """The ids of the raylets of which :meth:`tell_loss` was told."""
        for path in (self.path, self.path / "lost"):  # opened for an NFS client that remembers a miss
            try:
                names = os.listdir(path)
            except OSError:
                return []
        return names

    def log_dir(self, host: str) -> Path:
        """The directory for logs kept from a node, made when missing."""
        path = self.path / "logs" / part(host, "host name")
        try:
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise needs(path, error, "make") from error
        return path
