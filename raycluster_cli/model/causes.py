"""What went wrong, by its text: a table of the messages that clusters on Slurm really die of.

Pure: text in, causes out.  Each row is a text that Ray, Slurm, Python or the kernel writes,
what it usually means, and what to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A known way to fail."""

    name: str
    """One or two words, for programs."""
    pattern: str
    """Regular expression; of several causes in a log the first of the table is told first."""
    meaning: str
    remedy: str
    secondary: bool = False
    """Often only the consequence of something else: told when nothing else was found."""

    def find(self, text: str) -> str | None:
        """The first line of the text that shows this cause."""
        match = re.search(self.pattern, text)
        if match is None:
            return None
        begin = text.rfind("\n", 0, match.start()) + 1
        end = text.find("\n", match.end())
        return text[begin : end if end >= 0 else len(text)].strip()


#: The order is that in which a person should look: what kills the rest comes first.
CAUSES: tuple[Cause, ...] = (
    Cause(
        "out of memory",
        r"oom-kill|oom_kill event|Out of memory: Killed process|OOM Killed|out-of-memory handler|"
        r"ray\.exceptions\.OutOfMemoryError|memory pressure, and|due to the node running low on memory",
        "The memory that Slurm granted (or the node's) was used up, and processes were killed for it.",
        "Ask for more (--mem), or let Ray use less: --memory, --object-store-memory, fewer tasks at a time.",
    ),
    Cause(
        "disk full",
        r"No space left on device|OutOfDiskError|is over 95% full|Disk quota exceeded",
        "A file system is full: spilled objects, Ray's logs or the record.",
        "Spill to scratch (--spill-dir), another --temp-dir, or free space where the message says.",
    ),
    Cause(
        "shared memory full",
        r"Bus error|SIGBUS|/dev/shm.{0,80}(?:full|too small|exhausted|space)|"
        r"plasma.{0,60}(?:fallocate|ftruncate)",
        "/dev/shm is full or too small for the object store; a process that touches a missing page dies.",
        "A smaller --object-store-memory, or remove what others left in /dev/shm on this node.",
    ),
    Cause(
        "process limit",
        r"pthread_create failed|[Cc]an't start new thread|fork: retry|Resource temporarily unavailable",
        "The limit of processes and threads (ulimit -u, or the cgroup's pids.max) is reached.",
        "Raise it to the hard limit, set OMP_NUM_THREADS=1 and RAY_worker_num_grpc_internal_threads=1, or "
        "give Ray fewer CPUs (--num-cpus).",
    ),
    Cause(
        "open files",
        r"Too many open files",
        "The limit of open files (ulimit -n) is reached.",
        "Raise it to the hard limit: ulimit -n $(ulimit -Hn).",
    ),
    Cause(
        "step waits",
        r"step creation temporarily disabled|Requested nodes are busy",
        "Another step of the job holds the CPUs or the memory, so that srun waits for it.",
        "srun --overlap --mem=0, or fewer CPUs for the first step.",
    ),
    Cause(
        "version mismatch",
        r"[Vv]ersion mismatch|was compiled for NumPy|different (?:Ray|Python) version",
        "Ray or Python differs between nodes.",
        "The same environment on all nodes: activate it in the batch script; `raycluster doctor` compares.",
    ),
    Cause(
        "authentication",
        r"InvalidAuthToken|UNAUTHENTICATED|Unauthenticated|[Aa]uthentication token is (?:missing|invalid)",
        "A process came without the cluster's token, or with another one.",
        "Use the driver's environment as raycluster gives it (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH); "
        "do not clear it in wrappers or containers.",
    ),
    Cause(
        "port taken",
        r"is used by other components|[Aa]ddress already in use|already running at",
        "A port was taken, usually by another Ray on a shared node with its default ports.",
        "Leave --master-port out: a free block is found. A Ray of your own on the node: raycluster doctor.",
    ),
    Cause(
        "too few ports",
        r"No available ports\. Please specify a wider port range|Invalid min_worker_port",
        "There were too few ports for worker processes.",
        "Give Ray fewer CPUs (--num-cpus), or make room: net.ipv4.ip_local_port_range leaves too little.",
    ),
    Cause(
        "another cluster's port",
        r"Session name .{0,120} does not match persisted value|answers a cluster (?:of another|not of)",
        "At that address answers another cluster, or one that was not cleared.",
        "Leave --master-port out, or end the other one (`raycluster status`, `raycluster stop`).",
    ),
    Cause(
        "long path",
        r"AF_UNIX path length|cannot exceed 107 bytes",
        "The temporary directory's path is too long for Ray's sockets.",
        "--temp-dir with a short path on a local disk, such as /tmp.",
    ),
    Cause(
        "foreign directory",
        r"Permission ?(?:[Ee]rror|denied).{0,80}/tmp/ray|ports_by_node\.json\.lock",
        "Another user made /tmp/ray first; something in the job still uses that default.",
        "Start Ray through raycluster alone, whose directories are its own; check RAY_TMPDIR.",
    ),
    Cause(
        "slow start",
        r"current node timed out during startup|[Rr]aylet .{0,60}timed out.{0,60}agent",
        "Ray's agents took longer to import than the raylet waits (15 s): a slow or overloaded file system.",
        "Ray's environment on a local disk (or in a container image); start fewer nodes at the same second.",
    ),
    Cause(
        "slow worker processes",
        r"have not registered within the timeout",
        "Worker processes took too long to import: the environment lies on a slow network file system.",
        "Environment on local disk, or RAY_worker_register_timeout_seconds=600.",
    ),
    Cause(
        "two addresses",
        r"No available node types can fulfill.{0,200}node:\d|node:\d+\.\d+\.\d+\.\d+['\"]?: 0\.001",
        "Driver and Ray chose different network interfaces of this node.",
        "One address for all: --interface or --network; do not set the node's address in the driver.",
    ),
    Cause(
        "AMD devices",
        r"use HIP_VISIBLE_DEVICES instead of ROCR_VISIBLE_DEVICES",
        "Slurm sets ROCR_VISIBLE_DEVICES, Ray wants HIP_VISIBLE_DEVICES.",
        "Let raycluster translate it: do not set either in the batch script.",
    ),
    Cause(
        "GPUs hidden",
        r"No CUDA GPUs are available|invalid device ordinal|CUDA-capable device\(s\) is/are busy",
        "The GPUs that Ray counts are not those that the process sees: per-task binding, or num_gpus=0.",
        "One task a node, --gpus-per-node instead of --gpus-per-task, and num_gpus on tasks that need one.",
    ),
    Cause(
        "starved",
        r"missed too many heartbeats|missing too many heartbeats|health check failed",
        "A node no longer answered: its host or network is gone, or its raylet was starved or out of memory.",
        "Look at that node's memory first, then at the host (scontrol show node); then give more time: "
        "RAY_health_check_failure_threshold.",
    ),
    Cause(
        "scheduler variables",
        r"signal only works in main thread|MPI_Init|PMI2?_Init|PMIX ERROR",
        "SLURM_*, PMI_* or PMIX_* variables in Ray's worker processes confuse MPI or Lightning.",
        "--scrub-env.",
    ),
    Cause(
        "proxy",
        r"HTTP proxy returned|Proxy CONNECT|Tunnel connection failed|http_proxy.{0,80}(?:fail|error|refused)",
        "A proxy stands between the nodes of the cluster.",
        "no_proxy for the cluster's nodes (raycluster sets it for Ray; your own programs need it too).",
    ),
    Cause(
        "time limit",
        r"DUE TO TIME LIMIT",
        "The job's time limit was reached.",
        "More --time, or --stop-before 120 and a driver that saves its work on SIGTERM.",
    ),
    Cause(
        "preempted",
        r"DUE TO PREEMPTION|CANCELLED.{0,40}PREEMPT",
        "The job was preempted.",
        "--requeue-on-preempt and a driver that saves its work on SIGTERM; slurm/requeue.sbatch shows it.",
    ),
    Cause(
        "secondary",
        r"Failed to register worker to raylet|[Ee]nd of file|Broken pipe|Socket closed|GCS may have",
        "One process ended because another had: this is a consequence, not the cause.",
        "Look at raylet.err and gcs_server.err of the node that ended first, and at limits, ports, memory.",
        secondary=True,
    ),
)


@dataclass(frozen=True)
class Found:
    """A cause and where it was read."""

    cause: Cause
    where: str
    """Host and file, or the name of a message."""
    line: str


def find_causes(texts: Iterable[tuple[str, str]]) -> list[Found]:
    """The causes that these texts, as (where, text), show: each once, in the table's order.

    >>> [found.cause.name for found in find_causes([("raylet.err", "bind: Address already in use")])]
    ['port taken']
    """
    first: dict[str, Found] = {}
    for where, text in texts:
        for cause in CAUSES:
            if cause.name not in first and (line := cause.find(text)) is not None:
                first[cause.name] = Found(cause, where, line[:300])
    found = [first[cause.name] for cause in CAUSES if cause.name in first]
    primary = [one for one in found if not one.cause.secondary]
    return primary or found
