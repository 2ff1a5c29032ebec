"""What sbatch's refusals mean: its message in, what to do out."""

from __future__ import annotations

import enum

#: Texts of sbatch's refusals, and what to do.
HINTS = (
    ("Invalid partition", "`sinfo -s` lists the partitions that you can use."),
    ("invalid partition", "`sinfo -s` lists the partitions that you can use."),
    (
        "More processors requested",
        "Ask for fewer CPUs a node, or fewer nodes; `sinfo -N -l` shows what there is.",
    ),
    (
        "node configuration is not available",
        "No node has all that the job asks for; `sinfo -N -l` shows what there is.",
    ),
    ("Invalid account", "`sacctmgr show associations user=$USER` lists your accounts."),
    ("Invalid generic resource", "`sinfo -o '%n %G'` shows the GPUs that nodes have, by their names here."),
    ("Invalid qos", "`sacctmgr show associations user=$USER format=account,qos` lists what you may use."),
    ("Invalid feature", "`sinfo -o '%n %f'` shows the features that nodes have."),
    ("time limit", "`sinfo -o '%P %l'` shows each partition's limit; ask for less by --time."),
    ("Pathname of a file", "Every directory of --output and --error must exist."),
    (
        "Memory specification can not be satisfied",
        "`sinfo -N -o '%N %m'` shows the nodes' memory; ask for less.",
    ),
    (
        "unrecognized option",
        "It is not an option of raycluster, so it was passed to sbatch, which does not know it.",
    ),
    ("Unable to contact slurm controller", "Slurm does not answer; try again later."),
    (
        "Socket timed out",
        "Slurm is busy; check with `squeue --me` whether the job is there before you try again.",
    ),
)

#: Failures after which the job may be in the queue: the request was sent, and its answer is missing.
_UNANSWERED = (
    "timed out",
    "Zero Bytes",
    "Unexpected message received",
    "Transport endpoint",
    "did not answer",
)

#: Refusals that can pass by themselves.
_PASSING = (
    *("Unable to contact", "timed out", "Zero Bytes", "temporarily", "try again", "in standby mode"),
    *("Required partition not available", "Job violates accounting/QOS policy", "did not answer"),
    *("Unexpected message received", "Transport endpoint", "Connection refused"),
)

#: Refusals that are about the host on which sbatch was called; the first is that of a partition's AllocNodes.
_OF_THE_HOST = ("Access/permission denied", "from compute nodes", "submit host", "login node")


class Refusal(enum.Enum):
    """Whether the same sbatch can succeed another time."""

    LATER = "later"
    """It can: Slurm does not answer, or a limit on submitted jobs is reached."""
    ELSEWHERE = "elsewhere"
    """On another host: jobs cannot be submitted from this one."""
    NEVER = "never"
    """It cannot: the options ask for what is not there, or not allowed."""


def refusal_of(said: str) -> Refusal:
    """What kind of refusal sbatch's message is.

    >>> refusal_of("sbatch: error: Batch job submission failed: Access/permission denied")
    <Refusal.ELSEWHERE: 'elsewhere'>
    """
    if any(text in said for text in _OF_THE_HOST):
        return Refusal.ELSEWHERE
    return Refusal.LATER if any(text in said for text in _PASSING) else Refusal.NEVER


def is_unanswered(said: str) -> bool:
    """Whether this message of sbatch is no refusal of Slurm's, but says that its answer is missing.

    >>> is_unanswered("sbatch: error: Socket timed out on send/recv operation"), is_unanswered("Invalid qos")
    (True, False)
    """
    return not said.strip() or any(text in said for text in _UNANSWERED)


def hint_for(said: str) -> str:
    """What to do about it; empty when that is not known."""
    return next((hint for text, hint in HINTS if text in said), "")


def in_one_line(stderr: str) -> str:
    """sbatch's message, without its own name before each line.

    >>> in_one_line("sbatch: error: Memory specification can not be satisfied\\nsbatch: error: No.\\n")
    'Memory specification can not be satisfied. No.'
    """
    lines = (line.strip().removeprefix("sbatch: ").removeprefix("error: ") for line in stderr.splitlines())
    return ". ".join(line.rstrip(".") for line in lines if line and not line.startswith("Try ")) + (
        "." if stderr.strip() else ""
    )
