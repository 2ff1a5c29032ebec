"""Small stand-ins for squeue, scontrol, scancel, srun and sbatch, which refuse what they do not know.

Each answers with a text that a test gives, and notes how it was called.
"""

from __future__ import annotations

import shlex
from pathlib import Path

#: Words that each command may be called with, by their beginnings: an unknown one ends it with code 64.
KNOWN = {
    "squeue": ("--noheader", "--states=all", "--user=", "--format="),
    "scontrol": ("--oneliner", "show", "job", "release"),
    "scancel": ("--signal=TERM",),
    "sbatch": ("--parsable",),
}


class SlurmCommands:
    """A directory for PATH with commands of Slurm."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.calls = directory / "calls"
        self.calls.touch()

    def answer(self, name: str, output: str, code: int = 0, error: str = "") -> None:
        """From now on the command ``name`` prints this."""
        patterns = "|".join(
            f"{shlex.quote(word)}*" if word.endswith("=") else shlex.quote(word) for word in KNOWN[name]
        )
        script = self.directory / name
        (self.directory / f"{name}.out").write_text(output)
        (self.directory / f"{name}.err").write_text(error)
        script.write_text(
            f"""#!/bin/sh
for word in "$@"; do
    case "$word" in
        {patterns}|[0-9]*) ;;
        *) echo "{name}: unknown word $word" >&2; exit 64 ;;
    esac
done
echo "{name} $*" >>{shlex.quote(str(self.calls))}
/bin/cat {shlex.quote(str(script))}.out
/bin/cat {shlex.quote(str(script))}.err >&2
exit {code}
"""
        )
        script.chmod(0o755)

    def called(self) -> list[str]:
        """The command lines so far."""
        return self.calls.read_text().splitlines()

    @property
    def path(self) -> str:
        """For PATH: these commands alone, so that none of a real Slurm is found."""
        return str(self.directory)


def squeue_line(job: str, state: str, *, reason: str = "None", nodes: str = "", name: str = "train") -> str:
    """A job as squeue prints it in slurm.queue's format."""
    return f"{job}|{job}|{state}|N/A|N/A|{reason}|{nodes}|{name}\n"
