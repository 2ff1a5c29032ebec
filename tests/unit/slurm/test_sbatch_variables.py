"""Each of sbatch's input variables is decided."""

from __future__ import annotations

from raycluster_cli.slurm.sbatch_variables import DROPPED, KEPT
from raycluster_cli.slurm.worker_options import HEAD_ONLY, INPUT_VARIABLES

#: In the programs of Slurm 22.05.8, 24.11.5 and 26.05.5.
KNOWN = """
ACCOUNT ACCTG_FREQ ARRAY_INX BATCH BURST_BUFFER CLUSTERS CLUSTER_CONSTRAINT CONSOLIDATE_SEGMENTS
CONSTRAINT CONTAINER CONTAINER_ID CONTAINER_TYPE CORE_SPEC CPUS_PER_GPU CPU_FREQ_REQ DEBUG
DELAY_BOOT DISTRIBUTION ERROR EXCLUSIVE EXPORT GET_USER_ENV GPUS GPUS_PER_NODE GPUS_PER_SOCKET
GPUS_PER_TASK GPU_BIND GPU_FREQ GRES GRES_FLAGS HINT IGNORE_PBS INPUT JOB_NAME MEM_BIND MEM_PER_CPU
MEM_PER_GPU MEM_PER_NODE NETWORK NO_KILL NO_REQUEUE OPEN_MODE OUTPUT OVERCOMMIT PARTITION POWER
PROFILE QOS REQUEUE REQ_SWITCH RESERVATION SEGMENT_SIZE SIGNAL SPREAD_JOB SPREAD_SEGMENTS
THREADS_PER_CORE THREAD_SPEC TIMELIMIT TRES_BIND TRES_PER_TASK USE_MIN_NODES WAIT WAIT4SWITCH
WAIT_ALL_NODES WCKEY
"""


def test_all_of_them_and_each_once() -> None:
    names = {f"SBATCH_{name}" for name in KNOWN.split()}
    assert names <= KEPT | DROPPED.keys()
    assert not KEPT & DROPPED.keys()


def test_a_variable_of_an_option_that_is_the_head_jobs_alone_is_dropped() -> None:
    options = {name.removeprefix("SBATCH_").lower().replace("_", "-"): name for name in (*KEPT, *DROPPED)}
    assert {options[name] for name in HEAD_ONLY if name in options} <= DROPPED.keys()


def test_submit_makes_an_option_of_what_the_head_drops_or_the_estimate_needs() -> None:
    """What is neither kept in the environment nor an option of the group would be lost on the way."""
    amounts = {name for name, why in DROPPED.items() if why.startswith("what a node has")}
    of_tasks = {
        *("SBATCH_GPUS_PER_SOCKET", "SBATCH_GPU_BIND", "SBATCH_TRES_BIND", "SBATCH_TRES_PER_TASK"),
        *("SBATCH_DISTRIBUTION", "SBATCH_OVERCOMMIT"),
    }
    assert {name for name in amounts - of_tasks if "MEM_BIND" not in name} <= INPUT_VARIABLES.keys()
