"""The six functions on real Slurm, called on each rank as datatrove's vLLM server calls its own."""

from __future__ import annotations

import shlex

from tests.bed.bed import REPOSITORY
from tests.slurm.batches import batch, read, record
from tests.slurm.jobs import JobEnd, Slurm

# As pipeline/inference/servers/vllm_server.py: expected workers are all nodes, the head included.
SERVER = """
import asyncio, fcntl, os
from raycluster_cli import (
    cleanup_ray, init_ray_master, init_ray_worker, monitor_ray_cluster_health, monitor_ray_workers,
)

# As datatrove's CompileLockManager: held by one rank at a time while it waits for the others.
directory = os.environ.get("VLLM_COMPILE_LOCK_DIR", os.path.expanduser("~/.cache/vllm_compile_locks"))
os.makedirs(directory, exist_ok=True)
fcntl.flock(os.open(directory + "/lock", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)

rank, hosts = int(os.environ["SLURM_PROCID"]), os.environ["HOSTS"].split(",")
port = 21000 + int(os.environ["SLURM_JOB_ID"]) % 1000

async def serve():
    if rank != 0:
        await init_ray_worker(master_ip=hosts[0], master_port=port)
        await monitor_ray_cluster_health()
        print("RANK", rank, "saw the end", flush=True)
        return
    await init_ray_master(master_port=port, expected_workers=len(hosts))
    import ray
    from ray.util.placement_group import placement_group
    group = placement_group([{"CPU": 1}] * len(hosts), strategy="STRICT_SPREAD")
    ray.get(group.ready(), timeout=60)
    print("SERVING", len(ray.nodes()), flush=True)
    watch = asyncio.create_task(monitor_ray_workers(expected_workers=len(hosts)))
    done, _ = await asyncio.wait({watch}, timeout=5)
    assert not done, watch.exception()
    watch.cancel()

try:
    asyncio.run(serve())
finally:
    cleanup_ray()
"""


def test_three_ranks_serve_and_end(slurm: Slurm) -> None:
    guide = (REPOSITORY / "docs/guides/inference.md").read_text()
    script = next(text for text in guide.split("```") if "VLLM_COMPILE_LOCK_DIR" in text)
    script = script.partition("\n\n")[2].replace("python pipeline.py", shlex.join(["python", "-c", SERVER]))
    job = batch(slurm, f"export HOSTS=n1,n2,n3\n{script}", user="alice")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert "SERVING 3\n" in output
    assert "RANK 1 saw the end" in output
    assert "RANK 2 saw the end" in output
    end = read(record(slurm.bed, job) / "end.json")
    assert end and end["reason"] in ("signal", "stop")
    slurm.assert_nothing_left()
