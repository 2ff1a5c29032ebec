"""The muster: who is in the cluster, and the wait until all who are expected are."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.errors import WorkersMissingError
from ..model.record import NodeReport
from ..model.settings import Settings
from ..model.status import NodePhase
from ..slurm.hostlist import format_hostlist
from ..slurm.task_probe import TASK_ENDED_HINT, TaskProbe
from ..system.report import Report, count, duration

#: How often the words of workers are looked at while they are awaited.
LOOK_S = 0.5

#: When a person is told for whom the head waits, and how often after that.
FIRST_TOLD_S, TOLD_AGAIN_S = 10.0, 30.0

#: Of so many silent nodes at most: of a thousand, a few tell enough.
ASKED_AFTER = 64


@dataclass
class Members:
    """The workers as the GCS sees them."""

    alive: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By node id."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def update(
        self, nodes: list[Mapping[str, Any]]
    ) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        """Take in the nodes that have changed; returns (joined, lost) workers."""
        joined, lost = [], []
        for node in nodes:
            node_id = str(node["node_id"])
            if node["is_head"]:
                continue
            if node["alive"] and node_id not in self.alive:
                self.alive[node_id] = node
                joined.append(node)
            elif not node["alive"] and self.alive.pop(node_id, None) is not None:
                lost.append(node)
        if joined or lost:
            self.changed.set()
        return joined, lost


class WorkerWait:
    """The head's wait for its workers."""

    def __init__(
        self,
        members: Members,
        settings: Settings,
        *,
        expected: int,
        quorum: int,
        hosts: Sequence[str],
        launched: float,
        words: Callable[[], Awaitable[dict[str, NodeReport]]],
        task_probe: TaskProbe,
        report: Report,
    ) -> None:
        """``hosts``: where workers are expected, as far as Slurm tells; ``launched``: Unix seconds.

        ``words`` reads what the nodes themselves say, from the record, and ``task_probe`` knows
        of whom no word will come.
        """
        self._members = members
        self._settings = settings
        self._expected = expected
        self._quorum = quorum
        self._hosts = hosts
        self._launched = launched
        self._words = words
        self._task_probe = task_probe
        self._report = report
        self._quorum_since: float | None = None

    async def wait(self, deadline: float) -> None:
        """Until every expected worker is in, or the quorum is and --settle has passed.

        Raises WorkersMissingError at ``deadline`` (of the loop's clock), or as soon as too many have failed.
        """
        loop = asyncio.get_running_loop()
        tell_at = loop.time() + FIRST_TOLD_S
        look_at = 0.0
        words: dict[str, NodeReport] = {}
        while self._awaited() > 0:
            now = loop.time()
            if self._quorum_has_settled(now):
                self._report.warn(
                    f"starting with {len(self._members.alive)} of {count(self._expected, 'worker')}"
                    f" (--min-workers {self._quorum}); missing: {self._missing({})}. Late ones are let in."
                )
                return
            if now >= min(look_at, deadline):
                # Not at each worker that joins: a thousand words are a thousand questions to the file server.
                look_at = now + LOOK_S + self._expected / 1000
                words = await self._words()
                self._refuse_when_too_many_failed(words.values())
                self._refuse_when_tasks_have_ended(self._task_probe.ended(self._silent(words)))
            if now >= deadline:
                raise WorkersMissingError(
                    f"{self._awaited()} of {count(self._expected, 'worker')} did not join within "
                    f"{self._settings.timeout:g} s: {self._missing(words)}.",
                    "Look at these hosts' lines above, or give more time with --timeout.",
                )
            if now >= tell_at:
                tell_at = now + TOLD_AGAIN_S
                self._report.say(
                    f"{len(self._members.alive)} of {count(self._expected, 'worker')} joined after "
                    f"{duration(time.time() - self._launched)}; waiting for {self._missing(words)}"
                )
            self._members.changed.clear()
            if self._awaited() > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    wait_s = min(LOOK_S, max(deadline - now, 0.01))
                    await asyncio.wait_for(self._members.changed.wait(), wait_s)

    def _awaited(self) -> int:
        """How many workers have still to come."""
        return self._expected - len(self._members.alive)

    def _quorum_has_settled(self, now: float) -> bool:
        """Whether --min-workers have been in for --settle seconds; never where all of them are needed."""
        if self._quorum == self._expected or len(self._members.alive) < self._quorum:
            return False
        if self._quorum_since is None:
            self._quorum_since = now
        return now - self._quorum_since >= self._settings.settle

    def _refuse_when_too_many_failed(self, words: Iterable[NodeReport]) -> None:
        """Raise WorkersMissingError once so many workers say that they cannot join that none need wait."""
        failed = [word for word in words if word.phase == NodePhase.FAILED.value]
        if not failed or self._expected - len(failed) >= self._quorum:
            return
        told = "; ".join(f"{word.host}: {word.message.removeprefix(f'{word.host} ')}" for word in failed[:3])
        raise WorkersMissingError(
            f"{count(len(failed), 'worker')} of {self._expected} cannot join: {told}",
        )

    def _silent(self, words: Mapping[str, NodeReport]) -> list[str]:
        """Hosts that have neither joined nor said anything, as far as they are known; the first of them."""
        joined = {str(node["name"]) for node in self._members.alive.values()}
        return [host for host in self._hosts if host not in joined and host not in words][:ASKED_AFTER]

    def _refuse_when_tasks_have_ended(self, gone: Sequence[str]) -> None:
        """Raise WorkersMissingError when so many silent nodes have no task any more that none need wait."""
        if not gone or self._expected - len(gone) >= self._quorum:
            return
        raise WorkersMissingError(
            f"{count(len(gone), 'worker')} of {self._expected} cannot join: on {format_hostlist(gone)} "
            "the task ended before raycluster ran in it.",
            TASK_ENDED_HINT,
        )

    def _missing(self, words: Mapping[str, NodeReport]) -> str:
        """The hosts that have not joined, with the last word of each where there is one."""
        joined = {str(node["name"]) for node in self._members.alive.values()}
        hosts = [host for host in self._hosts if host not in joined] or sorted(
            host for host in words if host not in joined
        )
        if not hosts:
            return f"{self._awaited()} more (their hosts are not known here)"
        told = []
        for host in hosts[:8]:
            word = words.get(host)
            if word is None:
                told.append(f"{host} (no word from it)")
            else:
                ago = duration(max(time.time() - word.updated, 0))
                told.append(f"{host} (last word {ago} ago: {word.message or word.phase})")
        if len(hosts) > 8:
            told.append(f"and {len(hosts) - 8} more: {format_hostlist(hosts[8:])}")
        return ", ".join(told)
