"""Memory of real processes."""

from __future__ import annotations

import multiprocessing
import os
import time

from raycluster_cli.supervisor.usage import measure_processes


def _hold() -> None:
    memory = bytearray(b"x" * (64 << 20))
    time.sleep(30)
    del memory


def test_memory_of_descendants_is_counted() -> None:
    before = measure_processes(os.getpid(), 1 << 30)
    child = multiprocessing.get_context("fork").Process(target=_hold)
    child.start()
    try:
        deadline = time.monotonic() + 10
        grown = 0
        while grown < 60 << 20 and time.monotonic() < deadline:
            time.sleep(0.02)
            grown = measure_processes(os.getpid(), 1 << 30).memory_used_bytes - before.memory_used_bytes
        assert grown >= 60 << 20
    finally:
        child.kill()
        child.join()
    assert before.worker_processes == 0
    assert before.memory_total_bytes == 1 << 30
