"""The ways in which a job can end: what is left of each, and what is to be said of it.

The texts are those that the programs print: Slurm's slurmstepd and srun (src/slurmd/slurmstepd/req.c,
src/plugins/task/cgroup/task_cgroup_memory.c), Ray 2.52 to 2.60 (src/ray/raylet/node_manager.cc,
python/ray/exceptions.py) and vLLM (vllm/utils/system_utils.py, vllm/v1/engine/core.py).
"""

# ruff: noqa: E501  (texts as they are written)

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from raycluster_cli.model.record import EndReport, ProcessDeath
from raycluster_cli.slurm.job_state import JobState

#: The end; the times in the texts are shortly before it.
NOW = time.mktime((2026, 11, 20, 19, 40, 0, 0, 0, -1))

#: What vLLM prints at each start where the limit is low, and Ray where /dev/shm is small: no causes.
WARNINGS = """\
(APIServer pid=927159) WARNING 11-20 19:08:15 [system_utils.py:222] Found ulimit of 65530 and failed to automatically increase with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n
2026-11-20 19:08:16,123	WARNING services.py:2072 -- WARNING: The object store is using /tmp instead of /dev/shm because /dev/shm has only 67108864 bytes available. This will harm performance!
(raylet) [2026-11-20 19:08:17,001 W 4711 4711] (raylet) agent_manager.cc:82: Address already in use: retrying
/opt/env/lib/python3.12/site-packages/x.py:12: UserWarning: fork may fail: Resource temporarily unavailable
"""

OOM_KILLED = """\
slurmstepd: error: Detected 1 oom_kill event in StepId=4711.0. Some of the step tasks have been OOM Killed.
srun: error: n2: task 1: Out Of Memory
"""

VALUE_ERROR = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 31, in <module>
    main()
  File "/home/ada/train.py", line 27, in main
    raise ValueError("the learning rate must be positive")
ValueError: the learning rate must be positive
"""

RAY_TASK_ERROR = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 12, in <module>
    print(ray.get(work.remote(0)))
          ^^^^^^^^^^^^^^^^^^^^^^^
  File "/opt/env/lib/python3.11/site-packages/ray/_private/worker.py", line 3067, in get
    raise value.as_instanceof_cause()
ray.exceptions.RayTaskError(ZeroDivisionError): ray::work() (pid=4242, ip=10.77.0.2)
  File "/home/ada/train.py", line 8, in work
    return 1 / x
           ~~^~~
ZeroDivisionError: division by zero
"""

MODULE_MISSING = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 2, in <module>
    import lightning
ModuleNotFoundError: No module named 'lightning'
"""

CUDA_MEMORY = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 9, in <module>
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.05 GiB is free.
"""

VLLM_ENGINE = """\
(EngineCore_DP0 pid=3709) INFO 11-20 19:36:10 [gpu_model_runner.py:3120] Model loading took 18.21 GiB memory and 190.2 seconds
(EngineCore_DP0 pid=3709) ERROR 11-20 19:38:02 [core.py:1374] EngineCore failed to start.
(EngineCore_DP0 pid=3709) ERROR 11-20 19:38:02 [core.py:1374] Traceback (most recent call last):
(EngineCore_DP0 pid=3709) ERROR 11-20 19:38:02 [core.py:1374]   File "/x/vllm/v1/core/kv_cache_utils.py", line 859, in _check_enough_kv_cache_memory
(EngineCore_DP0 pid=3709) ERROR 11-20 19:38:02 [core.py:1374]     raise ValueError(
(EngineCore_DP0 pid=3709) ERROR 11-20 19:38:02 [core.py:1374] ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.
(APIServer pid=3653) Traceback (most recent call last):
(APIServer pid=3653)   File "/x/vllm/v1/engine/utils.py", line 782, in wait_for_engine_startup
(APIServer pid=3653)     raise RuntimeError("Engine core initialization failed. "
(APIServer pid=3653) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""

ACTOR_DIED = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 14, in <module>
    ray.get(actor.work.remote())
ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.
	class_name: Trainer
	actor_id: 2c1f0a3b9d6f8c5e7a41b2d901000000
	pid: 4242
	namespace: 5c0e1f2a-1111-2222-3333-444455556666
	ip: 10.77.0.2
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage. (2) ray stop --force is called. (3) The worker is crashed unexpectedly due to SIGSEGV or other unexpected errors.
"""

