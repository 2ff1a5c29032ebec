"""How workers on CPUs send tensors to each other."""

from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


class OverTheNetwork(CpuCommunicator):
    """By torch.distributed, and not by shared memory."""

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        return False
