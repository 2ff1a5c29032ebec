"""What an inference server says of its work: in the metrics that vLLM and SGLang serve to Prometheus."""

from __future__ import annotations

import re

from ..model.dataclass import dataclass

#: vllm:num_requests_running{…} 1.0
_SAMPLE = re.compile(r"((?:vllm|sglang):[a-z_]+)(?:\{[^}]*\})?\s+([0-9.eE+-]+)")

#: Requests that are being answered, or wait for it.
_NOW = re.compile(r"num_requests_(running|waiting)|num_running_reqs|num_queue_reqs")

#: Counters that rise with every request.
_EVER = re.compile(r"(prompt|generation)_tokens_total|request_success_total|num_requests_total")


@dataclass(frozen=True)
class Work:
    """How much a server has to do."""

    requests: float
    """Those that are being answered, or wait for it."""
    ever: float
    """A number that rises with every request."""


def work_of(text: str) -> Work | None:
    """The work by a server's metrics; None when it has none that are known.

    >>> work_of('vllm:num_requests_running{model="m"} 2.0\\nvllm:prompt_tokens_total{model="m"} 180.0\\n')
    Work(requests=2.0, ever=180.0)
    >>> work_of("python_info 1.0")
    """
    found = False
    requests = ever = 0.0
    for line in text.splitlines():
        if (match := _SAMPLE.match(line)) is None:
            continue
        name, value = match.group(1).partition(":")[2], float(match.group(2))
        if _NOW.fullmatch(name):
            found, requests = True, requests + value
        elif _EVER.fullmatch(name):
            ever += value
    return Work(requests, ever) if found else None
