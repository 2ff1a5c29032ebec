"""What a head asks Slurm about its own job."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from raycluster_cli.model.record import HeadInfo
from raycluster_cli.model.settings import Settings
from raycluster_cli.policy import events as on
from raycluster_cli.slurm.allocation import Allocation
from raycluster_cli.supervisor.head_entry import HeadEntry
from raycluster_cli.supervisor.own_job import ask_time_limit, tell_output
from tests.unit.loops import in_loop
from tests.unit.slurm.programs import programs

from .scene import Scene

#: Times of the job's end, in Unix seconds.
END, LATER = int(time.time()) + 10_000, int(time.time()) + 90_000


def job(end_time: float | None = None) -> Allocation:
    return Allocation("7", ("n1",), end_time=end_time)


class Head:
    """A head whose Slurm is a script."""

    def __init__(
        self, directory: Path, scontrol: str, allocation: Allocation | None, settings: Settings | None = None
    ) -> None:
        env = programs(directory, scontrol=scontrol)
        self.scene = Scene(directory, allocation=allocation, env=env, settings=settings)
        self.scene.parts.reaper.attach(asyncio.get_running_loop())
        self.written: list[HeadInfo] = []
        self.entry = HeadEntry(self.written.append)
        self.entry.create(HeadInfo("n1", "10.0.0.1", 20480, end_time=END))


@pytest.mark.parametrize(
    ("allocation", "now", "scontrol", "end", "asked", "written"),
    [
        (None, False, "exit 9", "nothing", None, 0),
        (job(END), False, "exit 9", END, False, 0),
        (job(END), True, f"echo EndTime={END}", END, True, 0),
        (job(END), True, f"echo EndTime={LATER}", LATER, True, 1),
        (job(), False, f"echo EndTime={LATER}", LATER, True, 1),
        (job(), False, "echo EndTime=Unknown", None, True, 0),
        (job(), False, "exit 1", None, True, 0),
    ],
    ids=["no job", "known", "the same", "made longer", "not known", "no limit", "no answer"],
)
def test_the_time_limit(
    tmp_path: Path,
    allocation: Allocation | None,
    now: bool,
    scontrol: str,
    end: int | str | None,
    asked: bool | None,
    written: int,
) -> None:
    @in_loop
    async def test() -> None:
        head = Head(tmp_path, scontrol, allocation)
        await ask_time_limit(head.scene.parts, head.entry, now)
        assert len(head.written) == 1 + written
        if end == "nothing":
            assert head.scene.posted == []
            return
        (event,) = head.scene.posted
        assert isinstance(event, on.TimeLimitKnown)
        assert event.asked_now is asked
        left_s = end - time.time() if isinstance(end, int) else None
        assert event.left_s == (None if left_s is None else pytest.approx(left_s, abs=60))

    test()


BATCH = "printf 'JobId=7 Requeue={requeue} BatchFlag={batch}\\n   StdOut=/home/ada/7.out\\n'"


@pytest.mark.parametrize(
    ("scontrol", "output", "said"),
    [
        (BATCH.format(requeue=1, batch=1), "/home/ada/7.out", ""),
        (BATCH.format(requeue=0, batch=1), "/home/ada/7.out", "Slurm will refuse to requeue job 7"),
        ("printf 'JobId=7 BatchFlag=0\\n'", "", "Slurm requeues only batch jobs"),
        ("exit 1", "", ""),
    ],
)
def test_where_the_output_goes_and_whether_the_job_can_be_requeued(
    tmp_path: Path, scontrol: str, output: str, said: str
) -> None:
    @in_loop
    async def test() -> None:
        head = Head(tmp_path, scontrol, job(), Settings(requeue_on_preempt=True))
        await tell_output(head.scene.parts, head.entry)
        assert head.entry.info.output == output
        assert said in "\n".join(head.scene.said) and bool(said) == bool(head.scene.said)

    test()


def test_a_job_that_is_not_to_be_requeued_gets_no_warning(tmp_path: Path) -> None:
    @in_loop
    async def test() -> None:
        head = Head(tmp_path, BATCH.format(requeue=0, batch=1), job())
        await tell_output(head.scene.parts, head.entry)
        assert head.scene.said == []
        outside = Head(tmp_path, "exit 9", None)
        await tell_output(outside.scene.parts, outside.entry)
        assert len(outside.written) == 1

    test()
