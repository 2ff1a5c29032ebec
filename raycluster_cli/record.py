"""The job's record: how head, workers and commands on other machines know of each other.

One directory per cluster, mode 0700, on a file system that all nodes share:
``<state dir>/<Slurm cluster or "local">/<job id[.rRESTART]>[+NAME]/``

======================  ==========================================================================
``head.claim.N``        who is head, the highest N counts; made with link(2), so only one can win
``head.json``           HeadInfo: written once by the head when the GCS answers
``token``               the cluster's authentication token, mode 0600
``authority``           with --tls: key and certificate of the cluster's authority, PEM, mode 0600
``nodes/HOST.json``     NodeWord: each node writes its own and only its own
``lost/NODE_ID``        empty: the raylet of that id died; by the node's supervisor, who holds it
``stop.json``           StopWord: somebody asks the head to end the cluster
``end.json``            EndWord: how it ended, written once by the head
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

**Slow network file systems.** Files are replaced whole (write beside, close, rename), so a
reader sees the old or the new one.  Readers take a missing, empty, partial or stale
(ESTALE) file as "not there yet" and return None.  An NFS client may remember for 30 s that
a name did not exist (acdirmin): a miss is therefore asked once more after the directory has
been opened, which makes the client ask the server.

**Versions.** Each file carries ``"schema": 1``.  Readers ignore fields that they do not know
and give those that are missing their default, so that the commands of one version can look
at clusters of the next.

**How long.** Records are small (some kB, or the logs kept).  A head that starts removes those that
nobody has touched for 30 days, at most 20 at a time (:func:`prune`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pwd
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from .errors import RayclusterError, UsageError
from .proctree import PROC, ProcessRef, identify, is_running

SCHEMA = 1
HEARTBEAT_S = 30.0
"""How often the head touches its claim (:meth:`Record.beat`)."""
CLAIM_STALE_S = 180.0
"""A claim of a process that cannot be seen from here counts as gone after this long without a beat."""
KEEP_RECORDS_S = 30 * 86400.0
_EVENTS_MAX_BYTES = 1 << 20
_FILE_MAX_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,99}\Z")
_RESTART = re.compile(r"(?P<job>.+?)(?:\.r(?P<restart>\d+))?\Z")

Word = TypeVar("Word")


# --------------------------------------------------------------------------- what the files hold


@dataclass(frozen=True)
class HeadInfo:
    """Who the head is and what a worker or a command needs to reach it."""

    host: str
    address_ip: str
    port: int
    """The GCS's port."""
    identity: str = ""
    """128 random bits in hex: what the GCS must answer before anybody joins."""
    session: str = ""
    cluster_id: str = ""
    ray_version: str = ""
    python_version: str = ""
    raycluster_version: str = ""
    auth: bool = True
    tls: bool = False
    dashboard: str = ""
    started: float = 0.0
    """Unix seconds by the head's clock."""
    pid: int = 0
    create_time: int = 0
    """Of the head's raycluster process, in clock ticks since boot (proctree.ProcessRef)."""
    expected_workers: int = 0
    driver: tuple[str, ...] = ()
    ports: Mapping[str, Any] = field(default_factory=dict)
    node_root: str = ""
    end_time: float = 0.0
    """Unix seconds of the job's time limit; 0 when unknown."""
    aliases: tuple[str, ...] = ()
    """Other names by which a person may ask for the job: ``100_3`` of an array, its job name."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """host:port as Ray takes it; IPv6 in brackets.

        >>> HeadInfo("a", "fd00::1", 20480).address
        '[fd00::1]:20480'
        """
        ip = f"[{self.address_ip}]" if ":" in self.address_ip else self.address_ip
        return f"{ip}:{self.port}"


@dataclass(frozen=True)
class NodeWord:
    """The last word of a node."""

    host: str
    role: str
    """Value of status.Role."""
    phase: str
    """Value of status.NodePhase."""
    phases: Mapping[str, float] = field(default_factory=dict)
    """Unix seconds, by the node's own clock, at which each phase began."""
    pid: int = 0
    create_time: int = 0
    """Clock ticks since boot."""
    node_root: str = ""
    log_path: str = ""
    message: str = ""
    ip: str = ""
    ports: Mapping[str, Any] = field(default_factory=dict)
    node_id: str = ""
    """Ray's."""
    exit_code: int | None = None
    updated: float = 0.0
    """Unix seconds by the node's own clock."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EndWord:
    """How the cluster ended."""

    when: float
    exit_code: int
    reason: str = ""
    culprit_host: str = ""
    message: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StopWord:
    """Somebody asks for the end."""

    when: float
    by: str = ""
    """user@host."""
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """Who holds the place of the head."""

    host: str
    pid: int
    create_time: int
    """Clock ticks since boot."""
    since: float
    """Unix seconds by the holder's clock."""
    boot_id: str = ""
    pid_namespace: str = ""
    nonce: str = ""


