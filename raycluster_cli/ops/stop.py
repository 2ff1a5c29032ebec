"""`raycluster stop`: asks the head first, then signals it, then cancels it, then clears what a crash left.

1. A request in the record (``stop.json``), which the head reads twice a second: it ends its driver,
   drains the workers, and every node clears itself.  A head that reports that it is ending gets the time
   that its own --grace gives the driver.
2. A head that does not react by the deadline: SIGTERM and then SIGKILL of exactly its process, whose
   keeper clears the node; where that is another node, by one `srun --overlap` into its job.  The workers
   end when their head has gone.
3. A head that has gone without reporting its end (killed together with its keeper): what it left on its
   node is cleared in the same way.
4. What then still runs is Slurm's: scancel of the step, or of the job when the head runs in its batch script.
"""

from __future__ import annotations

import enum
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..model.cluster_status import ClusterPhase, ClusterStatus
from ..model.errors import RayclusterError
from ..model.record import EndReport, HeadInfo
from ..model.status import EndDetail, EndReason, NodePhase, Role
from ..model.wording import count, duration
from ..node.sweep import Swept, sweep_stale
from ..rayproc.boot import raycluster_command
from ..slurm.queue import Job, cancel_job, query_jobs
from ..state.catalogue import list_records
from ..state.record import Record
from ..system.proctree import ProcessRef, is_running, send_signal
from .reader import read_cluster

#: How often the record is read while waiting.
POLL_S = 0.2

#: How often Slurm is asked while waiting.
ASK_S = 10.0

#: A head reads requests twice a second.  One that has not begun to end after this long, with a heartbeat
#: older than SILENT_HEAD_S (it comes every 30 s), is on a host without power or network.
HEARD_S, SILENT_HEAD_S = 20.0, 45.0

#: How long Slurm, or a signalled head, gets after the deadline: KillWait is 30 s by default.
FORCED_S = 45.0

#: A head under the same kernel gets this long between SIGTERM and SIGKILL.
TERM_S = 10.0

#: What the end of a head takes beyond its driver's --grace: draining, logs, Ray.
END_S = 10.0

#: How long ending the head from within its job may take beyond --grace: TERM_S twice, and srun.
SRUN_S = 60.0

#: Of a suspended job Slurm kills everything at once, and refuses to cancel a step (seen with 22.05).
_LEFT = "what it leaves on its nodes is cleared by the next start there, or by `raycluster stop --here`"

#: How long the workers get to see that their head has gone.
GONE_S = 12.0


class Outcome(enum.Enum):
    """How a stop went."""

    ENDED = "ended"
    """Cleanly: the head reacted."""
    OVER = "over"
    """It had ended before."""
    FORCED = "forced"
    """It did not react, and was ended by Slurm or by signals."""
    CLEARED = "cleared"
    """Its head was gone already; what it had left is cleared."""
    FAILED = "failed"
    """It still runs."""

    @property
    def is_good(self) -> bool:
        return self is not Outcome.FAILED


@dataclass
class Surroundings:
    """What a stop acts through; tests give their own."""

    env: Mapping[str, str]
    say: Callable[[str], None]
    """Something that was done, for people."""
    progress: Callable[[str], None] = lambda _: None
    """What is being waited for, again and again."""
    query: Callable[[], dict[str, Job] | None] | None = None
    cancel: Callable[..., None] = cancel_job
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _jobs: dict[str, Job] | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    def jobs(self, again: bool = False) -> dict[str, Job] | None:
        """Slurm's view, asked once unless ``again``."""
        if again or not self._asked:
            self._asked = True
            self._jobs = self.query() if self.query else query_jobs(self.env)
        return self._jobs


