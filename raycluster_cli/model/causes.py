"""Causes of failures: a table of messages, what they usually mean and what to do about them.

The messages are those that Ray, Slurm, Python and the kernel print when a cluster on
Slurm fails.
"""

from __future__ import annotations

import re

from .dataclass import dataclass
from .log_lines import find_said, is_failure


@dataclass(frozen=True)
class Cause:
    """A known cause of failures."""

    name: str
    """A short name, which programs can rely on."""
    pattern: str
    """A regular expression for the message."""
    meaning: str
    """What usually causes the message, as a sentence."""
    remedy: str
    """What to do, as a sentence."""
    secondary: bool = False
    """Often only a consequence of something else: reported when nothing else was found."""
    of_program: bool = False
    """Only a program fails by it, with an exception: nobody dies of it, whatever a driver has printed."""

    def find(self, text: str) -> str | None:
        """The first line of the text that reports this as an error; None without one.

        Neither a warning nor a text that says what might happen counts.
        """
        searched = 0
        while (match := re.compile(self.pattern).search(text, searched)) is not None:
            begin = text.rfind("\n", 0, match.start()) + 1
            end = text.find("\n", match.end())
            end = end if end >= 0 else len(text)
            line = text[begin:end]
            if is_failure(line) and find_said(self.pattern, line) is not None:
                return line.strip()
            searched = max(end, match.end())
        return None


