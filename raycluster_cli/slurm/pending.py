"""Why a job is pending: Slurm's reason in, whether it will start by itself out.

The reasons are those of squeue(1), JOB REASON CODES.
"""

from __future__ import annotations

import enum
import re


class Wait(enum.Enum):
    """What a pending job waits for."""

    TURN = "turn"
    """For resources or its turn: it starts by itself, in minutes or days."""
    LIMIT = "limit"
    """For a limit on what the user, the account or the QOS may have at a time: when other jobs have ended."""
    HELD = "held"
    """For a release: the user or an administrator holds it."""
    NEVER = "never"
    """It can never start as it is."""


#: What to change, by a pattern of the reason, for jobs that can never start.
_NEVER: tuple[tuple[str, str], ...] = (
    (
        r"PartitionNodeLimit",
        "The partition has fewer nodes, or allows no job of so many or so few (MaxNodes, MinNodes): "
        "`sinfo -o '%P %D %s'`. nodes_per_job sets how many a worker job has.",
    ),
    (r"PartitionTimeLimit", "Ask for less by --time: `sinfo -o '%P %l'` shows each partition's limit."),
    (r"PartitionConfig", "No node of the partition has all that the job asks for: `sinfo -N -l`."),
    (r"BadConstraints", "No node has all that the job asks for: `sinfo -N -l`, `sinfo -o '%n %f'`."),
    (r"DependencyNeverSatisfied", "The job that --dependency names has ended in another way."),
    (
        r"(Assoc|QOS)Max\w*(PerJob|PerNode|WallDuration)\w*",
        "The limit is one for a single job: ask for less.",
    ),
    (r"QOSMin\w*", "The job asks for less than the limits require."),
    (r"QOSTimeLimit|AssociationTimeLimit", "Ask for less by --time."),
    (r"InvalidAccount|AccountNotAllowed|Job's account not", "Choose another --account or --partition."),
    (r"InvalidQOS|QOSNotAllowed|Job's QOS not", "Choose another --qos or --partition."),
    (r"JobHoldMaxRequeue", "Slurm has requeued it too often."),
)

#: Limits under which the job starts once others of the same user, account or QOS have ended.
_LIMIT = re.compile(
    r"(Assoc|QOS)(Max|Grp)\w*|Assoc(iation)?JobLimit|QOSJobLimit|QOSUsageThreshold|AssociationResourceLimit|"
    r"QOSResourceLimit|JobArrayTaskLimit|MaxSubmitJobs\w*"
)

#: Limits on computing time that is used up, which the end of other jobs does not bring back.
_USED_UP = re.compile(r"(Assoc|QOS)Grp\w*(?<!Run)Min(ute)?s\w*")

_HELD = re.compile(
    r"JobHeld(User|Admin)|\w* ?requeued? held|launch failed requeued held|job requeued in held state"
)


def wait_of(reason: str) -> Wait:
    """What a job waits for that squeue shows as pending for this reason.

    >>> wait_of("Priority"), wait_of("PartitionTimeLimit"), wait_of("QOSMaxJobsPerUserLimit")
    (<Wait.TURN: 'turn'>, <Wait.NEVER: 'never'>, <Wait.LIMIT: 'limit'>)
    """
    if _HELD.match(reason):
        return Wait.HELD
    if any(re.match(pattern, reason) for pattern, _ in _NEVER):
        return Wait.NEVER
    return Wait.LIMIT if _LIMIT.match(reason) else Wait.TURN


def advice_for(reason: str) -> str:
    """What to do about a job that waits for more than its turn; empty when nothing is known."""
    if _HELD.match(reason):
        return "`scontrol release JOB` releases a job that you hold yourself."
    if _USED_UP.match(reason):
        return "The computing time of the account or QOS is used up: ask the site, or use another --account."
    return next((advice for pattern, advice in _NEVER if re.match(pattern, reason)), "")
