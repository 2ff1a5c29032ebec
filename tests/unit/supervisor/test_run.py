"""The frame of a run: events to the policy, actions executed, and an end in any case.  Without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raycluster_cli.model.errors import RayclusterError, UsageError
from raycluster_cli.model.record import NodeReport
from raycluster_cli.model.settings import Settings
from raycluster_cli.model.status import NodePhase, Role
from raycluster_cli.policy import actions as do
from raycluster_cli.policy import events as on
from raycluster_cli.policy import worker as policy
from raycluster_cli.policy.values import End
from raycluster_cli.policy.worker import WorkerRules, WorkerState
from raycluster_cli.state.record import Record
from raycluster_cli.supervisor.context import Context
from raycluster_cli.supervisor.own_record import report_rest_s
from raycluster_cli.supervisor.run import Finished, NodeRun
from tests.unit.loops import run_loop


class Run(NodeRun):
    """A node without Ray, by the worker's policy."""

    def __init__(self, context: Context, start: Callable[[Run], Any]) -> None:
        super().__init__(context)
        self.start_by = start
        self.told = io.StringIO()
        self.report.stream = self.told
        self.rules = WorkerRules(host=context.host, loss=context.settings.worker_loss)
        self.state = WorkerState()
        self.left: list[do.Leave] = []

    def step(self, event: object, now: float) -> list[do.Action]:
        self.state, actions = policy.step(self.rules, self.state, event, now)
        return actions

    @property
    def end(self) -> End | None:
        return self.state.end

    def own_actions(self) -> dict[type, Callable[[Any], object]]:
        return {do.LookForEnd: lambda _: self.post(on.EndLookedUp(None))}

    async def startup(self) -> None:
        await self.start_by(self)

    async def shutdown(self, leave: do.Leave) -> None:
        self.left.append(leave)


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., tuple[int, Run, NodeReport]]:
    """Runs a node to its end; gives its exit code, itself, and its last report."""

    def one(start: Callable[[Run], Any]) -> tuple[int, Run, NodeReport]:
        context = Context(
            settings=Settings(state_dir=str(tmp_path)),
            env={},
            allocation=None,
            role=Role.WORKER,
            key="7",
            slurm_cluster="bed",
            host="n2",
            state_dir=tmp_path,
        )
        old = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)}

        async def bounded() -> tuple[int, Run]:
            run = Run(context, start)
            task = asyncio.ensure_future(run.run())
            await asyncio.wait({task}, timeout=30)
            assert task.done(), run.told.getvalue()
            return task.result(), run

        try:
            with contextlib.ExitStack() as stack:
                stack.callback(_no_subreaper)
                code, run = run_loop(bounded())
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
        report = Record.open(tmp_path / "bed" / "7").read_node("n2")
        assert report is not None
        return code, run, report

    return one


def _no_subreaper() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: the tests' process stays as it was


def test_an_error_of_the_users_is_the_end(play: Callable[..., tuple[int, Run, NodeReport]]) -> None:
    async def start(run: Run) -> None:
        raise UsageError("the port is taken.", "Choose another.")

    code, run, report = play(start)
    assert code == 2
    assert run.told.getvalue() == "raycluster: error: the port is taken. Choose another.\n"
    assert (report.phase, report.exit_code, report.reason) == (NodePhase.FAILED.value, 2, "error")


def test_a_cluster_that_has_ended_meanwhile(play: Callable[..., tuple[int, Run, NodeReport]]) -> None:
    async def start(run: Run) -> None:
        raise Finished(End(0, "the cluster ended: the driver ended", "ended"))

    code, run, report = play(start)
    assert code == 0
    assert run.told.getvalue() == ""
    assert (report.phase, report.message) == (
        NodePhase.GONE.value,
        "the cluster ended: the driver ended",
    )


def test_a_signal_while_it_starts(play: Callable[..., tuple[int, Run, NodeReport]]) -> None:
    cancelled = []

    async def start(run: Run) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    code, run, report = play(start)
    assert code == 143
    assert cancelled == [True]
    assert [one.end.reason for one in run.left] == ["signal"]
    assert (report.phase, report.reason) == (NodePhase.GONE.value, "signal")


def test_an_error_in_a_background_task_ends_the_run_with_its_traceback(
    play: Callable[..., tuple[int, Run, NodeReport]],
) -> None:
    async def broken() -> None:
        raise KeyError("lost")

    async def start(run: Run) -> None:
        run.post(on.Joined())
        run.tasks.start("the watch", broken())
        await asyncio.Event().wait()

    with pytest.raises(KeyError, match="lost"):
        play(start)


def test_a_guard_that_fails_once_ends_nothing(
    play: Callable[..., tuple[int, Run, NodeReport]],
) -> None:
    calls = []

    async def start(run: Run) -> None:
        async def watch() -> None:
            calls.append(None)
            if len(calls) == 1:
                raise OSError("once")
            run.post(on.StartEnded(End(0, "done", "ended")))

        run.post(on.Joined())
        run.tasks.guard("the watch", watch)

    code, _, _ = play(start)
    assert (code, len(calls)) == (0, 2)


def test_an_event_that_the_policy_does_not_know_is_an_error_of_ours_and_ends_in_order(
    play: Callable[..., tuple[int, Run, NodeReport]],
) -> None:
    runs = []

    async def start(run: Run) -> None:
        runs.append(run)
        run.post(object())
        await asyncio.Event().wait()

    with pytest.raises(KeyError):
        play(start)
    assert [one.end.reason for one in runs[0].left] == ["bug"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RayclusterError("Slurm said no.", "Ask it."), "requeueing the job failed: Slurm said no. Ask it."),
        (KeyError("port"), "requeueing the job failed: KeyError: 'port'"),
    ],
)
def test_a_step_of_the_end_that_fails_is_told_in_plain_words(
    play: Callable[..., tuple[int, Run, NodeReport]], error: Exception, told: str
) -> None:
    async def step() -> None:
        raise error

    async def start(run: Run) -> None:
        assert await run.try_to("requeueing the job", step()) is None
        raise Finished(End(0, "done", "ended"))

    code, run, _ = play(start)
    assert code == 0
    assert run.told.getvalue() == f"raycluster: warning: {told}\n"


def test_timers_of_one_name_replace_each_other(play: Callable[..., tuple[int, Run, NodeReport]]) -> None:
    fired = []

    async def start(run: Run) -> None:
        now = asyncio.get_running_loop().time()
        step = run.step

        def counted(event: object, at: float) -> list[do.Action]:
            if isinstance(event, on.TimerFired):
                fired.append(event.name)
            if fired == ["b", "a"]:
                return step(on.StartEnded(End(0, "done", "ended")), at)
            return step(event, at)

        run.step = counted  # type: ignore[method-assign]
        for action in (do.Arm("a", now), do.Arm("a", now + 0.05), do.Arm("b", now + 0.01)):
            run._arm(action)

    play(start)
    assert fired == ["b", "a"]


@pytest.mark.parametrize(("nodes", "rest_s"), [(1, 0.0), (50, 0.0), (51, 0.102), (1000, 2.0)])
def test_reports_rest_in_large_jobs(nodes: int, rest_s: float) -> None:
    assert report_rest_s(nodes) == pytest.approx(rest_s)
