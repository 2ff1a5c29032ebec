"""A worker process with a copied environment, run as Ray runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from raycluster_cli.rayproc import worker_process
from raycluster_cli.rayproc.worker_process import MARK


def test_rays_own_worker_runs_as_if_it_had_been_started_itself(tmp_path: Path) -> None:
    workers = tmp_path / "ray/_private/workers"
    workers.mkdir(parents=True)
    (tmp_path / "ray/__init__.py").write_text("raise AssertionError('not yet')\n")
    (workers / "default_worker.py").write_text(
        "import os, sys\n"
        "class Here: pass\n"
        "print(__name__, Here.__module__, __file__, sys.argv, sys.path[0], os.environ['VLLM_HOST_IP'])\n"
    )
    done = subprocess.run(
        [sys.executable, worker_process.__file__, "--node-ip-address=10.0.0.2"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "VLLM_HOST_IP": "10.0.0.1", MARK: "10.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )
    path = str(workers / "default_worker.py")
    first = f"__main__ __main__ {path} {[path, '--node-ip-address=10.0.0.2']} {workers} 10.0.0.2"
    assert done.stdout.splitlines()[:1] == [first], done.stderr
