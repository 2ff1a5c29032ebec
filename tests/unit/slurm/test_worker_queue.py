"""The one squeue for all worker jobs."""

from __future__ import annotations

from raycluster_cli.slurm.worker_queue import MOST_NAMED, QueueLine, parse_queue, squeue_arguments


def test_each_array_is_named_once() -> None:
    assert squeue_arguments(1000, ["4711_0", "4711_1", "98"]) == [
        *("--noheader", "--array", "--states=all", "--user=1000", "--format=%i|%A|%T|%S|%N|%r|%k"),
        "--jobs=98,4711",
    ]
    assert squeue_arguments(1000)[-1] == "--format=%i|%A|%T|%S|%N|%r|%k"
    names = [str(number) for number in range(MOST_NAMED)]
    assert squeue_arguments(1000, names)[-1].startswith("--jobs=0,1,")
    # A command line has a limit: with more it shows all of the user's jobs.
    assert squeue_arguments(1000, [*names, "9999"]) == squeue_arguments(1000)


def test_lines() -> None:
    text = (
        "12_2|12|PENDING|1827438000||ReqNodeNotAvail, UnavailableNodes:n3|raycluster:12\n"
        "12_0|13|RUNNING|1795903069|n[1-2]|None|raycluster:12 a|b\n"
        "16|16|FAILED|1795903069||BadConstraints|(null)\n"
        "slurm_load_jobs error: x\n"
    )
    assert parse_queue(text) == {
        "12_2": QueueLine(
            *(
                "12_2",
                "PENDING",
                1827438000.0,
                "",
                "ReqNodeNotAvail, UnavailableNodes:n3",
                "raycluster:12",
                "12",
            )
        ),
        "12_0": QueueLine("12_0", "RUNNING", 1795903069.0, "n[1-2]", "", "raycluster:12 a|b", "13"),
        "16": QueueLine("16", "FAILED", 1795903069.0, "", "BadConstraints", "(null)", "16"),
    }


def test_states() -> None:
    assert QueueLine("1", "CONFIGURING").is_pending
    assert QueueLine("1", "SUSPENDED").is_suspended
    assert QueueLine("1", "PREEMPTED").is_ended
    assert not QueueLine("1", "COMPLETING").is_ended
