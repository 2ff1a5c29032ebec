"""sbatch's input variables: which of them hold for worker jobs, and why the others do not.

The head's environment has what its own sbatch was given.  A worker job has the environment of the head's job,
so sbatch would read them once more.  The names are those that sbatch 22.05, 24.11 and 26.05 know.
"""

from __future__ import annotations

#: Defaults of a person or a site (often set in a shell profile), as with an sbatch by hand.
KEPT = frozenset(
    (
        *("SBATCH_ACCOUNT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_WCKEY"),
        *("SBATCH_CONSTRAINT", "SBATCH_TIMELIMIT", "SBATCH_NETWORK", "SBATCH_POWER", "SBATCH_HINT"),
        *("SBATCH_CPU_FREQ_REQ", "SBATCH_GPU_FREQ", "SBATCH_BURST_BUFFER"),
        *("SBATCH_CONTAINER", "SBATCH_CONTAINER_ID", "SBATCH_CONTAINER_TYPE"),
    )
)

#: What a worker job does not take from the head's environment, and why.
DROPPED = {
    **dict.fromkeys(
        (
            *("SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_OUTPUT", "SBATCH_ERROR", "SBATCH_INPUT"),
            *("SBATCH_OPEN_MODE", "SBATCH_EXPORT", "SBATCH_GET_USER_ENV", "SBATCH_REQUEUE"),
            *("SBATCH_NO_REQUEUE", "SBATCH_SPREAD_JOB", "SBATCH_USE_MIN_NODES", "SBATCH_NO_KILL"),
        ),
        "raycluster sets it for each worker job",
    ),
    **dict.fromkeys(
        (
            *("SBATCH_CPUS_PER_TASK", "SBATCH_CPUS_PER_GPU", "SBATCH_THREADS_PER_CORE", "SBATCH_EXCLUSIVE"),
            *("SBATCH_CORE_SPEC", "SBATCH_THREAD_SPEC", "SBATCH_GRES", "SBATCH_GRES_FLAGS", "SBATCH_GPUS"),
            *("SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_SOCKET", "SBATCH_GPUS_PER_TASK", "SBATCH_GPU_BIND"),
            *("SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU", "SBATCH_MEM_PER_NODE", "SBATCH_MEM_BIND"),
            *("SBATCH_MEM_BIND_LIST", "SBATCH_MEM_BIND_PREFER", "SBATCH_MEM_BIND_SORT"),
            *("SBATCH_MEM_BIND_TYPE", "SBATCH_MEM_BIND_VERBOSE", "SBATCH_TRES_BIND", "SBATCH_TRES_PER_TASK"),
            *("SBATCH_DISTRIBUTION", "SBATCH_OVERCOMMIT"),
        ),
        "what a node has is the group's own, and the estimate for Ray goes by the group",
    ),
    **dict.fromkeys(
        (
            *("SBATCH_BATCH", "SBATCH_DELAY_BOOT", "SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"),
            *("SBATCH_WAIT_ALL_NODES", "SBATCH_SEGMENT_SIZE", "SBATCH_SPREAD_SEGMENTS"),
            *("SBATCH_CONSOLIDATE_SEGMENTS", "SBATCH_DEPENDENCY", "SBATCH_HOLD"),
        ),
        "it is about where and when the head's job starts",
    ),
    **dict.fromkeys(
        ("SBATCH_CLUSTERS", "SBATCH_CLUSTER_CONSTRAINT", "SLURM_CLUSTERS"),
        "a worker job runs in the Slurm cluster of its head",
    ),
    "SBATCH_SIGNAL": "the signal would end the worker",
    **dict.fromkeys(
        ("SBATCH_WAIT", "SBATCH_TEST_ONLY", "SBATCH_DEBUG", "SBATCH_IGNORE_PBS"),
        "it is for the person who submits",
    ),
    **dict.fromkeys(("SBATCH_PROFILE", "SBATCH_ACCTG_FREQ"), "it is for the job that a person submits"),
}