RAY_MEMORY = """\
(raylet) [2026-11-20 19:38:02,264 E 90996 90996] (raylet) node_manager.cc:3096: 1 Workers (tasks / actors) killed due to memory pressure (OOM), 0 Workers crashed due to other reasons at node (ID: 90efe99b, IP: 10.77.0.2) over the last time period. To see more information about the Workers killed on this node, use `ray logs raylet.out -ip 10.77.0.2`
Traceback (most recent call last):
  File "/home/ada/train.py", line 14, in <module>
    ray.get(work.remote())
ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.
Memory on the node (IP: 10.77.0.2, ID: 90efe99b) where the task (task ID: 16310a0f, name=work, pid=4242, memory used=5.80GB) was running was 5.72GB / 6.00GB (0.953), which exceeds the memory usage threshold of 0.95.
"""

DISK_FULL = """\
epoch 3
cp: error writing '/scratch/ada/model.pt': No space left on device
"""

OPEN_FILES = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 5, in <module>
    files = [open(path) for path in paths]
             ^^^^^^^^^^
OSError: [Errno 24] Too many open files: '/data/part-1019'
"""

NO_INTERNET = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 3, in <module>
    model = AutoModel.from_pretrained("org/model")
OSError: We couldn't connect to 'https://huggingface.co' to load the files, and couldn't find them in the cached files.
"""


#: What bash prints when srun, which it has started, was killed (Slurm 22.05).
SRUN_KILLED = """\
/run/slurmd/job00001/slurm_script: line 29:    25 Killed                  srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --wait=60 raycluster run -- python train.py
"""


def told_by_slurm(why: str) -> str:
    """What slurmstepd writes into a job's output when Slurm ends it."""
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW))
    return f"slurmstepd: error: *** STEP 4711.0 ON n1 CANCELLED AT {at}{why} ***\n"


@dataclass(frozen=True)
class Node:
    """The last report of a node."""

    host: str = "n1"
    phase: str = "gone"
    exit_code: int | None = 0
    message: str = ""
    killed: bool = False
    """Whether its raylet was killed by SIGKILL."""
    oom_kills: int | None = 0

    @property
    def deaths(self) -> tuple[ProcessDeath, ...]:
        return (ProcessDeath("raylet", 7, -9, NOW - 2),) if self.killed else ()


@dataclass(frozen=True)
class Case:
    """One way to end."""

    name: str
    end: EndReport | None
    phase: str
    """What `status` is to say."""
    code: int
    """What `submit --follow` ends with."""
    verdict: str
    """A part of what `why` is to say."""
    slurm: JobState | None
    output: str = ""
    logs: Mapping[str, str] = field(default_factory=dict)
    """Text by host/file, in the record."""
    nodes: tuple[Node, ...] = (Node(), Node("n2"))
    line: str = ""
    """A part of the line that shows it."""
    shows: tuple[str, ...] = ()
    """What the page is to contain."""
    hides: tuple[str, ...] = ("limit on open files", "port is already in use", "consequence, not the cause")
    """What the page is not to contain."""
    errors: str = ""
    """The job's file of errors, where it is another."""


def _driver(code: int, text: str = "") -> EndReport:
    return EndReport(
        NOW, code, "driver", "n1" if code else "", text or f"the driver ended with code {code} after 9 s"
    )


def _failed(code: int) -> JobState:
    return JobState("FAILED", exit_code=code)


LOST = (Node(phase="driver running", exit_code=None), Node("n2", "joined", None))

