"""The likely cause of a cluster's end, and what to change: a pure function of what is known of it."""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from ..model.cause_search import Found
from ..model.cluster_status import ClusterPhase
from ..model.record import EndReport
from ..model.status import EndDetail, EndReason
from ..model.wording import count, describe_code
from ..state.events import UNWRITTEN_END
from .end_detail import end_detail, killed_process
from .log_search import SILENCE
from .post_mortem import LOST, NodeEnd, PostMortem, lost_host

#: An end this close to the job's time limit is taken for it: Slurm may send its signal up to a minute early.
LIMIT_S = 90.0

#: The verdict of a good end.
GOOD = "Nothing went wrong."

_MORE_MEMORY = (
    "Ask for more memory (--mem), or let Ray use less: --memory, --object-store-memory, fewer tasks at a "
    "time."
)
_SAVE_IN_TIME = "Ask for more --time, or use --stop-before 120 with a driver that saves its work on SIGTERM."
_REQUEUE = (
    "Use --requeue-on-preempt with a driver that saves its work on SIGTERM; slurm/requeue.sbatch is an "
    "example."
)

#: What Slurm's state of a job means where its head could not report the end, and what to do.
_LOST_BY_SLURM = {
    "TIMEOUT": (
        "The job reached its time limit, and was killed before its head could report that",
        _SAVE_IN_TIME,
    ),
    "DEADLINE": ("The job reached its deadline (--deadline)", "Submit it earlier, or with a later deadline."),
    "PREEMPTED": ("Slurm preempted the job, and gave its head no time to report that", _REQUEUE),
    "OUT_OF_MEMORY": ("Out of memory: Slurm ended the job", _MORE_MEMORY),
    "NODE_FAIL": (
        "A node of the job failed, as Slurm saw it",
        "`sinfo -R` and `scontrol show node` show what happened to it; ask the site's support.",
    ),
    "BOOT_FAIL": (
        "A node of the job did not boot",
        "Submit the job again; tell the site's support if it repeats.",
    ),
    "CANCELLED": (
        "The job was cancelled and killed before its head could report that (scancel --signal=KILL, a "
        "suspended job, or a site with a short KillWait)",
        "`scancel` without --signal, or `raycluster stop`, gives the driver time to end.",
    ),
}

#: What slurmstepd writes where nothing says why (DUE TO …).
_STEP_CANCELLED = re.compile(r"\*\*\* STEP \S+ ON \S+ CANCELLED AT \S+(?: DUE to SIGNAL [^*]+)? \*\*\*")

#: The same of a whole job.
_JOB_CANCELLED = re.compile(_STEP_CANCELLED.pattern.replace("STEP", "JOB"))

_KILLED_AT_ONCE = (
    "All of the cluster's processes were killed at once (SIGKILL), so that its head could not report it",
    "An administrator, a `kill` or scancel --signal=KILL does that, or the kernel for lack of memory, which "
    "`dmesg` on the node shows.",
)

#: Signals by which a driver can die, and what they usually mean.
_CRASHES = {
    signal.SIGSEGV: "it, or a library in it, accessed memory that is not its own",
    signal.SIGBUS: "usually /dev/shm or a file system is full, or a file was cut while it was mapped",
    signal.SIGABRT: "it, or a library in it, found an error and gave up",
    signal.SIGILL: "a library was built for another kind of CPU than the node's",
    signal.SIGFPE: "a library divided by zero",
}


_STATE_IN_SLURM = (
    "`scontrol show node {host}` shows its state in Slurm; --exclude={host} keeps the next job off it."
)


class LikelyCause(NamedTuple):
    """The likely cause in a sentence or two, what to change, and what shows it."""

    verdict: str
    remedies: tuple[str, ...] = ()
    shown_by: Found | None = None


def judge(post: PostMortem) -> LikelyCause:
    """The likely cause."""
    end = post.end
    if end is None:
        return _without_end(post)
    if end.exit_code == 0 and end.reason in ("driver", "stop", "time-limit"):
        return _completed(post, end)
    if end.reason == EndReason.STOP.value:
        return LikelyCause(_sentence(end.message or "stopped by `raycluster stop`"))
    if end.reason == EndReason.TIME_LIMIT.value:
        return LikelyCause(
            f"Ended before the time limit, as --stop-before asks: {end.message.rstrip('.')}.",
            ("Ask for more --time if the driver had work left.",),
        )
    if end.reason == EndReason.SIGNAL.value:
        return _by_signal(post, end)
    if end.reason == EndReason.IDLE.value:
        return LikelyCause(f"Nothing went wrong: {end.message.rstrip('.')}.")
    if end.reason == EndReason.SERVICE.value and not post.found:
        return LikelyCause(_sentence(end.message), _of_server(end))
    if end.reason == EndReason.DRIVER.value and not _lost_a_worker(post, end):
        return _by_driver(post, end)
    host = next((node for node in post.nodes if node.host == end.failed_host), None)
    if post.oom_kills and (host is None or host.oom_kills):
        return _out_of_memory(post)
    silent = end.reason in LOST and host is not None and host.has_not_reported_its_end
    if post.found and not ((silent or _is_cut_off(end, host)) and post.found[0].cause.name == SILENCE):
        return _by_text(post)
    return _by_reason(post, end)


