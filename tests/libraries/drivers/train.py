"""Ray Train without a framework: one worker on each node, a report and a checkpoint."""

import pathlib
import socket
import tempfile

import ray
import ray.train
from ray.train import Checkpoint, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer


def loop() -> None:
    """Each worker reports its host."""
    rank = ray.train.get_context().get_world_rank()
    for step in range(3):
        with tempfile.TemporaryDirectory() as directory:
            (pathlib.Path(directory) / f"rank-{rank}").write_text(socket.gethostname())
            checkpoint = Checkpoint.from_directory(directory)
            ray.train.report({"step": step}, checkpoint=checkpoint)


ray.init()
shared = tempfile.mkdtemp(dir="/home/admin")
result = DataParallelTrainer(
    loop,
    scaling_config=ScalingConfig(num_workers=3, placement_strategy="STRICT_SPREAD"),
    run_config=RunConfig(storage_path=shared, name="run"),
).fit()
with result.checkpoint.as_directory() as directory:
    hosts = {path.read_text() for path in pathlib.Path(directory).glob("rank-*")}
print("LIBRARY train", ray.__version__, "NODES", len(hosts))
