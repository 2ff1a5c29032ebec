"""What `why` makes of logs as programs write them: PyTorch, NCCL, vLLM, Ray's libraries, launchers, TensorFlow.

Each text is one after which a cause was named that had not happened, or a real one was missed.
"""

# ruff: noqa: E501  (texts as they are written)

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from raycluster_cli.model.cause_search import find_causes
from raycluster_cli.model.record import EndReport, HeadInfo, NodeReport
from raycluster_cli.model.status import NodePhase
from raycluster_cli.model.tracebacks import last_exception
from raycluster_cli.ops.post_mortem import post_mortem
from raycluster_cli.ops.verdict import judge
from raycluster_cli.slurm.job_state import JobState
from raycluster_cli.state.record import Record
from tests.unit.ops.ends import ACTOR_DIED, LOST, NOW, Case, Node, told_by_slurm
from tests.unit.ops.test_ends import examined

TRACEBACK = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 31, in <module>
    main()
"""

#: What a driver has printed of an exception that it handles.
HANDLED = f"flash attention is not there\n{TRACEBACK}ModuleNotFoundError: No module named 'flash_attn'\n"

EPOCHS = "".join(f"epoch {number} loss 0.1\n" for number in range(40))

NEARLY_FULL = "(raylet) [2026-11-20 19:38:02,264 E 90 90] (raylet) file_system_monitor.cc:116: /tmp/ray/session_x is over 95% full, available space: 60.5 GB; capacity: 1490.0 GB. Object creation will fail if spilling is required.\n"

NO_NETWORK = """\
wandb: Network error (ConnectionError), entering retry loop.
requests.exceptions.ConnectionError: HTTPSConnectionPool(host='api.wandb.ai', port=443): Max retries exceeded (Caused by NameResolutionError("Temporary failure in name resolution"))
"""

RAYLET_KILLED = (Node(exit_code=5), Node("n2", "failed", 5, killed=True))

SILENT = (Node(exit_code=5), Node("n2", "joined", None))

CHAINED = "\nThe above exception was the direct cause of the following exception:\n\n"

NCCL_SHARED_MEMORY = f"""\
{TRACEBACK}torch.distributed.DistBackendError: NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1970, unhandled system error (run with NCCL_DEBUG=INFO for details), NCCL version 2.20.5
ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.
Last error:
Error while creating shared memory segment /dev/shm/nccl-abc (size 9637888)
"""

TORCHRUN = f"""\
[rank0]: {TRACEBACK.strip().replace(chr(10), chr(10) + "[rank0]: ")}
[rank0]: ValueError: bad learning rate
E1120 19:38:02.123000 140 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1) local_rank: 0 (pid: 123) of binary: /opt/env/bin/python
{TRACEBACK}torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_19:38:02
  exitcode  : 1 (pid: 123)
============================================================
"""

#: A process of torchrun's that the kernel has killed for memory: no exception is printed.
TORCHRUN_KILLED = f"""\
W1120 19:38:02.123000 140 torch/distributed/elastic/multiprocessing/api.py:897] Sending process 124 closing signal SIGTERM
E1120 19:38:02.123000 140 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: -9) local_rank: 0 (pid: 123) of binary: /opt/env/bin/python
{TRACEBACK}torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
{"".join(f"[{rank}]:{chr(10)}  exitcode  : -15 (pid: 13{rank}){chr(10)}  traceback : Signal 15 (SIGTERM) received by PID 13{rank}{chr(10)}" for rank in range(1, 8))}------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-20_19:38:02
  exitcode  : -9 (pid: 123)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 123
