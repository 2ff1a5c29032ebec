"""The examples on a local cluster, as `make demo` and the README run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.bed.bed import REPOSITORY


def run_local(workers: int, *driver: str, state_dir: Path) -> subprocess.CompletedProcess[str]:
    """`raycluster run --local WORKERS -- python DRIVER`, from the checkout."""
    command = [
        sys.executable,
        "-m",
        "raycluster_cli",
        "run",
        "--local",
        str(workers),
        "--",
        sys.executable,
        *driver,
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY"))}
    env |= {"RAYCLUSTER_STATE_DIR": str(state_dir), "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.run(
        command, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_demo_gives_the_known_answers_on_all_nodes(tmp_path: Path) -> None:
    done = run_local(2, "examples/pronounce.py", "--nodes", "3", state_dir=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check      OK: 3 nodes took part" in done.stdout
    assert "slurm /S L ER M/" in done.stdout


def test_the_demo_fails_with_too_few_nodes(tmp_path: Path) -> None:
    done = run_local(1, "examples/pronounce.py", "--nodes", "3", state_dir=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: 2 nodes are there, 3 should be" in done.stderr


def test_the_minimal_driver_greets_from_each_node(tmp_path: Path) -> None:
    done = run_local(2, "examples/minimal.py", state_dir=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("hello from" in line for line in done.stdout.splitlines()) == 3
