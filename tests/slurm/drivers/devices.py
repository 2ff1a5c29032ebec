"""A driver that prints GPUS and, for a task with one GPU and one with none, the devices that each sees."""

import os

import ray


@ray.remote(num_cpus=0)
def seen() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "unset")


ray.init(logging_level="ERROR")
print("GPUS", int(ray.cluster_resources().get("GPU", 0)), flush=True)
print("ONE", ray.get(seen.options(num_gpus=1).remote()), flush=True)
print("LABELS", *sorted(f"{key}={value}" for key, value in ray.nodes()[0]["Labels"].items()), flush=True)