@dataclass(frozen=True)
class Event:
    when: float
    text: str


@dataclass(frozen=True)
class ClusterUsage:
    """What the GCS says is in use."""

    when: float
    """Unix seconds by the head's clock."""
    nodes: Mapping[str, Any] = field(default_factory=dict)
    """By Ray's node id: {"total": {resource: amount}, "used": {…}}; dead nodes are left out."""
    pending: int = 0
    """Tasks and actors that wait for resources."""


@dataclass(frozen=True)
class NodeUsage:
    """What only the node itself can see."""

    when: float
    worker_processes: int
    memory_used_bytes: int
    memory_total_bytes: int


# --------------------------------------------------------------------------- files


def _needs(path: Path, error: OSError, doing: str) -> RayclusterError:
    """An OSError in a person's words."""
    what = f"cannot {doing} {path}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RayclusterError(
            f"{what}.", "Free some space there, or give another shared directory by --state-dir."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UsageError(
            f"{what}; a directory that you can write and that all nodes share is needed.",
            "Give one by --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    return RayclusterError(f"{what}.", "Give another shared directory by --state-dir.")


def _write_whole(path: Path, data: bytes) -> None:
    """Replace a file in one step: a reader sees all of the old or all of the new."""
    beside = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)  # NFS tells here that the disk is full
            os.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
    except OSError as error:
        raise _needs(path, error, "write") from error


def _read_bytes(path: Path) -> bytes | None:
    """The file's bytes; None when it is not there, or not yet whole for this reader."""
    for attempt in range(2):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if attempt or error.errno not in (errno.ENOENT, errno.ESTALE):
                return None
            with contextlib.suppress(OSError):  # makes an NFS client ask whether the directory changed
                os.close(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            continue
        try:
            data = bytearray()
            while len(data) <= _FILE_MAX_BYTES and (chunk := os.read(fd, 1 << 16)):
                data += chunk
            return bytes(data)
        except OSError:
            return None
        finally:
            os.close(fd)
    return None


def _decode(kind: type[Word], data: bytes | None) -> Word | None:
    """A dataclass from JSON, by the rules for versions at the top; None when it does not fit."""
    if not data:
        return None
    try:
        values = json.loads(data)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    known: dict[str, Any] = {}
    for each in dataclasses.fields(kind):  # type: ignore[arg-type]
        if each.name in values:
            value = values[each.name]
            if not _fits(value, str(each.type)):
                return None
            if str(each.type).startswith("tuple"):
                value = tuple(value)
            elif str(each.type) == "float":
                value = float(value)
            known[each.name] = value
    try:
        return kind(**known)
    except TypeError:  # a field without default is missing
        return None


def _fits(value: object, annotation: str) -> bool:
    """Whether a JSON value can stand for a field annotated so."""
    if annotation.endswith("| None") and value is None:
        return True
    base = annotation.split("[")[0].split(" ")[0]
    if base in ("int", "float") and isinstance(value, bool):
        return False
    kinds: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "tuple": (list,),
        "Mapping": (dict,),
    }
    return isinstance(value, kinds[base])


def _boot_id() -> str:
    """Another one at each boot of a kernel; empty when it cannot be read."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Where pid numbers mean the same processes: ``pid:[4026531836]``; empty when unknown."""
    try:
        return os.readlink(PROC / "self/ns/pid")
    except OSError:
        return ""


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _own_directory(path: Path, *, make: bool = True) -> None:
    """Make sure that ``path`` is a directory of ours that nobody else can write; else UsageError.

    A symbolic link is refused: somebody else could have laid it.
    """
    try:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            found = os.lstat(path)
    except OSError as error:
        raise _needs(path, error, "make" if make else "read") from error
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(
            f"{path} is not a directory; the record needs a directory of its own there.",
            "Move it away, or give another place by --state-dir.",
        )
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"{path} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}; the record holds "
            "the cluster's token, so it must be in a directory of your own.",
            "Give one by --state-dir or RAYCLUSTER_STATE_DIR.",
        )
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"{path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); "
            "they could put a record of theirs in the place of yours.",
            f"chmod go-w {path}",
        )