def _is_cut_off(end: EndReport, lost: NodeEnd | None) -> bool:
    """Whether the worker that the head lost has lost the head, and could report it by another network."""
    both = (EndReason.WORKER_LOST.value, EndReason.HEAD_LOST.value)
    return lost is not None and (end.reason, lost.reason) == both


def _of_server(end: EndReport) -> tuple[str, ...]:
    """What to change for a server that was not ready, or stopped answering."""
    detail = end_detail(end)
    if detail == EndDetail.NOTHING_LISTENS.value:
        text = "Give the server its port and address, for example --host {host} --port {port}."
    elif detail == EndDetail.NOT_FOUND.value:
        text = "Give --health-path a path that the server has."
    else:
        text = "A large model may need a longer --ready-timeout, a busy server a longer --unhealthy-after."
    return (f"{text} The job's output has what the server said.",)


def _completed(post: PostMortem, end: EndReport) -> LikelyCause:
    if end_detail(end) == EndDetail.NEVER_CONNECTED.value:
        return LikelyCause(
            "The driver completed, but it did not use this cluster: no driver has connected to it.",
            (
                'Call ray.init() without an address, or with address="auto": address="local" starts another '
                "Ray on one node.",
            ),
        )
    if post.oom_kills:
        killed = count(post.oom_kills, "process", "processes")
        return LikelyCause(
            f"The driver completed. The kernel killed {killed} of the job for memory ({_oom_hosts(post)}), "
            "and the work went on; srun ends with code 1 after that.",
            (_MORE_MEMORY,),
        )
    return LikelyCause(GOOD)


def _without_end(post: PostMortem) -> LikelyCause:
    """The record has no end: it runs, or its head could not write one."""
    status = post.status
    if status.phase is not ClusterPhase.LOST:
        if post.deaths:
            return LikelyCause(
                f"The cluster has not ended: {status.headline}. {_sentence(str(post.deaths[0]))}",
                _remedies(post),
                _first(post),
            )
        watch = f"`raycluster status {post.job}` shows its nodes, `raycluster monitor {post.job}` watches it."
        return LikelyCause(f"The cluster has not ended: {status.headline}.", (watch,))
    if status.message.startswith(UNWRITTEN_END):
        return LikelyCause(_sentence(status.message), (f"Free space on the file system of {status.record}.",))
    by_slurm = post.output.by_slurm if post.output is not None else None
    known = _LOST_BY_SLURM.get(post.slurm.state) if post.slurm is not None else None
    if known is None and post.slurm is not None and post.slurm.shell_code == 128 + signal.SIGKILL:
        known = _KILLED_AT_ONCE if not (post.oom_kills or by_slurm or post.found) else None
    if known is not None:
        text, remedy = known
        return LikelyCause(f"{text}. {_silent_nodes(post)}".strip(), (remedy,), by_slurm)
    if by_slurm is not None:
        return LikelyCause(
            f"{by_slurm.cause.meaning} {_silent_nodes(post)}".strip(), (by_slurm.cause.remedy,), by_slurm
        )
    if post.oom_kills:
        return _out_of_memory(post)
    if post.output is not None and _JOB_CANCELLED.search(post.output.all_text):
        text, remedy = _LOST_BY_SLURM["CANCELLED"]
        return LikelyCause(f"{text}. {_silent_nodes(post)}".strip(), (remedy,))
    if post.output is not None and _STEP_CANCELLED.search(post.output.all_text):
        return LikelyCause(
            "The job's step was cancelled, and Slurm killed all of its processes at once: by scancel "
            "JOB.STEP, or because srun was told to end (`timeout`, `kill`, Ctrl-C). "
            f"{_silent_nodes(post)}".strip(),
            (
                "For a limit on the driver's time: srun raycluster run -- timeout 1h python train.py; "
                "`raycluster stop` and `scancel JOB` give the driver time to end.",
            ),
        )
    if post.found:
        return _by_text(post, before=f"{_sentence(status.message)} ")
    return LikelyCause(
        f"{_sentence(status.message)} {_silent_nodes(post)}".strip(),
        (
            f"`sacct -j {_job_id(post)}` shows how Slurm ended the job, where it keeps accounts; `sinfo -R` "
            "shows nodes that failed.",
        )
        if status.slurm_cluster != "local"
        else (),
    )


