"""Every GPU of the cluster, shown once: an actor for each says where it runs and which device it has."""

import socket
import sys

import ray


@ray.remote(num_gpus=1)
class Device:
    def name(self) -> str:
        return f"{socket.gethostname()} GPU {','.join(map(str, ray.get_gpu_ids()))}"


ray.init()  # RAY_ADDRESS, set by raycluster, names the cluster
count = int(ray.cluster_resources().get("GPU", 0))
devices = [Device.remote() for _ in range(count)]
names = sorted(ray.get([device.name.remote() for device in devices]))
print(f"{count} GPUs: {', '.join(names)}")
sys.exit(0 if count and len(set(names)) == count else 1)
