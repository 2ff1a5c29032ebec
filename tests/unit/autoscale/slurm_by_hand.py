"""A Slurm of a few lines for unit tests: sbatch, squeue and scancel as far as raycluster uses them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class FakeSlurm:
    """Stands in for subprocess.run; knows no command and no option that raycluster does not use."""

    def __init__(self, tmp_path: Path) -> None:
        self.calls: list[list[str]] = []
        self.envs: list[dict[str, str]] = []
        self.jobs: dict[str, dict[str, str]] = {}
        """By id as shown: state, start, nodes, reason, comment."""
        self.refuses: list[tuple[int, str, str]] = []
        """Answers of the next calls of sbatch: code, stdout, stderr."""
        self.scancel_fails = ""
        self.squeue_fails = ""
        self.hangs: set[str] = set()
        self._next = 4711
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        for name in ("sbatch", "squeue", "scancel"):
            (self.bin / name).write_text("#!/bin/false\n")
            (self.bin / name).chmod(0o755)
        self.env = {"PATH": str(self.bin), "SLURM_JOB_ID": "4700", "RAY_ADDRESS": "n1:6379"}

    def __call__(self, command: Sequence[str], **more: Any) -> subprocess.CompletedProcess[str]:
        name, arguments = os.path.basename(command[0]), list(command[1:])
        self.calls.append([name, *arguments])
        self.envs.append(more["env"])
        if name in self.hangs:
            raise subprocess.TimeoutExpired(name, more["timeout"])
        code, out, err = getattr(self, f"_{name}")(arguments)
        return subprocess.CompletedProcess(list(command), code, out, err)

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)

    def _sbatch(self, arguments: list[str]) -> tuple[int, str, str]:
        if self.refuses:
            return self.refuses.pop(0)
        values = dict(word.split("=", 1) for word in arguments if word.startswith("--") and "=" in word)
        return 0, f"{self.submit(values)}\n", ""

    def submit(self, values: dict[str, str]) -> str:
        job, self._next = str(self._next), self._next + 1
        tasks = range(int(values["--array"].partition("-")[2]) + 1) if "--array" in values else None
        for name in [job] if tasks is None else [f"{job}_{task}" for task in tasks]:
            self.jobs[name] = {
                "state": "PENDING",
                "start": "N/A",
                "nodes": "",
                "reason": "Priority",
                "comment": values["--comment"],
            }
        return job

    def _squeue(self, arguments: list[str]) -> tuple[int, str, str]:
        if self.squeue_fails:
            return 1, "", self.squeue_fails
        wanted = next((word[7:].split(",") for word in arguments if word.startswith("--jobs=")), None)
        shown = {
            name: job for name, job in self.jobs.items() if wanted is None or name.partition("_")[0] in wanted
        }
        if wanted is not None and len(wanted) == 1 and not shown:
            return 1, "", "slurm_load_jobs error: Invalid job id specified\n"
        return (
            0,
            "".join(f"{name}|{number(name)}|{'|'.join(job.values())}\n" for name, job in shown.items()),
            "",
        )

    def _scancel(self, arguments: list[str]) -> tuple[int, str, str]:
        if self.scancel_fails:
            return 1, "", self.scancel_fails
        for name in arguments:
            if name in self.jobs and self.jobs[name]["state"] in ("PENDING", "RUNNING"):
                self.jobs[name]["state"] = "CANCELLED"
        return 0, "", ""

    def set(self, name: str, state: str, nodes: str = "", reason: str = "None") -> None:
        self.jobs[name] |= {"state": state, "nodes": nodes, "reason": reason}


def number(name: str) -> str:
    """Slurm's own number of a job: of an array's task another than the array's."""
    array, _, task = name.partition("_")
    return f"9{array}{task}" if task else array
