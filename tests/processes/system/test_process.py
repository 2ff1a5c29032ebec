"""Children that end, signals that come to keeper and supervisor, and which of them are one request."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from raycluster_cli.model.wording import describe_code, shell_code
from raycluster_cli.system.keeper_link import Keeper
from raycluster_cli.system.process import PAIR_S, SETTLE_S, Child, Reaper, Signals
from raycluster_cli.system.proctree import ProcessRef, identify
from raycluster_cli.system.waiting import within
from tests.unit.loops import in_loop

DEADLINE_S = 30.0


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    yield Reaper()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


# -- children ---------------------------------------------------------------------------------------


def sh(reaper: Reaper, script: str) -> Child:
    reaper.attach(asyncio.get_running_loop())
    return reaper.spawn(["sh", "-c", script], "sh")


@pytest.mark.parametrize(
    ("script", "code", "words", "shell"),
    [
        ("exit 0", 0, "ended with code 0", 0),
        ("exit 3", 3, "ended with code 3", 3),
        ("kill -9 $$", -9, "was killed by SIGKILL", 137),
        ("kill -40 $$", -40, "was killed by signal 40", 168),
    ],
)
def test_codes(reaper: Reaper, script: str, code: int, words: str, shell: int) -> None:
    @in_loop
    async def ended() -> int:
        return await within(sh(reaper, script).exited, DEADLINE_S)

    assert ended() == code
    assert (describe_code(code), shell_code(code)) == (words, shell)


@pytest.mark.parametrize(
    ("script", "ask", "grace_s", "code"),
    [
        ("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done", signal.SIGTERM, DEADLINE_S, 7),
        ("trap '' TERM; echo; while :; do sleep 0.01; done", signal.SIGTERM, 0.05, -9),
        ("trap 'exit 7' TERM; echo; while :; do sleep 0.01; done", signal.SIGTERM, 0.0, -9),
        ("echo; sleep 0.05; exit 5", 0, DEADLINE_S, 5),
    ],
    ids=["asked", "ignores", "no grace", "not asked"],
)
def test_stop(reaper: Reaper, script: str, ask: int, grace_s: float, code: int) -> None:
    @in_loop
    async def stopped() -> int | None:
        reaper.attach(asyncio.get_running_loop())
        read, write = os.pipe()
        child = reaper.spawn(["sh", "-c", script], "sh", stdout=write)
        os.close(write)
        await asyncio.to_thread(os.read, read, 1)  # its trap is set
        os.close(read)
        return await child.stop(grace_s, ask=ask)

    assert stopped() == code


def test_an_orphan_that_ended_before_it_was_asked_for(reaper: Reaper) -> None:
    orphan = subprocess.Popen(["sh", "-c", "exit 4"])

    @in_loop
    async def code() -> int:
        reaper.attach(asyncio.get_running_loop())
        while identify(orphan.pid) is not None:  # until it has been collected
            reaper.collect()
            await asyncio.sleep(0.005)
        return await within(reaper.adopt("late", orphan.pid).exited, DEADLINE_S)

    assert code() == 4
    orphan.returncode = 4  # so that Popen does not miss it


@in_loop
async def test_a_process_that_has_gone_is_not_signalled() -> None:
    nobody = Child("gone", ProcessRef(os.getpid(), -1), asyncio.get_running_loop().create_future())
    assert not nobody.send(signal.SIGKILL)


# -- signals ----------------------------------------------------------------------------------------

INT, TERM, USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1


class Stage:
    """Signals whose clock is set by hand; arrivals are written (at, "K" keeper or "S" supervisor, number)."""

    def __init__(self, *arrivals: tuple[float, str, int]) -> None:
        self.now = 0.0
        self.heard: list[tuple[int, int]] = []
        self.signals = Signals(kept=True, clock=lambda: self.now)
        self.signals.listen(lambda number, count: self.heard.append((number, count)))
        for at, who, number in arrivals:
            self.now = at
            self.signals.record(number, relayed=who == "K")


@dataclass
class Case:
    arrivals: tuple[tuple[float, str, int], ...]
    requests: int
    to_both: bool


@pytest.mark.parametrize(
    "case",
    [
        Case(((0, "K", INT),), 1, False),
        Case(((0, "S", INT),), 1, False),
        Case(((0, "K", INT), (0.01, "S", INT)), 1, True),
        Case(((0, "S", INT), (0.01, "K", INT)), 1, True),
        Case(((0, "S", INT), (0.01, "K", INT), (0.5, "K", INT), (0.51, "S", INT)), 2, True),
        Case(((0, "S", INT), (0.3, "S", INT), (0.4, "K", INT), (0.41, "K", INT)), 2, True),
        Case(((0, "K", INT), (PAIR_S + 1, "S", INT)), 2, False),
        Case(((0, "K", INT), (0.01, "S", INT), (5, "K", INT)), 2, False),
        Case(((0, "K", TERM), (0.01, "S", TERM), (0.02, "K", TERM), (0.03, "S", TERM)), 1, True),
        Case(((0, "K", USR1), (0.01, "S", USR1), (5, "K", USR1), (5.01, "S", USR1)), 2, True),
    ],
    ids=lambda case: " ".join(f"{who}{number}@{at:g}" for at, who, number in case.arrivals),
)
def test_copies_of_one_signal_are_one_request(case: Case) -> None:
    stage = Stage(*case.arrivals)
    number = case.arrivals[0][2]
    assert stage.signals.count(number) == case.requests
    assert stage.heard == [(number, count + 1) for count in range(case.requests)]
    latest = stage.signals.latest(number, 0.0)
    assert latest is not None
    assert latest.to_both is case.to_both


@pytest.mark.parametrize(("who", "known_after_s"), [("K", SETTLE_S), ("S", PAIR_S)])
def test_until_it_is_known_who_got_it(who: str, known_after_s: float) -> None:
    """Slurm signals the keeper last: a copy of its own may come late, one of this process cannot."""
    stage = Stage((0.0, who, INT))
    request = stage.signals.latest(INT, 0.0)
    assert request is not None
    assert stage.signals.undecided_s(request) == known_after_s
    stage.now = known_after_s + 1
    assert stage.signals.undecided_s(request) == 0.0
    assert stage.signals.latest(INT, 0.5) is None
    assert stage.signals.latest(TERM, 0.0) is None


def test_who_listens_late_hears_what_has_come() -> None:
    stage = Stage((0, "K", INT), (5, "K", INT))
    heard: list[tuple[int, int]] = []
    stage.signals.listen(lambda number, count: heard.append((number, count)))
    assert heard == [(INT, 2)]


@in_loop
async def test_real_signals_and_a_keeper_that_dies() -> None:
    loop = asyncio.get_running_loop()
    relay_read, relay_write = os.pipe()
    os.set_blocking(relay_read, False)
    signals = Signals()
    heard: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
    signals.listen(lambda number, count: heard.put_nowait((number, count)))
    signal.pthread_sigmask(signal.SIG_BLOCK, [USR1])
    signal.pthread_kill(threading.get_ident(), USR1)  # came before anybody listened
    try:
        signals.attach(loop, Keeper(relay_read, -1))
        assert await within(heard.get(), DEADLINE_S) == (USR1, 1)
        os.write(relay_write, bytes([USR1]))
        os.write(relay_write, bytes([signal.SIGUSR2]))
        assert await within(heard.get(), DEADLINE_S) == (signal.SIGUSR2, 1)
        request = signals.latest(USR1, 0.0)
        assert request is not None
        assert request.to_both
        os.close(relay_write)
        assert await within(heard.get(), DEADLINE_S) == (TERM, 1)
        assert signals.keeper_gone
        assert not signals.direct.get(TERM)
    finally:
        os.close(relay_read)
        for number in (TERM, INT, signal.SIGHUP, USR1, signal.SIGUSR2):
            loop.remove_signal_handler(number)