def stop_cluster(
    record: Record, around: Surroundings, *, deadline_s: float = 60.0, requested: bool = False
) -> Outcome:
    """End one cluster.  Raises RayclusterError when the record cannot be written.

    ``deadline_s``: how long the head may take; longer if it is ending and its --grace is longer.
    ``requested``: the caller has asked the head before, and it may have ended since.
    """
    local = record.slurm_cluster == "local"
    status = read_cluster(record, None if local else around.jobs(), events=0)
    if status.phase is ClusterPhase.LOST:
        return _clear(record, status, around)
    if status.is_over:
        around.say(f"{status.title} {'ended' if requested else 'has ended already'}: {status.headline}")
        return Outcome.ENDED if requested else Outcome.OVER
    if status.phase is ClusterPhase.SUSPENDED and (job := _own_job(record, around)) is not None:
        if job.state == "SUSPENDED":  # only an operator can resume it
            around.say(f"{status.title}: Slurm has suspended the job, and its head cannot react; {_LEFT}")
            return _cancel(record, status, job, around, whole=True)
        around.cancel(job.own_id, around.env, extra=("--signal=CONT",))
    began = around.clock()
    if status.phase is not ClusterPhase.STOPPING:
        try:
            record.request_stop("raycluster stop")
        except RayclusterError as error:
            by_hand = "Press Ctrl-C where it was started" if local else f"`scancel {record.job_id}` ends it"
            raise RayclusterError(
                f"{status.title} cannot be asked to end: {error.message}", f"{by_hand}."
            ) from error
    asked = began
    while True:
        waited_s = around.clock() - began
        again = around.clock() - asked >= ASK_S
        asked = around.clock() if again else asked
        status = read_cluster(record, None if local else around.jobs(again), events=0)
        if status.phase is ClusterPhase.LOST:
            return _clear(record, status, around)
        if status.is_over:
            around.say(f"{status.title} ended after {duration(waited_s)}: {status.headline}")
            return Outcome.ENDED
        allowed_s = _allowed_s(record, deadline_s)
        unheard = waited_s >= HEARD_S and _is_silent(record) and not _is_ending(record)
        if waited_s >= allowed_s or unheard:
            return _force(record, status, around, waited_s)
        around.progress(f"{status.title}: {_doing(status)} ({waited_s:.0f} s of {allowed_s:g})")
        around.sleep(POLL_S)


def _is_silent(record: Record) -> bool:
    """Whether the head has not touched its lease for longer than it ever rests."""
    heard = record.leases.last_heartbeat()
    return heard is not None and time.time() - heard > SILENT_HEAD_S


def _doing(status: ClusterStatus) -> str:
    left = [node for node in status.nodes if node.is_member]
    if status.phase is ClusterPhase.STOPPING and status.message:
        return f"ending, {count(len(left), 'node')} left"
    return "the head has been asked to end"


def _grace_s(record: Record) -> float:
    """The head's --grace; 0.0 when its record is too old to say."""
    head = record.read_head()
    return head.grace_s if head is not None else 0.0


def _allowed_s(record: Record, wait_s: float) -> float:
    """How long a head may take: ``wait_s``, or --grace and END_S if it reports that it is ending."""
    grace_s = _grace_s(record)
    return max(wait_s, grace_s + END_S) if grace_s > 0 and _is_ending(record) else wait_s


def _is_ending(record: Record) -> bool:
    """Whether the head reports that it is ending."""
    head = record.read_head()
    node = record.read_node(head.host) if head is not None else None
    return node is not None and node.phase == NodePhase.STOPPING.value


# --------------------------------------------------------------------------- when it does not react


def _force(record: Record, status: ClusterStatus, around: Surroundings, waited_s: float) -> Outcome:
    silent = f"{status.title}: the head on {status.head_host or '?'} did not end within {duration(waited_s)}"
    head = record.read_head()
    job = _own_job(record, around)
    here = record.leases.head_runs_here()
    if job is not None:
        if head is not None and here is None:
            around.say(f"{silent}; ending it from within its job")
            if _from_within(record, head, job, around):
                around.say(f"{status.title} ended")
                return Outcome.FORCED
        return _cancel(record, status, job, around)
    if record.slurm_cluster != "local" and around.jobs() is not None:
        gone = f"Slurm has ended job {record.job_id}, and its head did not report its end"
        return _clear(record, replace(status, phase=ClusterPhase.LOST, message=gone), around)
    if head is not None and here:
        around.say(f"{silent}; ending its process {head.pid}")
        return end_here(record, around)
    around.say(f"{silent}, and Slurm cannot be reached: nothing more can be done from here")
    return Outcome.FAILED


