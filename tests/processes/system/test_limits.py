"""Soft limits of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
resource.setrlimit(resource.RLIMIT_CPU, (600, 7200))
from raycluster_cli.system.limits import raise_limits
raised = vars(raise_limits())
cpu = resource.getrlimit(resource.RLIMIT_CPU)
print(json.dumps([hard, resource.getrlimit(resource.RLIMIT_NPROC)[1], cpu, raised]))
"""


def test_soft_limits_become_the_hard_ones() -> None:
    """In a process of its own, so that this one keeps its limits."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    hard_files, hard_processes, cpu, report = json.loads(done.stdout)
    assert (report["files_before"], report["files"]) == (256, hard_files)
    assert report["processes"] == hard_processes
    assert cpu == [7200, 7200]
    assert any("(ulimit -Ht) is 7200 s" in warning for warning in report["warnings"])
