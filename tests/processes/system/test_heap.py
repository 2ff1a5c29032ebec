"""Threads of a supervisor share one heap."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

#: Prints whether what a thread allocates is in the heap of the main thread.
ALLOCATE = """
import ctypes, sys, threading
from raycluster_cli.system.heap import use_one_heap
if sys.argv[1:]:
    use_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(5000)))
thread.start()
thread.join()
heap = next(line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
low, high = (int(end, 16) for end in heap.split("-"))
print(low <= found[0] < high)
"""


@pytest.mark.parametrize("one", [True, False])
def test_a_thread_allocates_from_the_heap_of_the_main_thread(one: bool) -> None:
    command = [sys.executable, "-c", ALLOCATE, *(["one"] if one else [])]
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(one)
