"""The head's wait for its workers: all of them, a quorum, or a reason why not."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Sequence
from typing import Any

import pytest

from raycluster_cli.config import Settings
from raycluster_cli.errors import WorkersMissingError
from raycluster_cli.muster import Members, Muster
from raycluster_cli.report import Report
from raycluster_cli.words import NodeWord

HOSTS = ["n2", "n3", "n4"]


def node(host: str, *, alive: bool = True, is_head: bool = False) -> dict[str, Any]:
    return {"node_id": f"id-{host}", "name": host, "ip": "10.0.0.9", "is_head": is_head, "alive": alive}


def muster(
    members: Members,
    words: dict[str, NodeWord] | None = None,
    *,
    quorum: int = 3,
    settle: float = 0.05,
    gone: Sequence[str] = (),
) -> tuple[Muster, io.StringIO]:
    """Of three workers, and what it tells people."""

    async def read() -> dict[str, NodeWord]:
        return words or {}

    async def without_task(hosts: Sequence[str]) -> list[str]:
        return [host for host in hosts if host in gone]

    told = io.StringIO()
    return (
        Muster(
            members,
            Settings(settle=settle, timeout=7.0),
            expected=3,
            quorum=quorum,
            hosts=HOSTS,
            launched=time.time(),
            words=read,
            without_task=without_task,
            report=Report(prefix="raycluster", stream=told),
        ),
        told,
    )


def wait(which: Muster, deadline_s: float = 60.0) -> None:
    async def main() -> None:
        await asyncio.wait_for(which.wait(asyncio.get_running_loop().time() + deadline_s), 30)

    asyncio.run(main())


def test_it_is_over_when_the_last_worker_comes() -> None:
    members = Members()

    async def main() -> None:
        which, _ = muster(members)
        waiting = asyncio.ensure_future(which.wait(asyncio.get_running_loop().time() + 60))
        for host in HOSTS:
            await asyncio.sleep(0)
            assert not waiting.done()
            members.update([node("n1", is_head=True), node(host)])
        await asyncio.wait_for(waiting, 30)

    asyncio.run(main())


def test_a_quorum_starts_when_it_has_settled_and_the_missing_are_named() -> None:
    members = Members()
    members.update([node("n2"), node("n4")])
    which, told = muster(members, quorum=2)
    wait(which)
    assert "starting with 2 of 3 workers (--min-workers 2); missing: n3 (no word from it)" in told.getvalue()


def test_at_the_deadline_each_missing_host_is_told_with_its_last_word() -> None:
    members = Members()
    members.update([node("n2")])
    words = {"n3": NodeWord("n3", "worker", "waiting for head", message="importing ray", updated=time.time())}
    which, _ = muster(members, words)
    with pytest.raises(
        WorkersMissingError, match=r"2 of 3 workers did not join within 7 s: n3 \(last word"
    ) as error:
        wait(which, deadline_s=0.0)
    assert "importing ray), n4 (no word from it)" in str(error.value)


def test_it_ends_early_when_too_many_have_failed() -> None:
    words = {"n3": NodeWord("n3", "worker", "failed", message="n3 has another Ray")}
    which, _ = muster(Members(), words)
    with pytest.raises(WorkersMissingError, match="1 worker of 3 cannot join: n3: has another Ray"):
        wait(which)
    members = Members()
    members.update([node("n2"), node("n4")])
    wait(muster(members, words, quorum=2)[0])  # two are enough: it settles


def test_silent_nodes_whose_task_has_ended_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raycluster_cli.muster.ROLL_CALL_S", 0.05)
    members = Members()
    members.update([node("n2")])
    words = {"n3": NodeWord("n3", "worker", "waiting for head", updated=time.time())}
    which, _ = muster(members, words, gone=["n2", "n3", "n4"])  # of these only n4 is silent
    with pytest.raises(WorkersMissingError, match="1 worker of 3 cannot join: on n4 the task ended before"):
        wait(which)
    members = Members()
    members.update([node("n2"), node("n3")])
    wait(muster(members, words, quorum=2, settle=0.2, gone=["n4"])[0])  # two are enough
