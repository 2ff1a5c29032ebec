"""The worker jobs of one cluster: submits them, cancels them, and knows what becomes of each."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Collection, Mapping

from ..model.errors import RayclusterError
from ..model.value import Value
from ..model.worker_group import WorkerGroup
from ..model.worker_job import GroupState, WorkerJob
from ..slurm.answer import Run
from ..slurm.sbatch import HeadJob
from ..state.worker_jobs import WorkerJobFiles


class RayNode(Value):
    """What the GCS says of a node of the cluster that runs in a worker job."""

    node_id: str
    """Ray's id of it, in hex."""
    idle_since: float | None = None
    """Unix seconds since when it has had no work; None while it has some."""
    draining: bool = False


class LaunchRefusedError(RayclusterError):
    """No job was submitted: Slurm refused it, or the group is paused or can have no node.

    The message is one line for people.  Calling again soon is cheap: as long as nothing has changed it
    raises without a call of Slurm's.
    """


class WorkerJobs:
    """Submits, cancels and watches the worker jobs of one cluster.

    An *instance* is one node of a worker job, under the id of :func:`.worker_job.instance_id`.  All methods
    block (sbatch and squeue take up to seconds) and may be called from several threads.

    ``worker-jobs.json`` is written whenever something changed, and before `launch` returns, so that the jobs
    can be cancelled after a crash.  An object that is made for a cluster that has this file goes on with
    its jobs: Ray's autoscaler was started again.
    """

    def __init__(
        self,
        head: HeadJob,
        files: WorkerJobFiles,
        env: Mapping[str, str],
        *,
        run: Run = subprocess.run,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``env``: the environment of the head's job, which the worker jobs get without what is its own."""

    def launch(self, group: WorkerGroup, count: int) -> list[str]:
        """Submit jobs for ``count`` further nodes with one sbatch; returns their instances.

        Raises LaunchRefusedError with Slurm's reason.  With nodes_per_job the number of nodes is rounded up.
        """
        raise NotImplementedError

    def cancel(self, instances: Collection[str], why: str) -> None:
        """End the jobs of these instances, pending or running; a job of several nodes ends as a whole.

        Raises RayclusterError when scancel fails; the next `poll` tries it again.
        """
        raise NotImplementedError

    def poll(self, nodes: Mapping[str, RayNode]) -> dict[str, WorkerJob]:
        """The jobs that are not over, by instance.  ``nodes``: all nodes that the GCS has, by instance.

        To be called about once a second.  It calls squeue at most every 5 s, and only while a job is
        pending, starting, ending, or no longer among ``nodes``.  An instance that is not in the answer is
        over: its job ended, or will never start.  A node in DRAINING or one whose job was cancelled is still
        in it until Slurm has ended the job.
        """
        raise NotImplementedError

    def groups(self) -> dict[str, GroupState]:
        """What holds for each group that had a job so far."""
        raise NotImplementedError

    def resume(self, group: str) -> None:
        """Forget pause and problem of a group: `raycluster scale` has set it again."""
        raise NotImplementedError
