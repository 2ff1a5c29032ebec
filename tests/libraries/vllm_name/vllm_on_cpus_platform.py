"""vLLM's platform for CPUs, with workers that Ray places.

vLLM 0.32 refuses Ray as executor there ("current platform cpu does not support ray") since the platform names
no resource of Ray's to place a worker on.  Each node of the tests has a GPU by name only (--num-gpus 1).
"""

from vllm.platforms.cpu import CpuPlatform


class CpusByRay(CpuPlatform):
    """CPUs that Ray counts as GPUs."""

    ray_device_key = "GPU"
