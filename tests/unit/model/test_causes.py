"""The table of causes against the texts that Ray, Slurm and Python really write."""

# ruff: noqa: E501  (texts as they are written)

from __future__ import annotations

import re

import pytest

from raycluster_cli.model.cause_search import find_causes
from raycluster_cli.model.causes import CAUSES

TEXTS = [
    ("KeyError: 'ip_head'", "Ray's own example"),
    ("ConnectionError: Failed to connect to Ray cluster at address n1:6379", "fixed address"),
    ("ValueError: When connecting to an existing cluster, num_cpus and num_gpus must not be provided.", "arguments of a new cluster"),
    ("ValueError: When connecting to an existing cluster, object_store_memory must not be provided.", "arguments of a new cluster"),
    ("RuntimeError: No node info found matching attributes: '/scratch/ada' when trying to resolve node to connect to.", "temporary directory of another cluster"),
    ("ray.exceptions.RuntimeEnvSetupError: Failed to set up runtime environment.", "runtime environment"),
    ("RuntimeError: The Ray jobs CLI & SDK require the ray[default] installation: `pip install 'ray[default]'`", "no job API"),
    ("error: Request failed after 3 retries in 12.5s", "package download"),
    ("cause: Failed to fetch: http://10.0.0.1/simple/numpy/", "package download"),
    ("cause: Because ray==2.60.0 has no wheels with a matching Python ABI tag (e.g., `cp315`) and you require ray==2.60.0", "no Ray for this platform"),
    ("error: Distribution `ray==2.60.0 @ registry` can't be installed because it doesn't have a source distribution or wheel for the current platform", "no Ray for this platform"),
    ("ERROR: No matching distribution found for ray==2.60.0", "no Ray for this platform"),
    ("OSError: [Errno 27] File too large", "file size limit"),
    ("raycluster: the driver was killed by SIGXFSZ after 3 s; exit code 153", "file size limit"),
    ("RuntimeError: Failed to bind to address '0.0.0.0:8000'.", "server port taken"),
    (
        "requests.exceptions.ConnectionError: HTTPConnectionPool(host='localhost', port=8000): Max retries exceeded "
        "with url: / (Caused by NewConnectionError('<…>: Failed to establish a new connection: [Errno 111] "
        "Connection refused'))",
        "Serve is not on port 8000",
    ),
    ("srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)", "step waits"),
    ("ValueError: Ray component worker_ports is trying to use a port number 10002 that is used by other components", "port taken"),
    ("OSError: [Errno 98] Address already in use", "port taken"),
    ("No available ports. Please specify a wider port range using --min-worker-port", "too few ports"),
    ("Session name session_2026-11-01 does not match persisted value session_2026-10-30.", "another cluster's port"),
    ("OSError: AF_UNIX path length cannot exceed 107 bytes: '/scratch/…/plasma_store'", "long path"),
    ("PermissionError: [Errno 13] Permission denied: '/tmp/ray/session_latest'", "foreign directory"),
    ("filelock: /tmp/ray/ports_by_node.json.lock", "foreign directory"),
    ("Exception: The current node timed out during startup. This could happen because …", "slow start"),
    ("Some workers of the worker process(4711) have not registered within the timeout.", "slow worker processes"),
    ("Failed to register worker to raylet: IOError: Failed to read data from the socket: End of file", "secondary"),
    ("E0000 pthread_create failed: Resource temporarily unavailable", "process limit"),
    ("OSError: [Errno 24] Too many open files", "open files"),
    ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the processes", "out of memory"),
    ("task/cgroup: oom-kill event", "out of memory"),
    ("No available node types can fulfill resource request {'node:10.0.0.1': 0.001}", "two addresses"),
    ("RuntimeError: Version mismatch: The cluster was started with: Ray: 2.58.0", "version mismatch"),
    ("InvalidAuthToken: the token of this client is not the cluster's", "authentication"),
    ("grpc status UNAUTHENTICATED", "authentication"),
    ("Please use HIP_VISIBLE_DEVICES instead of ROCR_VISIBLE_DEVICES", "AMD devices"),
    ("RuntimeError: No CUDA GPUs are available", "GPUs hidden"),
    ("CUDA error: invalid device ordinal", "GPUs hidden"),
    ("The node with node id … has been marked dead because the detector has missed too many heartbeats from it.", "starved"),
    ("file_system_monitor.cc: /tmp/ray is over 95% full, available space: 12", "disk nearly full"),
    ("ray.exceptions.OutOfDiskError: Local disk is full", "disk full"),
    ("ValueError: signal only works in main thread of the main interpreter", "scheduler variables"),
    ("An error occurred in MPI_Init", "scheduler variables"),
    ("E http_proxy.cc: connection through proxy failed", "proxy"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name"), TEXTS, ids=[text[:40] for text, _ in TEXTS])
def test_known_texts(text: str, name: str) -> None:
    found = find_causes([("n2/raylet.err", f"a line before\n{text}\nand one after")])
    assert [one.cause.name for one in found] == [name]
    assert found[0].line == text[:300]
    assert found[0].where == "n2/raylet.err"


def test_good_logs_have_no_cause() -> None:
    text = """
        [2026-11-23 04:45:00,123 I 1 1] (raylet) main.cc:330: Setting cluster ID to: 4e
        [2026-11-23 04:45:00,124 I 1 1] (raylet) accessor.cc:436: Received address and liveness notification for node, IsAlive = 1
        [2026-11-23 04:45:04,124 I 1 1] (raylet) main.cc:1010: Raylet graceful shutdown triggered, reason = EXPECTED_TERMINATION
    """
    assert find_causes([("raylet.out", text)]) == []


def test_causes_come_before_their_consequences() -> None:
    found = find_causes(
        [
            ("n1/raylet.out", "Failed to register worker to raylet: End of file"),
            ("n2/raylet.err", "health check failed due to missing too many heartbeats"),
            ("n3/job.out", "Detected 2 oom_kill events"),
            ("n3/job.out", "error: Detected 1 oom_kill event in StepId=7.0"),
        ]
    )
    assert [one.cause.name for one in found] == ["out of memory", "starved"]


def test_every_cause_is_described_in_sentences_under_its_own_name() -> None:
    for cause in CAUSES:
        re.compile(cause.pattern)
        assert cause.meaning.endswith(".")
        assert cause.remedy.endswith(".")
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)
