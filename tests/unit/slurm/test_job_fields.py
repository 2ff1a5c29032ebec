"""What `scontrol show job` prints, with --oneliner and without, as Slurm 22.05 has printed it."""

from __future__ import annotations

import pytest

from raycluster_cli.slurm.departures import parse_grace_end
from raycluster_cli.slurm.job_calls import KnownJob, parse_end_time, parse_job_facts, parse_known_job
from raycluster_cli.slurm.job_fields import job_fields
from raycluster_cli.slurm.job_state import parse_job

#: The last task of an array, which has the array's id, and another one, which has ended.
ARRAY = """\
JobId=1 ArrayJobId=1 ArrayTaskId=2 ArrayTaskThrottle=2 JobName=train it
   UserId=ada(1001) GroupId=ada(1001) MCS_label=N/A
   Priority=4294901759 Nice=0 Account=(null) QOS=(null)
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=3 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=00:00:00 TimeLimit=01:00:00 TimeMin=N/A
   SubmitTime=1795964139 EligibleTime=1795964144
   StartTime=1795964144 EndTime=1795967744 Deadline=N/A
   PreemptEligibleTime=1795964144 PreemptTime=None
   NodeList=n1
   BatchHost=n1
   NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 ReqB:S:C:T=0:0:*:*
   OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)
   Command=/home/ada/a Requeue=0 b.sh
   WorkDir=/home/ada
   StdErr=/home/ada/%N %a.err
   StdIn=/dev/null
   StdOut=/home/ada/%5j X=y.out
   Power=


JobId=3 ArrayJobId=1 ArrayTaskId=1 ArrayTaskThrottle=2 JobName=train it
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=COMPLETED Reason=None Dependency=(null)
   Requeue=0 Restarts=0 BatchFlag=0 Reboot=0 ExitCode=0:0
   StartTime=1795964140 EndTime=1795964143 Deadline=N/A
   PreemptEligibleTime=1795964144 PreemptTime=1795964143
   BatchHost=n2
   StdErr=/home/ada/other.err
   StdOut=/home/ada/other.out
   Power=
"""

#: The same with --oneliner.
IN_LINES = "\n".join(" ".join(map(str.strip, job.splitlines())) for job in ARRAY.split("\n\n")) + "\n"


@pytest.mark.parametrize("text", [ARRAY, IN_LINES], ids=["lines", "oneliner"])
def test_a_task_that_has_the_id_of_its_array_is_not_taken_for_another(text: str) -> None:
    """All tasks of the array are printed for its id."""
    assert parse_known_job(text) == KnownJob("RUNNING", 1001, 3)
    assert parse_end_time(text) == 1795967744.0
    assert parse_grace_end(text) is None
    facts = parse_job_facts(text)
    assert (facts.is_batch, facts.may_requeue, facts.errors) == (True, True, "/home/ada/n1 2.err")
    job = parse_job(text)
    assert (job.state, job.host, job.restarts, job.user) == ("RUNNING", "n1", 3, "ada(1001)")


def test_a_path_is_read_to_the_end_of_its_line() -> None:
    assert parse_job_facts(ARRAY).output == "/home/ada/00001 X=y.out"
    assert job_fields(ARRAY)["Command"] == "/home/ada/a Requeue=0 b.sh"


def test_names_and_values_of_all_kinds() -> None:
    fields = job_fields(IN_LINES)
    assert fields["JobName"] == "train it"
    assert (fields["CPUs/Task"], fields["ReqB:S:C:T"], fields["Power"]) == ("1", "0:0:*:*", "")
    assert job_fields("slurm_load_jobs error: Invalid job id specified") == {}
    assert job_fields("") == {}
