"""All records of a user: finding the one that the user means, and removing old ones."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..model.errors import UsageError
from ..system.removal import remove_tree
from .files import user
from .record import Record

KEEP_RECORDS_S = 30 * 86400.0


class NoRecordError(UsageError):
    """There is no record of the cluster that the user means."""


class NoClusterError(NoRecordError):
    """The user means a worker job, which is no cluster of its own and will not be one."""


#: How many heads' other names are read, the newest first.
ALIASED = 200


def record_of(state_dir: Path, job: str) -> Record:
    """The record that the user means by ``job``.

    ``job`` is a path, ``cluster/key``, a key (``123``, ``123.r2``, ``123+name``, ``123.r2+name``) or a
    name.  For a requeued job it is the record of the last restart.  If several records match, those of
    clusters that have not ended are preferred; if none matches, the aliases of the newest :data:`ALIASED`
    heads are searched.  Raises NoRecordError when no record matches, UsageError when still several do.
    """
    if job.startswith(("/", "~", "./", "../")):
        return Record.open(Path(os.path.realpath(Path(job).expanduser())))
    check_readable(state_dir)
    everything = list_records(state_dir)
    fitting = [record for record in everything if _is_meant(record, job)]
    fitting = fitting or [record for record in everything[:ALIASED] if is_alias(record, job)]
    latest: dict[tuple[str, str, str], Record] = {}
    for record in fitting:
        family = (record.slurm_cluster, record.job_id, record.name)
        if family not in latest or record.restart > latest[family].restart:
            latest[family] = record
    found = list(latest.values())
    if len(found) > 1:
        found = [record for record in found if record.read_end() is None] or found
    if len(found) == 1:
        if not os.access(found[0].path, os.R_OK | os.X_OK):
            raise unreadable(found[0].path, f"the record {found[0].path}")
        return found[0]
    if found and all(record.name == job or is_alias(record, job) for record in found):
        return found[0]  # a name that was used again: the newest, which is first
    if found:
        names = ", ".join(f"{record.slurm_cluster}/{record.path.name}" for record in found)
        raise UsageError(f"{job!r} matches several clusters: {names}.", "Give one of these names in full.")
    if (cluster := _cluster_of_worker_job(everything[:50], job)) is not None:
        raise NoClusterError(
            f"{job} is a worker job of cluster {cluster.path.name}, and no cluster of its own.",
            f"Give the cluster's name: {cluster.path.name}.",
        )
    known = ", ".join(record.path.name for record in everything[:5]) or "none"
    raise NoRecordError(
        f"no record of {job!r} was found in {state_dir}; the newest records there: {known}.",
        "`raycluster status` lists all clusters; --state-dir searches another directory.",
    )


def _is_meant(record: Record, job: str) -> bool:
    cluster, slash, leaf = job.rpartition("/")
    if slash and cluster != record.slurm_cluster:
        return False
    key, plus, name = leaf.partition("+")
    if plus and name != record.name:
        return False
    return key in (record.key, record.job_id) or (not plus and leaf == record.name != "")


def is_alias(record: Record, job: str) -> bool:
    """Whether the head of this record has another name that is ``job``."""
    head = record.read_head()
    return head is not None and job in head.aliases


def is_worker_job(state_dir: Path, job: str) -> bool:
    """Whether a cluster of this user has submitted this job as one of its workers."""
    return _cluster_of_worker_job(list_records(state_dir)[:50], job) is not None


def _cluster_of_worker_job(records: Sequence[Record], job: str) -> Record | None:
    """The record of the cluster that has submitted this worker job, or the array of that number."""
    from .worker_jobs import WorkerJobFiles

    for record in records:
        report = WorkerJobFiles(record.path).read_jobs()
        jobs = report.jobs if report is not None else ()
        if any(one.is_called(job) or job == one.job_id.partition("_")[0] for one in jobs):
            return record
    return None


def owner_of(state_dir: Path) -> int:
    """The user id whose records are looked for: this user's; for root that of the directory's owner."""
    me = os.geteuid()
    if me != 0:
        return me
    try:
        return os.stat(state_dir.expanduser()).st_uid
    except OSError:
        return me


def check_readable(state_dir: Path) -> None:
    """Raise UsageError for a directory that is there and that this user may not read."""
    where = state_dir.expanduser()
    try:
        os.scandir(where).close()
    except PermissionError as error:
        raise unreadable(where, f"the records in {where}") from error
    except OSError:
        return


def unreadable(where: Path, what: str) -> UsageError:
    """The error for a directory that this user may not read: another user's, or one with a wrong mode."""
    whose, hint = "", "Their owner and root can. `squeue --user=NAME` shows another user's jobs."
    with contextlib.suppress(OSError):
        found = os.stat(where)
        if found.st_uid == os.geteuid():
            whose = f": the directory is yours, with mode {found.st_mode & 0o7777:04o}"
            hint = f"chmod u+rwx {where}"
        else:
            whose = f": it belongs to {user(found.st_uid)}"
    return UsageError(f"{what} cannot be read{whose}.", hint)


def list_records(state_dir: Path, *, owner: int | None = None) -> list[Record]:
    """All records of one user, the most recently changed first; without ``owner`` those of :func:`owner_of`.

    Costs a directory listing for each Slurm cluster and a stat for each record; opens no file.
    """
    found: list[tuple[float, Record]] = []
    uid = owner_of(state_dir) if owner is None else owner
    with contextlib.suppress(OSError):
        for cluster in _directories(state_dir.expanduser(), uid):
            with contextlib.suppress(OSError):
                for leaf in _directories(Path(cluster.path), uid):
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
    """Remove records that have not changed for ``older_than_s``, at most ``limit``, the oldest first.

    Returns their paths.  A running head touches its lease (:meth:`Leases.beat`), so its record stays, however
    old.
    """
    before = (time.time() if now is None else now) - older_than_s
    removed: list[Path] = []
    for record in reversed(list_records(state_dir, owner=os.geteuid())):
        if len(removed) >= limit:
            break
        try:
            if os.stat(record.path).st_mtime >= before:
                break  # the rest is newer
            with os.scandir(record.path) as entries:
                touched = max((e.stat(follow_symlinks=False).st_mtime for e in entries), default=0.0)
        except OSError:
            continue
        if touched < before and not remove_tree(record.path):
            removed.append(record.path)
    return removed