CASES = [
    Case("completed", _driver(0), "ended", 0, "Nothing went wrong.", JobState("COMPLETED"), WARNINGS),
    Case(
        "completed, one worker process killed for memory",
        _driver(0), "ended", 1,
        "The driver completed. The kernel killed 1 process of the job for memory (n2 (1)), and the work went on",
        JobState("FAILED", exit_code=0), WARNINGS + OOM_KILLED, nodes=(Node(), Node("n2", oom_kills=1)),
        hides=("Out of memory",),
    ),
    Case(
        "completed without the cluster",
        _driver(0, "the driver ended with code 0 after 5 s; no driver has connected to this cluster"),
        "ended", 0, "it did not use this cluster", JobState("COMPLETED"),
    ),
    Case(
        "raycluster stop",
        EndReport(NOW, 143, "stop", "", "stopped by `raycluster stop` (ada@login)"),
        "stopped", 143, "Stopped by `raycluster stop` (ada@login).", _failed(143), WARNINGS + ACTOR_DIED,
        {"n1/raylet.err": "Failed to read the message: End of file\n"}, hides=("End of file", "actor died"),
    ),
    Case(
        "scancel",
        EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"),
        "stopped", 143, "The job was cancelled by SIGTERM (scancel).", JobState("CANCELLED"),
        WARNINGS + told_by_slurm(""), {"n1/raylet.err": "Failed to register worker to raylet: End of file\n"},
        hides=("consequence", "raylet.err", "End of file"),
    ),
    Case(
        "scancel, and Slurm has forgotten",
        EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"),
        "stopped", 143, "cancelled by SIGTERM (scancel or preemption)", None, WARNINGS,
    ),
    Case(
        "preempted",
        EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"),
        "stopped", 143, "The job was preempted.", JobState("PREEMPTED"), told_by_slurm(" DUE TO PREEMPTION"),
        line="DUE TO PREEMPTION",
    ),
    Case(
        "preempted, as Slurm says",
        EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"),
        "stopped", 143, "Slurm preempted the job.", JobState("PREEMPTED"),
    ),
    Case(
        "time limit",
        EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"),
        "stopped", 143, "The job reached its time limit.", JobState("TIMEOUT"), told_by_slurm(" DUE TO TIME LIMIT"),
        line="DUE TO TIME LIMIT",
    ),
    Case(
        "--stop-before",
        EndReport(NOW, 143, "time-limit", "", "the job's time limit is 2 min 0 s away; the driver ended with code 143"),
        "failed", 143, "Ended before the time limit, as --stop-before asks", _failed(143), WARNINGS,
    ),
    Case(
        "server idle", EndReport(NOW, 0, "idle", "", "the server had no work for 30 min 0 s (--idle-timeout)"),
        "ended", 0, "Nothing went wrong: the server had no work for 30 min 0 s", JobState("COMPLETED"), WARNINGS,
    ),
    Case(
        "server never ready",
        EndReport(NOW, 5, "service", "n1", "the server was not ready after 30 min 0 s (--ready-timeout): nothing listens on 10.0.0.1:20491"),
        "failed", 5, "was not ready after 30 min 0 s (--ready-timeout): nothing listens on 10.0.0.1:20491", _failed(5), WARNINGS,
    ),
    Case(
        "Ctrl-C", EndReport(NOW, 130, "signal", "n1", "ended by SIGINT"), "stopped", 130, "Ctrl-C was pressed",
        _failed(130), "Traceback (most recent call last):\n  File \"train.py\", line 3\nKeyboardInterrupt\n",
    ),
    Case(
        "terminal closed", EndReport(NOW, 129, "signal", "n1", "ended by SIGHUP"), "stopped", 129, "terminal of the job",
        _failed(129),
    ),
    Case(
        "exception", _driver(1), "failed", 1, "The driver failed: ValueError: the learning rate must be positive.",
        _failed(1), WARNINGS + VALUE_ERROR + OOM_KILLED, nodes=(Node(), Node("n2", oom_kills=1)),
        logs={"n1/raylet.out": "[2026-11-20 19:08:17,001 E 1 1] (raylet) a.cc:1: End of file\n"},
        shows=("raise ValueError(", "more: raycluster logs 4711"), hides=("End of file", "Out of memory:"),
    ),
    Case(
        "exception, in the file of errors", _driver(1), "failed", 1, "ValueError: the learning rate", _failed(1),
        "epoch 1\n", errors=VALUE_ERROR, shows=("main()",),
    ),
    Case(
        "exception of a task", _driver(1), "failed", 1, "The driver failed: ZeroDivisionError: division by zero.",
        _failed(1), WARNINGS + RAY_TASK_ERROR, shows=("return 1 / x",),
    ),
    Case(
        "module missing", _driver(1), "failed", 1, "lacks a Python module", _failed(1), MODULE_MISSING,
        line="No module named 'lightning'",
    ),
    Case("GPU memory", _driver(1), "failed", 1, "The memory of a GPU is full", _failed(1), CUDA_MEMORY,
         hides=("--object-store-memory",)),
    Case(
        "vLLM's engine", _driver(1), "failed", 1, "ValueError: No available memory for the cache blocks", _failed(1),
        WARNINGS + VLLM_ENGINE, shows=("kv_cache_utils.py",),
    ),
    Case(
        "actor died, killed for memory", _driver(1), "failed", 1, "Out of memory: the kernel killed 1 process", _failed(1),
        ACTOR_DIED + OOM_KILLED, nodes=(Node(), Node("n2", oom_kills=1)),
    ),
    Case(
        "actor died, nobody knows why", _driver(1), "failed", 1, "ActorDiedError: The actor died unexpectedly", _failed(1),
        ACTOR_DIED, hides=("Out of memory", "ran out of memory", "consequence"),
    ),
    Case(
        "Ray's own memory monitor", _driver(1), "failed", 1, "used all the memory that Slurm granted", _failed(1), RAY_MEMORY,
        line="Task was killed due to the node running low on memory",
    ),
    Case("open files", _driver(1), "failed", 1, "The limit on open files", _failed(1), OPEN_FILES, hides=()),
    Case("no internet", _driver(1), "failed", 1, "no route to the internet", _failed(1), NO_INTERNET),
    Case(
        "driver's own code", _driver(7), "failed", 7, "The driver itself failed: it ended with code 7", _failed(7),
        WARNINGS + "epoch 1\nthe data is not there\n", shows=("the data is not there", "raycluster logs 4711"),
    ),
    Case("disk full", _driver(1), "failed", 1, "A file system is full", _failed(1), WARNINGS + DISK_FULL,
         line="model.pt': No space left"),
    Case(
        "driver killed", _driver(137, "the driver was killed by SIGKILL after 9 s"), "failed", 137,
        "was killed by SIGKILL, by the kernel for lack of memory", _failed(137), WARNINGS,
    ),
    Case(
        "driver killed for memory", _driver(137, "the driver was killed by SIGKILL after 9 s"), "failed", 137,
        "Out of memory: the kernel killed 1 process of this job: n1 (1).", _failed(137), OOM_KILLED,
        nodes=(Node(oom_kills=1), Node("n2")),
    ),
    Case(
        "driver crashed", _driver(139, "the driver was killed by SIGSEGV after 9 s"), "failed", 139,
        "was killed by SIGSEGV: it, or a library in it, accessed memory", _failed(139), "Fatal Python error: Segmentation fault\n",
        shows=("PYTHONFAULTHANDLER", "Fatal Python error"),
    ),
    Case(
        "raylet killed",
        EndReport(NOW, 5, "worker-lost", "n2", "worker n2 (10.77.0.2) is lost: the raylet on n2 was killed by SIGKILL"),
        "failed", 5, "raylet on n2 was killed from outside", _failed(5), WARNINGS + ACTOR_DIED,
        {"n2/raylet.out": "[2026-11-20 19:08:17,001 I 1 1] (raylet) main.cc:1: Setting cluster ID\n"},
        nodes=(Node(exit_code=5), Node("n2", "failed", 5, killed=True)),
    ),
    Case(
        "raylet killed for memory",
        EndReport(NOW, 5, "worker-lost", "n2", "worker n2 (10.77.0.2) is lost: the raylet on n2 was killed by SIGKILL"),
        "failed", 1, "Out of memory: the kernel killed 2 processes", _failed(1), OOM_KILLED,
        nodes=(Node(exit_code=5), Node("n2", "failed", 5, killed=True, oom_kills=2)),
    ),
    Case(
        "worker's host silent",
        EndReport(NOW, 5, "worker-lost", "n2", "worker n2 (10.77.0.2) is lost: no answer"),
        "failed", 1, "n2 stopped responding", JobState("NODE_FAIL"), WARNINGS,
        nodes=(Node(exit_code=5), Node("n2", "joined", None)),
    ),
    Case(
        "GCS killed", EndReport(NOW, 5, "head-lost", "n1", "the head's GCS was killed by SIGKILL"), "failed", 5,
        "The head's GCS was killed by SIGKILL.", _failed(5), WARNINGS,
        {"n1/gcs_server.out": "[2026-11-20 19:08:17,001 W 1 1] (gcs_server) x.cc:1: Too many open files\n"},
        nodes=(Node(phase="failed", exit_code=5), Node("n2")),
    ),
    Case(
        "port taken", EndReport(NOW, 3, "error", "n1", "the head did not start on n1"), "failed", 3,
        "A port is already in use", _failed(3), "",
        {"n1/gcs_server.out": "[2026-11-20 19:08:17,001 E 1 1] (gcs_server) grpc_server.cc:1: bind: Address already in use [/tmp]\n"},
        line="Address already in use", hides=("limit on open files",),
    ),
    Case(
        "workers missing", EndReport(NOW, 4, "error", "", "1 of 2 workers did not join within 300 s: n2 (never reported)"),
        "failed", 4, "Workers were missing at the deadline: 1 of 2 workers did not join", _failed(4), WARNINGS,
    ),
    Case(
        "other version",
        EndReport(NOW, 4, "error", "n2", "n2 cannot join: The head has Ray 2.60.0 on Python 3.11, this node Ray 2.58.0: version mismatch"),
        "failed", 4, "different versions of Ray or Python", _failed(4), WARNINGS,
    ),
    Case(
        "keeper killed", EndReport(NOW, 137, "keeper-killed", "n1", "raycluster's keeper on n1 was killed"),
        "failed", 137, "keeper on n1 was killed", _failed(137), WARNINGS,
    ),
    Case(
        "error in raycluster", EndReport(NOW, 1, "bug", "n1", "an error in raycluster (guard): KeyError('x')"),
        "failed", 1, "n error in raycluster (guard)", _failed(1), WARNINGS, shows=("Report it",),
    ),
    Case(
        "srun killed", EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM"), "stopped", 137,
        "srun was killed by SIGKILL, and Slurm then ended the job's step.", _failed(137), WARNINGS + SRUN_KILLED,
        line="line 29:    25 Killed",
    ),
    Case(
        "lost, srun killed", None, "lost", 137, "srun was killed by SIGKILL", _failed(137), WARNINGS + SRUN_KILLED,
        nodes=LOST, line="line 29:    25 Killed",
    ),
    Case(
        "lost, the node failed", None, "lost", 1, "A node of the job failed, as Slurm saw it", JobState("NODE_FAIL"),
        "srun: error: Node failure on n1\n" + told_by_slurm(" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS"), nodes=LOST,
    ),
    Case(
        "lost, killed by scancel", None, "lost", 137, "cancelled and killed before its head could report",
        JobState("CANCELLED", signal=9), WARNINGS + told_by_slurm(""), nodes=LOST,
    ),
    Case(
        "lost, srun was told to end by timeout", None, "lost", 124, "The job's step was cancelled", _failed(124),
        WARNINGS + told_by_slurm(""), nodes=LOST, shows=("-- timeout 1h python train.py",),
    ),
    Case(
        "lost, time limit", None, "lost", 143, "reached its time limit, and was killed before", JobState("TIMEOUT"), WARNINGS,
        nodes=LOST,
    ),
    Case(
        "lost, memory", None, "lost", 253, "Out of memory", JobState("OUT_OF_MEMORY", signal=125), WARNINGS + OOM_KILLED,
        nodes=LOST,
    ),
    Case("lost, and Slurm has forgotten", None, "lost", 0, "exited without reporting", None, WARNINGS, nodes=LOST,
         shows=("Exited without reporting: n1, n2.",)),
]  # fmt: skip
