"""A thread that hangs does not keep its process from ending."""

from __future__ import annotations

import subprocess
import sys


def test_a_hanging_thread_does_not_keep_the_process_from_ending() -> None:
    code = """
import asyncio, threading
from raycluster_cli.system.waiting import call_within
try:
    asyncio.run(call_within(0.01, threading.Event().wait))
except asyncio.TimeoutError:
    print("gave up")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "gave up\n")
