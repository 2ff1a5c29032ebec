"""A plugin for vLLM: which class describes the platform.  vLLM must not be imported here."""


def platform() -> str:
    """The name of the class."""
    return "vllm_on_cpus_platform.CpusByRay"
