"""Checks of how the site has set Slurm: the times after which it kills what still runs."""

from __future__ import annotations

from ..policy.stopping import SIGNAL_CEILING_S
from ..slurm.site import is_compute_node, query_config, seconds_of
from .checkup import Checkup
from .findings import Verdict


def check_place(checkup: Checkup) -> None:
    """Whether this host is one on which jobs run.  Outside a job only: in one it is."""
    if checkup.allocation is None and is_compute_node(checkup.host, checkup.env) is False:
        checkup.add(
            Verdict.NOTE,
            f"{checkup.host} is not a compute node of this Slurm: jobs run on other hosts than this one",
            "`raycluster doctor -p PARTITION` checks a compute node, `salloc -N 2 raycluster doctor` two.",
        )


def check_slurm(checkup: Checkup) -> None:
    """WaitTime and KillWait.  In a job only its first node asks: the controller is shared by all users."""
    allocation = checkup.allocation
    if allocation is not None and allocation.job_nodes and checkup.host != allocation.job_nodes[0]:
        return
    config = query_config(checkup.env)
    wait_s, kill_s = seconds_of(config, "WaitTime"), seconds_of(config, "KillWait")
    if wait_s:
        checkup.add(
            Verdict.WARNING,
            f"WaitTime={wait_s}: {wait_s} s after a task of a step has ended, srun kills the others",
            "Give srun --wait=0 where a cluster is to go on without a lost worker (--on-worker-loss); "
            "`raycluster submit` chooses srun's --wait itself.",
        )
    if kill_s is not None and kill_s < SIGNAL_CEILING_S:
        checkup.add(
            Verdict.WARNING,
            f"KillWait={kill_s}: {kill_s} s after scancel and the time limit Slurm kills all processes; a "
            f"cluster takes up to {SIGNAL_CEILING_S:g} s to shut down",
            f"Give --grace {kill_s - 10} or less."
            if kill_s > 10
            else "Give --grace 0, and ask the administrators for a longer KillWait.",
        )
    if wait_s == 0 and kill_s is not None and kill_s >= SIGNAL_CEILING_S:
        checkup.add(Verdict.OK, f"WaitTime={wait_s}, KillWait={kill_s}")