def _own_job(record: Record, around: Surroundings) -> Job | None:
    """The job in Slurm, when it is there, ours (squeue was asked for this user's) and not over."""
    if record.slurm_cluster == "local":
        return None
    job = (around.jobs(again=True) or {}).get(record.job_id)
    return None if job is None or job.is_ended else job


def _step(head: HeadInfo | None) -> str | None:
    return head.step or None if head is not None else None


def _cancel(
    record: Record, status: ClusterStatus, job: Job, around: Surroundings, *, whole: bool = False
) -> Outcome:
    """scancel of the head's step, or of the job (``whole``, or where the head runs in the batch script)."""
    step = None if whole else _step(record.read_head())
    what = f"step {job.own_id}.{step}" if step else f"job {job.own_id}"
    around.say(f"{status.title}: cancelling {what}")
    try:
        if step:
            # Of a job Slurm gives TERM, and KILL after KillWait; of a step KILL at once, and no node clears
            # itself.  So TERM first.
            around.cancel(job.own_id, around.env, step=step, extra=("--signal=TERM",))
            if _await_slurm(record, job, around, TERM_S * 1.5, head_too=True):
                return Outcome.FORCED
        around.cancel(job.own_id, around.env, step=step)
    except RayclusterError as error:  # it may just have ended
        around.say(f"{status.title}: {error.message}")
    if _await_slurm(record, job, around, FORCED_S):
        return Outcome.FORCED
    around.say(f"{status.title}: still there {FORCED_S:g} s after scancel; see `squeue -s -j {job.own_id}`")
    return Outcome.FAILED


def _await_slurm(
    record: Record, job: Job, around: Surroundings, wait_s: float, *, head_too: bool = False
) -> bool:
    """Wait until the record has the end, or Slurm no longer knows the job; False if neither came.

    ``head_too``: the head's node must have reported its end as well.
    """
    began = asked = around.clock()
    while around.clock() - began < _allowed_s(record, wait_s):
        status = read_cluster(record, None, events=0)
        told = status.is_over and status.phase is not ClusterPhase.LOST
        if told and _are_gone(record, head_too=head_too):
            around.say(f"{status.title} ended after scancel")
            return True
        if around.clock() - asked > 3.0:
            asked = around.clock()
            found = (around.jobs(again=True) or {}).get(job.id)
            if found is None or found.is_ended:
                _write_end(record, "ended by scancel; its head did not report its end", by_stop=True)
                around.say(f"{status.title}: Slurm has ended job {job.id}")
                return True
            if found.state == "COMPLETING" and _is_silent(record):
                _write_end(record, "cancelled; its head's host did not respond")
                where = f"{status.head_host or 'its host'} does not respond"
                around.say(f"{status.title}: job {job.id} is cancelled; {where}, and Slurm waits for it")
                return True
        around.progress(f"{status.title}: waiting for Slurm to end it")
        around.sleep(POLL_S)
    return False


def _are_gone(record: Record, *, head_too: bool = False) -> bool:
    """Whether all workers have reported their end, and the head's node too."""
    reports = record.read_nodes().values()
    return all(report.has_ended for report in reports if head_too or report.role != Role.HEAD.value)


def end_here(record: Record, around: Surroundings) -> Outcome:
    """End a head that runs on this node: SIGTERM to its supervisor, then SIGKILL; its keeper clears the node.

    A head that reacts to SIGTERM gets its own --grace.  Of a head that has gone: clear what it left here.
    """
    head = record.read_head()
    if head is None or not record.leases.head_runs_here():
        _sweep_here(record, around)
        return Outcome.CLEARED
    supervisor = ProcessRef(head.pid, head.create_time)
    for number, wait_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, TERM_S)):
        send_signal(supervisor, number)
        began = around.clock()
        while around.clock() - began < (_allowed_s(record, wait_s) if number == signal.SIGTERM else wait_s):
            if not is_running(supervisor):
                _sweep_here(record, around)
                _write_end(record, f"ended by {number.name} from `raycluster stop`", by_stop=True)
                return Outcome.FORCED
            around.progress(f"{record.path.name}: waiting for process {head.pid} after {number.name}")
            around.sleep(POLL_S)
    around.say(f"{record.path.name}: process {head.pid} does not end, not even by SIGKILL")
    return Outcome.FAILED


