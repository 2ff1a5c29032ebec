"""What a worker in a job of its own concludes about its cluster, from the record and from what Slurm says.

Pure functions: Slurm and the record are asked by :mod:`raycluster_cli.supervisor.worker_job`.
"""

from __future__ import annotations

import re

from ..model.errors import ExitCode, UsageError
from ..model.record import EndReport, HeadInfo
from ..model.status import EndReason
from ..policy.values import End
from ..slurm.job_calls import KnownJob
from ..slurm.queue import WAITING
from ..state.files import user

#: How long a head that is up may not answer before a worker that came gives up.
SILENT_S = 12.0


def end_before(end: EndReport | None, head: HeadInfo | None, cluster: str) -> End | None:
    """The end of a worker that comes after its cluster has ended: there is nothing left to do.

    >>> end_before(EndReport(9.0, 1, message="the driver ended"), None, "4711").message
    'cluster 4711 has ended: the driver ended'
    """
    if end is None or (head is not None and head.started > end.when):
        return None
    return End(0, f"cluster {cluster} has ended: {end.message}", EndReason.ENDED.value)


def dead_head(
    cluster: str,
    restart: int,
    known: KnownJob | None,
    *,
    asked: bool,
    silent_s: float,
    limit_s: float = SILENT_S,
) -> End | None:
    """What a head means that does not answer; None: it may still do so.

    ``known`` is what Slurm says of its job, if it was ``asked`` with success; ``restart`` is that of the
    cluster.  A host that lost its power leaves no end in the record.  ``limit_s``: how long a head may be
    silent whose job runs.
    """
    if asked and (known is None or known.is_over or known.state == "COMPLETING"):
        said = f"Slurm says that its job is over ({known.state})" if known else "Slurm does not know its job"
        return End(0, f"cluster {cluster} has ended: {said}", EndReason.ENDED.value)
    if asked and known is not None and (known.restarts > restart or known.state in WAITING):
        text = f"cluster {cluster} has ended: its job was requeued, which makes another cluster"
        return End(0, text, EndReason.ENDED.value)
    if silent_s < limit_s:
        return None
    text = f"the head of cluster {cluster} has not answered for {silent_s:.0f} s, and its job has not ended"
    return End(ExitCode.WORKERS_MISSING, text, EndReason.HEAD_LOST.value)


def job_in(cluster: str) -> str | None:
    """The job id in what a person calls a cluster; None where there is none, as in a name.

    >>> job_in("4711"), job_in("tux/4711.r2+tune"), job_in("4711_3"), job_in("train")
    ('4711', '4711', '4711_3', None)
    """
    match = re.fullmatch(r"(?:[^/]+/)?(\d+(?:_\d+)?)(?:\.r\d+)?(?:\+.*)?", cluster)
    return match[1] if match else None


def no_record_error(job: str, known: KnownJob | None, uid: int) -> UsageError | None:
    """Why a job without a record will not have one for this user; None where it may.

    An empty message: there is nothing to add to that there is no record.

    >>> no_record_error("7", KnownJob("RUNNING", uid=1001), uid=1000).message[:26]
    'job 7 belongs to uid 1001,'
    """
    if known is None:
        return UsageError("")
    if known.uid is not None and known.uid != uid:
        return UsageError(
            f"job {job} belongs to {user(known.uid)}, and this worker to {user(uid)}.",
            "A worker joins clusters of its own user only.",
        )
    if known.is_over:
        return UsageError(
            f"job {job} has ended ({known.state}), and there is no record of a cluster in it.",
            "`raycluster status` lists all clusters; --state-dir searches another directory.",
        )
    return None
