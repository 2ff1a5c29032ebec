"""vLLM for CPUs, with a model of random weights: in actors on two hosts, and as a server.

Run by `make vllm`.  vLLM's own distribution over nodes by Ray needs accelerators: for CPUs it says "current
platform cpu does not support ray".  The server has three processes that import vLLM one after the other; on
two busy cores it takes minutes until it is ready.
"""

from __future__ import annotations

import json
import sys
import uuid

import pytest

from tests.bed.spec import LOGIN, home
from tests.libraries.test_libraries import DRIVERS, is_installed
from tests.slurm.batches import SRUN, batch, line_with
from tests.slurm.jobs import JobEnd, Slurm
from tests.slurm.test_service import Service
from tests.slurm.test_submit import submitted

pytestmark = pytest.mark.skipif(not is_installed("vllm"), reason="vLLM is not installed")

DRIVER = DRIVERS / "vllm_on_each_node.py"

#: No model hub is reached.  One thread for each engine, and no choice of cores: all hosts are one machine.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
EXPORTS = "export " + " ".join(f"{name}={value}" for name, value in SETTINGS.items())

ASK = """
import json, sys, urllib.request as u
body = json.dumps({"model": "tiny", "prompt": "hello", "max_tokens": 6, "ignore_eos": True}).encode()
asked = u.Request(sys.argv[1] + "/v1/completions", body, {"Content-Type": "application/json"})
print(u.urlopen(asked, timeout=60).read().decode())
"""


def place(user: str) -> str:
    return f"{home(user)}/vllm-{uuid.uuid4().hex[:8]}"


def test_an_engine_on_each_of_two_hosts(slurm: Slurm) -> None:
    job = batch(slurm, f"{EXPORTS}\n{SRUN} raycluster run -- python {DRIVER} {place('root')}", nodes=2)
    assert job.wait(timeout_s=560) == JobEnd("COMPLETED", 0, 0), job.output()
    line = line_with("LIBRARY", job.output())
    print(line)
    assert line.endswith("NODES 2")
    slurm.assert_nothing_left()


def test_vllm_serve_as_a_service_ends_when_idle(slurm: Slurm) -> None:
    model = place("alice")
    make = f"import sys; sys.path.insert(0, {str(DRIVERS)!r}); import vllm_on_each_node as v, pathlib; "
    make += f"v.make_model(pathlib.Path({model!r}))"
    # PyTorch leaves a cache in TMPDIR.
    making = ["env", f"TMPDIR={home('alice')}", sys.executable, "-c", make, model]
    slurm.run(LOGIN, making, user="alice", timeout_s=200, check=True)
    shape = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--mem=9000", "--time=15")
    options = ("--service", "--health-path=/health", "--idle-timeout=30s", "--wait-ready")
    serve = ("vllm", "serve", model, "--served-model-name=tiny", "--host={host}", "--port={port}")
    small = ("--max-model-len=256", "--dtype=float32", "--enforce-eager")
    settings = [f"{name}={value}" for name, value in SETTINGS.items()]
    command = ["env", *settings, "raycluster", "submit", *shape, *options, "--", *serve, *small]
    done = slurm.run(LOGIN, command, user="alice", timeout_s=540)
    service = Service(slurm, submitted(slurm, done.stdout))
    assert done.returncode == 0, done.stderr + service.job.output()
    asked = slurm.run(LOGIN, [sys.executable, "-c", ASK, done.stdout.split()[-1]], user="alice")
    assert json.loads(asked.stdout)["usage"]["completion_tokens"] == 6, asked.stderr
    end = service.job.wait(timeout_s=200)
    output = service.job.output()
    assert (end.state, end.exit_code) == ("COMPLETED", 0), output
    assert "the server had no work for" in output
    slurm.assert_nothing_left()
