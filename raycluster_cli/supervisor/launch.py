"""What head, worker and run do once their options are read: find out who we are, and start the node."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping

from ..model.errors import UsageError
from ..model.settings import Settings
from ..model.token import own_token
from ..model.value import Value
from ..rayproc.warm import WarmCompanion
from ..slurm.allocation import Allocation
from ..slurm.cluster_name import slurm_cluster_name
from ..state.location import state_dir
from ..system.keeper_link import Keeper


class Launcher(Value):
    """Starts nodes in this process: what it was given at its very start."""

    env: Mapping[str, str]
    """The environment, read once; a copy, so that nothing below can change it."""
    keeper: Keeper | None = None
    warm: WarmCompanion | None = None
    copy: str | None = None
    """The copy of the environment that this process runs from (--stage-env)."""
    arguments: tuple[str, ...] = ()
    """Of the command line."""

    def start(self, command: str, settings: Settings, driver: tuple[str, ...] = ()) -> None:
        """`raycluster COMMAND`: ends the process with its exit code."""
        own_token(self.env)  # refused before anything is started
        if settings.container:
            from .container_entry import enter_container  # other starts do not pay for it

            where = state_dir(settings, self.env)
            enter_container(command, settings, driver, self.env, where, self.keeper)
        launcher = self
        if settings.stage_env not in ("", "off") and self.copy is None and self.keeper is not None:
            from .staged_start import start_from_copy  # other starts do not pay for it

            warm = start_from_copy(
                *(command, settings, driver),
                env=self.env,
                keeper=self.keeper,
                warm=self.warm,
                arguments=self.arguments,
            )
            launcher = self.but(warm=warm)
        roles = {"head": launcher._head, "worker": launcher._worker, "run": launcher._run}
        roles[command](settings, driver)

    def _head(self, settings: Settings, driver: tuple[str, ...]) -> None:
        allocation = Allocation.from_environ(self.env)
        if allocation and allocation.procid and (allocation.step_tasks or 1) > 1:
            raise UsageError(
                f"`raycluster head` runs as task {allocation.procid} of {allocation.step_tasks}; "
                "a job has one head.",
                "Use `srun raycluster run -- …` for all tasks, or `srun -N1 -n1 raycluster head`.",
            )
        _check_in_allocation(allocation, "head", settings.expected_workers is not None)
        self._node("head", settings, allocation, driver)

    def _worker(self, settings: Settings, _: tuple[str, ...]) -> None:
        allocation = Allocation.from_environ(self.env)
        _check_in_allocation(allocation, "worker", bool(settings.master_ip))
        if settings.group and not settings.cluster:
            raise UsageError(
                f"--group {settings.group} is given without --cluster.",
                "Name the cluster: raycluster worker --cluster JOB --group NAME.",
            )
        self._node("worker", settings, allocation)

    def _run(self, settings: Settings, driver: tuple[str, ...]) -> None:
        if settings.local is not None:
            import_asyncio_without_ssl()
            from .local import run_local

            run_local(settings, self.env, driver, self.keeper, state_dir(settings, self.env), self.warm)
        allocation = Allocation.from_environ(self.env)
        if allocation is None or not allocation.in_task:
            where = (
                "outside a Slurm job"
                if allocation is None
                else "in a batch script or shell, not in an srun task"
            )
            raise UsageError(
                f"`raycluster run` was started {where}; it takes its rank from srun.",
                "Use `srun raycluster run -- …`, or `raycluster run --local 2 -- …` for this machine alone.",
            )
        kind = "head" if allocation.procid == 0 else "worker"
        self._node(kind, settings, allocation, driver, symmetric=True)

    def _node(
        self,
        kind: str,
        settings: Settings,
        allocation: Allocation | None,
        driver: tuple[str, ...] = (),
        symmetric: bool = False,
    ) -> None:
        """Run this node to its end and end the process with its exit code."""
        import_asyncio_without_ssl()
        from ..model.status import Role
        from .context import Context
        from .run import run_and_exit

        env = self.env
        given = env.get("RAYCLUSTER_KEY", "")
        host = env.get("RAYCLUSTER_NODE_NAME", "") or (allocation.node_name if allocation else None)
        host = host or socket.gethostname().partition(".")[0]
        context = Context(
            settings=settings,
            env=env,
            allocation=allocation,
            role=Role(kind),
            key=given or (allocation.key if allocation else f"{host}-{os.getpid()}"),
            key_given=bool(given),
            slurm_cluster=slurm_cluster_name(allocation, env),
            host=host,
            node_ip=env.get("RAYCLUSTER_NODE_IP", ""),
            state_dir=state_dir(settings, env),
            driver=driver,
            keeper=self.keeper,
            warm=self.warm,
            launched=_process_start(self.keeper),
            symmetric=symmetric,
        )
        if kind == "head":
            from .head import HeadRun

            run_and_exit(HeadRun(context))
        elif settings.cluster:
            from .worker_job import WorkerJobRun, in_worker_job  # other runs do not pay for it

            run_and_exit(WorkerJobRun(in_worker_job(context)))
        else:
            from .worker import WorkerRun

            run_and_exit(WorkerRun(context))


def import_asyncio_without_ssl() -> None:
    """Import asyncio as a Python has it that was built without ssl: 6 ms and 1.3 MB less in each supervisor.

    What needs TLS (--tls) brings its own (rayproc.tls_layer).  Not for a process that is the user's.
    """
    if "asyncio" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # as the documentation of `import` has it
        try:
            import asyncio  # noqa: F401
        finally:
            del sys.modules["ssl"]


def _check_in_allocation(allocation: Allocation | None, command: str, told: bool) -> None:
    """A shell of salloc may run on the login node, which is not part of the job."""
    if allocation is None or told or allocation.node_name is not None or not allocation.job_nodes:
        return
    here = socket.gethostname()
    tasks = "-N1 -n1 " if command == "head" else ""
    if not {here, here.partition(".")[0]} & set(allocation.job_nodes):
        raise UsageError(
            f"`raycluster {command}` was started on {here}, which is not a node of job {allocation.job_id}.",
            f"Start it on the job's nodes: srun {tasks}raycluster {command} …",
        )


def _process_start(keeper: Keeper | None) -> float:
    """Unix seconds at which the task's process started: the keeper's, which came first."""
    from ..system.proctree import read_stat

    stat = read_stat(os.getppid() if keeper else os.getpid())
    if stat is None:
        return time.time()
    with open("/proc/uptime", encoding="ascii") as file:
        up_s = float(file.read().split()[0])
    return time.time() - up_s + stat.start_ticks / os.sysconf("SC_CLK_TCK")