def _own_state_dir(state_dir: Path) -> Path:
    """The state directory, made when missing (its parents too), as an absolute real path."""
    try:
        state_dir = state_dir.expanduser()
        if not state_dir.exists():
            state_dir.parent.mkdir(parents=True, exist_ok=True)
        real = Path(os.path.realpath(state_dir))  # home itself may be a link: the user's own affair
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"cannot use {state_dir} as state directory: {error}.", "Give another one by --state-dir."
        ) from error
    _own_directory(real)
    return real


def _part(text: str, what: str) -> str:
    if not _PART.match(text) or "+" in text:
        raise UsageError(
            f"{what} {text!r} cannot be part of a file name; up to 100 letters, digits, _ . - can."
        )
    return text


# --------------------------------------------------------------------------- the record


class Record:
    """One cluster's directory.  Writers raise RayclusterError; readers return None."""

    def __init__(self, path: Path, slurm_cluster: str, key: str, name: str) -> None:
        self.path = path
        self.slurm_cluster = slurm_cluster
        self.key = key
        self.name = name
        self._claim: Path | None = None
        self._token = ""
        self._words: dict[str, tuple[tuple[int, int, int], NodeWord]] = {}

    def __repr__(self) -> str:
        return f"Record({str(self.path)!r})"

    @classmethod
    def create(cls, state_dir: Path, slurm_cluster: str, key: str, name: str = "") -> Record:
        """The record of this job, made when it is not there.  Every node may call this at once.

        Raises UsageError when the place cannot be used or is not the user's own.
        """
        cluster = _part(slurm_cluster or "local", "the Slurm cluster's name")
        leaf = _part(key, "job id") + (f"+{_part(name, 'name')}" if name else "")
        base = _own_state_dir(state_dir)
        _own_directory(base / cluster)
        path = base / cluster / leaf
        _own_directory(path)
        _own_directory(path / "nodes")
        return cls(path, cluster, key, name)

    @classmethod
    def open(cls, path: Path) -> Record:
        """A record that is there.  UsageError when it is not, or is somebody else's."""
        _own_directory(path, make=False)
        key, _, name = path.name.partition("+")
        return cls(path, path.parent.name, key, name)

    @classmethod
    def find(cls, state_dir: Path, job: str) -> Record:
        """The record that a person means by ``job``.

        ``job`` is a path, ``cluster/key``, a key (``123``, ``123.r2``, ``123+name``, ``123.r2+name``) or
        a name.  Of a requeued job the latest restart is taken.  Where several fit,
        one that has not ended is preferred; if that leaves several, UsageError lists them.
        Where none fits, the aliases of the newest 200 heads are looked through.
        """
        if job.startswith(("/", "~", "./", "../")):
            return cls.open(Path(os.path.realpath(Path(job).expanduser())))
        everything = list_records(state_dir)
        fitting = [record for record in everything if record._is_meant(job)]
        fitting = fitting or [record for record in everything[:200] if record._is_alias(job)]
        latest: dict[tuple[str, str, str], Record] = {}
        for record in fitting:
            family = (record.slurm_cluster, record.job_id, record.name)
            if family not in latest or record.restart > latest[family].restart:
                latest[family] = record
        found = list(latest.values())
        if len(found) > 1:
            found = [record for record in found if record.read_end() is None] or found
        if len(found) == 1:
            return found[0]
        if found and all(record.name == job or record._is_alias(job) for record in found):
            return found[0]  # a name used again: the newest, which stands first
        if found:
            names = ", ".join(f"{record.slurm_cluster}/{record.path.name}" for record in found)
            raise UsageError(
                f"{job!r} could be any of several clusters: {names}.", "Give one of these in full."
            )
        known = ", ".join(record.path.name for record in everything[:5]) or "none"
        raise UsageError(
            f"no record of {job!r} below {state_dir}; the newest there: {known}.",
            "`raycluster status` lists them all; --state-dir looks elsewhere.",
        )

    def _is_meant(self, job: str) -> bool:
        cluster, slash, leaf = job.rpartition("/")
        if slash and cluster != self.slurm_cluster:
            return False
        key, plus, name = leaf.partition("+")
        if plus and name != self.name:
            return False
        return key in (self.key, self.job_id) or (not plus and leaf == self.name != "")

    def _is_alias(self, job: str) -> bool:
        head = self.read_head()
        return head is not None and job in head.aliases

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

    def claim_head(
        self,
        *,
        host: str = "",
        pid: int = 0,
        alive: Callable[[ProcessRef], bool] = is_running,
        stale_s: float = CLAIM_STALE_S,
    ) -> Claim:
        """Become the head of this record, or UsageError naming the one that is.

        The earlier holder is gone when the record says how it ended; when it ran under the
        same kernel and pid namespace and no such process lives; or when it ran elsewhere and
        has not touched its claim for ``stale_s`` (by the file server's clock).  What it left
        is moved to ``earlier/``.
        """
        me = identify(pid or os.getpid())
        mine = Claim(
            host=host or socket.gethostname(),
            pid=me.pid if me else pid,
            create_time=me.start_ticks if me else 0,
            since=time.time(),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
            nonce=secrets.token_hex(16),
        )
        for _ in range(20):
            number, holder = self._last_claim()
            if holder is not None and not self._gone(number, holder, alive, stale_s):
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.since))
                raise UsageError(
                    f"this job already has a head: raycluster on {holder.host}, pid {holder.pid}, "
                    f"since {since} ({self.path}).",
                    "Start only one head, or give a second cluster of the same allocation a --name.",
                )
            if self._make_claim(number + 1, mine):
                self._claim = self._claim_path(number + 1)
                if number:
                    self._put_away(number)
                return mine
        raise RayclusterError(
            f"could not become the head of {self.path}: others claimed it again and again.",
            "Start only one head per job.",
        )

    def beat(self) -> None:
        """Touch the claim; the head does so every HEARTBEAT_S.  Never raises."""
        if self._claim is not None:
            with contextlib.suppress(OSError):
                os.utime(self._claim)

    def holder(self) -> Claim | None:
        """Who last claimed to be head (alive or not)."""
        return self._last_claim()[1]

    def _claim_path(self, number: int) -> Path:
        return self.path / f"head.claim.{number}"

    def _last_claim_number(self) -> int:
        """The highest claim's number; 0: none yet."""
        try:
            names = os.listdir(self.path)
        except OSError as error:
            raise _needs(self.path, error, "read") from error
        claims = (name[11:] for name in names if name.startswith("head.claim."))
        return max((int(number) for number in claims if number.isdigit()), default=0)

    def _last_claim(self) -> tuple[int, Claim | None]:
        """The highest claim's number (0: none yet) and holder."""
        number = self._last_claim_number()
        if not number:
            return 0, None
        for _ in range(20):
            claim = _decode(Claim, _read_bytes(self._claim_path(number)))
            if claim is not None:
                return number, claim
            time.sleep(0.05)  # only where link(2) is missing: its maker is about to fill it
        return number, None

    def _make_claim(self, number: int, mine: Claim) -> bool:
        """Whether ``mine`` became claim ``number``: link(2) lets only one win, on NFS too."""
        path = self._claim_path(number)
        data = self._encode(mine)
        beside = self.path / f".head.claim.{mine.nonce}"
        _write_whole(beside, data)
        try:
            try:
                os.link(beside, path)
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise _needs(path, error, "write") from error
                with contextlib.suppress(FileExistsError):  # no hard links here: O_EXCL instead
                    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    try:
                        os.write(fd, data)
                    finally:
                        os.close(fd)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        # An NFS reply can be lost and the repeated request then fail with EEXIST: what is there counts.
        found = _decode(Claim, _read_bytes(path))
        return found is not None and found.nonce == mine.nonce

    def _gone(self, number: int, holder: Claim, alive: Callable[[ProcessRef], bool], stale_s: float) -> bool:
        if self.read_end() is not None:
            return True
        here = _boot_id(), _pid_namespace()
        if here[0] and here == (holder.boot_id, holder.pid_namespace):
            return not alive(ProcessRef(holder.pid, holder.create_time))
        try:
            return self._server_now() - os.stat(self._claim_path(number)).st_mtime > stale_s
        except OSError:
            return False

    def head_runs_here(self) -> bool | None:
        """Whether the head's raycluster process lives, where that can be seen from here; else None."""
        with contextlib.suppress(RayclusterError):
            holder = self.holder()
            here = _boot_id(), _pid_namespace()
            if holder is not None and here[0] and here == (holder.boot_id, holder.pid_namespace):
                return is_running(ProcessRef(holder.pid, holder.create_time))
        return None

    def _server_now(self) -> float:
        """Unix seconds by the clock that stamps the files here."""
        probe = self.path / f".now.{secrets.token_hex(8)}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            try:
                return os.stat(probe).st_mtime
            finally:
                os.unlink(probe)
        except OSError as error:
            raise _needs(probe, error, "write") from error

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
                    word = _decode(NodeWord, _read_bytes(Path(entry.path)))
                    over = word is None or word.phase in ("gone", "failed")
                    with contextlib.suppress(FileNotFoundError):
                        if over or entry.stat(follow_symlinks=False).st_mtime <= last:
                            os.rename(entry.path, away / "nodes" / entry.name)
            logs = ("usage.json", "usage", "events.log", "events.log.1", "logs")
            for name in ("head.json", "stop.json", "lost", *logs, "end.json"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path / name, away / name)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / "token")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path / "authority")
        except OSError as error:
            raise _needs(away, error, "write") from error
        self._words.clear()

    # ------------------------------------------------------------------ words

    def _encode(self, word: Any) -> bytes:
        text = json.dumps({"schema": SCHEMA, **dataclasses.asdict(word)}, separators=(",", ":"), default=str)
        return self._without_token(text).encode()

    def _without_token(self, text: str) -> str:
        return text.replace(self._token, "[token]") if self._token else text

    def write_head(self, head: HeadInfo) -> None:
        _write_whole(self.path / "head.json", self._encode(head))

    def read_head(self) -> HeadInfo | None:
        """The head as it stands in the record, also of a cluster that has ended."""
        return _decode(HeadInfo, _read_bytes(self.path / "head.json"))

    def read_live_head(self) -> HeadInfo | None:
        """The head unless the record says that its cluster has ended.

        The end is read first: a new head moves head.json away before end.json, so that the
        head of an earlier cluster is never taken for a live one.
        """
        return None if self.read_end() is not None else self.read_head()

    def write_node(self, word: NodeWord) -> None:
        if not word.updated:
            word = dataclasses.replace(word, updated=time.time())
        _write_whole(self._node_path(word.host), self._encode(word))

    def read_node(self, host: str) -> NodeWord | None:
        return _decode(NodeWord, _read_bytes(self._node_path(host)))

    def read_nodes(self) -> dict[str, NodeWord]:
        """Every node's last word, by host.  Files that have not changed are not read again."""
        words: dict[str, tuple[tuple[int, int, int], NodeWord]] = {}
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
                    word = _decode(NodeWord, _read_bytes(Path(entry.path)))
                    if word is not None:
                        words[host] = (version, word)
                    elif known is not None:
                        words[host] = known  # about to be replaced: the last good word stands
        except OSError:
            pass
        self._words = words
        return {host: word for host, (_, word) in sorted(words.items())}

    def _node_path(self, host: str) -> Path:
        return self.path / "nodes" / f"{_part(host, 'host name')}.json"

    def write_end(self, end: EndWord) -> None:
        _write_whole(self.path / "end.json", self._encode(end))

    def read_end(self) -> EndWord | None:
        return _decode(EndWord, _read_bytes(self.path / "end.json"))

    def request_stop(self, reason: str = "", *, by: str = "") -> StopWord:
        """Ask the head to end the cluster; the first who asked stands."""
        asked = self.stop_requested()
        if asked is None:
            asked = StopWord(time.time(), by or f"{_user(os.geteuid())}@{socket.gethostname()}", reason)
            _write_whole(self.path / "stop.json", self._encode(asked))
        return asked

    def stop_requested(self) -> StopWord | None:
        return _decode(StopWord, _read_bytes(self.path / "stop.json"))

    def tell_loss(self, node_id: str) -> bool:
        """Say that the raylet of this id has died, sooner than the GCS of a large cluster asks it again.

        Never raises: whether it was written.
        """
        path = self.path / "lost" / _part(node_id, "node id")
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
        _write_whole(self.path / "usage.json", self._encode(usage))

    def read_usage(self) -> ClusterUsage | None:
        return _decode(ClusterUsage, _read_bytes(self.path / "usage.json"))

    def write_node_usage(self, host: str, usage: NodeUsage) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path / "usage", 0o700)
        _write_whole(self.path / "usage" / f"{_part(host, 'host name')}.json", self._encode(usage))

    def read_node_usages(self) -> dict[str, NodeUsage]:
        """By host."""
        found: dict[str, NodeUsage] = {}
        with contextlib.suppress(OSError), os.scandir(self.path / "usage") as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.endswith(".json"):
                    usage = _decode(NodeUsage, _read_bytes(Path(entry.path)))
                    if usage is not None:
                        found[entry.name[:-5]] = usage
        return found

    def heard(self) -> float | None:
        """When the head last touched its claim, in the file server's Unix seconds; None: no head yet."""
        try:
            return os.stat(self._claim_path(self._last_claim_number())).st_mtime
        except (OSError, RayclusterError):
            return None

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
        path = self.path / "logs" / _part(host, "host name")
        try:
            path.mkdir(parents=True, mode=0o700, exist_ok=True)
        except OSError as error:
            raise _needs(path, error, "make") from error
        return path

    # ------------------------------------------------------------------ the token

    @property
    def token_path(self) -> Path:
        return self.path / "token"

    def make_token(self) -> str:
        """A new token, 256 random bits in hex, in a file that only this user can read.

        Made by the head after claim_head().  From here on no word or event of this
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
            raise _needs(path, error, "write") from error
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
        _write_whole(self.path / "authority", pem.encode())

    def read_authority(self) -> str | None:
        """What write_authority wrote; None when there is none (yet).  UsageError as for the token."""
        path = self.path / "authority"
        try:
            self._check_token_mode(os.lstat(path), path)
        except OSError:
            return None
        data = _read_bytes(path)
        return data.decode("ascii", "replace") if data else None

    def _check_token_mode(self, found: os.stat_result, path: Path | None = None) -> None:
        path = path or self.token_path
        if found.st_uid != os.geteuid():
            raise UsageError(
                f"{path} belongs to {_user(found.st_uid)}, not to {_user(os.geteuid())}.",
                "Do not use this record; give another --state-dir.",
            )
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise UsageError(
                f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}); 0600 is needed.",
                "End this cluster: its token may be known.  Another --state-dir may be needed.",
            )


# --------------------------------------------------------------------------- all records


def list_records(state_dir: Path) -> list[Record]:
    """All records of this user, the last changed first.

    Costs a directory listing per Slurm cluster and one stat per record; opens no file.
    """
    found: list[tuple[float, Record]] = []
    me = os.geteuid()
    with contextlib.suppress(OSError):
        for cluster in _directories(state_dir.expanduser(), me):
            with contextlib.suppress(OSError):
                for leaf in _directories(Path(cluster.path), me):
                    key, _, name = leaf.name.partition("+")
                    changed = leaf.stat(follow_symlinks=False).st_mtime
                    found.append((changed, Record(Path(leaf.path), cluster.name, key, name)))
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [record for _, record in found]


def _directories(path: Path, uid: int) -> Iterable[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == uid:
                    yield entry


def prune(
    state_dir: Path, *, older_than_s: float = KEEP_RECORDS_S, limit: int = 20, now: float | None = None
) -> list[Path]:
    """Remove records that nobody has touched for long; at most ``limit``, the oldest first.

    A head that runs touches its claim (:meth:`Record.beat`), so a cluster of two months is safe.
    """
    before = (time.time() if now is None else now) - older_than_s
    removed: list[Path] = []
    for record in reversed(list_records(state_dir)):
        if len(removed) >= limit:
            break
        try:
            if os.stat(record.path).st_mtime >= before:
                break  # sorted: the rest is newer still
            with os.scandir(record.path) as entries:
                touched = max((e.stat(follow_symlinks=False).st_mtime for e in entries), default=0.0)
        except OSError:
            continue
        if touched < before:
            shutil.rmtree(record.path, ignore_errors=True)
            removed.append(record.path)
    return removed
