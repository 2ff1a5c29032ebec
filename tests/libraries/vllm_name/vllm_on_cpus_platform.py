"""vLLM's platform for CPUs, with workers that Ray places, on several hosts.

vLLM 0.32 refuses Ray as executor there ("current platform cpu does not support ray") since the platform names
no resource of Ray's to place a worker on.  Each node of the tests has a GPU by name only (--num-gpus 1).
Between workers it uses shared memory, also where they are on different hosts ("open shm in SHMManager
failed").
"""

from vllm.platforms.cpu import CpuPlatform


class CpusByRay(CpuPlatform):
    """CPUs that Ray counts as GPUs."""

    ray_device_key = "GPU"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The name of the class by which workers send tensors."""
        return "vllm_on_cpus_network.OverTheNetwork"
