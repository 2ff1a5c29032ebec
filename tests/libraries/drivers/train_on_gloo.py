"""Ray Train with PyTorch on CPUs: two workers that add up a number, and go on when a node is taken away.

Takes as many steps as its first argument says, appends a line of JSON for each to the file of the second,
and prints how the training ended.
"""

import json
import pathlib
import socket
import sys
import tempfile
import time
from typing import Any

import ray
import ray.train
import torch
import torch.distributed
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

STEPS, STEP_S = int(sys.argv[1]), 0.5
LOG = pathlib.Path(sys.argv[2])


def loop(config: dict[str, Any]) -> None:
    """Each rank adds its number to the weight of all; each step has its checkpoint."""
    rank = ray.train.get_context().get_world_rank()
    first, weight = 0, 0.0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            state = torch.load(pathlib.Path(directory) / "state.pt")
        first, weight = state["step"] + 1, state["weight"]
    for step in range(first, config["steps"]):
        number = torch.tensor([float(rank + 1)])
        torch.distributed.all_reduce(number)
        weight += number.item()
        going = ray.train.get_preemption_info()
        hosts = [""] * ray.train.get_context().get_world_size()
        torch.distributed.all_gather_object(hosts, socket.gethostname())
        if rank == 0:
            deadline_s = going.deadline_ms / 1000 - time.time() if going and going.deadline_ms else None
            facts = {"step": step, "hosts": hosts, "resumed": first, "deadline_s": deadline_s}
            with open(config["log"], "a") as file:
                file.write(json.dumps(facts) + "\n")
        with tempfile.TemporaryDirectory() as directory:
            torch.save({"step": step, "weight": weight}, pathlib.Path(directory) / "state.pt")
            saved = Checkpoint.from_directory(directory) if rank == 0 else None
            ray.train.report({"step": step, "weight": weight}, checkpoint=saved)
        time.sleep(STEP_S)


ray.init()
result = TorchTrainer(
    loop,
    train_loop_config={"log": str(LOG), "steps": STEPS},
    torch_config=TorchConfig(backend="gloo"),
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(
        storage_path=tempfile.mkdtemp(dir="/home/admin"),
        name="run",
        failure_config=FailureConfig(max_failures=3),
    ),
).fit()
print("TRAINED", json.dumps({"step": result.metrics["step"], "weight": result.metrics["weight"]}), flush=True)
