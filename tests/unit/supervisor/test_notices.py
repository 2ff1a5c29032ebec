"""Notices of worker jobs: each node that will go is drained once, as soon as Ray can be told."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from raycluster_cli.model.errors import RayclusterError
from raycluster_cli.policy.head_state import HeadState
from raycluster_cli.policy.values import Worker
from raycluster_cli.rayproc.companion_client import CompanionClient
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.state.notices import Notice, write_notice
from raycluster_cli.supervisor import notices as module
from raycluster_cli.supervisor.notices import OVER_S, THIN_OUT_S, watch_notices
from tests.unit.loops import run_loop
from tests.unit.supervisor.scene import Scene

YES = {"answered": True, "accepted": True, "refusal": ""}
NO = {"answered": True, "accepted": False, "refusal": "it is busy"}
SILENT = {"answered": False, "accepted": False, "refusal": "no answer within 5 s"}
AWAY = "worker n2.8 could not be drained: "


class Companion:
    """Notes the nodes that it is asked to drain; gives the answers one after the other, the last again."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.drained: list[tuple[str, str, float]] = []

    async def drain(self, nodes: Sequence[str], *, message: str, deadline_s: float) -> Mapping[str, Any]:
        self.drained.append((nodes[0], message, deadline_s))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {nodes[0]: answer} if answer else {}


def watch(
    scene: Scene,
    companion: Callable[[], Companion | None],
    *,
    workers: Sequence[str] = ("ab",),
    seconds: float = 9.0,
) -> None:
    """Watch for so long, in a cluster with these worker jobs' nodes."""
    state = HeadState()
    for node_id in workers:
        state = replace(state, elastic={**state.elastic, node_id: Worker(node_id, "n2.8", job="8")})

    async def work() -> None:
        watching = watch_notices(
            scene.parts, lambda: state, cast("Callable[[], CompanionClient | None]", companion)
        )
        await asyncio.wait({asyncio.ensure_future(watching)}, timeout=seconds)

    run_loop(work())


@pytest.mark.parametrize(
    ("answers", "times", "said"),
    [
        ([YES], 1, ["worker n2.8 will go: preempted; drained, 60 s at most"]),
        ([NO], 1, ["worker n2.8 will go: preempted; Ray refuses to drain it: it is busy"]),
        # the GCS is away or slow: it is told when it is back
        (
            [SILENT, YES],
            *(2, [f"{AWAY}no answer within 5 s", "worker n2.8 will go: preempted; drained, 60 s at most"]),
        ),
        ([{}, YES], 2, [f"{AWAY}no answer", "worker n2.8 will go: preempted; drained, 60 s at most"]),
        ([RayclusterError("it is away."), NO], 2, [f"{AWAY}it is away."]),
        ([StartFailure("gone", "the companion has ended"), OSError("x"), YES], 3, [AWAY, AWAY]),
        ([SILENT], 5, [AWAY] * 5),  # not in each round
    ],
)
def test_ray_is_told_once_of_each_node(
    tmp_path: Path, answers: list[Any], times: int, said: list[str]
) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    write_notice(scene.record.path, Notice("ab", time.time() + 60, "preempted"))
    companion = Companion(*answers)
    watch(scene, lambda: companion)
    assert len(companion.drained) == times
    node_id, message, deadline_s = companion.drained[0]
    assert (node_id, message, round(deadline_s)) == ("ab", "preempted", 60)
    assert all(line.startswith(begin) for line, begin in zip(scene.said, said, strict=False)), scene.said
    assert len(scene.said) == times


def test_a_notice_waits_for_its_node_and_for_a_companion(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.record is not None
    write_notice(scene.record.path, Notice("cd", time.time() + 60, "preempted"))
    companion = Companion(YES)
    watch(scene, lambda: companion)  # the GCS has not reported it yet
    assert companion.drained == []
    looks: list[None] = []

    def later() -> Companion | None:
        looks.append(None)
        return companion if len(looks) > 2 else None

    watch(scene, later, workers=("cd",))
    assert (len(looks), len(companion.drained)) == (3, 1)


@pytest.mark.parametrize(("over_s", "read"), [(OVER_S - 30, True), (OVER_S + 30, False)])
def test_an_old_notice_of_no_node_is_read_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_s: float, read: bool
) -> None:
    known: list[frozenset[str]] = []
    reader = module.read_notices

    def reading(record: Path, done: frozenset[str]) -> list[Notice]:
        known.append(done)
        return reader(record, done)

    monkeypatch.setattr(module, "read_notices", reading)
    scene = Scene(tmp_path)
    assert scene.record is not None
    write_notice(scene.record.path, Notice("old", time.time() - over_s, "preempted"))
    watch(scene, lambda: None)
    assert ("old" not in known[-1]) is read


def test_what_worker_jobs_left_is_removed_after_some_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "THIN_OUT_S", 0.0)
    assert THIN_OUT_S > 60
    scene = Scene(tmp_path)
    assert scene.record is not None
    for node_id in ("ab", "old"):
        write_notice(scene.record.path, Notice(node_id, 1.0, "preempted"))
        path = scene.record.path / "notices" / f"{node_id}.json"
        os.utime(path, (1.0, 1.0))
    watch(scene, lambda: Companion(YES), seconds=1.0)
    assert os.listdir(scene.record.path / "notices") == ["ab.json"]  # that of a node which is there stays
