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


_USED_UP = r"(Assoc|QOS)Grp\w*(?<!Run)Min(ute)?s\w*"

#: By a pattern of the reason: what the job waits for, and what to do about it; the first that fits counts.
_REASONS: tuple[tuple[str, Wait, str], ...] = (
    (r"JobHeldAdmin", Wait.HELD, "An administrator holds it: ask the site's support."),
    (
        r"launch failed requeued held",
        Wait.HELD,
        "Slurm could not start it on a node, for example because the prolog failed: `sinfo -R` says where "
        "and why. `scontrol release JOB` lets it start again.",
    ),
    (
        r"JobHeldUser|\w* ?requeued? held|job requeued in held state",
        Wait.HELD,
        "`scontrol release JOB` releases a job that you hold yourself.",
    ),
    (
        r"PartitionNodeLimit",
        Wait.NEVER,
        "The partition has fewer nodes, or allows no job of so many or so few (MaxNodes, MinNodes): "
        "`sinfo -o '%P %D %s'`.",
    ),
    (
        r"PartitionTimeLimit",
        Wait.NEVER,
        "Ask for less by --time: `sinfo -o '%P %l'` shows each partition's limit.",
    ),
    (
        r"PartitionConfig",
        Wait.NEVER,
        "The partition does not have, or does not allow, what the job asks for: `sinfo -o '%P %l %D'`, "
        "`sinfo -N -l`.",
    ),
    (
        r"BadConstraints",
        Wait.NEVER,
        "No node has all that the job asks for: `sinfo -N -l`, `sinfo -o '%n %f'`.",
    ),
    (
        r"DependencyNeverSatisfied",
        Wait.NEVER,
        "The job that --dependency names did not end as --dependency requires.",
    ),
    (
        r"(Assoc|QOS)Max\w*(PerJob|PerNode|WallDuration)\w*",
        Wait.NEVER,
        "The limit is one for a single job: ask for less.",
    ),
    (r"QOSMin\w*", Wait.NEVER, "The job asks for less than the limits require."),
    (r"QOSTimeLimit|AssociationTimeLimit", Wait.NEVER, "Ask for less by --time."),
    (
        r"InvalidAccount|AccountNotAllowed|Job's account not",
        Wait.NEVER,
        "Choose another --account or --partition.",
    ),
    (r"InvalidQOS|QOSNotAllowed|Job's QOS not", Wait.NEVER, "Choose another --qos or --partition."),
    (r"JobHoldMaxRequeue", Wait.NEVER, "Slurm has requeued it too often; its output says why it failed."),
    (
        _USED_UP,
        Wait.LIMIT,
        "The computing time of the account or QOS is used up: ask the site, or use another --account.",
    ),
    (
        r"(Assoc|QOS)(Max|Grp)\w*|Assoc(iation)?JobLimit|QOSJobLimit|QOSUsageThreshold|"
        r"AssociationResourceLimit|QOSResourceLimit|JobArrayTaskLimit|MaxSubmitJobs\w*",
        Wait.LIMIT,
        "",
    ),
    (r"PartitionDown|PartitionInactive", Wait.TURN, "Its partition starts no jobs now: `sinfo -s`."),
    (
        r"ReqNodeNotAvail|Reserved for maintenance",
        Wait.TURN,
        "Nodes that it needs are down or reserved: `sinfo -R` says why.",
    ),
)


def wait_of(reason: str) -> Wait:
    """What a job waits for that squeue shows as pending for this reason.

    >>> wait_of("Priority"), wait_of("PartitionTimeLimit"), wait_of("QOSMaxJobsPerUserLimit")
    (<Wait.TURN: 'turn'>, <Wait.NEVER: 'never'>, <Wait.LIMIT: 'limit'>)
    """
    return _found(reason)[0]


def advice_for(reason: str) -> str:
    """What to do about a job that waits for more than its turn; empty when there is nothing to do."""
    return _found(reason)[1]


def explain(reason: str, job_id: str = "JOB") -> str:
    """What a reason for waiting means, as text behind a colon; empty where waiting is all there is to do.

    >>> explain("PartitionTimeLimit")
    "it will never start; cancel it. Ask for less by --time: `sinfo -o '%P %l'` shows each partition's limit."
    >>> explain("QOSMaxJobsPerUserLimit"), explain("Priority")
    ('a limit of your account or QOS is reached; it starts when other jobs end.', '')
    >>> explain("JobHeldUser", "4711")
    'it is held. `scontrol release 4711` releases a job that you hold yourself.'
    """
    wait, advice = _found(reason)
    advice = advice.replace("JOB", job_id)
    if wait is Wait.NEVER:
        return f"it will never start; cancel it. {advice}"
    if wait is Wait.HELD:
        return f"it is held. {advice}"
    if wait is Wait.LIMIT and not advice:
        return "a limit of your account or QOS is reached; it starts when other jobs end."
    return advice[:1].lower() + advice[1:]


def _found(reason: str) -> tuple[Wait, str]:
    text = reason.replace("_", " ")  # scontrol writes underscores where squeue has blanks
    return next(
        ((wait, advice) for pattern, wait, advice in _REASONS if re.match(pattern, text)), (Wait.TURN, "")
    )