def _from_within(record: Record, head: HeadInfo, job: Job, around: Surroundings) -> bool:
    """`raycluster stop --here` on the head's own node, by srun into its job; whether all ended."""
    program = shutil.which("srun", path=around.env.get("PATH"))
    if program is None or job.is_waiting:
        return False
    argv = [
        *(program, f"--jobid={job.id}", "--overlap", "--nodes=1", "--ntasks=1", "--mem=0", "--immediate=20"),
        *(f"--nodelist={head.host}", "--kill-on-bad-exit=0", "--quiet"),
        *raycluster_command("stop", "--here", str(record.path)),
    ]
    around.progress(f"{record.path.name}: ending what is on {head.host}")
    env = {name: value for name, value in around.env.items() if not name.startswith("SLURM_")}
    options: dict[str, Any] = {"env": env, "capture_output": True, "text": True, "check": False}
    try:
        done = around.run(argv, **options, timeout=SRUN_S + _grace_s(record), stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        around.say(f"{head.host} could not be reached by srun")
        return False
    for line in done.stderr.splitlines():
        if line.startswith("raycluster: "):
            around.say(f"{head.host}: {line.removeprefix('raycluster: ')}")
    until = around.clock() + GONE_S
    while done.returncode == 0 and around.clock() < until:
        # The workers see within a second that the head's GCS has gone.
        if _are_gone(record, head_too=True):
            return True
        around.sleep(POLL_S)
    return False


# --------------------------------------------------------------------------- when it is gone already


def _clear(record: Record, status: ClusterStatus, around: Surroundings) -> Outcome:
    """Its head has gone without reporting its end: clear what it left, here, on its node, and in Slurm."""
    around.say(f"{status.title}: {status.message}")
    head = record.read_head()
    _sweep_here(record, around)
    job = _own_job(record, around)
    all_gone = False
    if job is not None and head is not None and record.leases.head_runs_here() is None:
        all_gone = _from_within(record, head, job, around)
    _write_end(record, f"{status.message.rstrip('.')}; cleared by `raycluster stop`")
    if job is not None and not all_gone and _cancel(record, status, job, around) is Outcome.FAILED:
        return Outcome.FAILED
    return Outcome.CLEARED


def _write_end(record: Record, message: str, *, by_stop: bool = False) -> None:
    """Say in the head's place how it ended, so that nothing shows it as running."""
    if record.read_end() is None:
        head, code = record.read_head(), 128 + signal.SIGKILL
        lost = EndReport(time.time(), code, "supervisor-killed", head.host if head else "", message)
        asked = EndReport(time.time(), code, EndReason.STOP.value, "", message, EndDetail.BY_STOP.value)
        record.write_end(asked if by_stop else lost)


def _sweep_here(record: Record, around: Surroundings) -> None:
    reports = record.read_nodes().values()
    bases = {Path(report.node_root).parent for report in reports if report.node_root}
    tell_swept(sweep_here(around.env, bases), around.say)


def sweep_here(env: Mapping[str, str], bases: set[Path] | None = None) -> list[Swept]:
    """Clear what crashed clusters of this user left on this node."""
    return sweep_stale(env, extra=sorted(bases or ()))


def tell_swept(swept: list[Swept], say: Callable[[str], None]) -> None:
    for one in swept:
        ended = f", {count(len(one.ended), 'process', 'processes')} ended" if one.ended else ""
        say(f"cleared {one.path}, left behind by cluster {one.key or '?'}{ended}")
        for left in one.left:
            say(f"could not clear {left}")


# --------------------------------------------------------------------------- which ones


def running_clusters(state_dir: Path, jobs: Mapping[str, Job] | None) -> list[tuple[Record, ClusterStatus]]:
    """Records of clusters that have not ended, lost ones too, newest first."""
    found = []
    for record in list_records(state_dir):
        if record.read_end() is None:
            status = read_cluster(record, jobs, events=0)
            if (status.started or status.nodes) and (not status.is_over or status.phase is ClusterPhase.LOST):
                found.append((record, status))
    return found