def _silent_nodes(post: PostMortem) -> str:
    hosts = [node.host for node in post.nodes if node.has_not_reported_its_end]
    more = f" and {len(hosts) - 8} more" if len(hosts) > 8 else ""
    return f"Exited without reporting: {', '.join(hosts[:8])}{more}." if hosts else ""


def _by_signal(post: PostMortem, end: EndReport) -> LikelyCause:
    """SIGTERM comes from scancel, preemption, the time limit and a failed node alike."""
    number, detail = (end.exit_code - 128 if 128 < end.exit_code < 160 else 0), end_detail(end)
    if detail == EndDetail.SIGINT.value or number == signal.SIGINT:
        return LikelyCause("Ctrl-C was pressed, or somebody sent SIGINT (scancel --signal=INT).")
    if detail == EndDetail.SIGHUP.value or number == signal.SIGHUP:
        return LikelyCause(
            "The terminal of the job was closed (SIGHUP).",
            ("Start it with `raycluster submit`, or within tmux or screen.",),
        )
    told = post.output.by_slurm if post.output is not None else None
    if told is not None:
        return LikelyCause(told.cause.meaning, (told.cause.remedy,), told)
    state = post.slurm.state if post.slurm is not None else ""
    limit = post.status.end_time or (post.head.end_time if post.head else 0.0)
    if state == "TIMEOUT" or (limit and abs(limit - end.when) < LIMIT_S and state != "CANCELLED"):
        return LikelyCause("The job reached its time limit.", (_SAVE_IN_TIME,))
    if state == "PREEMPTED":
        return LikelyCause("Slurm preempted the job.", (_REQUEUE,))
    if state == "NODE_FAIL":
        return LikelyCause(_LOST_BY_SLURM[state][0] + ".", (_LOST_BY_SLURM[state][1],))
    if state == "CANCELLED":
        return LikelyCause("The job was cancelled by SIGTERM (scancel).")
    return LikelyCause(
        "The job was cancelled by SIGTERM (scancel or preemption).",
        (
            f"If nobody cancelled it, `sacct -j {_job_id(post)}` shows who did; --requeue-on-preempt puts "
            "a preempted job back into the queue.",
        ),
    )


def _lost_a_worker(post: PostMortem, end: EndReport) -> bool:
    """Whether the driver failed because it had lost a worker: the end names that host."""
    return lost_host(end, post.head) != ""


def _by_driver(post: PostMortem, end: EndReport) -> LikelyCause:
    """The driver ended by itself with a code that is not 0."""
    output = post.output
    raised = output.raised if output is not None else None
    by_signal = 128 < end.exit_code < 160
    number = end.exit_code - 128 if by_signal else 0
    told = describe_code(-number if by_signal else end.exit_code)
    read_it = f"Read the driver's output: raycluster logs {post.job}"
    if post.status.slurm_cluster == "local":
        read_it = "Read the driver's output, on the terminal in which `run --local` was started."
    if raised is not None and not raised.is_of_another_process:
        meaning = f" {post.found[0].cause.meaning}" if post.found else ""
        return LikelyCause(
            f"The driver failed: {_sentence(raised.summary)}{meaning}",
            (*_remedies(post), read_it),
            _first(post),
        )
    if post.oom_kills and number in (0, signal.SIGKILL, signal.SIGBUS):
        return _out_of_memory(post)
    if post.found:
        return _by_text(post, before=f"The driver failed: {_sentence(raised.summary)} " if raised else "")
    if raised is not None:
        return LikelyCause(
            f"The driver failed: {_sentence(raised.summary)} A process that it used had ended, and "
            "nothing tells why.",
            (read_it, "Keep Ray's logs of a failed run with --keep-logs."),
        )
    if number == signal.SIGKILL:
        return LikelyCause(
            f"The driver itself failed: it {told}, by the kernel for lack of memory, by an administrator, or "
            "by a `kill` in the job.",
            (
                f"Most often it is memory: `dmesg` on {end.failed_host or 'the head'} shows who killed it.",
                read_it,
            ),
        )
    if number in _CRASHES:
        return LikelyCause(
            f"The driver itself failed: it {told}: {_CRASHES[signal.Signals(number)]}.",
            ("PYTHONFAULTHANDLER=1 makes Python print where it was.", read_it),
        )
    return LikelyCause(f"The driver itself failed: it {told}. The cluster did not lose a node.", (read_it,))