#: In the order in which to look: causes come before their consequences.
CAUSES: tuple[Cause, ...] = (
    Cause(
        "out of memory",
        r"oom-kill|oom_kill event|Out of memory: Killed process|OOM Killed|out-of-memory handler|"
        r"srun: error: .{0,200}: Out Of Memory|ray\.exceptions\.OutOfMemoryError|"
        r"killed due to memory pressure \(OOM\)|memory pressure, and|due to the node running low on memory",
        "Processes were killed because the job used all the memory that Slurm granted, or the node "
        "ran out of memory.",
        "Request more memory (sbatch --mem), or let Ray use less: lower --memory or "
        "--object-store-memory, or run fewer tasks at a time.",
    ),
    Cause(
        "GPU memory",
        r"CUDA out of memory|HIP out of memory|OutOfMemoryError: CUDA|CUDA_ERROR_OUT_OF_MEMORY|"
        r"No available memory for the cache blocks|"
        r"Free memory on device .{0,80}on startup is less than desired",
        "The memory of a GPU is full.",
        "Use a smaller batch or model, spread it over more GPUs, or (vLLM) change gpu_memory_utilization; "
        "`nvidia-smi` shows whether another program uses the same GPU.",
    ),
    Cause(
        "shared memory full",
        r"Bus error|SIGBUS|/dev/shm.{0,80}(?:full|too small|exhausted|space)|"
        r"plasma.{0,60}(?:fallocate|ftruncate)|unable to write to file </torch_|"
        r"creating shared memory segment /dev/shm",
        "/dev/shm is full or too small for the object store and what programs put there; a process that "
        "touches a page that cannot be allocated dies.",
        "Lower --object-store-memory, or remove files that other jobs left in /dev/shm on this node.",
    ),
    Cause(
        "disk full",
        r"No space left on device|OutOfDiskError|Disk quota exceeded",
        "A file system is full, because of spilled objects, Ray's logs or the record.",
        "Spill objects to scratch (--spill-dir), choose another --temp-dir, or free space on the file "
        "system in the message.",
    ),
    Cause(
        "process limit",
        r"pthread_create failed|[Cc]an't start new thread|fork: retry|"
        r"(?<!Again: )(?<!')Resource temporarily unavailable(?!.{0,200}\block)",
        "The limit on processes and threads (ulimit -u, or pids.max of the cgroup) is reached.",
        "Raise the soft limit to the hard limit, set OMP_NUM_THREADS=1 and "
        "RAY_worker_num_grpc_internal_threads=1, or give Ray fewer CPUs (--num-cpus).",
    ),
    Cause(
        "open files",
        r"Too many open files",
        "The limit on open files (ulimit -n) is reached.",
        "Raise the soft limit to the hard limit: ulimit -n $(ulimit -Hn).",
    ),
    Cause(
        "step waits",
        r"step creation temporarily disabled|Requested nodes are busy",
        "Another step of the job holds the CPUs or the memory, so srun waits for it.",
        "Use srun --overlap --mem=0, or give the first step fewer CPUs.",
    ),
    Cause(
        "version mismatch",
        r"Version mismatch: The cluster|Ray version mismatch|was compiled for NumPy|"
        r"different (?:Ray|Python) version|The head has Ray \S+ on Python",
        "The nodes have different versions of Ray or Python.",
        "Use the same environment on all nodes: activate it in the batch script, and compare the "
        "nodes with `raycluster doctor`.",
    ),
    Cause(
        "authentication",
        r"InvalidAuthToken|UNAUTHENTICATED|[Aa]uthentication token is (?:missing|invalid)|"
        r"(?<!google\.api_core\.exceptions\.)Unauthenticated",
        "A process connected without the cluster's token, or with another token.",
        "Keep RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH, which raycluster sets in the driver's "
        "environment; wrappers and containers must not clear them. For a driver in a step of its own: "
        '`raycluster exec -- COMMAND`, or eval "$(raycluster env --export)" before it.',
        of_program=True,
    ),
    Cause(
        "Ray's own example",
        r"KeyError: '(?:ip_head|redis_password)'",
        "The driver reads a variable that the batch script of Ray's old example for Slurm sets.",
        "Call ray.init() without arguments: RAY_ADDRESS says where the cluster is. raycluster sets "
        "ip_head to the same value, and no password.",
        of_program=True,
    ),
    Cause(
        "fixed address",
        r"(?:[Ff]ailed to connect|[Uu]nable to connect|[Cc]ould not connect|[Tt]imed out).{0,120}:6379\b",
        "The driver looks for Ray at a fixed address, or at the default port 6379; this cluster has a "
        "port of its own.",
        "Call ray.init() without an address, or take it from RAY_ADDRESS.",
        of_program=True,
    ),
    Cause(
        "arguments of a new cluster",
        r"When connecting to an existing cluster, .{0,80} must not be provided",
        "The driver gives ray.init() what only the start of a cluster can have.",
        "Leave num_cpus, num_gpus, resources, labels, object_store_memory and _system_config out of "
        "ray.init(); the options --num-cpus, --num-gpus, --resources, --labels and --object-store-memory "
        "set them.",
        of_program=True,
    ),
    Cause(
        "temporary directory of another cluster",
        r"No node info found matching attributes: '/",
        "The driver gives ray.init() a _temp_dir, and Ray looks there for the node that it connects to.",
        "Leave _temp_dir out of ray.init(); the option --temp-dir says where this cluster has its files.",
        of_program=True,
    ),
    Cause(
        "runtime environment",
        r"RuntimeEnvSetupError|Failed to set ?up runtime environment",
        "A node could not make the runtime environment (pip, conda, uv, working_dir, …) that the driver "
        "asks for.",
        "The lines after the message name the step that failed. Nodes often reach no package index: "
        "install the packages into the environment of the job instead, and leave runtime_env out.",
        of_program=True,
    ),
    Cause(
        "no job API",
        r"The Ray jobs CLI & SDK require the ray\[default\]",
        "`ray job` and ray.job_submission need parts of Ray that are not installed.",
        "`pip install 'ray[default]'` in the environment of the job. A driver needs no job API to start "
        "another program: that program's ray.init() connects to the cluster.",
        of_program=True,
    ),
    Cause(
        "package download",
        r"Failed to fetch: |Request failed after \d+ retries|[Nn]ewConnectionError.{0,200}/simple/|"
        r"ConnectTimeoutError.{0,200}/simple/",
        "uv or pip could not reach a package index from this node.",
        "Install the packages before the job, on a node that reaches the index (`uv sync`), and start the "
        "driver by `uv run --offline` or by the environment's own python.",
        of_program=True,
    ),
    Cause(
        "no Ray for this platform",
        r"doesn't have a source distribution or wheel for the current platform|"
        r"ray==\S+ has no wheels with a matching|No matching distribution found for ray\b|"
        r"\bray-\S+\.whl is not a supported wheel on this platform",
        "There is no build of Ray for this version of Python or this kind of processor.",
        "Use a Python that Ray supports (3.10 to 3.13), for example `uv run --python 3.12`.",
        of_program=True,
    ),
    Cause(
        "file size limit",
        r"SIGXFSZ|File size limit exceeded|\[Errno 27\] File too large",
        "A process wrote a file larger than the limit on file sizes (ulimit -f), which sbatch takes over "
        "from the shell in which it is called.",
        "Raise it before sbatch: ulimit -f unlimited; or in the batch script, up to the hard limit.",
    ),
    Cause(
        "CPU time limit",
        r"SIGXCPU|CPU time limit exceeded|Cputime limit exceeded",
        "A process used more CPU time than the limit allows (ulimit -t), which sbatch takes over from the "
        "shell in which it is called: login nodes often have such a limit.",
        "Submit from a shell without the limit, or with --propagate=NONE.",
    ),
    Cause(
        "server port taken",
        r"Failed to bind to address '",
        "Ray Serve cannot listen on its port: another job's server, or an earlier one, has it on this node.",
        "Give no port: Serve then listens on one of the cluster's. Or have nodes of your own (--exclusive).",
        of_program=True,
    ),
    Cause(
        "Serve is not on port 8000",
        r"port=8000\b.{0,400}?(?:Connection refused|Failed to establish a new connection)",
        "Nothing listens on port 8000. Ray Serve listens on a port of the cluster unless it is given one.",
        "Use the port in RAYCLUSTER_SERVE_HTTP_PORT, or export RAYCLUSTER_SERVE_HTTP_PORT=8000 in the job.",
        of_program=True,
    ),
    Cause(
        "port taken",
        r"is used by other components|[Aa]ddress already in use|already running at",
        "A port is already in use, by another Ray or another program on the same node.",
        "Give what the driver listens on a free port (torch: MASTER_PORT; a server with --service: {port}), "
        "and leave --master-port out; `raycluster doctor` shows other Ray processes on the node.",
    ),
    Cause(
        "too few ports",
        r"No available ports\. Please specify a wider port range|Invalid min_worker_port",
        "There are too few ports for worker processes.",
        "Give Ray fewer CPUs (--num-cpus), or ask the site to raise the start of "
        "net.ipv4.ip_local_port_range.",
    ),
    Cause(
        "another cluster's port",
        r"Session name .{0,120} does not match persisted value|answers a cluster (?:of another|not of)",
        "Another cluster, perhaps one that was not cleaned up, uses this address.",
        "Leave --master-port out, or stop the other cluster (`raycluster status`, `raycluster stop`).",
    ),
    Cause(
        "long path",
        r"AF_UNIX path length|cannot exceed 107 bytes",
        "The path of the temporary directory is too long for Ray's sockets.",
        "Give --temp-dir a short path on a local disk, such as /tmp.",
    ),
    Cause(
        "foreign directory",
        r"Permission ?(?:[Ee]rror|denied).{0,80}/tmp/ray|ports_by_node\.json\.lock",
        "/tmp/ray belongs to another user, and something in the job still uses that default directory.",
        "Start Ray only through raycluster, which uses directories of its own, and check RAY_TMPDIR.",
    ),
    Cause(
        "slow start",
        r"current node timed out during startup|[Rr]aylet .{0,60}timed out.{0,60}agent",
        "Ray's agents took longer to import than the raylet waits (15 s), because the file system is "
        "slow or overloaded.",
        "Use --stage-env, install Ray's environment on a local disk or in an image, or start fewer nodes at "
        "the same time.",
    ),
    Cause(
        "slow worker processes",
        r"have not registered within the timeout",
        "Worker processes took too long to import, because the environment is on a slow network file system.",
        "Use --stage-env, install the environment on a local disk, or set "
        "RAY_worker_register_timeout_seconds=600.",
    ),
    Cause(
        "two addresses",
        r"No available node types can fulfill.{0,200}node:\d|node:\d+\.\d+\.\d+\.\d+['\"]?: 0\.001",
        "The driver and Ray use different network interfaces of this node.",
        "Choose one address for all with --interface or --network, and do not set the node's address "
        "in the driver.",
    ),
    Cause(
        "AMD devices",
        r"use HIP_VISIBLE_DEVICES instead of ROCR_VISIBLE_DEVICES",
        "Slurm sets ROCR_VISIBLE_DEVICES, but Ray expects HIP_VISIBLE_DEVICES.",
        "Do not set either variable in the batch script; raycluster sets the one that Ray expects.",
    ),
    Cause(
        "GPU driver",
        r"Driver/library version mismatch|NVML/RM version mismatch|CUDA driver version is insufficient|"
        r"NVIDIA driver on your system is too old",
        "The GPU driver of a node does not fit: it was updated while the node ran, or it is older than the "
        "program's CUDA.",
        "`nvidia-smi` on that node shows it. Tell the site's support, and use --exclude; for an old driver, "
        "install a build of the program for its CUDA.",
        of_program=True,
    ),
    Cause(
        "GPUs hidden",
        r"No CUDA GPUs are available|invalid device ordinal|CUDA-capable device\(s\) is/are busy",
        "The process does not see the GPUs that Ray counts, because GPUs are bound to tasks or "
        "num_gpus is 0.",
        "Run one task per node, use --gpus-per-node instead of --gpus-per-task, and give num_gpus to "
        "Ray tasks and actors that need a GPU.",
        of_program=True,
    ),
    Cause(
        "starved",
        r"missed too many heartbeats|missing too many heartbeats|health check failed due to missing",
        "A node stopped responding: its host or network failed, or its raylet had too little CPU or memory.",
        "Check that node's memory, then the host (scontrol show node); if both are fine, allow more "
        "time with RAY_health_check_failure_threshold.",
    ),
    Cause(
        "scheduler variables",
        r"signal only works in main thread|MPI_Init|PMI2?_Init|PMIX ERROR",
        "SLURM_*, PMI_* or PMIX_* variables in Ray's worker processes confuse MPI or Lightning.",
        "Use --scrub-env.",
        of_program=True,
    ),
    Cause(
        "proxy",
        r"HTTP proxy returned|Proxy CONNECT|Tunnel connection failed|http_proxy.{0,80}(?:fail|error|refused)",
        "Connections between nodes of the cluster go through a proxy.",
        "Add the cluster's nodes to no_proxy in your own programs; raycluster already does it for Ray.",
        of_program=True,
    ),
    Cause(
        "module missing",
        r"ModuleNotFoundError: No module named|ImportError: cannot import name",
        "The environment of the job lacks a Python module, or has another version of it.",
        "Install it in the environment that the batch script activates; `raycluster doctor` shows which "
        "Python the nodes use.",
        of_program=True,
    ),
    Cause(
        "no internet",
        r"Temporary failure in name resolution|Name or service not known|NameResolutionError|"
        r"[Cc]ouldn't connect to 'https?://|Network is unreachable",
        "A program could not reach another host: compute nodes often have no route to the internet.",
        "Download models and data on a login node before the job, or use the site's proxy.",
        of_program=True,
    ),
    Cause(
        "GPU communication",
        r"ncclSystemError|ncclInternalError|ncclRemoteError|ncclUnhandledCudaError|"
        r"Watchdog caught collective operation timeout",
        "The GPUs of several processes could not communicate (NCCL), or one of them had stopped.",
        "Look for the process that failed first; NCCL_DEBUG=INFO and NCCL_SOCKET_IFNAME help to find the "
        "network.",
    ),
    Cause(
        "node failed",
        r"DUE TO NODE FAILURE|srun: error: Node failure on",
        "Slurm lost a node of the job.",
        "`sinfo -R` and `scontrol show node` show what happened to it; ask the site's support.",
    ),
    Cause(
        "time limit",
        r"DUE TO TIME LIMIT",
        "The job reached its time limit.",
        "Request more --time, or use --stop-before 120 with a driver that saves its work on SIGTERM.",
    ),
    Cause(
        "preempted",
        r"DUE TO PREEMPTION|CANCELLED.{0,40}PREEMPT",
        "The job was preempted.",
        "Use --requeue-on-preempt with a driver that saves its work on SIGTERM; slurm/requeue.sbatch "
        "is an example.",
    ),
    Cause(
        "srun killed",
        r": line \d+: +\d+ Killed +(?:\S+ +){0,8}?(?:\S*/)?srun\b",
        "srun was killed by SIGKILL, and Slurm then ended the job's step.",
        "The kernel does that for lack of memory, which `dmesg` on the batch script's node shows. "
        "Otherwise it was a `kill`, or an administrator.",
    ),
    Cause(
        "disk nearly full",
        r"is over \d+% full",
        "A file system is nearly full: Ray warns of that, and spills no objects there.",
        "Spill objects to scratch (--spill-dir), or free space on the file system in the message.",
        secondary=True,
    ),
    Cause(
        "secondary",
        r"Failed to register worker to raylet|[Ee]nd of file|Broken pipe|Socket closed|GCS may have",
        "A process ended because another process had ended before it: this is a consequence, not the cause.",
        "Look at raylet.err and gcs_server.err of the node that failed first, and check limits, ports "
        "and memory.",
        secondary=True,
    ),
)
