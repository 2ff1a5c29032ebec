"""`raycluster run --local N`: a head and N workers on this machine, with no Slurm.

The workers are `raycluster worker` processes of their own, as on real nodes; they share
the machine's CPUs and memory evenly.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from ..model.settings import Settings, option_words, settings_of
from ..model.status import Role
from ..node.grants import read_host
from ..node.ray_node import RayNode
from ..node.resources import plan_resources
from ..rayproc.boot import raycluster_command
from ..rayproc.warm import WarmCompanion
from ..system.keeper_link import Keeper
from ..system.process import Child
from .context import Context
from .head import HeadRun
from .parent_link import ParentLink
from .run import run_and_exit

#: The head's address; the workers have the following ones.  Not 127.0.0.1, which Ray replaces by the
#: machine's outer address (ray._private.services.resolve_ip_for_localhost).
LOOPBACK = "127.82.67.1"

#: How long workers get to end by themselves once the cluster has ended, and then after SIGTERM.
WORKER_LEAVE_S = 0.3
WORKER_END_S = 5.0


def run_local(
    settings: Settings,
    env: Mapping[str, str],
    driver: tuple[str, ...],
    keeper: Keeper | None,
    state_dir: Path,
    warm: WarmCompanion | None = None,
) -> NoReturn:
    """Run the local cluster to its end and end the process with its exit code."""
    assert settings.local is not None
    workers = settings.local
    shared = _share(settings, env, workers + 1)
    key = f"local-{os.getpid()}"
    context = Context(
        settings=replace(shared, expected_workers=workers, local=workers),
        env=env,
        allocation=None,
        role=Role.HEAD,
        key=key,
        key_given=True,
        slurm_cluster="local",
        host="head",
        node_ip=LOOPBACK,
        state_dir=state_dir,
        driver=driver,
        keeper=keeper,
        warm=warm,
    )
    run_and_exit(LocalRun(context))


def _share(settings: Settings, env: Mapping[str, str], nodes: int) -> Settings:
    """This machine's CPUs, GPUs and memory, divided evenly, where the user has not said otherwise."""
    facts = read_host(env, None)
    memory = facts.memory_bytes.value // nodes
    store = min(memory * 30 // 100, facts.shm_free_bytes // nodes)
    plan = plan_resources(facts)
    return replace(
        settings,
        num_cpus=settings.num_cpus if settings.num_cpus is not None else max(1, plan.num_cpus // nodes),
        num_gpus=settings.num_gpus if settings.num_gpus is not None else plan.num_gpus // nodes,
        object_store_memory=settings.object_store_memory or str(store),
        memory=settings.memory or str(max(memory - store - plan.reserve_bytes, memory // 4)),
    )


class LocalRun(HeadRun):
    """A head whose workers are its own children."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.workers: list[Child] = []

    async def startup(self) -> None:
        for number in range(1, self.rules.expected + 1):
            self.workers.append(self._spawn_worker(number))
        await super().startup()

    async def make_node(self) -> RayNode:
        node = await super().make_node()
        node.others = lambda: [worker.pid for worker in self.workers if worker.running]
        return node

    def _spawn_worker(self, number: int) -> Child:
        settings, context = self.settings, self.context
        name = f"worker-{number}"
        told: dict[str, object] = {"master_ip": LOOPBACK, "master_port": None}
        told |= {"state_dir": str(context.state_dir), "config": "", "profile": "", "config_files": False}
        told["stage_env"] = "off"  # they run from where this process runs from
        arguments = [
            word
            for one in settings_of("worker")
            for word in option_words(one.name, told.get(one.name, getattr(settings, one.name)))
        ]
        return self.reaper.spawn(
            raycluster_command("worker", *arguments),
            name,
            env={
                **{each: text for each, text in context.env.items() if each != ParentLink.VARIABLE},
                "RAYCLUSTER_KEY": context.key,
                "RAYCLUSTER_NODE_NAME": name,
                "RAYCLUSTER_NODE_IP": f"{LOOPBACK.rpartition('.')[0]}.{number + 1}",
            },
        )

    async def after_drain(self) -> None:
        """Wait until the workers have ended and cleared their directories; slow ones get SIGTERM."""
        for wait_s in (WORKER_LEAVE_S, WORKER_END_S):
            left = [worker for worker in self.workers if worker.running]
            if not left:
                return
            if wait_s == WORKER_END_S:
                for worker in left:
                    worker.send(signal.SIGTERM)
            await asyncio.wait([worker.exited for worker in left], timeout=wait_s)