def _out_of_memory(post: PostMortem) -> LikelyCause:
    return LikelyCause(
        f"Out of memory: the kernel killed {count(post.oom_kills, 'process', 'processes')} of this job: "
        f"{_oom_hosts(post)}.",
        (_MORE_MEMORY,),
        next((one for one in post.found if one.cause.name == "out of memory"), None),
    )


def _oom_hosts(post: PostMortem) -> str:
    return ", ".join(f"{node.host} ({node.oom_kills})" for node in post.nodes if node.oom_kills)


def _by_text(post: PostMortem, before: str = "") -> LikelyCause:
    return LikelyCause(f"{before}{post.found[0].cause.meaning}", _remedies(post), post.found[0])


def _remedies(post: PostMortem) -> tuple[str, ...]:
    return tuple(found.cause.remedy for found in post.found)


def _first(post: PostMortem) -> Found | None:
    return post.found[0] if post.found else None


def _by_reason(post: PostMortem, end: EndReport) -> LikelyCause:
    """When no known text was found: what the reason of the end usually means."""
    failed = next((node for node in post.nodes if node.host == end.failed_host), None)
    detail = end_detail(end, failed)
    if detail == EndDetail.ALL_AT_ONCE.value:  # seen from a worker: the host itself answers
        return _killed(f"raycluster on {end.failed_host}, with all of its processes,", end.failed_host)
    if detail == EndDetail.KEEPER_TOO.value and end.failed_host:
        return _killed(f"raycluster on {end.failed_host}, its keeper included,", end.failed_host)
    if end.reason in LOST and failed is not None and failed.has_not_reported_its_end:
        return _stopped_responding(failed)
    if failed is not None and _is_cut_off(end, failed):
        return LikelyCause(
            f"{failed.host} stopped responding: the head and it could no longer reach each other. Its last "
            f"report: {failed.message!r}.",
            (_STATE_IN_SLURM.format(host=failed.host),),
        )
    deaths = [one for one in post.deaths if not one.in_worker_job or one.host == end.failed_host]
    if (end.reason in LOST or end.reason == EndReason.DRIVER.value) and deaths:
        first = deaths[0]
        if first.code == -signal.SIGKILL:
            what = first.name if first.name == "raycluster" else f"The {first.name}"
            return _killed(f"{what} on {first.host}", first.host)
        return LikelyCause(_sentence(f"{first}: {end.message}"))
    if (what := killed_process(end, failed)) and end.failed_host:
        return _killed(f"{what} on {end.failed_host}", end.failed_host)
    if end.reason == "error" and end.exit_code == 4:
        return LikelyCause(
            f"Workers were missing at the deadline: {_sentence(end.message)}",
            (
                "Look at the nodes below that did not join; --timeout gives them more time, --min-workers "
                "starts without them.",
            ),
        )
    if end.reason == EndReason.BUG.value:
        return LikelyCause(
            _sentence(end.message or "an error in raycluster"),
            ("Report it, with this page and the log that it names.",),
        )
    return LikelyCause(_sentence(end.message) if end.message else "Unknown.")


def _killed(what: str, host: str) -> LikelyCause:
    return LikelyCause(
        f"{what} was killed from outside: by the kernel for lack of memory, by an administrator, or by a "
        "`kill` in the job.",
        (f"Most often it is memory: `dmesg` on {host}, or the site's monitoring, shows who killed it.",),
    )


def _stopped_responding(node: NodeEnd) -> LikelyCause:
    return LikelyCause(
        f"{node.host} stopped responding: its power or its network failed, or all of its processes were "
        f"killed at once. Its last report: {node.message or node.phase!r}.",
        (_STATE_IN_SLURM.format(host=node.host),),
    )


def _job_id(post: PostMortem) -> str:
    return post.status.job.partition(".")[0]


def _sentence(text: str) -> str:
    """A text as a sentence: a capital first, unless it begins with a name; a full stop last.

    >>> _sentence("stopped by ada"), _sentence("n2 is lost."), _sentence("KeyError: 'x'")
    ('Stopped by ada.', 'n2 is lost.', "KeyError: 'x'.")
    """
    first = text.split(" ", 1)[0]
    text = text[:1].upper() + text[1:] if first.isalpha() else text
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