============================================================
"""

#: As Python 3.13 prints it with FORCE_COLOR.
COLOURED = """\
Traceback (most recent call last):
  File \x1b[35m"/home/ada/train.py"\x1b[0m, line \x1b[35m31\x1b[0m, in \x1b[35m<module>\x1b[0m
    \x1b[31mmain\x1b[0m\x1b[1;31m()\x1b[0m
\x1b[1;35mValueError\x1b[0m: \x1b[35mbad learning rate\x1b[0m
"""

TUNE = f"""\
2026-11-20 19:38:02,123	ERROR tune_controller.py:1331 -- Trial task failed for trial PPO_x
{TRACEBACK}ray.exceptions.RayTaskError(ValueError): ray::PPO.train() (pid=4242, ip=10.77.0.2)
  File "ppo.py", line 8, in work
ValueError: bad learning rate
2026-11-20 19:38:02,130	INFO tune.py:1 -- x
{TRACEBACK}ray.tune.error.TuneError: ('Trials did not complete', [PPO_x])
"""

TRAIN = f"""\
{TRACEBACK}ray.exceptions.RayTaskError(ValueError): ray::x() (pid=4242, ip=10.77.0.2)
  File "train.py", line 8, in work
ValueError: bad learning rate
{CHAINED}{TRACEBACK}ray.train.base_trainer.TrainingFailedError: The Ray Train run failed. Please inspect the previous error messages for a cause. After fixing the issue (assuming that the error is not caused by your own application logic, but rather an error such as OOM), you can restart the run from scratch or continue this run.
To continue this run, you can use: `trainer = TorchTrainer.restore("/x")`.
"""

DATA = f"""\
ray.data.exceptions.SystemException
{CHAINED}{TRACEBACK}ray.exceptions.RayTaskError(UserCodeException): ray::Map(f)() (pid=4242, ip=10.77.0.2)
  File "train.py", line 8, in f
    1 / x
ZeroDivisionError: division by zero
{CHAINED}ray::Map(f)() (pid=4242, ip=10.77.0.2)
  File "map_transformer.py", line 8
ray.exceptions.UserCodeException: UDF failed to process a data block.
"""

LEVELS = """\
2026-11-20 19:08:16.123456: I external/local_xla/xla/stream_executor/cuda/cuda_driver.cc:1101] failed to allocate 15.50GiB (16642998272 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory
[2026-11-20 19:08:16,123][train][WARNING] - Too many open files, once more
2026-11-20 19:08:16.123 | WARNING  | train:main:12 - Too many open files
[2026-11-20 19:08:16,123] [WARNING] [stage3.py:1:step] Too many open files
[2026-11-20 19:08:16,123] torch.distributed.run: [WARNING] Too many open files
n1:123:456 [0] NCCL INFO Call to connect returned Network is unreachable
the data is not there
"""


#: The run before in the same job, up to its end.
RUN_BEFORE = f"raycluster: 2 nodes ready at 10.0.0.1:19000 after 2 s; driver: python a.py\n{TRACEBACK}ValueError: of the run before\nraycluster: the driver ended with code 1 after 9 s; exit code 1\n"


def driver(code: int) -> EndReport:
    return EndReport(NOW, code, "driver", "n1", f"the driver ended with code {code} after 9 s")


def lost(why: str) -> EndReport:
    return EndReport(NOW, 5, "worker-lost", "n2", f"worker n2 (10.77.0.2) is lost: {why}")


TERM = EndReport(NOW, 143, "signal", "n1", "ended by SIGTERM")

NEW_SLURM = "[2026-11-20T19:40:00.123] error: *** "


@dataclass(frozen=True)
class Told:
    """An end with its output, and what is to be said of it."""

    name: str
    end: EndReport | None
    output: str
    verdict: str
    nodes: tuple[Node, ...] = (Node(), Node("n2"))
    hides: str = ""
    """What neither the verdict nor its line may have."""
    slurm: JobState | None = None


TOLD = [
    # No driver's handled exception, and no warning, kills a raylet, a host or the driver.
    Told("raylet killed, import handled", lost("the raylet on n2 was killed by SIGKILL"), HANDLED, "raylet on n2 was killed from outside", RAYLET_KILLED),
    Told("raylet killed, disk nearly full", lost("the raylet on n2 was killed by SIGKILL"), NEARLY_FULL, "raylet on n2 was killed from outside", RAYLET_KILLED),
    Told("raylet killed, no internet", lost("the raylet on n2 was killed by SIGKILL"), NO_NETWORK, "raylet on n2 was killed from outside", RAYLET_KILLED),
    Told("silent host, no internet", lost("no answer"), NO_NETWORK, "n2 stopped responding", SILENT),
    Told("keeper killed, import handled", EndReport(NOW, 137, "keeper-killed", "n1", "raycluster's keeper on n1 was killed"), HANDLED, "keeper on n1 was killed"),
    Told("driver killed, import handled", driver(137), HANDLED + EPOCHS[:200], "was killed by SIGKILL"),
    Told("driver crashed, import handled", driver(139), HANDLED + EPOCHS[:200], "was killed by SIGSEGV"),
    Told("driver exits, import handled", driver(1), f"{HANDLED}{EPOCHS}the data is not there\n", "The driver itself failed: it ended with code 1", hides="flash_attn"),
    Told("driver exits, import handled, with a log", driver(1), HANDLED + "".join(f"2026-11-20 19:38:{second:02},123 INFO train.py:7 epoch\n" for second in range(40)), "The driver itself failed: it ended with code 1", hides="flash_attn"),
    Told("exception, and what wandb prints after it", driver(1), f"{TRACEBACK}ValueError: bad learning rate\n" + 30 * "wandb: loss 0.1\n", "The driver failed: ValueError: bad learning rate"),
    Told("driver's bus error", driver(135), HANDLED + "Fatal Python error: Bus error\n", "/dev/shm is full"),
    Told("driver fails for a lost worker, import handled", EndReport(NOW, 1, "driver", "n2", "the driver ended with code 1 after 9 s"), HANDLED + ACTOR_DIED, "raylet on n2 was killed from outside", RAYLET_KILLED),
    Told("actor died, import handled", driver(1), HANDLED + ACTOR_DIED, "nothing tells why", hides="flash_attn"),
    # The exception that says what has happened.
    Told("PyTorch's rank", driver(1), TORCHRUN.split("E1120")[0] + "[rank0]:[W1120 19:38:02.123 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called\n", "The driver failed: ValueError: bad learning rate."),
    Told("torchrun", driver(1), TORCHRUN, "The driver failed: ValueError: bad learning rate."),
    Told("accelerate", driver(1), f"{TRACEBACK}ValueError: bad learning rate\n{TRACEBACK}subprocess.CalledProcessError: Command '['python', 'train.py']' returned non-zero exit status 1.\n", "The driver failed: ValueError: bad learning rate."),
    Told("a command of the driver", driver(1), f"{HANDLED}{EPOCHS}{EPOCHS}{TRACEBACK}subprocess.CalledProcessError: Command '['rsync']' returned non-zero exit status 23.\n", "CalledProcessError: Command '['rsync']'", hides="flash_attn"),
    Told("Ray Tune", driver(1), TUNE, "The driver failed: ValueError: bad learning rate."),
    Told("Ray Train", driver(1), TRAIN, "The driver failed: ValueError: bad learning rate."),
    Told("Ray Data", driver(1), DATA, "The driver failed: ZeroDivisionError: division by zero."),
    Told("srun's label with more than ten tasks", driver(1), " 0: " + f"{TRACEBACK}ValueError: bad".replace("\n", "\n 0: ") + "\n 0: raycluster: the driver ended with code 1\n", "The driver failed: ValueError: bad."),
    Told("a script's own line below an exception", driver(1), f"{TRACEBACK}ValueError: bad learning rate\nError: training failed\n", "The driver failed: ValueError: bad learning rate"),
    Told("Python 3.13 in colours", driver(1), COLOURED, "The driver failed: ValueError: bad learning rate."),
    Told("srun's label, import handled", driver(1), "".join(f"0: {line}\n" for line in f"{HANDLED}{EPOCHS}the data is not there".splitlines()), "The driver itself failed: it ended with code 1", hides="flash_attn"),
    Told("a command of the driver, import handled just before", driver(1), f"{HANDLED}{TRACEBACK}subprocess.CalledProcessError: Command '['rsync', 'a', 'b']' returned non-zero exit status 23.\n", "CalledProcessError: Command '['rsync'", hides="flash_attn"),
    Told("a command of the driver that fails with 1", driver(1), f"{HANDLED}{TRACEBACK}subprocess.CalledProcessError: Command '['nvidia-smi']' returned non-zero exit status 1.\n", "CalledProcessError: Command '['nvidia-smi'", hides="flash_attn"),
    Told("torchrun's process killed", driver(1), TORCHRUN_KILLED, "ChildFailedError: Signal 9 (SIGKILL) received by PID 123. A process that it used had ended"),
    Told("torchrun's process killed for memory", driver(1), TORCHRUN_KILLED, "Out of memory: the kernel killed 1 process", (Node(oom_kills=1), Node("n2"))),
    Told("accelerate's process killed for memory", driver(1), f"{TRACEBACK}subprocess.CalledProcessError: Command '['/opt/env/bin/python', 'train.py']' died with <Signals.SIGKILL: 9>.\nslurmstepd: error: Detected 1 oom_kill event in StepId=4711.0. Some of the step tasks have been OOM Killed.\n", "Processes were killed because the job used all the memory"),
    Told("vLLM's engine killed for memory", driver(1), "(APIServer pid=7) ERROR 11-20 19:38:02 [async_llm.py:525] " + f"{TRACEBACK}vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause.".replace("\n", "\n(APIServer pid=7) ERROR 11-20 19:38:02 [async_llm.py:525] ") + "\n(APIServer pid=7) INFO:     Shutting down\n", "Out of memory: the kernel killed 1 process", (Node(oom_kills=1), Node("n2"))),
    Told("what Python ignores at its exit", driver(1), f"{TRACEBACK}KeyError: 'x'\nException ignored in: <function A.__del__ at 0x7f>\n{TRACEBACK}TypeError: 'NoneType' object is not callable\n", "The driver failed: KeyError: 'x'."),
    Told("a warning of Python's at its exit", driver(1), f"{TRACEBACK}KeyError: 'x'\n/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore objects\n  warnings.warn(\n", "The driver failed: KeyError: 'x'.", hides="leaked"),
    Told("a job that was cancelled and that Slurm has forgotten", None, "slurmstepd: error: *** JOB 4711 ON n1 CANCELLED AT 2026-11-20T19:40:00 ***\n", "The job was cancelled and killed before its head could report that", LOST),
    Told("a long message", driver(1), f"{TRACEBACK}ValueError: {'bad ' * 200}\n", "bad …", hides="…."),
    # Slurm since 25.05: slurmstepd begins its lines by the time.
    Told("time limit, Slurm 25.05", TERM, f"epoch 3: 45%{NEW_SLURM}STEP 4711.0 ON n1 CANCELLED AT 2026-11-20T19:40:00 DUE TO TIME LIMIT ***\n", "The job reached its time limit."),
    Told("preempted, Slurm 25.05, with a label", TERM, f"0: {NEW_SLURM}JOB 4711 ON n1 CANCELLED AT 2026-11-20T19:40:00 DUE TO PREEMPTION ***\n", "The job was preempted."),
    Told("no end, Slurm 25.05", None, f"{NEW_SLURM}STEP 4711.0 ON n1 CANCELLED AT 2026-11-20T19:40:00 DUE to SIGNAL Terminated ***\n", "The job's step was cancelled", LOST),
    Told("memory, Slurm 25.05", driver(137), f"{NEW_SLURM[:-4]}Detected 1 oom_kill event in StepId=4711.0. Some of the step tasks have been OOM Killed.\n{EPOCHS}{EPOCHS}", "Processes were killed because the job used all the memory"),
    # Several runs in a job.
    Told("the second run", driver(1), f"{RUN_BEFORE}raycluster: 2 nodes ready at 10.0.0.1:20000 after 2 s; driver: sh b.sh\nno data\n", "it ended with code 1", hides="of the run before"),
    Told("the second run did not start", EndReport(NOW, 3, "error", "n1", "the head did not start on n1"), f"{RUN_BEFORE.replace('of the run before', 'No space left on device')}raycluster: error: the head did not start on n1\n", "The head did not start on n1"),
    # Texts of something else.
    Told("GPU driver", driver(9), "Failed to initialize NVML: Driver/library version mismatch\n", "The GPU driver of a node does not fit", hides="versions of Ray"),
    Told("HDF5's versions", driver(134), "Warning! ***HDF5 library version mismatched error***\n", "killed by SIGABRT"),
    Told("ZeroMQ", driver(1), f"{TRACEBACK}zmq.error.Again: Resource temporarily unavailable\n", "zmq.error.Again", hides="limit on processes"),
    Told("a locked file of HDF5", driver(1), f"{TRACEBACK}BlockingIOError: [Errno 11] Unable to synchronously open file (unable to lock file, errno = 11, error message = 'Resource temporarily unavailable')\n", "unable to lock file", hides="limit on processes"),
    Told("too many processes", driver(1), f"{TRACEBACK}BlockingIOError: [Errno 11] Resource temporarily unavailable\n", "The limit on processes"),
    Told("another service's token", driver(1), f"{TRACEBACK}google.api_core.exceptions.Unauthenticated: 401 Request had invalid authentication credentials.\n", "401 Request", hides="cluster's token"),
    Told("PyTorch's shared memory", driver(1), f"{TRACEBACK}RuntimeError: unable to write to file </torch_1234_567>: No space left on device (28)\n", "/dev/shm is full", hides="file system is full"),
    Told("NCCL's shared memory", driver(1), NCCL_SHARED_MEMORY, "/dev/shm is full"),
    Told("PyTorch's port", driver(1), f"{TRACEBACK}torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use\n", "A port is already in use, by another Ray or another program"),
    Told("a replica's health", driver(7), "ERROR 2026-11-20 19:38:02,123 app 44 -- Replica health check failed.\n", "it ended with code 7", hides="stopped responding"),
    Told("levels of other programs", driver(3), LEVELS, "it ended with code 3"),
    Told("all killed, import handled", None, HANDLED, "All of the cluster's processes were killed at once", LOST, slurm=JobState("FAILED", exit_code=137)),
    Told("a step that newer Slurm ends", None, "slurmstepd: error: *** STEP 4711.0 ON n1 CANCELLED AT 2026-11-20T19:40:00 DUE to SIGNAL Terminated ***\n", "The job's step was cancelled", LOST),
]  # fmt: skip


@pytest.mark.parametrize("told", TOLD, ids=[told.name for told in TOLD])
def test_the_right_cause_is_named(told: Told, tmp_path: Path) -> None:
    judgement = judge(
        examined(Case(told.name, told.end, "", 0, "", told.slurm, told.output, nodes=told.nodes), tmp_path)
    )
    assert told.verdict in judgement.verdict
    line = judgement.shown_by.line if judgement.shown_by is not None else ""
    assert not told.hides or told.hides not in f"{judgement.verdict} {line}"


def test_a_run_that_is_cancelled_before_it_is_ready_is_not_blamed_on_the_run_before(tmp_path: Path) -> None:
    """As slurm/requeue.sbatch has it: the output goes on after a requeue."""
    record = Record.create(tmp_path / "state", "c", "4711.r1")
    record.write_head(HeadInfo("n1", "10.0.0.1", 19000, started=NOW - 3))
    steps = {"process started": NOW - 4, NodePhase.STARTING.value: NOW - 3}
    record.write_node(NodeReport("n1", "head", "ended", exit_code=143, updated=NOW, phases=steps))
    record.write_end(EndReport(NOW, 143, "signal", "", "ended by SIGTERM"))
    output = tmp_path / "job.out"
    ready, *rest = RUN_BEFORE.splitlines(keepends=True)
    output.write_text("".join([ready, told_by_slurm(" DUE TO PREEMPTION"), *rest]))
    post = post_mortem(record, outputs=[output])
    assert judge(post).verdict == "The job was cancelled by SIGTERM (scancel or preemption)."


#: 128 KiB in one line, as a program writes JSON.
LONG = (
    "this could be: Too many open files ",
    "a Broken pipe may come ",
    "port=8000 ",
    "if Resource temporarily unavailable ",
)


@pytest.mark.parametrize("text", LONG)
def test_a_line_as_long_as_a_file_takes_no_quadratic_time(text: str) -> None:
    began = time.process_time()
    find_causes([("job.out", text * (128 * 1024 // len(text)))])
    assert time.process_time() - began < 2.0


def test_many_exceptions_take_no_quadratic_time() -> None:
    began = time.process_time()
    assert last_exception(f"{TRACEBACK}ValueError: bad\n" * 4000) is not None
    assert time.process_time() - began < 4.0
