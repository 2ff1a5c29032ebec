"""The head's wait for its workers: all of them, a quorum, or a reason why not."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from raycluster_cli.model.errors import WorkersMissingError
from raycluster_cli.model.record import NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.slurm.task_probe import TaskProbe
from raycluster_cli.supervisor.worker_wait import Members, WorkerWait
from raycluster_cli.system.report import Report

HOSTS = ["n2", "n3", "n4"]


def node(host: str, *, alive: bool = True, is_head: bool = False) -> dict[str, Any]:
    return {"node_id": f"id-{host}", "name": host, "ip": "10.0.0.9", "is_head": is_head, "alive": alive}


def wait(
    members: Members,
    words: dict[str, NodeReport] | None = None,
    *,
    quorum: int = 3,
    settle: float = 0.05,
    gone: Sequence[str] = (),
    deadline_s: float = 60.0,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> str:
    """Wait for three workers; what people are told.  ``gone``: hosts without a task, if anybody asks."""

    async def read() -> dict[str, NodeReport]:
        return words or {}

    async def without_task(hosts: Sequence[str]) -> list[str]:
        return [host for host in hosts if host in gone]

    async def main() -> None:
        muster = WorkerWait(
            members,
            Settings(settle=settle, timeout=7.0),
            expected=3,
            quorum=quorum,
            hosts=HOSTS,
            launched=time.time(),
            words=read,
            task_probe=TaskProbe(without_task, first_s=0.05, confirm_s=0.05),
            report=Report(prefix="raycluster", stream=told),
        )
        waiting = asyncio.ensure_future(muster.wait(asyncio.get_running_loop().time() + deadline_s))
        if meanwhile is not None:
            await meanwhile()
        await asyncio.wait_for(waiting, 30)

    told = io.StringIO()
    asyncio.run(main())
    return told.getvalue()


def test_it_is_over_when_the_last_worker_comes() -> None:
    members = Members()

    async def come() -> None:
        for host in HOSTS:
            await asyncio.sleep(0.01)
            members.update([node("n1", is_head=True), node(host)])

    assert wait(members, meanwhile=come) == ""


def test_a_quorum_starts_when_it_has_settled_and_the_missing_are_named() -> None:
    members = Members()
    members.update([node("n2"), node("n4")])
    told = wait(members, quorum=2)
    assert "starting with 2 of 3 workers (--min-workers 2); missing: n3 (no word from it)" in told


def test_at_the_deadline_each_missing_host_is_told_with_its_last_word() -> None:
    members = Members()
    members.update([node("n2")])
    words = {
        "n3": NodeReport("n3", "worker", "waiting for head", message="importing ray", updated=time.time())
    }
    with pytest.raises(
        WorkersMissingError, match=r"2 of 3 workers did not join within 7 s: n3 \(last word"
    ) as error:
        wait(members, words, deadline_s=0.0)
    assert "importing ray), n4 (no word from it)" in str(error.value)


def test_it_ends_early_when_too_many_have_failed() -> None:
    words = {"n3": NodeReport("n3", "worker", "failed", message="n3 has another Ray")}
    with pytest.raises(WorkersMissingError, match="1 worker of 3 cannot join: n3: has another Ray"):
        wait(Members(), words)
    members = Members()
    members.update([node("n2"), node("n4")])
    wait(members, words, quorum=2)  # two are enough: it settles


def test_silent_nodes_whose_task_has_ended_are_not_waited_for() -> None:
    members = Members()
    members.update([node("n2")])
    words = {"n3": NodeReport("n3", "worker", "waiting for head", updated=time.time())}
    with pytest.raises(WorkersMissingError, match="1 worker of 3 cannot join: on n4 the task ended before"):
        wait(members, words, gone=["n2", "n3", "n4"])  # of these only n4 is silent
    members = Members()
    members.update([node("n2"), node("n3")])
    wait(members, words, quorum=2, settle=0.2, gone=["n4"])  # two are enough


def test_a_roll_call_needs_two_answers_that_agree() -> None:
    async def main() -> None:
        asked: list[Sequence[str]] = []

        async def ask(hosts: Sequence[str]) -> list[str]:
            asked.append(hosts)
            return [["n2", "n3"], ["n3"], []][len(asked) - 1]

        task_probe = TaskProbe(ask, first_s=0.0, confirm_s=0.0)
        answers = []
        for _ in range(4):
            answers.append(task_probe.ended(["n2", "n3"]))
            await asyncio.sleep(0.01)
        assert answers == [[], [], [], ["n3"]]
        assert asked == [("n2", "n3")] * 2

    asyncio.run(main())
