"""The GCS monitor, with a stand-in server that answers, stops responding or goes away."""

from __future__ import annotations

import asyncio

import pytest

from raycluster_cli.rayproc import gcs_monitor
from raycluster_cli.rayproc.failure import StartFailure
from raycluster_cli.rayproc.gcs_monitor import Loss, gcs_lost, while_gcs_answers
from tests.unit.loops import run_loop, skip
from tests.unit.rayproc.gcs import Gcs, running


async def missed_check(gcs: Gcs) -> None:
    """Wait for the next check, which gets no answer in its time."""
    before = gcs.checks
    while gcs.checks == before:
        await asyncio.sleep(0.01)
    skip(gcs_monitor.CHECK_TIMEOUT_S)


def test_a_gcs_that_ends_is_known_at_once() -> None:
    async def scene() -> Loss:
        gcs = Gcs()
        async with running(gcs) as port:
            monitor = asyncio.ensure_future(gcs_lost("127.0.0.1", port, interval_s=60))
            while not gcs.checks:
                await asyncio.sleep(0.01)
        return await asyncio.wait_for(monitor, 5)

    assert not run_loop(scene()).silent


def test_one_missed_check_is_nothing_and_two_are_the_end() -> None:
    async def scene() -> Loss:
        gcs = Gcs()
        async with running(gcs) as port:
            monitor = asyncio.ensure_future(gcs_lost("127.0.0.1", port, interval_s=0.05))
            while gcs.checks < 3:
                await asyncio.sleep(0.01)
            gcs.answers = False
            before = gcs.checks
            await missed_check(gcs)
            gcs.answers = True
            while gcs.checks < before + 4:  # it goes on after the one that failed
                assert not monitor.done()
                await asyncio.sleep(0.01)
            gcs.answers = False
            await missed_check(gcs)
            assert not monitor.done()
            await missed_check(gcs)
            return await asyncio.wait_for(monitor, 5)

    loss = run_loop(scene())
    assert loss.silent
    assert "2 checks" in loss.why


def test_a_start_is_given_up_when_its_gcs_no_longer_answers() -> None:
    cancelled: list[bool] = []

    async def start() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(True)

    async def scene() -> None:
        gcs = Gcs()
        gcs.answers = False
        async with running(gcs) as port:
            missing = asyncio.ensure_future(missed_checks(gcs))
            try:
                await while_gcs_answers(start(), "127.0.0.1", port, interval_s=0.05, patience_s=0.05)
            finally:
                await missing

    async def missed_checks(gcs: Gcs) -> None:
        for _ in range(gcs_monitor.FAILED_CHECKS):
            await missed_check(gcs)

    with pytest.raises(StartFailure, match="does not answer: no answer to 2 checks"):
        run_loop(asyncio.wait_for(scene(), 30))
    assert cancelled == [True]


def test_a_start_goes_on_while_its_gcs_answers_or_is_not_there_yet() -> None:
    async def start(gcs: Gcs, port: int) -> str:
        async with running(gcs, port):
            while gcs.checks < 4:
                await asyncio.sleep(0.01)
            return "registered"

    async def scene() -> str:
        async with running(Gcs()) as port:
            pass  # nothing listens there any more
        starting = start(Gcs(), port)
        return await while_gcs_answers(starting, "127.0.0.1", port, interval_s=0.05, patience_s=0.0)

    assert run_loop(asyncio.wait_for(scene(), 30)) == "registered"


def test_patience_with_a_gcs_that_comes_back() -> None:
    told: list[str] = []

    async def scene() -> None:
        gcs = Gcs()
        async with running(gcs) as port:
            monitor = asyncio.ensure_future(
                gcs_lost("127.0.0.1", port, interval_s=0.05, patience_s=30, on_change=told.append)
            )
            while not gcs.checks:
                await asyncio.sleep(0.01)
        while not told:
            await asyncio.sleep(0.01)
        async with running(Gcs(), port):
            while len(told) < 2:
                await asyncio.sleep(0.01)
        assert not monitor.done()
        monitor.cancel()

    run_loop(asyncio.wait_for(scene(), 120))
    assert told[0]
    assert told[1] == ""


@pytest.mark.parametrize(("gone", "patient"), [("its host does not respond", False), ("", True)])
def test_a_gcs_that_cannot_come_back_is_not_waited_for(gone: str, patient: bool) -> None:
    asked: list[float] = []

    async def is_gone(loss: Loss, away_s: float) -> str:
        assert loss.why
        asked.append(away_s)
        return gone if len(asked) > 1 else ""

    async def scene() -> Loss:
        async with running(Gcs()) as port:
            pass  # nothing listens there any more
        return await gcs_lost("127.0.0.1", port, interval_s=0.05, patience_s=60, gone=is_gone)

    loss = run_loop(asyncio.wait_for(scene(), 120))
    assert (loss.why == gone) is not patient
    assert not loss.silent  # as the last failure was
    assert (len(asked) > 2) is patient
    assert asked == sorted(asked)
