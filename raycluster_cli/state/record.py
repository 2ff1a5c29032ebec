"""The job's record: how head, workers and commands on other machines know of each other.

One directory per cluster, mode 0700, on a file system that all nodes share:
``<state dir>/<Slurm cluster or "local">/<job id[.rRESTART]>[+NAME]/``

======================  ==========================================================================
``head.claim.N``        who is head, the highest N counts; made with link(2), so only one can win
``head.json``           HeadInfo: written once by the head when the GCS answers
``token``               the cluster's authentication token, mode 0600
``authority``           with --tls: key and certificate of the cluster's authority, PEM, mode 0600
``nodes/HOST.json``     NodeReport: each node writes its own and only its own
``lost/NODE_ID``        empty: the raylet of that id died; by the node's supervisor, who holds it
``stop.json``           StopRequest: somebody asks the head to end the cluster
``end.json``            EndReport: how it ended, written once by the head
``refused/STEP.json``   EndReport: the head of this step came to nothing, before it could name itself
``events.log``          what happened, one JSON object a line, appended by the head alone
``watching``            touched by `raycluster monitor` while somebody watches
``usage.json``          ClusterUsage: by the head, only while somebody watches
``usage/HOST.json``     NodeUsage: by each node, only while somebody watches
``logs/HOST/``          logs kept from a node
``earlier/N/``          files of an earlier cluster under the same key (a second run in one salloc)
======================  ==========================================================================

**What it costs.** A node writes one small file per change of phase and reads two
(``head.json``, ``end.json``).  Only the head, and commands that people run, list ``nodes``.
No fsync: a record does not outlive the power of the file server, and need not.

How files are written and read: record_files; what they hold: words; who is head: claims.

**How long.** Records are small (some kB, or the logs kept).  A head that starts removes those that
nobody has touched for 30 days, at most 20 at a time (:func:`records.prune`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..model.errors import RayclusterError, UsageError
from ..model.record import (
    ClusterUsage,
    EndReport,
    Event,
    HeadInfo,
    Lease,
    NodeReport,
    NodeUsage,
    StopRequest,
    decode,
    encode,
)
from ..system.proctree import ProcessRef, is_running
from .files import needs, own_directory, own_state_dir, part, read_bytes, user, write_whole
from .lease import CLAIM_STALE_S, Leases

_EVENTS_MAX_BYTES = 1 << 20
_RESTART = re.compile(r"(?P<job>.+?)(?:\.r(?P<restart>\d+))?\Z")


class Record:
    """One cluster's directory.  Writers raise RayclusterError; readers return None."""

    def __init__(self, path: Path, slurm_cluster: str, key: str, name: str) -> None:
        self.path = path
        self.slurm_cluster = slurm_cluster
        self.key = key
        self.name = name
        self.leases = Leases(path, lambda: self.read_end() is not None)
        self._token = ""
        self._words: dict[str, tuple[tuple[int, int, int], NodeReport]] = {}

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
        key, _, name = path.name.partition("+")
        return cls(path, path.parent.name, key, name)

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
        stale_s: float = CLAIM_STALE_S,
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

        Words that nodes have written since it ended belong to the new cluster (its workers may start before
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
                    word = decode(NodeReport, read_bytes(Path(entry.path)))
                    over = word is None or word.phase in ("gone", "failed")
                    with contextlib.suppress(FileNotFoundError):
                        if over or entry.stat(follow_symlinks=False).st_mtime <= last:
                            os.rename(entry.path, away / "nodes" / entry.name)
            logs = ("usage.json", "usage", "events.log", "events.log.1", "logs")
            for name in ("head.json", "stop.json", "lost", "refused", *logs, "end.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path / name, away / name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / "token")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / "authority")
        except OSError as error:
            raise needs(away, error, "write") from error
        self._words.clear()

    # ------------------------------------------------------------------ words

    def _encode(self, word: Any) -> bytes:
        return self._without_token(encode(word)).encode()

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, "[token]") if self._token else text

    def write_head(self, head: HeadInfo) -> None:
        write_whole(self.path / "head.json", self._encode(head))

    def read_head(self) -> HeadInfo | None:
        """The head as it stands in the record, also of a cluster that has ended."""
        return decode(HeadInfo, read_bytes(self.path / "head.json"))

    def read_live_head(self) -> HeadInfo | None:
        """The head unless the record says that its cluster has ended.

        The end is read first: a new head moves head.json away before end.json, so that the
        head of an earlier cluster is never taken for a live one.
        """
        return None if self.read_end() is not None else self.read_head()

    def write_node(self, word: NodeReport) -> None:
        if not word.updated:
            word = dataclasses.replace(word, updated=time.time())
        write_whole(self._node_path(word.host), self._encode(word))

    def read_node(self, host: str) -> NodeReport | None:
        return decode(NodeReport, read_bytes(self._node_path(host)))

    def read_nodes(self) -> dict[str, NodeReport]:
        """Every node's last word, by host.  Files that have not changed are not read again."""
        words: dict[str, tuple[tuple[int, int, int], NodeReport]] = {}
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
                    known = self._words.get(host)
                    if known is not None and known[0] == version:
                        words[host] = known
                        continue
                    word = decode(NodeReport, read_bytes(Path(entry.path)))
                    if word is not None:
                        words[host] = (version, word)
                    elif known is not None:
                        words[host] = known  # about to be replaced: the last good word stands
        except OSError:
            pass
        self._words = words
        return {host: word for host, (_, word) in sorted(words.items())}

    def _node_path(self, host: str) -> Path:
        return self.path / "nodes" / f"{part(host, 'host name')}.json"

    def write_end(self, end: EndReport) -> None:
        write_whole(self.path / "end.json", self._encode(end))

    def read_end(self) -> EndReport | None:
        return decode(EndReport, read_bytes(self.path / "end.json"))

    def write_refusal(self, step: str, end: EndReport) -> None:
        """A head that came to nothing tells the other tasks of its step, which wait for it.

        It may be another head's record: its own files are left alone.
        """
        path = self.path / "refused" / f"{part(step, 'step')}.json"
        with contextlib.suppress(FileExistsError):
            os.mkdir(path.parent, 0o700)
        write_whole(path, self._encode(end))

    def read_refusal(self, step: str) -> EndReport | None:
        return decode(EndReport, read_bytes(self.path / "refused" / f"{part(step, 'step')}.json"))

    def request_stop(self, reason: str = "", *, by: str = "") -> StopRequest:
        """Ask the head to end the cluster; the first who asked stands."""
        asked = self.stop_requested()
        if asked is None:
            asked = StopRequest(time.time(), by or f"{user(os.geteuid())}@{socket.gethostname()}", reason)
            write_whole(self.path / "stop.json", self._encode(asked))
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

    # ------------------------------------------------------------------ usage, while somebody watches

    def watch(self) -> bool:
        """Let head and nodes know that somebody watches; to be called every few seconds.  Never raises."""
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self.path / "watching", flags, 0o600)
            try:
                os.utime(fd)
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def watching_stamp(self) -> int | None:
        """When somebody last said that they watch, in the file server's nanoseconds; None: never.

        The file is opened, not just looked at: an NFS client answers stat(2) from its cache for a minute.
        """
        try:
            fd = os.open(self.path / "watching", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_mtime_ns
        except OSError:
            return None
        finally:
            os.close(fd)

    def write_usage(self, usage: ClusterUsage) -> None:
        write_whole(self.path / "usage.json", self._encode(usage))

    def read_usage(self) -> ClusterUsage | None:
        return decode(ClusterUsage, read_bytes(self.path / "usage.json"))

    def write_node_usage(self, host: str, usage: NodeUsage) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path / "usage", 0o700)
        write_whole(self.path / "usage" / f"{part(host, 'host name')}.json", self._encode(usage))

    def read_node_usages(self) -> dict[str, NodeUsage]:
        """By host."""
        found: dict[str, NodeUsage] = {}
        with contextlib.suppress(OSError), os.scandir(self.path / "usage") as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.endswith(".json"):
                    usage = decode(NodeUsage, read_bytes(Path(entry.path)))
                    if usage is not None:
                        found[entry.name[:-5]] = usage
        return found

    # ------------------------------------------------------------------ events and logs

    def append_event(self, text: str, when: float | None = None) -> bool:
        """Note an event; only the head does (O_APPEND of several hosts mixes lines on NFS).

        Never raises: whether it was written.  Above 1 MiB the file is set aside once
        as ``events.log.1``.
        """
        path = self.path / "events.log"
        line = json.dumps(
            {"t": round(time.time() if when is None else when, 3), "text": self._without_token(text)}
        )
        try:
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode() + b"\n")
                if os.fstat(fd).st_size > _EVENTS_MAX_BYTES:
                    os.rename(path, path.with_name("events.log.1"))
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def read_events(self, limit: int = 200) -> list[Event]:
        """The last events, oldest first.  A line that is not whole is left out."""
        data = b""
        for name in ("events.log.1", "events.log"):
            try:
                with open(self.path / name, "rb") as file:
                    size = file.seek(0, os.SEEK_END)
                    file.seek(max(0, size - limit * 400))
                    data += file.read()
            except OSError:
                continue
        events = []
        for line in data.split(b"\n"):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                values = json.loads(line)
                events.append(Event(float(values["t"]), str(values["text"])))
        return events[-limit:]

    def log_dir(self, host: str) -> Path:
        """The directory for logs kept from a node, made when missing."""
        path = self.path / "logs" / part(host, "host name")
        try:
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise needs(path, error, "make") from error
        return path

    # ------------------------------------------------------------------ the token

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    def make_token(self) -> str:
        """A new token, 256 random bits in hex, in a file that only this user can read.

        Made by the head after take_lease().  From here on no word or event of this
        record object can hold it by accident: it is replaced by ``[token]``.
        """
        token = secrets.token_hex(32)
        path = self.token_path
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._check_token_mode(os.fstat(fd))
                os.write(fd, token.encode())
            finally:
                os.close(fd)
        except FileExistsError as error:
            raise RayclusterError(
                f"{path} is there already; only the head makes it, once, after it has claimed the record.",
                "Start only one head per job.",
            ) from error
        except OSError as error:
            raise needs(path, error, "write") from error
        except UsageError:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        self._token = token
        return token

    def read_token(self) -> str | None:
        """The token; None when there is none yet.  UsageError when others could have read it."""
        try:
            fd = os.open(self.token_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UsageError(f"{self.token_path} is a symbolic link; a file is needed.") from error
            return None
        try:
            self._check_token_mode(os.fstat(fd))
            token = os.read(fd, 4096).decode("ascii", "replace").strip()
        except OSError:
            return None
        finally:
            os.close(fd)
        if len(token) < 64:  # still being written
            return None
        self._token = token
        return token

    def write_authority(self, pem: str) -> None:
        """The authority that signs the certificates of the cluster's nodes (tls.py)."""
        write_whole(self.path / "authority", pem.encode())

    def read_authority(self) -> str | None:
        """What write_authority wrote; None when there is none (yet).  UsageError as for the token."""
        path = self.path / "authority"
        try:
            self._check_token_mode(os.lstat(path), path)
        except OSError:
            return None
        data = read_bytes(path)
        return data.decode("ascii", "replace") if data else None

    def _check_token_mode(self, found: os.stat_result, path: Path | None = None) -> None:
        path = path or self.token_path
        if found.st_uid != os.geteuid():
            raise UsageError(
                f"{path} belongs to {user(found.st_uid)}, not to {user(os.geteuid())}.",
                "Do not use this record; give another --state-dir.",
            )
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise UsageError(
                f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); 0600 is needed.",
                "End this cluster: its token may be known.  Another --state-dir may be needed.",
            )
